"""Trained on one set, tested on five: made-up readings, and a smoke run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_up import readings

from realqa_utils.experiments import cross_domain, scorers
from realqa_utils.experiments.chain_of_thought import DIRECT, REASONED
from realqa_utils.measures import statistics
from realqa_utils.plotting import comparison_plots
from realqa_utils.profiles import get_profile
from realqa_utils.records import results

PROFILE = replace(get_profile("mini"), seeds=(0, 1, 2), resamples=200)
SMOKE = get_profile("smoke", workers=1)
SETS = ("home", "near", "far")


@pytest.fixture(scope="module")
def found():
    made = {}
    for number, name in enumerate(SETS):
        made[DIRECT, name] = readings(1.0, 10 + number)
        made[REASONED, name] = readings(0.4 if name != "home" else 1.0, 20 + number)
    return made


def test_the_claim_is_about_unseen_sets(found):
    judged = cross_domain.verdicts(PROFILE, found, 0)
    over = judged[judged["dataset"] == "all unseen sets"].set_index("read")
    assert over["verdict"].tolist() == ["holds", "holds"]
    assert not judged.set_index("dataset").loc["home", "unseen"].any()
    by_hand = [
        statistics.srcc(a["target"], a["expected"]) - statistics.srcc(b["target"], b["expected"])
        for name in SETS[1:]
        for a, b in zip(found[REASONED, name], found[DIRECT, name], strict=True)
    ]
    assert over.loc["expected", "estimate"] == pytest.approx(np.mean(by_hand))


def test_one_set_alone_gives_no_verdict_on_unseen_ones(found, root):
    home = {key: value for key, value in found.items() if key[1] == "home"}
    judged = cross_domain.verdicts(PROFILE, home, 0)
    assert set(judged["dataset"]) == {"home"}
    table = cross_domain.table(PROFILE, home, 0)
    parts = {"": table, "verdicts": judged}
    tables = {"home": scorers.splits(SMOKE)[0].test}
    cross_domain.save(PROFILE, tables, parts, {}, results.Stopwatch())
    assert results.claims(PROFILE).empty


def test_tables_figures_and_the_claim(found, root):
    table = cross_domain.table(PROFILE, found, 0)
    assert cross_domain.shown(table).shape == (4, 3)
    judged = cross_domain.verdicts(PROFILE, found, 0)
    pairs = {(a, b): readings(0.5, 3)[:1] for a in SETS for b in SETS}
    heat = cross_domain.heat(PROFILE, pairs, 0)
    assert len(heat) == 9
    figures = {"": comparison_plots.differences(judged, "dataset", "x"),
               "heat": comparison_plots.heat(heat)}  # fmt: skip
    tables = {"home": scorers.splits(SMOKE)[0].test}
    parts = {"": table, "verdicts": judged, "heat": heat}
    cross_domain.save(PROFILE, tables, parts, figures, results.Stopwatch())
    claim = results.claims(PROFILE).set_index("claim").loc[cross_domain.CLAIM]
    assert claim["verdict"] == "holds"
    assert "all unseen sets, greedy: with chains better" in cross_domain.summary(judged)


def test_a_smoke_run_reads_every_set(root):
    tables, missing = cross_domain.tests(SMOKE)
    assert list(tables)[0] == scorers.HOME
    assert len(tables) == 5
    assert not missing
    pairs = cross_domain.crossed(SMOKE, dict(list(tables.items())[:2]))
    assert len(pairs) == 4
    assert len(cross_domain.describe(tables)) == 5


def test_published_rows_are_those_of_models_trained_on_koniq():
    wide = cross_domain.published()
    assert "KonIQ-10k" in wide
    assert len(wide) > 4


def test_real_sets_that_are_missing_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("REALQA_DATA", str(tmp_path))
    home = scorers.splits(SMOKE)
    monkeypatch.setattr(scorers, "splits", lambda *_: home)
    _, missing = cross_domain.tests(get_profile("photos"))
    assert len(missing) == len(cross_domain.PROTOCOLS) - 1  # but that which is trained on
    assert missing[0].startswith("KonIQ-10k is left out: ")
