"""The ceiling that rounding sets, by hand and on the official annotation files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from realqa_utils.datasets.table import make_table
from realqa_utils.experiments import rounding
from realqa_utils.forms.scores import Scale
from realqa_utils.plotting import comparison_plots
from realqa_utils.profiles import get_profile


def table(mos) -> object:
    frame = pd.DataFrame({"id": [f"p{i}" for i in range(len(mos))], "path": __file__, "mos": mos})
    return make_table("hand", Scale(0, 10), frame, source="hand")


def test_one_digit_and_five_words_by_hand():
    mos = np.array([0.0, 1.2, 1.4, 4.9, 5.1, 10.0])
    found = rounding.ceilings({"hand": table(mos)}, [1]).query("metric == 'srcc'")
    by_way = found.set_index("written")["estimate"]
    assert by_way["M = 1"] == pytest.approx(spearmanr(mos, [0, 1, 1, 5, 5, 9])[0])
    assert by_way["five words"] == pytest.approx(spearmanr(mos, [0, 0, 0, 2, 2, 4])[0])


def test_more_digits_never_cost_more():
    mos = np.random.default_rng(0).normal(5, 0.5, 300)
    found = rounding.ceilings({"narrow": table(mos)}, [1, 2, 3])
    shown = rounding.shown(found).iloc[0]
    assert shown["M = 1"] < shown["M = 2"] < shown["M = 3"] <= 1
    assert comparison_plots.ceilings(found.query("metric == 'srcc'"), ["narrow"]).axes


def test_generated_sets_need_no_data():
    found, missing = rounding.tables(get_profile("smoke"))
    assert len(found) == 6
    assert not missing


def test_sets_that_are_missing_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("REALQA_DATA", str(tmp_path))
    found, missing = rounding.tables(get_profile("photos"))
    assert not found
    assert {"KonIQ-10k", "SPAQ", "AVA"} <= set(missing)


@pytest.mark.realdata
def test_real_sets(real_file, monkeypatch):
    real_file("koniq10k")
    found, _ = rounding.tables(get_profile("photos"))
    shown = rounding.shown(rounding.ceilings(found)).reset_index("n")
    # measured independently when the project was planned
    assert shown.loc["KonIQ-10k", "M = 1, own scale"] == pytest.approx(0.900, abs=0.002)
    assert shown.loc["LIVE Challenge", "M = 1"] == pytest.approx(0.987, abs=0.002)
    assert shown.loc["SPAQ", "M = 1"] == pytest.approx(0.991, abs=0.002)
