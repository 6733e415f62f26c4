"""Chains against direct answers, on made-up readings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_up import readings

from realqa_utils.experiments import chain_of_thought as cot
from realqa_utils.experiments import scorers, tracking
from realqa_utils.experiments.chain_of_thought import BRIEF, DIRECT, FORMS, REASONED
from realqa_utils.measures import statistics
from realqa_utils.plotting import comparison_plots
from realqa_utils.profiles import get_profile
from realqa_utils.records import results
from realqa_utils.training import labels

PROFILE = replace(get_profile("mini"), seeds=(0, 1, 2), resamples=200)
SMOKE = get_profile("smoke")


@pytest.fixture(scope="module")
def found():
    made = {(DIRECT, "direct"): readings(1.2, 1), (BRIEF, "direct"): readings(2.4, 5)}
    return made | {(REASONED, form): readings(0.4, n) for n, form in enumerate(FORMS, 2)}


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REALQA_ROOT", str(tmp_path_factory.mktemp("root")))
        yield scorers.splits(SMOKE)


def test_self_labels_take_the_place_of_true_ones(splits):
    said = splits[0].train.frame[["id", *labels.SLOTS]].astype(object)
    said.loc[0, "exposure"] = None
    (chained,) = cot.chained(PROFILE, splits, said)
    assert chained.train.frame["exposure"].iloc[0] is None
    assert chained.test is splits[0].test
    assert cot.chained(SMOKE, splits, said) == splits


def test_what_is_trained_on_chains_is_another_training(splits):
    from realqa_utils.experiments import trials

    (direct,) = scorers.all_trials(SMOKE, splits)
    (reasoned,) = cot.reasoners(SMOKE, splits)
    spoilt = replace(splits[0], train=labels.with_noise(splits[0].train, 0.5, 0))
    (other,) = cot.reasoners(SMOKE, [spoilt])
    assert len({trials.key(t) for t in (direct, reasoned, other)}) == 3


def test_a_third_of_the_steps_is_the_papers_share(splits):
    paper = get_profile("paper")
    (brief,) = cot.plain(paper, splits, len(FORMS))
    assert brief.recipe.steps == paper.recipe.steps
    assert cot.plain(paper, splits)[0].recipe.steps == paper.chains.steps


def test_the_better_chain_lets_the_claim_hold(found):
    judged = cot.verdicts(PROFILE, "set", found, 0)
    assert set(judged["form"]) == set(FORMS)
    assert judged["verdict"].eq("holds").all()


@pytest.mark.parametrize("against", [DIRECT, BRIEF])
def test_differences_by_hand(found, against):
    judged = cot.verdicts(PROFILE, "set", found, 0).set_index(["against", "form", "read"])
    row = judged.loc[against, "cot_regular", "expected"]
    pairs = zip(found[REASONED, "cot_regular"], found[against, "direct"], strict=True)
    by_hand = np.mean(
        [
            statistics.srcc(a["target"], a["expected"])
            - statistics.srcc(b["target"], b["expected"])
            for a, b in pairs
        ]
    )
    assert row["estimate"] == pytest.approx(by_hand)


def test_tables_figures_and_claims(found, splits, root):
    table = cot.table(PROFILE, "set", found, 0)
    assert set(results.TABLE_COLUMNS) <= set(table)
    assert table["parsed"].eq(1).all()
    assert len(cot.shown(table)) == 5
    judged = cot.verdicts(PROFILE, "set", found, 0)
    noisy = {share: readings(0.4 + share, 9)[:1] for share in cot.NOISE}
    noise = cot.noise_table(PROFILE, "set", noisy, 0)
    checked = pd.DataFrame({tracking.TO_TRAIN_ON: {"right": 0.8}})
    curve = cot.noise_figure(noise, checked, table)
    assert curve.axes[0].get_xlabel()
    tracked = pd.DataFrame({"low": [0.1, -0.2]})
    mean = statistics.Interval(0.3, 0.1, 0.5, 120)
    parts = {"": table, "verdicts": judged, "noise": noise}
    figure = comparison_plots.differences(judged, "form", "difference", "against")
    assert [axis.get_title() for axis in figure.axes] == [f"minus {DIRECT}", f"minus {BRIEF}"]
    cot.save(PROFILE, splits, parts, mean, {"": figure, "noise": curve}, results.Stopwatch())
    claims = results.claims(PROFILE).set_index("claim")
    assert claims.loc[cot.TRACKS, "verdict"] == "holds"
    row = "form == 'cot_regular' and read == 'greedy' and against == @DIRECT"
    wanted = judged.query(row)["estimate"].item()
    assert claims.loc[cot.BEATS, "estimate"] == pytest.approx(wanted, rel=1e-5)  # six digits
    said = cot.summary(judged, mean, tracked)
    assert "1 of 2 correlations" in said
    assert "is better than direct only" in said


def test_without_true_labels_there_is_no_curve(found):
    table = cot.table(PROFILE, "set", found, 0)
    assert cot.noise_figure(cot.noise_table(PROFILE, "set", {}, 0), pd.DataFrame(), table) is None


def test_one_photograph_in_three_forms(splits, capsys):
    cot.show_conversations(splits[0])
    said = capsys.readouterr().out
    assert said.count("> Rate the") == 3
    assert said.count("The final score is <") == 2
