"""Figures of NCM: training curves of anyone's runs, Fig. 4, and what NCM foresees."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from realqa_utils.ncm import curves
from realqa_utils.plotting.plots import ACCENT, INK, MUTED, SECOND, THIRD
from realqa_utils.profiles import unknown

CURVES = {  # metric: what the axis says
    "ncm": "NCM, squared points",
    "ncm_star": "NCM*, squared points",
    "ncm_star_as_published": "NCM* as published, squared points",
    "digit_ce": "cross entropy of digits, nats",
    "srcc_expected": "SRCC of free-running scores",
    "srcc_greedy": "SRCC of greedy digits",
    "scored": "answers with a score",
    "skipped": "answers without a score",
    "not_finite": "answers that are not finite",
}
CURVES_OF_A_DIGIT = {
    "ncm_digit": "NCM of digit {}, squared points",
    "digit_ce": "cross entropy of digit {}, nats",
}
WHERE_LOGGED = {"held-out": "held-out set", "train": "training batches"}


def plot_ncm_curves(
    history_or_csv: curves.Source | dict,
    metrics: Sequence[str] = ("ncm", "ncm_star", "digit_ce"),
    splits: str | Sequence[str] | None = None,
) -> Figure:
    """Training curves, one panel a metric and one colour a group: mean and band over its runs.

    The band is that of `curves.band`, and the legend says which. Where held-out and training
    curves are both there, the training curves are thin, dashed and without their band. The y axis
    is logarithmic where all means are positive and span a factor of 20, but never for NCM* as
    published, which does not fall towards zero. Values that are not finite are gaps.

    Args:
        history_or_csv: whatever `curves.read` reads, of anyone's training.
        metrics: names as logged, without `eval_`.
        splits: "train", "held-out" or both; None takes what there is.

    Raises:
        ValueError: a metric or split that is unknown or was not logged, or only at steps that no
            two runs of a group share; and as `curves.read`.
    """
    metrics = [metrics] if isinstance(metrics, str) else list(dict.fromkeys(metrics))
    table = curves.band(_chosen(curves.read(history_or_csv), metrics, splits))
    if table.empty:
        raise ValueError("no two runs of a group share a step; right is a group for each run")
    table = table.assign(thin=(table["split"] == "train") & (table["split"].nunique() > 1))
    groups = list(dict.fromkeys(table["group"]))
    colours = dict(zip(groups, _colours(len(groups)), strict=True))
    figure, axes = _panels(len(metrics), _group_handles(table, colours), _style_handles(table))
    for axis, metric in zip(axes, metrics, strict=True):
        part = table[table["metric"] == metric]
        for (group, _), rows in part.groupby(["group", "split"], sort=False):
            _training_curve(axis, rows, colours[group])
        _value_axis(axis, metric, part)
    _step_axes(axes, table["step"])
    return figure


def _chosen(frame: pd.DataFrame, metrics: Sequence[str], splits) -> pd.DataFrame:
    splits = [splits] if isinstance(splits, str) else list(splits or curves.SPLITS)
    for split in splits:
        if split not in curves.SPLITS:
            raise ValueError(unknown("split", split, curves.SPLITS))
    frame = frame[frame["split"].isin(splits)]
    for metric in metrics:
        if metric not in set(frame["metric"]):
            where = f"metric in the {' and '.join(splits)} logs"
            raise ValueError(unknown(where, metric, dict.fromkeys(frame["metric"])))
    if not metrics:
        raise ValueError("no metrics; right is at least one name, such as ncm")
    return frame[frame["metric"].isin(metrics)]


def _colours(count: int) -> list:
    own = [ACCENT, SECOND, THIRD, INK, MUTED]
    return own[:count] if count <= len(own) else sns.color_palette("husl", count)


def _panels(count: int, groups: list, styles: list) -> tuple[Figure, list]:
    """Panels in rows of at most three, and one legend below them: groups, then styles."""
    rows = -(-count // 3)
    columns = -(-count // rows)
    width = max(4.4 * columns, 6.4)
    beside = _beside([handle.get_label() for handle in groups + styles], width)
    if beside < len(groups + styles):
        beside = min(beside, max(len(groups), len(styles)))
    handles = [h for column in range(beside) for h in (groups + styles)[column::beside]]
    height = 3.5 * rows + 0.28 * -(-len(handles) // beside)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, height), squeeze=False, layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
    for axis in axes.flat[count:]:
        axis.axis("off")
    figure.legend(handles=handles, loc="outside lower center", ncols=beside, frameon=False)
    return figure, list(axes.flat[:count])


def _beside(labels: Sequence[str], width: float) -> int:
    """How many columns of a legend, filled row by row, fit into `width` inches."""
    for count in range(len(labels), 1, -1):
        longest = [max(map(len, labels[column::count])) for column in range(count)]
        if sum(longest) * 0.095 + 0.6 * count <= width:
            return count
    return 1


def _group_handles(table: pd.DataFrame, colours: dict) -> list:
    runs = table.groupby("group")["runs"].max()
    words = {group: f"{group} ({runs[group]} runs)" for group in colours if runs[group] > 1}
    return [
        Line2D([], [], color=colour, label=words.get(group, group), **_line(thin=False))
        for group, colour in colours.items()
    ]


def _style_handles(table: pd.DataFrame) -> list:
    """What line styles and bands mean, where there are any to tell apart."""
    handles = [
        Line2D([], [], color=INK, label=words, **_line(thin=split == "train"))
        for split, words in WHERE_LOGGED.items()
        if table["thin"].any()
    ]
    runs = table.loc[~table["thin"], "runs"]
    words = {(True, False): "95 % interval of the mean", (False, True): "range of two runs",
             (True, True): "95 % interval, or range of two runs"}  # fmt: skip
    label = words.get(((runs >= 3).any(), (runs == 2).any()))
    return handles + ([Patch(color=MUTED, alpha=0.4, lw=0, label=label)] if label else [])


def _line(thin: bool) -> dict:
    return {"lw": 1.1, "ls": (0, (4, 2))} if thin else {"lw": 2.2, "ls": "-"}


def _training_curve(axis, rows: pd.DataFrame, colour) -> None:
    thin = rows["thin"].any()
    marker = "o" if rows["mean"].notna().sum() < 3 else None  # one value makes no line
    axis.plot(rows["step"], rows["mean"], color=colour, marker=marker, ms=4, **_line(thin))
    if not thin and (rows["runs"] > 1).any():
        axis.fill_between(rows["step"], rows["low"], rows["high"], color=colour, alpha=0.2, lw=0)


def _value_axis(axis, metric: str, part: pd.DataFrame) -> None:
    words = _in_words(metric)
    axis.set_ylabel(words if len(words) <= 30 else words.replace(", ", ",\n"))
    low, high = part["mean"].min(), part["mean"].max()
    if np.isnan(low):
        axis.text(0.5, 0.5, "no values", ha="center", color=MUTED, transform=axis.transAxes)
    elif low > 0 and high >= 20 * low and "as_published" not in metric:
        _logarithmic(axis, low, high, part[~part["thin"]])


def _in_words(metric: str) -> str:
    name, _, digit = metric.rpartition("_")
    if digit.isdigit() and name in CURVES_OF_A_DIGIT:
        return CURVES_OF_A_DIGIT[name].format(digit)
    return CURVES.get(metric, metric.replace("_", " "))


def _logarithmic(axis, low: float, high: float, banded: pd.DataFrame) -> None:
    """Limits hold the means and what they can of the bands, which may reach below zero."""
    span = high / low
    subs = (1.0, 2.0, 5.0) if span < 100 else (1.0, 3.0) if span < 10_000 else (1.0,)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=subs))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    lowest, highest = np.nanmin([low, banded["low"].min()]), np.nanmax([high, banded["high"].max()])
    axis.set_ylim(max(lowest, low / 2) / span**0.04, highest * span**0.04)


def _step_axes(axes: Sequence, steps: pd.Series) -> None:
    margin = 0.02 * max(np.ptp(steps), 1)
    for axis in axes:
        axis.set(xlabel="training step", xlim=(steps.min() - margin, steps.max() + margin))
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def plot_sweep(answers: pd.DataFrame, truth: float) -> Figure:
    """Fig. 4 for every answer, one panel a measure; the paper's two are marked."""
    measures = list(answers.columns[2:])
    figure, axes = plt.subplots(1, len(measures), figsize=(3.3 * len(measures), 3.3))
    for axis, measure in zip(axes, measures, strict=True):
        axis.plot(answers["answer"], answers[measure], ".", ms=2, color=SECOND)
        axis.axvline(truth, color=ACCENT, lw=1.2)
        entropy = measure == "cross entropy"  # the one with free space below
        for answer, above, below in ((4.01, (7, 48), (-40, -22)), (4.99, (30, 1), (14, 22))):
            row = answers.iloc[(answers["answer"] - answer).abs().argmin()]
            y = row[measure]
            axis.plot(row["answer"], y, "o", ms=5, color=INK)
            axis.annotate(
                f"{row['answer']:g}", (row["answer"], y), xytext=below if entropy else above,
                textcoords="offset points", fontsize=9, color=INK,
                arrowprops={"arrowstyle": "-", "color": MUTED, "lw": 0.8},
            )  # fmt: skip
        axis.set(xlabel="answer of the model", title=measure)
        axis.set_ylabel("nats" if measure == "cross entropy" else "squared points")
    figure.tight_layout()
    return figure


def plot_foresight(points: pd.DataFrame, target: str = "srcc_expected") -> Figure:
    """Every checkpoint but the first as a point: NCM* and cross entropy against the SRCC."""
    points = points[points["step"] > 0]
    conditions = list(dict.fromkeys(points["condition"]))
    colours = dict(zip(conditions, _colours(len(conditions)), strict=True))
    last = points["step"].max()
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.4), sharey=True, layout="constrained")
    for axis, metric in zip(axes, ("ncm_star", "digit_ce"), strict=True):
        for condition, part in points.groupby("condition", sort=False):
            sizes = np.where(part["step"] == last, 46, 14)
            axis.scatter(
                part[metric], part[target], sizes, color=colours[condition], alpha=0.75, lw=0,
                label=condition,
            )  # fmt: skip
        axis.set_xlabel(_in_words(metric))
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel(_in_words(target))
    handles = [Line2D([], [], ls="", marker="o", color=colours[name]) for name in conditions]
    handles.append(Line2D([], [], ls="", marker="o", ms=9, color=MUTED))
    figure.legend(
        handles, [*conditions, "last checkpoint"], loc="outside lower center", ncols=4,
        frameon=False,
    )  # fmt: skip
    return figure
