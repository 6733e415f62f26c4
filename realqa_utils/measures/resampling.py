"""Metrics of many resamples at once.

A resample is held as the number of times that each image was drawn: an array `counts` of shape
(rows, n), from which every metric follows without sorting or copying the scores again. A kernel
takes scores x and y, both (n,), and counts, and gives the metric of every row, (rows,), with NaN
where it is undefined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

CHUNK = 2_000_000  # elements of `counts` held at a time: 16 MB per array of doubles


def draw_counts(rng: np.random.Generator, rows: int, labels: np.ndarray) -> Iterator[np.ndarray]:
    """Resamples in chunks (at most `rows` in all): how often each image was drawn, (chunk, n)."""
    size = int(labels.max()) + 1
    step = max(1, CHUNK // len(labels))
    for start in range(0, rows, step):
        chunk = min(step, rows - start)
        drawn = rng.integers(size, size=(chunk, size)) + size * np.arange(chunk)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=chunk * size).reshape(chunk, size)
        yield counts[:, labels].astype(float)


def _by_value(x: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draws of each distinct value, ascending, (rows, values), and the index of x in them, (n,)."""
    _, index = np.unique(x, return_inverse=True)
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(index.max() + 1))
    return np.add.reduceat(counts[:, order], starts, axis=1), index


def _midranks(x: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Rank of each image within each resample, ties at their mean: (rows, n)."""
    groups, index = _by_value(x, counts)
    return (np.cumsum(groups, axis=1) - (groups - 1) / 2)[:, index]


def _varies(x: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return (_by_value(x, counts)[0] > 0).sum(axis=1) > 1


def _weighted_pearson(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """x and y are (n,) or (rows, n)."""
    total = counts.sum(axis=1, keepdims=True)
    dx = x - (counts * x).sum(axis=1, keepdims=True) / total
    dy = y - (counts * y).sum(axis=1, keepdims=True) / total
    cx, cy = counts * dx, counts * dy
    norm = np.sqrt((cx * dx).sum(axis=1)) * np.sqrt((cy * dy).sum(axis=1))
    return _ratio((cx * dy).sum(axis=1), norm)


def plcc(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    # Rounding leaves a constant sample a tiny variance, so constants are told by their values.
    defined = _varies(x, counts) & _varies(y, counts)
    return np.where(defined, _weighted_pearson(x, y, counts), np.nan)


def srcc(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    # Ranks are multiples of 1/2, hence exact: a constant sample has a variance of exactly 0.
    return _weighted_pearson(_midranks(x, counts), _midranks(y, counts), counts)


def krcc(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    surplus = np.zeros(len(counts))  # twice the concordant pairs less the discordant ones
    for part in np.array_split(np.arange(len(x)), len(x) ** 2 // CHUNK + 1):
        signs = np.sign(x[:, None] - x[part]) * np.sign(y[:, None] - y[part])
        surplus += ((counts @ signs) * counts[:, part]).sum(axis=1)
    return _ratio(surplus, np.sqrt(_untied(x, counts)) * np.sqrt(_untied(y, counts)))


def _untied(x: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Twice the number of pairs that differ in x, (rows,)."""
    groups = _by_value(x, counts)[0]
    return groups.sum(axis=1) ** 2 - (groups**2).sum(axis=1)


def rmse(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.sqrt(counts @ (x - y) ** 2 / counts.sum(axis=1))


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b within [-1, 1], NaN where b is 0."""
    return np.clip(np.divide(a, b, out=np.full_like(a, np.nan), where=b > 0), -1, 1)


KERNELS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "srcc": srcc,
    "plcc": plcc,
    "krcc": krcc,
    "rmse": rmse,
}
