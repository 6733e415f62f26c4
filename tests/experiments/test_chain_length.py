"""Chains trained longer: what is compared with what, and what is kept of it."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from made_up import readings
from matplotlib.figure import Figure

from realqa_utils import cli
from realqa_utils.experiments import chain_length, cross_domain, scorers, training_length
from realqa_utils.experiments.chain_length import Readings
from realqa_utils.experiments.chain_of_thought import BRIEF, DIRECT, FORMS, REASONED
from realqa_utils.measures import statistics
from realqa_utils.plotting import comparison_plots
from realqa_utils.profiles import get_profile
from realqa_utils.records import provenance, results

PROFILE = replace(get_profile("mini"), resamples=50)
SETS = ("home", "far", "farther")


def made_up(times=(1, 3)) -> Readings:
    """Chains are bad at first and good at last, at home and elsewhere; direct answers stay."""
    home = {(t, DIRECT, "direct"): readings(1.2, t) for t in times}
    home |= {
        (t, REASONED, f): readings(2 / t, 10 * t + n) for t in times for n, f in enumerate(FORMS)
    }
    unseen = {
        t: {
            (model, name): readings(2 / t if model == REASONED else 1.2, n + t)
            for n, name in enumerate(SETS)
            for model in (REASONED, DIRECT)
        }
        for t in times
    }
    return Readings(home, unseen)


@pytest.fixture(scope="module")
def found() -> Readings:
    return made_up()


@pytest.fixture(scope="module")
def table(found) -> pd.DataFrame:
    return chain_length.table(PROFILE, found, 0)


def mean(frames) -> float:
    return sum(statistics.srcc(f["target"], f["greedy"]) for f in frames) / len(frames)


def test_lengths_are_compared_at_equal_steps_and_in_the_papers_proportion():
    def pairs(*times):
        return list(made_up(times).pairs())

    assert pairs(1, 3) == [(1, DIRECT, 1), (3, DIRECT, 3), (3, BRIEF, 1)]
    assert pairs(1, 2, 6) == [(1, DIRECT, 1), (2, DIRECT, 2), (6, DIRECT, 6), (6, BRIEF, 2)]
    assert pairs(1, 4) == [(1, DIRECT, 1), (4, DIRECT, 4)]


@pytest.mark.parametrize(("against", "other"), [(DIRECT, 3), (BRIEF, 1)])
def test_a_difference_is_between_the_right_models(found, table, against, other):
    judged = table[(table["metric"] == f"srcc - {against}") & (table["dataset"] == "mini-livec")]
    row = judged.query("steps == 960 and form == 'cot_regular' and read == 'greedy'").iloc[0]
    chains, direct = found.home[3, REASONED, "cot_regular"], found.home[other, DIRECT, "direct"]
    assert row["estimate"] == pytest.approx(mean(chains) - mean(direct))
    assert row["low"] < row["estimate"] < row["high"]
    assert row["row"] == f"asked: cot_regular, minus {against}"
    assert set(judged["steps"]) == ({320, 960} if against == DIRECT else {960})


def test_unseen_sets_are_one_row_a_comparison_and_way_of_reading(found, table):
    rows = table[table["dataset"] == cross_domain.UNSEEN]
    assert list(rows["steps"]) == [320, 320, 960, 960, 960, 960]
    assert list(rows["against"]) == [DIRECT] * 4 + [BRIEF] * 2
    judged = cross_domain.verdicts(PROFILE, found.unseen[3], 0)
    own = judged[judged["dataset"] == cross_domain.UNSEEN]
    assert list(rows["estimate"][2:4]) == list(own["estimate"])
    assert (rows["estimate"][:2] < 0).all() and (rows["estimate"][2:] > 0).all()
    alone = Readings(found.home, {t: {k: v for k, v in one.items() if k[1] == "home"}
                                  for t, one in found.unseen.items()})  # fmt: skip
    assert cross_domain.UNSEEN not in set(chain_length.table(PROFILE, alone, 0)["dataset"])


def test_what_is_shown_has_a_row_a_model_or_difference(table):
    models = training_length.shown(training_length.models(table))
    assert list(models.columns) == [320, 960] and len(models) == 2 * (1 + len(FORMS))
    assert models.index[0] == f"{DIRECT}, asked: direct, greedy"
    row = training_length.models(table).query("read == 'greedy'").iloc[0]
    text = f"{row['estimate']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    assert models.loc[f"{row['row']}, greedy", row["steps"]] == text
    others = training_length.shown(training_length.differences(table), "+.3f")
    assert len(others) == 2 * 2 * (len(FORMS) + 1)
    assert others.loc[f"asked: direct, minus {BRIEF}, greedy", 320] == ""


def test_the_figure_has_a_line_for_every_training_and_form(table):
    models = training_length.models(table)
    figure = comparison_plots.lengths(models)
    assert [axis.get_title() for axis in figure.axes] == ["greedy", "expected"]
    assert [len(axis.lines) for axis in figure.axes] == [4, 4]
    direct = models.query(f"model == '{DIRECT}' and read == 'greedy'")
    line = next(one for one in figure.axes[0].lines if one.get_label().startswith(DIRECT + ","))
    assert list(line.get_xdata()) == [320, 960]
    assert list(line.get_ydata()) == pytest.approx(list(direct["estimate"]))


def test_the_papers_proportion_judges_both_claims_and_leaves_those_of_the_notebooks(
    root, table, monkeypatch
):
    monkeypatch.setattr(scorers, "splits", lambda profile: [])
    claim = {"notebook": "08", "n": 5, "seeds": 0}
    results.record_claim("mini", "S47-cot-beats-direct", estimate=-1, low=-2, high=-0.5, **claim)
    chain_length.save(PROFILE, table, Figure(), results.Stopwatch())
    judged = results.claims("mini", longer=True).set_index("claim")
    for name, dataset in (("S47-cot-beats-direct", "mini-livec"),
                          ("S47-cross-domain", cross_domain.UNSEEN)):  # fmt: skip
        row = table[(table["dataset"] == dataset) & (table["metric"] == f"srcc - {BRIEF}")]
        row = row.query("steps == 960 and form == 'cot_regular' and read == 'greedy'").iloc[0]
        assert judged.loc[name, "estimate"] == pytest.approx(row["estimate"], rel=1e-5)
        assert judged.loc[name, "statement"].endswith(f"greedy, 960 steps, minus {BRIEF}]")
    assert list(judged["notebook"]) == ["08", "09"]
    assert list(results.claims("mini")["verdict"]) == ["fails"]


@pytest.mark.slow
def test_the_command_trains_every_length_and_the_notebook_finds_it(root, monkeypatch, capsys):
    monkeypatch.setattr(provenance, "home", lambda: root)
    smoke = get_profile("smoke")
    nothing = training_length.shown(training_length.kept(smoke, chain_length.STEM))
    assert nothing.startswith("nothing was trained longer")
    assert cli.main(["lengths", "chains", "--profile", "smoke", "--times", "1,2"]) == 0
    assert "srcc" not in capsys.readouterr().err
    table = training_length.kept(smoke, chain_length.STEM)
    pd.testing.assert_frame_equal(table, pd.read_csv(root / "figures/smoke/chain_length.csv"))
    assert sorted(set(table["steps"])) == [4, 8]
    assert (root / "figures/smoke/chain_length.png").exists()
    splits = scorers.splits(smoke)
    (same,) = cross_domain.models(smoke, splits)[REASONED]  # those of notebook 08, not trained anew
    (frame,) = chain_length.readings(smoke, (1,)).home[1, REASONED, "direct"]
    (again,) = scorers.readings(smoke, [same])["", "direct"]
    pd.testing.assert_frame_equal(frame, again)


@pytest.mark.parametrize("times", ["", "1,1", "0", "2,x", "-1"])
def test_other_lengths_are_refused(times, capsys):
    assert cli.main(["lengths", "chains", f"--times={times}"]) == 2
    assert "right are different whole numbers" in capsys.readouterr().err
