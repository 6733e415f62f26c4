"""Figures of the comparisons: methods in a forest, sets in a heat map, chains against noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from realqa_utils.forms import taxonomy
from realqa_utils.plotting.plots import INK, MODELS, MUTED

READS = ("greedy", "expected")


def forest(table: pd.DataFrame, label: str = "model", metric: str = "srcc") -> Figure:
    """One line per row label, greedy and expected beside each other, with intervals.

    `table` has the columns `label`, metric, read, estimate, low, high.
    """
    rows = table[table["metric"] == metric]
    names = list(dict.fromkeys(rows[label]))
    figure, axis = plt.subplots(figsize=(8.6, 0.52 * len(names) + 1.4))
    for read, shift in zip(READS, (-0.13, 0.13), strict=True):
        part = rows[rows["read"] == read]
        y = np.array([names.index(name) for name in part[label]]) + shift
        _points(axis, part, y, MODELS[read], read)
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel=f"{metric.upper()} on held-out photographs", ylim=(len(names) - 0.5, -0.5))
    _legend(axis)
    figure.tight_layout()
    return figure


def differences(table: pd.DataFrame, label: str, value: str, against: str = "") -> Figure:
    """Paired differences as a forest around zero; columns `label`, read, estimate, low, high.

    `against` names a column that says what was subtracted: each has a panel of its own.
    """
    names = list(dict.fromkeys(table[label]))
    groups = table.groupby(against, sort=False) if against else []
    parts = {f"minus {name}": part for name, part in groups} or {"": table}
    size = (max(8.6, 5.6 * len(parts)), 0.52 * len(names) + 1.4 + 0.3 * bool(against))
    figure, axes = plt.subplots(
        1, len(parts), figsize=size, sharex=True, sharey=True, squeeze=False
    )
    for axis, (title, part) in zip(axes[0], parts.items(), strict=True):
        axis.axvline(0, color=INK, lw=1)
        for read, shift in zip(READS, (-0.13, 0.13), strict=True):
            some = part[part["read"] == read]
            y = np.array([names.index(name) for name in some[label]]) + shift
            _points(axis, some, y, MODELS[read], read)
        axis.set_yticks(range(len(names)), names)
        axis.set(title=title, xlabel=value, ylim=(len(names) - 0.5, -0.5))
        if against:  # narrow panels
            axis.xaxis.set_major_locator(MaxNLocator(5))
    if against:  # titles are there
        axes[0, 0].legend(loc="best", framealpha=0.9)
    else:
        _legend(axes[0, 0])
    figure.tight_layout()
    return figure


def _legend(axis) -> None:
    """Above the axis, where no interval can be."""
    axis.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.2)


def _points(axis, part: pd.DataFrame, y: np.ndarray, colour: str, label: str) -> None:
    ends = np.abs(part[["low", "high"]].to_numpy().T - part["estimate"].to_numpy())
    axis.errorbar(
        part["estimate"], y, xerr=np.nan_to_num(ends), fmt="o", color=colour, label=label,
        capsize=3, lw=1.8, ms=5,
    )  # fmt: skip


def tracking(table: pd.DataFrame) -> Figure:
    """Fig. 2 as a map: SRCC of self-labelled attributes with MOS, the top three of a set framed."""
    titles = {name: taxonomy.BY_NAME[name].title for name in taxonomy.SCORED}
    wide = table.pivot(index="attribute", columns="dataset", values="estimate")
    wide = wide.loc[list(titles), list(dict.fromkeys(table["dataset"]))]
    figure, axis = plt.subplots(figsize=(1.25 * wide.shape[1] + 3.2, 0.5 * len(wide) + 1.6))
    sns.heatmap(
        wide.rename(index=titles), annot=True, fmt=".2f", cmap="RdBu_r", center=0, vmin=-1, vmax=1,
        linewidths=1.5, cbar_kws={"label": "SRCC with MOS"}, ax=axis,
    )  # fmt: skip
    for row in table[table["top"]].itertuples():
        place = (list(wide.columns).index(row.dataset), list(wide.index).index(row.attribute))
        axis.add_patch(plt.Rectangle(place, 1, 1, fill=False, ec=INK, lw=2.4, zorder=5))
    _plain_axes(axis)
    figure.tight_layout()
    return figure


def heat(table: pd.DataFrame) -> Figure:
    """SRCC of models trained on one set (rows) and tested on another (columns)."""
    names = list(dict.fromkeys(table["dataset"]))
    wide = table.pivot(index="trained_on", columns="dataset", values="estimate")[names]
    wide = wide.reindex([name for name in names if name in wide.index])
    figure, axis = plt.subplots(figsize=(1.2 * len(names) + 2.6, 0.75 * len(wide) + 1.6))
    sns.heatmap(
        wide, annot=True, fmt=".2f", cmap="crest", linewidths=1.5, cbar_kws={"label": "SRCC"},
        ax=axis,
    )  # fmt: skip
    for row, name in enumerate(wide.index):
        corner = (names.index(name), row)
        axis.add_patch(plt.Rectangle(corner, 1, 1, fill=False, ec=INK, lw=2.2, zorder=5))
    _plain_axes(axis)
    axis.set(xlabel="tested on", ylabel="trained on")
    figure.tight_layout()
    return figure


def _plain_axes(axis) -> None:
    axis.set(xlabel="", ylabel="")
    axis.tick_params(axis="x", rotation=25, length=0)
    axis.tick_params(axis="y", rotation=0, length=0)
    plt.setp(axis.get_xticklabels(), ha="right")


def noise(table: pd.DataFrame, marks: Mapping[str, float], level: float) -> Figure:
    """SRCC against the share of wrong labels; `marks` are shares to point out, `level` the SRCC of
    the direct answer (expected), as a line."""
    figure, axis = plt.subplots(figsize=(8.6, 4.0))
    for read in READS:
        part = table[table["read"] == read].sort_values("share_wrong")
        axis.plot(part["share_wrong"], part["estimate"], "o-", color=MODELS[read], label=read)
        axis.fill_between(
            part["share_wrong"], part["low"], part["high"], color=MODELS[read], alpha=0.15, lw=0
        )
    axis.axhline(level, color=MUTED, ls="--", lw=1.4, label="direct only, expected")
    for words, share in marks.items():
        axis.axvline(share, color=INK, ls=":", lw=1.2, label=words)
    axis.set(xlabel="share of wrong attribute labels in training", ylabel="SRCC")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.tight_layout()
    return figure


def lengths(table: pd.DataFrame) -> Figure:
    """SRCC against the steps of a training: a line a `row`, a panel a way of reading (`read`)."""
    names = list(dict.fromkeys(table["row"]))
    panels = {"": table}
    if "read" in table:
        panels = {read: table[table["read"] == read] for read in READS}
    figure, axes = plt.subplots(
        1, len(panels), figsize=(8.6 if len(panels) == 1 else 10.6, 4.4), sharex=True, sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis, (read, rows) in zip(axes[0], panels.items(), strict=True):
        for name, colour in zip(names, sns.color_palette("husl", len(names)), strict=True):
            part = rows[rows["row"] == name].sort_values("steps")
            axis.plot(part["steps"], part["estimate"], "o-", color=colour, label=name)
            axis.fill_between(
                part["steps"], part["low"], part["high"], color=colour, alpha=0.12, lw=0
            )
        axis.set(title=read, xlabel="training steps", xscale="log")
        axis.set_xticks(steps := sorted(set(table["steps"])), [f"{n:,}" for n in steps])
        axis.minorticks_off()
    axes[0, 0].set_ylabel("SRCC")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def ceilings(table: pd.DataFrame, sets: Sequence[str]) -> Figure:
    """What rounding alone leaves of the SRCC: one line a set over ways of writing a score.

    `table` has the columns dataset, written, estimate.
    """
    ways = list(dict.fromkeys(table["written"]))
    figure, axis = plt.subplots(figsize=(7.6, 4.2))
    colours = sns.color_palette("crest", len(sets))
    for name, colour in zip(sets, colours, strict=True):
        part = table[table["dataset"] == name].set_index("written")["estimate"].reindex(ways)
        axis.plot(range(len(ways)), part, "o-", color=colour, label=name)
    axis.set_xticks(range(len(ways)), ways)
    axis.set(ylabel="SRCC of the true MOS with itself, rounded")
    axis.legend(loc="lower right", fontsize=9)
    figure.tight_layout()
    return figure
