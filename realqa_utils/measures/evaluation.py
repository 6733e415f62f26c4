"""From the readings of several trials to one row of a result table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from realqa_utils.measures import statistics
from realqa_utils.measures.statistics import Interval

#: An answer that cannot be read counts as the middle of the scale; it is never dropped.
MIDDLE = 5.0


def estimate(
    metric: str, frames: Sequence[pd.DataFrame], column: str, seed: int, resamples: int = 1000
) -> Interval:
    """A metric of one model over its trials: pooled over seeds, or over splits.

    `frames` are readings (`trials.run`), one a trial: of the same photographs for training seeds
    on one split, of different ones for several splits.
    """
    rng = np.random.default_rng(seed)
    if _same_photographs(frames):
        runs = np.stack([_answers(frame, column) for frame in frames])
        return statistics.bootstrap(metric, frames[0]["target"], runs, rng, resamples)
    splits = [(frame["target"], _answers(frame, column)) for frame in frames]
    return statistics.pool_splits(metric, splits, rng, resamples)


def difference(
    metric: str,
    a: Sequence[pd.DataFrame],
    b: Sequence[pd.DataFrame],
    column: str,
    seed: int,
    resamples: int = 1000,
) -> Interval:
    """Paired difference metric(a) - metric(b) of two models over the same trials."""
    rng = np.random.default_rng(seed)
    if _same_photographs(a):
        first, second = (np.stack([_answers(f, column) for f in side]) for side in (a, b))
        return statistics.paired_difference(metric, a[0]["target"], first, second, rng, resamples)
    triples = [
        (x["target"], _answers(x, column), _answers(y, column)) for x, y in zip(a, b, strict=True)
    ]
    return statistics.pool_splits(metric, triples, rng, resamples)


def row(
    interval: Interval, dataset: str, model: str, metric: str, seeds: Sequence[int], **more
) -> dict[str, object]:
    """One row of a tidy result table."""
    return {
        "dataset": dataset,
        "model": model,
        "metric": metric,
        "estimate": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
        "seeds": tuple(seeds),
        **more,
    }


def _answers(frame: pd.DataFrame, column: str) -> np.ndarray:
    return frame[column].fillna(MIDDLE).to_numpy()


def _same_photographs(frames: Sequence[pd.DataFrame]) -> bool:
    return all(frame["id"].equals(frames[0]["id"]) for frame in frames)
