"""Figures of notebook 12: speeds of every way, and how cost grows."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from realqa_utils.plotting.plots import ACCENT, INK, MUTED, SECOND, THIRD


def _colour(way: str) -> str:
    if way.startswith("ours") or "form filling" in way:
        return SECOND
    return MUTED if way.startswith("floor") else ACCENT


def speeds(table: pd.DataFrame) -> Figure:
    """Photographs per second, one panel a model, a way a bar, on a logarithmic axis."""
    sizes = list(dict.fromkeys(table["size"]))
    ways = list(dict.fromkeys(table["model"]))
    figure, axes = plt.subplots(
        1, len(sizes), figsize=(3.4 * len(sizes) + 3, 0.42 * len(ways) + 1.5), sharey=True,
        squeeze=False,
    )  # fmt: skip
    for axis, size in zip(axes[0], sizes, strict=True):
        part = table[table["size"] == size].set_index("model")
        for place, way in enumerate(ways):
            if way not in part.index:
                continue
            row = part.loc[way]
            axis.barh(place, row["estimate"], color=_colour(way), height=0.68)
            axis.plot([row["low"], row["high"]], [place, place], color=INK, lw=1.6)
            axis.annotate(
                f"{row['estimate']:,.0f}", (row["high"], place), xytext=(5, 0),
                textcoords="offset points", va="center", fontsize=9.5,
            )  # fmt: skip
        axis.set(xscale="log", xlabel="photographs per second", title=size)
        axis.set_xlim(part["low"].min() / 2, part["high"].max() * 3)
        axis.xaxis.set_minor_formatter(NullFormatter())  # they would run into each other
        axis.grid(axis="y", visible=False)
    axes[0][0].set_yticks(range(len(ways)), ways)
    axes[0][0].invert_yaxis()
    figure.tight_layout()
    return figure


def growth(photographs: pd.DataFrame, digits: pd.DataFrame, attributes: pd.DataFrame) -> Figure:
    """Cost against the number of photographs, digits and attributes; the last two are timings."""
    figure, axes = plt.subplots(1, 3, figsize=(12.6, 3.7))
    first, memory = axes[0], axes[0].twinx()
    first.plot(photographs["photographs"], photographs["per second"], "o-", color=SECOND)
    memory.plot(photographs["photographs"], photographs["peak MiB"], "s--", color=THIRD)
    first.set(xscale="log", xlabel="photographs", ylabel="per second", ylim=(0, None))
    memory.set(ylabel="peak memory, MiB", ylim=(0, 1.4 * photographs["peak MiB"].max()))
    memory.grid(visible=False)
    memory.spines["right"].set_visible(True)
    first.yaxis.label.set_color(SECOND)
    memory.yaxis.label.set_color("#a8770f")
    for axis, frame, words in ((axes[1], digits, "digits M"), (axes[2], attributes, "attributes")):
        shown = frame.assign(x=frame["way"].astype(int), ms=1000 * frame["seconds"])
        middle = shown.groupby("x")["ms"].median()
        axis.plot(middle.index, middle, "o-", color=SECOND)
        axis.fill_between(
            middle.index, shown.groupby("x")["ms"].min(), shown.groupby("x")["ms"].max(),
            color=SECOND, alpha=0.15, lw=0,
        )  # fmt: skip
        axis.set(xlabel=words, ylabel="ms a photograph", ylim=(0, None))
        axis.set_xticks(np.unique(shown["x"]))
    sns.despine(ax=axes[1])
    figure.tight_layout()
    return figure
