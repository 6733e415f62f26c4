"""Correlations of predicted scores with MOS, and bootstrap intervals for them.

Metrics of whole sets are scipy's. Intervals resample the test images, and the training seeds
where there are several; the same metrics for many resamples at once are in `resampling`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from realqa_utils.measures.resampling import KERNELS, draw_counts


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its interval, from `n` images and `seeds` training runs.

    `dropped` counts the resamples in which the metric was undefined.
    """

    estimate: float
    low: float
    high: float
    n: int
    seeds: int = 1
    dropped: int = 0


# --- metrics: (n,) against (n,) -----------------------------------------------------------------


def srcc(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Spearman's rank correlation, ties at their mean rank; shapes (n,), any units.

    NaN if either is constant. Raises ValueError for unequal lengths, n < 2, NaN or infinity.

    >>> srcc([1, 2, 3], [10, 30, 20])
    0.5
    """
    x, y = _pair(truth, prediction)
    return float(stats.spearmanr(x, y).statistic) if _both_vary(x, y) else np.nan


def plcc(truth: ArrayLike, prediction: ArrayLike, fit: str | None = None) -> float:
    """Pearson's linear correlation; shapes (n,), any units.

    On raw values by default, as the paper does. `fit="logistic4"` maps the predictions through
    `logistic_fit` first, as DeQA-Score does: the two must never stand in one column.

    NaN if either is constant. Raises ValueError as `srcc`, and for an unknown `fit`.
    """
    x, y = _pair(truth, prediction)
    if fit not in (None, "logistic4"):
        raise ValueError(f"unknown fit {fit!r}; must be None or 'logistic4'")
    if not _both_vary(x, y):
        return np.nan
    return float(stats.pearsonr(x, logistic_fit(x, y) if fit else y).statistic)


def krcc(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Kendall's tau-b; shapes (n,), any units. NaN and errors as `srcc`."""
    x, y = _pair(truth, prediction)
    return float(stats.kendalltau(x, y).statistic) if _both_vary(x, y) else np.nan


def rmse(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Root mean squared error, in the units of the scores; shapes (n,). Errors as `srcc`."""
    x, y = _pair(truth, prediction)
    return float(np.sqrt(np.mean((x - y) ** 2)))


METRICS: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "srcc": srcc,
    "plcc": plcc,
    "krcc": krcc,
    "rmse": rmse,
}


def logistic_fit(truth: ArrayLike, prediction: ArrayLike) -> np.ndarray:
    """Predictions (n,) mapped onto the units of `truth` by VQEG's 4-parameter logistic:

        f(x) = b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|))

    fitted by least squares from b1 = max(truth), b2 = min(truth), b3 = mean(x), b4 = std(x) / 4,
    the start that DeQA-Score and pyiqa use. The curve may fall, so a negative correlation becomes
    positive. It is fitted on the data that it is then judged on. Constant predictions map to the
    mean of `truth`.

    Raises ValueError as `srcc`, for n < 4 and for a fit that does not converge.
    """
    y, x = _pair(truth, prediction)
    if len(x) < 4:
        raise ValueError(f"logistic_fit got {len(x)} images; four parameters need at least 4")
    if np.ptp(x) == 0:
        return np.full_like(y, y.mean())
    z = (x - x.mean()) / x.std()  # the family is closed under affine maps of x; the solver is not

    def curve(b: np.ndarray) -> np.ndarray:
        return b[1] + (b[0] - b[1]) * special.expit((z - b[2]) / max(abs(b[3]), 1e-12))

    start = [y.max(), y.min(), 0.0, 0.25]
    found = optimize.least_squares(lambda b: curve(b) - y, start, method="lm", max_nfev=20_000)
    if not found.success:
        raise ValueError(f"logistic_fit did not converge on {len(x)} images: {found.message}")
    return curve(found.x)


# --- intervals ----------------------------------------------------------------------------------


def bootstrap(
    metric: str,
    truth: ArrayLike,
    predictions: ArrayLike,
    rng: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
    clusters: Sequence[Hashable] | None = None,
) -> Interval:
    """Percentile bootstrap interval of a metric over test images, pooled over training seeds.

    `truth` is (n,); `predictions` is (n,), or (seeds, n) with one training run a row. The estimate
    is the mean of the metric over the runs. Each resample draws n images with replacement, the
    same ones for all runs, and as many runs with replacement as there are; its value is the mean
    of the metric over the drawn runs. So the interval covers the choice of test images and the
    training seed together. With one run it covers the test images only; with two or three runs the
    part of the seed is understated, as with any bootstrap of so few.

    `clusters` (n,) are labels of images that must be drawn together, such as near-duplicates: then
    whole clusters are drawn, as many as there are.

    Resamples in which the metric is undefined (a constant) are left out and counted in `dropped`;
    the ends are NaN if those are more than half, or if the estimate is undefined.

    Raises ValueError for an unknown metric, shapes that do not fit, NaN or infinity (named by
    index), fewer than 2 images or clusters, `resamples` < 1, a `level` outside (0, 1); TypeError
    for an `rng` that is no Generator.
    """
    _check_options(metric, rng, resamples, level)
    truth, runs = _runs(truth, predictions)
    (values,) = _replicates(metric, truth, [runs], rng, resamples, clusters)
    return _interval(_mean_metric(metric, truth, runs), values, level, len(truth), len(runs))


def paired_difference(
    metric: str,
    truth: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    rng: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
    clusters: Sequence[Hashable] | None = None,
) -> Interval:
    """Interval of metric(a) - metric(b), two models on the same images.

    Shapes, resampling and errors as `bootstrap`; `a` and `b` have one shape. Each resample takes
    the same images for both models and, with (seeds, n), the same seeds: row i of `a` and row i of
    `b` are a pair. What both models share, such as hard images, cancels.
    """
    _check_options(metric, rng, resamples, level)
    if np.shape(a) != np.shape(b):
        raise ValueError(f"a has shape {np.shape(a)}, b {np.shape(b)}; a pair needs one shape")
    truth, first = _runs(truth, a, "a")
    _, second = _runs(truth, b, "b")
    values = _replicates(metric, truth, [first, second], rng, resamples, clusters)
    estimate = _mean_metric(metric, truth, first) - _mean_metric(metric, truth, second)
    return _interval(estimate, values[0] - values[1], level, len(truth), len(first))


def pool_splits(
    metric: str,
    splits: Sequence[tuple[ArrayLike, ...]],
    rng: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Mean of a metric over train/test splits, each a pair (truth, prediction) of its test images.

    Triples (truth, a, b) give the mean of metric(a) - metric(b), two models on the same images.
    Predictions may be (seeds, n): those of as many training runs, each of which saw all splits.

    Each resample draws as many splits with replacement as there are, and for every drawn split its
    test images with replacement, afresh; its value is the mean over the drawn splits (and over as
    many runs, drawn once for all splits). So the interval covers the split with its training run,
    and the choice of test images. As the observed spread between splits already has the images'
    share in it, the interval is rather too wide where test sets are disjoint; where they overlap,
    as random 80/20 splits do, images that recur are treated as if they were independent, which
    makes it narrower.

    `n` is the number of test images over all splits, `seeds` that of the splits. Undefined
    resamples and errors as `bootstrap`.
    """
    _check_options(metric, rng, resamples, level)
    if not splits:
        raise ValueError("pool_splits got no splits; needs at least one (truth, prediction)")
    drawn = rng.integers(len(splits), size=(resamples, len(splits)))
    sizes = {len(np.atleast_2d(model)) for _, *models in splits for model in models}
    if len(sizes) > 1:
        raise ValueError(f"predictions of {sorted(sizes)} runs; needs the same runs in all splits")
    (size,) = sizes
    runs = rng.integers(size, size=(size, resamples)) if size > 1 else np.zeros((1, resamples), int)
    values, exact, total = np.empty(drawn.shape), [], 0
    for k, (truth, *models) in enumerate(splits):
        pairs = [
            [_pair(truth, run, where=f" of split {k}") for run in np.atleast_2d(model)]
            for model in models
        ]
        exact.append(
            _first_less_second([np.mean([METRICS[metric](*p) for p in model]) for model in pairs])
        )
        where, n = drawn == k, len(pairs[0][0][0])
        each = [np.empty((len(models), size, 0))]  # (models, runs, times drawn)
        for counts in draw_counts(rng, int(where.sum()), np.arange(n)):
            each.append(np.array([[KERNELS[metric](*p, counts) for p in model] for model in pairs]))
        mine = runs[:, np.nonzero(where)[0]]  # (runs, times drawn)
        found = np.take_along_axis(np.concatenate(each, axis=2), mine[None], axis=1).mean(axis=1)
        values[where] = _first_less_second(list(found))
        total += n
    return _interval(float(np.mean(exact)), values.mean(axis=1), level, total, len(splits))


def _first_less_second(values: list):
    return values[0] if len(values) == 1 else values[0] - values[1]


def _replicates(
    metric: str,
    truth: np.ndarray,
    models: list[np.ndarray],
    rng: np.random.Generator,
    resamples: int,
    clusters: Sequence[Hashable] | None,
) -> np.ndarray:
    """Values of every resample, (models, resamples), of models with predictions (seeds, n)."""
    seeds = len(models[0])
    drawn = rng.integers(seeds, size=(resamples, seeds))
    kernel, parts = KERNELS[metric], []
    for counts in draw_counts(rng, resamples, _labels(clusters, len(truth))):
        parts.append([[kernel(truth, run, counts) for run in runs] for runs in models])
    values = np.concatenate(parts, axis=-1)  # (models, seeds, resamples)
    return np.take_along_axis(values, drawn.T[None], axis=1).mean(axis=1)


def _interval(estimate: float, values: np.ndarray, level: float, n: int, seeds: int) -> Interval:
    defined = values[np.isfinite(values)]
    low = high = np.nan
    if np.isfinite(estimate) and 2 * len(defined) >= len(values):
        low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), n, seeds, len(values) - len(defined))


def _mean_metric(metric: str, truth: np.ndarray, runs: np.ndarray) -> float:
    return float(np.mean([METRICS[metric](truth, run) for run in runs]))


# --- input --------------------------------------------------------------------------------------


def _finite(values: ArrayLike, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        index = tuple(bad[0].tolist())
        where = index[0] if len(index) == 1 else index
        raise ValueError(f"{name} at index {where} is {values[index]}; must be finite")
    return values


def _pair(
    truth: ArrayLike, prediction: ArrayLike, where: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    x, y = _finite(truth, "truth" + where), _finite(prediction, "prediction" + where)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            f"truth{where} has shape {x.shape}, prediction {y.shape}; both must be (n,)"
        )
    if len(x) < 2:
        raise ValueError(f"truth{where} has {len(x)} images; needs at least 2")
    return x, y


def _runs(
    truth: ArrayLike, predictions: ArrayLike, name: str = "predictions"
) -> tuple[np.ndarray, np.ndarray]:
    """truth (n,) and predictions (seeds, n)."""
    runs = np.atleast_2d(_finite(predictions, name))
    if runs.ndim != 2 or len(runs) == 0:
        raise ValueError(f"{name} has shape {np.shape(predictions)}; must be (n,) or (seeds, n)")
    return _pair(truth, runs[0])[0], runs


def _labels(clusters: Sequence[Hashable] | None, n: int) -> np.ndarray:
    if clusters is None:
        return np.arange(n)
    if len(clusters) != n:
        raise ValueError(f"clusters has {len(clusters)} labels for {n} images; needs one each")
    labels = np.unique(np.asarray(clusters), return_inverse=True)[1]
    if labels.max() == 0:
        raise ValueError("clusters has one label only; needs at least 2 clusters to draw from")
    return labels


def _check_options(metric: str, rng: np.random.Generator, resamples: int, level: float) -> None:
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; one of {', '.join(METRICS)}")
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng is {rng!r}; must be a numpy Generator, as default_rng(seed) gives")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples={resamples}, level={level}: needs >= 1 and 0 < level < 1")


def _both_vary(x: np.ndarray, y: np.ndarray) -> bool:
    return bool(np.ptp(x) > 0 and np.ptp(y) > 0)
