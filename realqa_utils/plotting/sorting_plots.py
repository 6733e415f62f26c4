"""Figures of notebook 04: Table 3 as dots, and what sorting says of scoring."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from realqa_utils.number_sorting import sorting
from realqa_utils.plotting.plots import ACCENT, INK, MUTED, SECOND, THIRD

READ = {"accuracy": "lists all right", "position": "places right", "recall": "given numbers said",
        "hallucination": "said, but not given"}  # fmt: skip
SIDES = (ACCENT, SECOND)


def plot_sorters(table: pd.DataFrame) -> Figure:
    """Every measure of Table 3, one panel each: models by line, kinds of lists by colour.

    `table` has the columns dataset, model, metric, estimate, low, high.
    """
    models, kinds = table["model"].unique(), table["dataset"].unique()
    size = (11.5, 0.42 * len(models) + 1.5)
    figure, axes = plt.subplots(1, 4, figsize=size, sharey=True, layout="constrained")
    for axis, metric in zip(axes, sorting.MEASURES, strict=True):
        for number, kind in enumerate(kinds):
            part = table[(table["metric"] == metric) & (table["dataset"] == kind)]
            y = np.arange(len(models)) + 0.2 * (number - (len(kinds) - 1) / 2)
            _dots(axis, part.set_index("model").loc[models], y, SIDES[number], kind)
        axis.set(xlim=(-0.05, 1.05), xticks=(0, 0.5, 1), title=READ[metric], xlabel=metric)
        axis.xaxis.set_major_formatter(PercentFormatter(1))
    axes[0].set_yticks(range(len(models)), models)
    axes[0].set_ylim(len(models) - 0.5, -0.5)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(kinds), frameon=False)
    return figure


def _dots(axis, rows: pd.DataFrame, y: np.ndarray, colour: str, label: str) -> None:
    error = np.nan_to_num(np.abs(rows[["low", "high"]].to_numpy().T - rows["estimate"].to_numpy()))
    axis.errorbar(
        rows["estimate"], y, xerr=error, fmt="o", ms=5.5, color=colour, lw=1.6, capsize=2,
        label=label,
    )  # fmt: skip


def plot_foresight(
    found: pd.DataFrame, sorters: pd.DataFrame, scores: pd.DataFrame, reading: str = "greedy"
) -> Figure:
    """Places right in the paper's lists against the SRCC after the same fine-tuning.

    `found` is that of `sorting_claim.points`: its dots are fine-tunings. `sorters` and `scores` are
    the tables, whose intervals are the crosses.
    """
    figure, axis = plt.subplots(figsize=(7.6, 4.6), layout="constrained")
    first = sorters["dataset"].iloc[0]
    places = sorters[(sorters["dataset"] == first) & (sorters["metric"] == "position")]
    places, scores = (t.set_index("model") for t in (places, scores[scores["reading"] == reading]))
    colours = dict(zip(scores.index, (ACCENT, MUTED, THIRD, SECOND, INK), strict=False))
    for model, row in scores.iterrows():
        x, colour = places.loc[model], colours[model]
        dots = found[found["model"] == model]
        axis.plot(dots["position"], dots[reading], "o", ms=4, color=colour, alpha=0.45)
        axis.errorbar(
            x["estimate"], row["estimate"],
            xerr=_reach(x), yerr=_reach(row), fmt="o", ms=9, color=colour, lw=1.8, capsize=3,
            label=model,
        )  # fmt: skip
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    axis.set(xlabel=f"places right before, {first}", ylabel=f"SRCC after fine-tuning, {reading}")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _reach(row: pd.Series) -> np.ndarray:
    """How far an interval reaches below and above its estimate, (2, 1)."""
    ends = np.array([[row["estimate"] - row["low"]], [row["high"] - row["estimate"]]])
    return np.nan_to_num(ends).clip(min=0)
