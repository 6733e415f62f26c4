"""Fig. 4 by hand, and what is said of made-up curves."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from realqa_utils.experiments import foresight, monitoring
from realqa_utils.experiments.foresight import PREDICTORS
from realqa_utils.experiments.monitoring import CONDITIONS, PLAIN, RANDOM
from realqa_utils.profiles import get_profile
from realqa_utils.records import hashes, results

SMOKE = get_profile("smoke", train_images=12, test_images=6, seeds=(0, 1, 2), resamples=50)


# --- Fig. 4 ------------------------------------------------------------------------------------


def test_cross_entropy_prefers_the_farther_answer_and_ncm_does_not():
    """Sec. 4.5: for a true 3.99, 4.01 shares no digit and 4.99 shares two."""
    rows = foresight.sweep(3.99).set_index("answer")
    near, far = rows.loc[4.01], rows.loc[4.99]
    assert near["error"] == pytest.approx(0.02) and far["error"] == pytest.approx(1.0)
    assert near["cross entropy"] > far["cross entropy"]
    assert near["NCM"] < far["NCM"] and near["NCM*"] < far["NCM*"]


def test_an_answer_by_hand():
    """Sure of 4, 0, 1 at 0.9 each: the mean digit is 0.9 d + (45 - d) / 90."""
    row = foresight.sweep(3.99).set_index("answer").loc[4.01]
    means = [0.9 * d + (45 - d) / 90 for d in (4, 0, 1)]
    expected = sum(m / 10**i for i, m in enumerate(means))
    assert row["NCM"] == pytest.approx((expected - 3.99) ** 2)
    assert row["cross entropy"] == pytest.approx(-np.log(0.1 / 9))  # every digit is another
    assert foresight.sweep(3.99).set_index("answer").loc[3.99, "cross entropy"] == pytest.approx(
        -np.log(0.9)
    )


def test_a_sweep_has_every_answer():
    rows = foresight.sweep(5.0, digits=2)
    assert rows["answer"].tolist() == [k / 10 for k in range(100)]


def test_disagreement_counts_pairs_that_are_ranked_against_their_errors():
    table = pd.DataFrame({"error": [0.0, 1.0, 2.0, 2.0], "right": [1, 2, 3, 9], "x": [5, 5, 4, 6]})
    assert foresight.disagreement(table, "right") == 0
    # pairs: 1-0 as good, 2-0 better, 2'-0 worse, 2-1 better, 2'-1 worse
    assert foresight.disagreement(table, "x") == pytest.approx(3 / 5)


# --- curves ------------------------------------------------------------------------------------


def curve(seed: int, end: float) -> pd.DataFrame:
    """Made-up: NCM falls to `end`, SRCC rises as it falls."""
    rng = np.random.default_rng(seed)
    rows = []
    for step in (0, 10, 20, 30, 40):
        level = end + (10 - end) * np.exp(-step / 8)
        values = {name: level + rng.normal(scale=0.01) for name in PREDICTORS}
        values |= {"srcc_greedy": 1 - level / 10, "srcc_expected": 1 - level / 10, "parsed": 1.0}
        values["ncm_star_as_published"] = 25 - level
        rows += [
            {"step": step, "split": split, "metric": name, "value": value}
            for split in ("train", "held-out")
            for name, value in values.items()
        ]
    return pd.DataFrame(rows)


@pytest.fixture
def points():
    found = {
        name: [curve(10 * k + seed, 0.5 + 0.1 * seed + 0.3 * k) for seed in range(3)]
        for k, name in enumerate(CONDITIONS)
    }
    return foresight.checkpoints(found)


@pytest.fixture
def data(root):
    return monitoring.split(SMOKE)


def test_checkpoints_are_one_row_a_step(points):
    assert len(points) == 5 * 3 * len(CONDITIONS)
    assert points["run"].nunique() == 3 * len(CONDITIONS)


def test_falls_are_judged_over_the_seeds(points, data):
    judged = foresight.verdicts(SMOKE, data, points).set_index("metric")
    runs = points[points["condition"] == PLAIN].groupby("run")
    falls = [part.sort_values("step")["ncm"].iloc[[0, -1]].to_numpy() for _, part in runs]
    falls = [first - last for first, last in falls]
    low, high = stats.t.interval(0.95, 2, np.mean(falls), stats.sem(falls))
    row = judged.loc["fall of ncm"]
    assert (row["estimate"], row["low"], row["high"]) == pytest.approx((np.mean(falls), low, high))
    assert set(judged["verdict"]) == {"holds"}


def test_one_training_decides_nothing(points, data):
    alone = points[points["run"].str.endswith("run 0")]
    judged = foresight.verdicts(SMOKE, data, alone)
    assert judged["low"].isna().all() and set(judged["verdict"]) == {"undecided"}


def test_foresight_is_a_rank_correlation(points, data):
    found = foresight.foresight(SMOKE, data, points, seed=0).set_index(["scope", "model"])
    last = points[points["step"] == 40]
    expected = stats.spearmanr(last["srcc_expected"], -last["ncm_star"]).statistic
    assert found.loc[("last checkpoint", "ncm_star"), "estimate"] == pytest.approx(expected)
    without = last[last["condition"] != RANDOM]
    expected = stats.spearmanr(without["srcc_expected"], -without["ncm"]).statistic
    key = ("last, pretrained only", "ncm")
    assert found.loc[key, "estimate"] == pytest.approx(expected)
    assert found.loc[("all checkpoints", "ncm"), "estimate"] > 0.9
    assert found.loc[("all checkpoints", "ncm_star_as_published"), "estimate"] < 0
    assert (found["low"] <= found["estimate"]).all()


def test_everything_is_saved_and_said(points, data, monkeypatch):
    monkeypatch.setattr(hashes, "of_model", lambda source: "0" * 16)
    table = foresight.table(SMOKE, data, points)
    assert set(table["step"]) == {0, 40} and set(table["model"]) == set(CONDITIONS)
    judged = foresight.verdicts(SMOKE, data, points)
    foreseen = foresight.foresight(SMOKE, data, points, seed=0)
    foresight.save(SMOKE, data, table, judged, foreseen, {}, results.Stopwatch())
    claims = results.claims("smoke").set_index("claim")
    assert set(claims.index) == set(foresight.CLAIMS)
    assert claims.loc["F5-ncm-falls", "verdict"] == "holds"
    record = json.loads((results.figure_dir("smoke") / "06_ncm_curves.json").read_text())
    assert record["n"] == 6
    text = foresight.summary(judged, foreseen)
    assert text.startswith("Fall of ncm: ") and text.count("NCM*") == 4


def test_checkpoints_that_answer_all_alike_have_no_srcc(points, data):
    points.loc[points["step"] < 40, ["srcc_greedy", "srcc_expected"]] = np.nan
    found = foresight.foresight(SMOKE, data, points, seed=0).set_index(["scope", "model"])
    every, last = found.loc["all checkpoints"], found.loc["last checkpoint"]
    assert every["estimate"].tolist() == last["estimate"].tolist()
    points[["srcc_greedy", "srcc_expected"]] = np.nan
    found = foresight.foresight(SMOKE, data, points, seed=0)
    assert found["estimate"].isna().all()
    judged = foresight.verdicts(SMOKE, data, points)
    assert "NCM*" not in foresight.summary(judged, found)


def test_a_metric_without_a_value_keeps_its_column():
    frame = curve(0, 1.0)
    frame.loc[frame["metric"] == "srcc_greedy", "value"] = np.nan
    assert foresight.checkpoints({PLAIN: [frame]})["srcc_greedy"].isna().all()
