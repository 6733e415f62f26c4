"""Scores of attributes against scipy and a bootstrap written out; what is not parsed, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from realqa_utils.experiments import attribute_scores
from realqa_utils.experiments.attribute_scores import AVERAGE
from realqa_utils.forms import taxonomy

N, RESAMPLES = 24, 40
FACTS = {"dataset": "set", "model": "ours", "seeds": (0, 1)}
SCIPY = {"srcc": stats.spearmanr, "plcc": stats.pearsonr}


@pytest.fixture(scope="module")
def truth() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    columns = {n: rng.choice(taxonomy.BY_NAME[n].codes, N).astype(float) for n in taxonomy.SCORED}
    return pd.DataFrame(columns, index=pd.Index([f"p{i}" for i in range(N)], name="id"))


def said(truth: pd.DataFrame, seed: int, wrong: float) -> pd.DataFrame:
    """Labels in long form, in a random order; a share of them drawn anew from the true ones."""
    rng = np.random.default_rng(seed)
    long = truth.reset_index().melt("id", var_name="attribute", value_name="said")
    drawn = long.groupby("attribute")["said"].transform(lambda codes: rng.permutation(codes))
    long["said"] = long["said"].where(rng.uniform(size=len(long)) >= wrong, drawn)
    return long.assign(why="").sample(frac=1, random_state=seed)


@pytest.fixture(scope="module")
def runs(truth):
    return [said(truth, seed, 0.4) for seed in (2, 3)]


def codes(run: pd.DataFrame, name: str, truth: pd.DataFrame) -> np.ndarray:
    return run[run["attribute"] == name].set_index("id")["said"].reindex(truth.index).to_numpy()


def measured(runs, truth, **more) -> pd.DataFrame:
    return attribute_scores.table(runs, truth, 0, RESAMPLES, **FACTS | more)


def without(run: pd.DataFrame, name: str, count: int) -> pd.DataFrame:
    """The first `count` photographs (by id) have no label of an attribute."""
    gone = (run["attribute"] == name) & run["id"].isin([f"p{i}" for i in range(count)])
    return run.assign(said=run["said"].mask(gone), why=np.where(gone, "empty", ""))


# --- estimates ---------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["srcc", "plcc"])
def test_estimates_are_means_of_scipys_over_the_seeds(runs, truth, metric):
    table = measured(runs, truth).query("metric == @metric").set_index("attribute")
    assert list(table.index) == [*taxonomy.SCORED, AVERAGE]
    for name in taxonomy.SCORED:
        by_hand = [SCIPY[metric](truth[name], codes(run, name, truth))[0] for run in runs]
        assert table.at[name, "estimate"] == pytest.approx(np.mean(by_hand), abs=1e-12)
    mean = table.loc[list(taxonomy.SCORED), "estimate"].mean()
    assert table.at[AVERAGE, "estimate"] == pytest.approx(mean, abs=1e-12)
    assert (table["low"] <= table["estimate"]).all() and (table["estimate"] <= table["high"]).all()
    assert (table["unparsed"] == 0).all() and (table["n"] == N).all()
    assert set(table["model"]) == {"ours"} and set(table["seeds"]) == {(0, 1)}


def test_what_is_not_parsed_counts_as_the_middle_code(runs, truth):
    """5.5 of the scores, 2 of three tiers, 0.5 of two."""
    for name, middle in (("composition", 5.5), ("exposure", 2), ("level_shot", 0.5)):
        holes = [without(run, name, 6) for run in runs]
        filled = [run.assign(said=run["said"].fillna(middle)) for run in holes]
        table, other = measured(holes, truth), measured(filled, truth)
        columns = ["estimate", "low", "high"]
        pd.testing.assert_frame_equal(table[columns], other[columns])
        shares = table.query("metric == 'srcc'").set_index("attribute")["unparsed"]
        assert shares[name] == pytest.approx(6 / N) and shares.sum() == pytest.approx(
            6 / N * (1 + 1 / 9)
        )


@pytest.mark.parametrize("count, available", [(N // 2, True), (N // 2 + 1, False)])
def test_followed_less_than_half_of_the_time_is_not_available(runs, truth, count, available):
    table = measured([without(run, "exposure", count) for run in runs], truth)
    row = table[table["attribute"] == "exposure"]
    assert (row[["estimate", "low", "high"]].notna() == available).all(axis=None)
    others = table[table["attribute"] != "exposure"]
    assert others["estimate"].notna().all() and (row["n"] == N).all()


def test_a_model_that_never_answers_has_no_average(runs, truth):
    silent = [run.assign(said=np.nan) for run in runs]
    table = measured(silent, truth)
    assert table[["estimate", "low", "high"]].isna().all(axis=None)
    assert (table["unparsed"] == 1).all()


def test_answers_that_are_all_the_same_enter_the_mean_as_nothing(runs, truth):
    same = [run.assign(said=run["said"].mask(run["attribute"] == "exposure", 3)) for run in runs]
    table, before = (measured(r, truth).set_index(["metric", "attribute"]) for r in (same, runs))
    for metric in SCIPY:
        assert np.isnan(table.at[(metric, "exposure"), "estimate"])
        lost = before.at[(metric, "exposure"), "estimate"] / 9
        expected = before.at[(metric, AVERAGE), "estimate"] - lost
        assert table.at[(metric, AVERAGE), "estimate"] == pytest.approx(expected, abs=1e-12)


# --- intervals ---------------------------------------------------------------------------------


def averages(models, truth, metric: str, seed: int) -> np.ndarray:
    """The average of every model and resample, one correlation at a time."""
    rng = np.random.default_rng([seed, 9])
    seeds = rng.integers(len(models[0]), size=(RESAMPLES, len(models[0])))
    photographs = rng.integers(N, size=(RESAMPLES, N))

    def one(t, s):
        if np.ptp(t) == 0 or np.ptp(s) == 0:
            return 0.0
        return np.corrcoef(*(map(stats.rankdata, (t, s)) if metric == "srcc" else (t, s)))[0, 1]

    def mean(said, drawn, rows):
        return np.mean([one(t[rows], s[rows]) for k in drawn for t, s in said[k]])

    out = []
    for runs in models:
        said = [[(truth[n].to_numpy(), codes(r, n, truth)) for n in taxonomy.SCORED] for r in runs]
        out.append([mean(said, *both) for both in zip(seeds, photographs, strict=True)])
    return np.array(out)


def test_the_interval_of_the_average_is_that_of_a_bootstrap_written_out(runs, truth):
    table = measured(runs, truth).set_index(["metric", "attribute"])
    values = averages([runs], truth, "srcc", 0)[0]
    interval = table.loc[("srcc", AVERAGE), ["low", "high"]].tolist()
    assert interval == pytest.approx(np.quantile(values, (0.025, 0.975)), abs=1e-10)


def test_a_difference_is_that_of_a_bootstrap_written_out(runs, truth):
    worse = [said(truth, seed, 0.8) for seed in (4, 5)]
    found = attribute_scores.difference(runs, worse, truth, 3, RESAMPLES, "plcc")
    values = averages([runs, worse], truth, "plcc", 3)
    expected = np.quantile(values[0] - values[1], (0.025, 0.975))
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-10)
    means = [measured(r, truth).query("metric == 'plcc'").iloc[-1] for r in (runs, worse)]
    assert found.estimate == pytest.approx(means[0]["estimate"] - means[1]["estimate"], abs=1e-12)
    assert found.low > 0 and (found.n, found.seeds) == (N, 2)


def test_a_model_does_not_differ_from_itself(runs, truth):
    found = attribute_scores.difference(runs, runs, truth, 0, RESAMPLES)
    assert (found.estimate, found.low, found.high) == (0, 0, 0)


def test_a_difference_needs_as_many_seeds_on_either_side(runs, truth):
    for a, b in ((runs, runs[:1]), (runs[:1], runs)):
        with pytest.raises(ValueError, match=r"[12] and [12] training runs"):
            attribute_scores.difference(a, b, truth, 0, RESAMPLES)


# --- the floor ---------------------------------------------------------------------------------


def test_the_most_frequent_answer_by_hand(truth):
    train = pd.DataFrame({name: [1.0, 2.0, 1.0] for name in taxonomy.SCORED})
    train["composition"] = [9.0, 3.0, 9.0]
    frame = attribute_scores.majority(train, truth)
    assert len(frame) == N * 9 and list(dict.fromkeys(frame["id"])) == list(truth.index)
    given = frame.groupby("attribute")["said"].unique()
    assert given.pop("composition").tolist() == [9]
    assert all(values.tolist() == [1] for values in given)
    average = measured([frame], truth, seeds=(0,)).query("attribute == 'average'")
    assert (average[["estimate", "low", "high"]] == 0).all(axis=None)
