"""Rows of result tables from the readings of trials."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from realqa_utils.measures import evaluation


def readings(seed: int, noise: float, names: list[str] | None = None) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    target = rng.uniform(0, 10, 60) if names else np.linspace(0, 9.9, 60)
    expected = target + noise * rng.normal(size=60)
    ids = names or [f"p{i}" for i in range(60)]
    return pd.DataFrame({"id": ids, "target": target, "expected": expected, "greedy": expected})


def test_seeds_on_one_split_are_averaged_over_the_same_photographs():
    frames = [readings(seed, 1.0) for seed in range(3)]
    found = evaluation.estimate("srcc", frames, "expected", seed=0, resamples=200)
    by_hand = np.mean([stats.spearmanr(f["target"], f["expected"])[0] for f in frames])
    assert found.estimate == pytest.approx(by_hand, abs=1e-12)
    assert (found.n, found.seeds) == (60, 3)
    assert found.low < found.estimate < found.high


def test_splits_with_different_photographs_are_pooled():
    frames = [readings(s, 1.0, [f"{s}-{i}" for i in range(60)]) for s in range(2)]
    found = evaluation.estimate("plcc", frames, "expected", seed=0, resamples=200)
    by_hand = np.mean([stats.pearsonr(f["target"], f["expected"])[0] for f in frames])
    assert found.estimate == pytest.approx(by_hand, abs=1e-12)
    assert found.n == 120


def test_an_answer_that_cannot_be_read_counts_as_the_middle():
    frame = readings(0, 0.1)
    frame.loc[59, "greedy"] = np.nan
    found = evaluation.estimate("srcc", [frame], "greedy", seed=0, resamples=50)
    filled = frame["greedy"].fillna(5.0)
    assert found.estimate == pytest.approx(stats.spearmanr(frame["target"], filled)[0], abs=1e-12)
    assert found.estimate < stats.spearmanr(frame["target"], frame["expected"])[0]
    assert found.n == 60  # not dropped


@pytest.mark.parametrize("own_photographs", [False, True])
def test_difference_is_paired_and_signed(own_photographs):
    names = [[f"{s}-{i}" for i in range(60)] if own_photographs else None for s in range(3)]
    good = [readings(s, 0.3, n) for s, n in enumerate(names)]
    bad = [readings(s, 4.0, n) for s, n in enumerate(names)]
    found = evaluation.difference("srcc", good, bad, "expected", seed=0, resamples=200)
    assert 0 < found.low < found.estimate < found.high
    reverse = evaluation.difference("srcc", bad, good, "expected", seed=0, resamples=200)
    assert reverse.estimate == pytest.approx(-found.estimate, abs=1e-12)


def test_row_has_the_contracts_columns():
    found = evaluation.estimate("rmse", [readings(0, 1.0)], "expected", seed=0, resamples=20)
    row = evaluation.row(found, "set", "model", "rmse", (0, 1), digits=3)
    assert list(row) == [
        "dataset", "model", "metric", "estimate", "low", "high", "n", "seeds", "digits",
    ]  # fmt: skip
