"""The reliability figure: are scores right on average, intervals honest, and is doubt justified?"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike
from scipy import stats

from realqa_utils.plotting.plots import ACCENT, INK, MUTED, SECOND, THIRD
from realqa_utils.scoring import calibration
from realqa_utils.scoring.calibration import Calibration

KINDS = {
    "absolute": (SECOND, -0.12, "one width for all"),
    "normalised": (ACCENT, 0.12, "width by sd"),
}
DOTS = {"fmt": "o", "ms": 5, "capsize": 2.5, "lw": 1.4}


def reliability(frame: pd.DataFrame, fitted: Calibration, seed: int = 0, bins: int = 10) -> Figure:
    """Scores, intervals and standard deviations of photos that had no part in the calibration.

    Left: the raters' mean against the expected score, in bins with equally many photos, and the
    isotonic curve. Middle: the share of photos within their interval beside its level, for both
    kinds, with Wilson's intervals; a grey bar holds 95 % of the shares that a calibration on so few
    rows gives for so many photos. Right: the error of the calibrated score against the standard
    deviation of the digit tree, and Spearman's correlation with a bootstrap interval from `seed`.

    `frame` has the columns target, expected and sd, 0..10. Raises ValueError as `Calibration.apply`
    and `calibration.sd_predicts_error`.
    """
    scored = fitted.apply(frame, fitted.levels[-1])
    found = calibration.sd_predicts_error(scored, np.random.default_rng(seed), column="score")
    figure, axes = plt.subplots(1, 3, figsize=(13.2, 4.9), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1)
    _scores(axes[0], frame, fitted, bins)
    _intervals(axes[1], frame, fitted)
    words = f"photos, SRCC {found.estimate:.2f} [{found.low:.2f}, {found.high:.2f}]"
    _doubt(axes[2], scored, bins, words)
    for axis in axes:
        axis.legend(frameon=False, fontsize=9.5, loc="upper left", bbox_to_anchor=(-0.03, -0.16))
    return figure


def binned(x: ArrayLike, y: ArrayLike, bins: int = 10) -> pd.DataFrame:
    """Means of x and y (n,) in bins of x with equally many rows: columns x, y, low, high, n.

    low and high are the ends of Student's 95 % interval of the mean of y, NaN for a single row.
    Rows of equal x may fall into different bins; of few rows, each is a bin.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    parts = np.array_split(np.argsort(x, kind="stable"), min(bins, len(x)))
    rows = []
    for part in parts:
        mean, n = y[part].mean(), len(part)
        error = y[part].std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
        reach = stats.t.ppf(0.975, max(n - 1, 1)) * error
        rows.append((x[part].mean(), mean, mean - reach, mean + reach, n))
    return pd.DataFrame(rows, columns=["x", "y", "low", "high", "n"])


def _scores(axis, frame: pd.DataFrame, fitted: Calibration, bins: int) -> None:
    table = binned(frame["expected"], frame["target"], bins)
    ends = _padded(np.array([table[["x", "low"]].min().min(), table[["x", "high"]].max().max()]))
    axis.plot(ends, ends, color=MUTED, lw=1.2, ls="--", label="no change")
    grid = np.linspace(*ends, 500)
    axis.plot(grid, np.interp(grid, fitted.expected, fitted.score), color=THIRD, lw=2.2,
              label=f"isotonic curve, {fitted.curve_rows} other photos")  # fmt: skip
    _means(axis, table, SECOND, "photos judged here, in bins")
    axis.set(xlim=ends, ylim=ends, xlabel="expected score", ylabel="raters' mean")
    axis.set_title("Scores")


def _padded(ends: np.ndarray) -> np.ndarray:
    margin = max(0.06 * np.ptp(ends), 0.1)
    return np.clip(ends + [-margin, margin], calibration.LOWEST, calibration.HIGHEST)


def _means(axis, table: pd.DataFrame, colour: str, label: str) -> None:
    reach = np.nan_to_num((table["high"] - table["y"]).to_numpy())
    axis.errorbar(table["x"], table["y"], reach, **DOTS, color=colour, label=label)


def _intervals(axis, frame: pd.DataFrame, fitted: Calibration) -> None:
    levels, n = np.array(fitted.levels), fitted.interval_rows
    place = np.arange(len(levels))
    ranks = np.array([calibration.rank(n, level) for level in levels])
    ends = stats.betabinom(len(frame), ranks, n + 1 - ranks).ppf([[0.025], [0.975]]) / len(frame)
    axis.bar(place, ends[1] - ends[0], 0.56, ends[0], color=MUTED, alpha=0.3, lw=0,
             label=f"within chance, from {n} other photos")  # fmt: skip
    axis.hlines(levels, place - 0.28, place + 0.28, color=INK, lw=1.6, label="the level")
    for kind, (colour, shift, words) in KINDS.items():
        found = [calibration.coverage(fitted.apply(frame, level, kind)) for level in fitted.levels]
        share = np.array([each.estimate for each in found])
        reach = np.abs([[each.low, each.high] for each in found] - share[:, None]).T
        width = f"{found[-1].width:.2f} points at {levels[-1]:.0%}"
        axis.errorbar(place + shift, share, reach, **DOTS, color=colour, label=f"{words}: {width}")
    axis.set_xticks(place, [f"{level:.0%}" for level in levels])
    axis.set(xlabel="level of the interval", ylabel="photos within", xlim=(-0.6, place[-1] + 0.6))
    axis.set_ylim(top=1.02)
    axis.yaxis.set_major_formatter(PercentFormatter(1, 0))
    axis.grid(axis="x", visible=False)
    axis.set_title("Intervals")


def _doubt(axis, scored: pd.DataFrame, bins: int, words: str) -> None:
    error = np.abs(scored["target"] - scored["score"])
    axis.scatter(scored["sd"], error, s=12, alpha=0.5, color=MUTED, lw=0, label=words)
    _means(axis, binned(scored["sd"], error, bins), INK, "means of bins")
    axis.set(xlabel="standard deviation of the digit tree")
    axis.set_ylabel("error of the calibrated score, points")
    axis.set_ylim(bottom=0)
    axis.set_title("Doubt and error")
