"""Trainings of several lengths: which are compared, and what is kept of them."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from made_up import readings

from realqa_utils import cli
from realqa_utils.experiments import chain_length, cross_domain, scorers
from realqa_utils.experiments.chain_length import MINUS
from realqa_utils.experiments.chain_of_thought import DIRECT, FORMS, REASONED
from realqa_utils.measures import statistics
from realqa_utils.plotting import comparison_plots
from realqa_utils.profiles import get_profile
from realqa_utils.records import provenance

PROFILE = replace(get_profile("mini"), resamples=50)


@pytest.fixture(scope="module")
def found() -> dict:
    made = {(t, DIRECT, "direct"): readings(1.2, t) for t in (1, 3)}
    return made | {
        (t, REASONED, form): readings(2.0 / t, 10 * t + n)
        for t in (1, 3)
        for n, form in enumerate(FORMS)
    }


def test_every_length_is_compared_with_direct_answers_of_the_same_length(found):
    table = chain_length.table(PROFILE, found, 0)
    assert len(table) == 2 * 2 * (1 + 2 * len(FORMS))
    assert sorted(set(table["steps"])) == [320, 960]
    row = table.query(
        f"steps == 960 and form == 'cot_regular' and read == 'greedy' and metric == '{MINUS}'"
    ).iloc[0]

    def mean(frames) -> float:
        return sum(statistics.srcc(f["target"], f["greedy"]) for f in frames) / len(frames)

    with_chains, without = found[3, REASONED, "cot_regular"], found[3, DIRECT, "direct"]
    assert row["estimate"] == pytest.approx(mean(with_chains) - mean(without))
    assert row["low"] < row["estimate"] < row["high"]
    assert set(table.loc[table["metric"] == MINUS, "model"]) == {REASONED}


def test_unseen_sets_are_one_row_a_length_and_way_of_reading():
    sets, wide = ("home", "far", "farther"), {1: 2.0, 3: 0.5}
    found = {
        t: {
            (model, name): readings(noise if model == REASONED else 1.0, n + t)
            for n, name in enumerate(sets)
            for model in (REASONED, DIRECT)
        }
        for t, noise in wide.items()
    }
    rows = chain_length.unseen_table(PROFILE, found, 0)
    assert list(rows["steps"]) == [320, 320, 960, 960]
    judged = cross_domain.verdicts(PROFILE, found[3], 0).query("dataset == 'all unseen sets'")
    assert list(rows["estimate"][2:]) == list(judged["estimate"])
    assert (rows["estimate"][:2] < 0).all() and (rows["estimate"][2:] > 0).all()
    assert not {"unseen", "verdict"} & set(rows) and set(rows["metric"]) == {MINUS}
    alone = {1: {(model, "home"): readings(1.0, 0) for model in (REASONED, DIRECT)}}
    assert chain_length.unseen_table(PROFILE, alone, 0).empty
    shown = chain_length.shown(rows, MINUS)
    assert {name for name, _ in shown.index} == {f"{REASONED}, asked: cot_regular, all unseen sets"}


def test_the_figure_has_a_line_for_every_training_and_form(found):
    table = chain_length.table(PROFILE, found, 0).query("metric == 'srcc'")
    figure = comparison_plots.lengths(table)
    assert [len(axis.lines) for axis in figure.axes] == [4, 4]
    direct = table.query(f"model == '{DIRECT}' and read == 'greedy'")
    line = next(one for one in figure.axes[0].lines if one.get_label().startswith(DIRECT + ","))
    assert list(line.get_xdata()) == [320, 960]
    assert list(line.get_ydata()) == pytest.approx(list(direct["estimate"]))


@pytest.mark.slow
def test_the_command_trains_every_length_and_the_notebook_finds_it(root, monkeypatch, capsys):
    monkeypatch.setattr(provenance, "home", lambda: root)
    smoke = get_profile("smoke")
    assert chain_length.shown(chain_length.kept(smoke)).startswith("nothing was trained longer")
    assert cli.main(["chain-length", "--profile", "smoke", "--times", "1,2"]) == 0
    assert "srcc" not in capsys.readouterr().err
    table = chain_length.kept(smoke)
    pd.testing.assert_frame_equal(table, pd.read_csv(root / "figures/smoke/chain_length.csv"))
    assert sorted(set(table["steps"])) == [4, 8]
    assert (root / "figures/smoke/chain_length.png").exists()
    assert list(chain_length.shown(table).columns) == [4, 8]
    splits = scorers.splits(smoke)
    (same,) = cross_domain.models(smoke, splits)[REASONED]  # those of notebook 08, not trained anew
    (frame,) = chain_length.readings(smoke, (1,))[1, REASONED, "direct"]
    (again,) = scorers.readings(smoke, [same])["", "direct"]
    pd.testing.assert_frame_equal(frame, again)


@pytest.mark.parametrize("times", ["", "1,1", "0", "2,x", "-1"])
def test_other_lengths_are_refused(times, capsys):
    assert cli.main(["chain-length", f"--times={times}"]) == 2
    assert "right are different whole numbers" in capsys.readouterr().err
