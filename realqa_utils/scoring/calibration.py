"""How far a score can be trusted: scores on the raters' scale, with intervals that keep a promise.

A model's scores may be squeezed or shifted against the raters' means, and the standard deviation of
its digit tree is its own opinion of its error. Of a held-out slice of readings, one half gives an
isotonic curve from expected scores to raters' means, the other says how far the means lie from it
(split-conformal intervals: Lei et al., 2018, arXiv:1604.04173). Whatever the model, photos like
those of the slice then fall into intervals of level 0.9 at least 9 times in 10, over many slices;
photos of another kind need not.

Frames have the columns of `trials.read_table`: target (the raters' mean), expected and sd, all on
the 0..10 scale.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats
from sklearn.isotonic import IsotonicRegression

from realqa_utils.measures import statistics
from realqa_utils.profiles import unknown
from realqa_utils.records import results

VERSION = 1
LEVELS = (0.5, 0.8, 0.9, 0.95)
KINDS = ("absolute", "normalised")
FLOOR = 0.1  # of the standard deviation: a tree that is sure of itself may still be wrong
LEAST_FLOOR = 1e-3
LOWEST, HIGHEST = 0.0, 10.0  # of the scale


@dataclass(frozen=True)
class Calibration:
    """An isotonic curve and the half-widths of intervals around it; `apply` uses both.

    The curve runs straight between the knots (`expected`, `score`) and is level beyond them. An
    interval of `levels[k]` reaches `absolute[k]` points to either side of the score, or
    `normalised[k]` times the standard deviation of the tree, taken as `floor` where it is less.
    """

    expected: tuple[float, ...]  # increasing
    score: tuple[float, ...]  # never falling
    levels: tuple[float, ...]  # increasing
    absolute: tuple[float, ...]  # points; one for each level
    normalised: tuple[float, ...]  # standard deviations; one for each level
    floor: float  # points
    curve_rows: int  # of the held-out slice, behind the curve
    interval_rows: int  # .. and behind the intervals
    seed: int  # by which the slice was cut in two

    def __post_init__(self) -> None:
        _check_series("expected", self.expected)
        _check_series("score", self.score, len(self.expected))
        _check_series("levels", self.levels)
        for kind in KINDS:
            _check_series(kind, getattr(self, kind), len(self.levels))
        _check_number("floor", self.floor, LEAST_FLOOR, whole=False)
        for name, least in (("curve_rows", 1), ("interval_rows", 1), ("seed", 0)):
            _check_number(name, getattr(self, name), least, whole=True)

    def apply(self, frame: pd.DataFrame, level=0.9, kind: str = "absolute") -> pd.DataFrame:
        """`frame` with the columns score, low and high added, cut to the 0..10 scale.

        It needs the column expected, and sd for `kind` "normalised", whose intervals are wide where
        the model is unsure. That pays off only where sd foretells the error (`sd_predicts_error`).
        Scores never fall as expected rises, but share values where the curve is level: rank
        photos, and take SRCC, by expected.

        Raises ValueError for a `level` that was not fitted, an unknown `kind`, a missing column,
        and a value that is not finite or out of range, named by row.
        """
        values = _columns(frame, ("expected", "sd") if kind == "normalised" else ("expected",))
        score = np.interp(values["expected"], self.expected, self.score)
        unit = np.maximum(values["sd"], self.floor) if kind == "normalised" else 1.0
        reach = self._half_width(level, kind) * unit
        low, high = np.clip([score - reach, score + reach], LOWEST, HIGHEST)
        return frame.assign(score=score, low=low, high=high)

    def _half_width(self, level: float, kind: str) -> float:
        if kind not in KINDS:
            raise ValueError(unknown("kind of interval", kind, KINDS))
        if level not in self.levels:
            raise ValueError(unknown("level", level, self.levels))
        return getattr(self, kind)[self.levels.index(level)]

    def save(self, path: str | Path) -> Path:
        """Write the calibration as JSON; `load` gives it back exactly."""
        return results.write_json(path, {"calibration": VERSION} | asdict(self))


def load(path: str | Path) -> Calibration:
    """The calibration that `Calibration.save` wrote.

    Raises FileNotFoundError, and ValueError that names the file, and the key if one is wrong.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; right is one that Calibration.save wrote")
    try:
        return _read(json.loads(Path(path).read_bytes()))
    except ValueError as error:  # also of a file that is not UTF-8 or not JSON
        raise ValueError(f"{path}: not a calibration; {error}") from error


def _read(content: object) -> Calibration:
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}; right is an object")
    version = content.pop("calibration", None)
    _check("calibration", version, f"the version {VERSION}", version == VERSION)
    names = [field.name for field in fields(Calibration)]
    for name in [*names, *content]:
        if name not in content:
            raise ValueError(f"the key {name!r} is missing; right are {', '.join(names)}")
        if name not in names:
            raise ValueError(unknown("key", name, names))
    return Calibration(**{k: tuple(v) if isinstance(v, list) else v for k, v in content.items()})


# --- fitting -------------------------------------------------------------------------------------


def fit(
    frame: pd.DataFrame, levels: Sequence[float] = LEVELS, *, seed: int, floor: float = FLOOR
) -> Calibration:
    """Calibrate on a held-out slice: photos (n rows) that the model was not trained on.

    `seed` cuts the slice in two. The curve is not fitted on the rows of the intervals: it lies
    too close to its own rows, so that they would be too narrow.

    Raises ValueError for missing columns, values that are not finite or out of range (named by
    row), levels that are not increasing within (0, 1), and too few rows for the highest level.
    """
    values = _columns(frame, ("target", "expected", "sd"))
    levels = tuple(np.atleast_1d(levels).astype(float).tolist())
    _check_series("levels", levels)
    _check_number("floor", floor, LEAST_FLOOR, whole=False)
    least = max(2 * least_rows(levels[-1]) - 1, 2)  # of an odd number, the curve has one less
    if len(frame) < least:
        raise ValueError(
            f"the held-out slice has {len(frame)} rows; the level {levels[-1]:g} needs at least "
            f"{least}, {least_rows(levels[-1])} of them for the intervals"
        )
    order = np.random.default_rng(seed).permutation(len(frame))
    curve, rest = np.split(order, [len(frame) // 2])
    x, y = values["expected"], values["target"]
    isotonic = IsotonicRegression(out_of_bounds="clip").fit(x[curve], y[curve])
    residuals = np.abs(y[rest] - isotonic.predict(x[rest]))
    ratios = residuals / np.maximum(values["sd"][rest], floor)
    return Calibration(
        tuple(isotonic.X_thresholds_.tolist()),
        tuple(isotonic.y_thresholds_.tolist()),
        levels,
        tuple(conformal_quantile(residuals, level) for level in levels),
        tuple(conformal_quantile(ratios, level) for level in levels),
        floor, len(curve), len(rest), seed,
    )  # fmt: skip


def conformal_quantile(residuals: ArrayLike, level: float) -> float:
    """The ceil((n + 1) level)-th smallest of residuals (n,), in their units.

    One more residual, exchangeable with these, is at most that large with a probability from
    `level` to level + 1 / (n + 1), the upper end where no two are equal.

    >>> conformal_quantile([0.4, 0.1, 0.3, 0.2], 0.6), conformal_quantile([0.4, 0.1, 0.3, 0.2], 0.8)
    (0.3, 0.4)

    Raises ValueError for fewer than `least_rows`.
    """
    residuals = np.sort(np.asarray(residuals, dtype=float))
    n, least = len(residuals), least_rows(level)
    if n < least:
        raise ValueError(f"the level {level:g} needs at least {least} residuals; there are {n}")
    return float(residuals[rank(n, level) - 1])


def rank(n: int, level: float) -> int:
    """Which of n residuals, counted from the smallest, an interval of `level` reaches to."""
    return math.ceil((n + 1) * _exact(level))


def least_rows(level: float) -> int:
    """The fewest residuals that an interval of `level` can come from.

    >>> [least_rows(level) for level in (0.5, 0.9, 0.95, 0.99)]
    [1, 9, 19, 99]
    """
    level = _exact(level)
    return math.ceil(level / (1 - level))


def _exact(level: float) -> Fraction:
    """The decimal that was meant: in binary, 0.55 of 100 is over 55."""
    return Fraction(repr(float(level)))


# --- judging -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coverage:
    """The share of targets within their intervals, with its 95 % interval; their mean width."""

    estimate: float
    low: float
    high: float
    width: float  # points
    n: int


def coverage(frame: pd.DataFrame) -> Coverage:
    """Coverage of intervals, measured on photos that had no part in `fit`.

    Columns: target, low, high. The interval of the share is Wilson's, of the photos alone: another
    held-out slice for `fit` would give another share too.

    Raises ValueError as `Calibration.apply`, and for low above high.
    """
    values = _columns(frame, ("target", "low", "high"))
    target, low, high = values["target"], values["low"], values["high"]
    if (low > high).any():
        at = int((low > high).argmax())
        raise ValueError(f"row {at + 1}: low {low[at]:g} exceeds high {high[at]:g}")
    inside = int(((low <= target) & (target <= high)).sum())
    ends = stats.binomtest(inside, len(frame)).proportion_ci(0.95, "wilson")
    width = float((high - low).mean())
    return Coverage(inside / len(frame), float(ends.low), float(ends.high), width, len(frame))


def sd_predicts_error(
    frame: pd.DataFrame, rng: np.random.Generator, resamples: int = 1000, column: str = "expected"
) -> statistics.Interval:
    """Spearman's correlation of sd with |target - `column`|, with its 95 % bootstrap interval.

    NaN where either is constant. Raises ValueError as `Calibration.apply`.
    """
    values = _columns(frame, ("target", "sd", column))
    error = np.abs(values["target"] - values[column])
    return statistics.bootstrap("srcc", error, values["sd"], rng, resamples)


# --- input ---------------------------------------------------------------------------------------


def _columns(frame: pd.DataFrame, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns as arrays (n,), all finite and on the scale."""
    if absent := [name for name in names if name not in frame]:
        raise ValueError(f"no column {absent[0]!r}; right are {', '.join(names)}")
    if frame.empty:
        raise ValueError("there are no rows; right is a row for each photo")
    return {name: _column(frame, name) for name in names}


def _column(frame: pd.DataFrame, name: str) -> np.ndarray:
    values = pd.to_numeric(frame[name], errors="coerce").to_numpy(float)
    good = (values >= LOWEST) & (values <= HIGHEST)  # never so for NaN
    if not good.all():
        at = int((~good).argmax())
        raise ValueError(
            f"row {at + 1}: {name} is {frame[name].iloc[at]}; right is a number from {LOWEST:g} to "
            f"{HIGHEST:g} (rows like this: {(~good).sum()} of {len(good)})"
        )
    return values


def _check(name: str, found: object, right: str, good: bool) -> None:
    if not good:
        raise ValueError(f"{name} is {found}; right is {right}")


def _is_number(value: object) -> bool:
    good = isinstance(value, Real) and not isinstance(value, bool)
    return good and math.isfinite(value)


def _check_number(name: str, value: object, least: float, whole: bool) -> None:
    good = _is_number(value) and value >= least and (not whole or value == int(value))
    _check(name, value, f"a {'whole ' if whole else ''}number from {least:g} on", good)


def _check_series(name: str, values: object, length: int | None = None) -> None:
    good = isinstance(values, tuple) and len(values) == (length or max(len(values), 1))
    found = f"of length {len(values)}" if isinstance(values, tuple) else values
    _check(name, found, f"a list of {length or 'one or more'} numbers", good)
    right = "a number between 0 and 1" if name == "levels" else "a number from 0 on"
    rising = name in ("expected", "levels")  # and the others do not fall
    for k, value in enumerate(values):
        good = _is_number(value) and (0 < value < 1 if name == "levels" else value >= 0)
        _check(f"{name}[{k}]", value, right, good)
        good = k == 0 or value > values[k - 1] or (value == values[k - 1] and not rising)
        _check(f"{name}[{k}]", value, f"{'above' if rising else 'at least'} {values[k - 1]}", good)
