"""Figures of scored clips: the score over time above its frames, and what pooling does."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from realqa_utils.experiments.timelines import Timeline
from realqa_utils.plotting.plots import ACCENT, INK, MUTED, SECOND, THIRD

POOLINGS = {  # by name in the table: what the legend says
    "mean": ("mean of the frames", SECOND),
    "harmonic": ("harmonic mean", THIRD),
    "percentile": ("tenth percentile", ACCENT),
}
WIDTH = 8.0  # inches
WORDS = 0.72  # .. of the title and the ticks of a clip
NOTHING = "no clips"


def score_over_time(timelines: Sequence[Timeline]) -> Figure:
    """Each clip as a strip: expected score with its standard deviation, greedy digits, and the
    raters' mean over time, above the frames at their times."""
    if not timelines:
        return _empty()
    heights = [part for line in timelines for part in (1.6, _still_height(line))]
    height = sum(heights) + WORDS * len(timelines) + 0.95  # inches: and the legend
    figure = plt.figure(figsize=(WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(hspace=0.0, h_pad=0.02)
    axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for line, (above, below) in zip(timelines, axes.reshape(-1, 2), strict=True):
        _scores(above, line)
        _stills(below, line)
    below.set_xlabel("seconds")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _still_height(line: Timeline) -> float:
    """Inches, for pictures side by side over the width."""
    width, height = line.stills[0][1].size
    return 0.9 * WIDTH / len(line.stills) * height / width


def _scores(axis: Axes, line: Timeline) -> None:
    time, mean, sd = (line.scores[name] for name in ("time", "expected", "sd"))
    axis.axhline(line.target, color=THIRD, lw=2, ls="--", label="raters' mean of the clip")
    if line.truth is not None:
        steps = [*line.truth.index, _end(line)]
        label = "hidden quality of the moment"
        axis.stairs(line.truth, steps, baseline=None, color=INK, lw=1.4, ls=":", label=label)
    axis.fill_between(
        time,
        mean - sd,
        mean + sd,
        color=SECOND,
        alpha=0.16,
        linewidth=0,
        label="± standard deviation",
    )
    axis.plot(time, mean, color=SECOND, lw=2.2, label="expected score")
    axis.axhline(mean.mean(), color=SECOND, lw=1, label="mean over the frames")
    axis.plot(
        time, line.scores["greedy"], "o", color=ACCENT, ms=3.5, zorder=3, label="greedy digits"
    )
    axis.set(xlim=(0, _end(line)), ylim=(0, 10.4), yticks=(0, 5, 10), ylabel="score")
    axis.tick_params(labelbottom=False)
    axis.set_title(line.title, pad=10)


def _end(line: Timeline) -> float:
    """Where the clip ends: its stills are the middles of equal parts."""
    return line.stills[0][0] + line.stills[-1][0]


def _stills(axis: Axes, line: Timeline) -> None:
    """The frames side by side, each at its time."""
    part = _end(line) / len(line.stills)
    for time, image in line.stills:
        left, right = time - 0.485 * part, time + 0.485 * part
        axis.imshow(np.asarray(image), extent=(left, right, 0, 1), aspect="auto")
    axis.set(xlim=(0, _end(line)), ylim=(0, 1), yticks=[])
    axis.grid(visible=False)
    for side in axis.spines.values():
        side.set_visible(False)


def by_frames(table: pd.DataFrame, metric: str = "srcc") -> Figure:
    """`metric` over clips against the number of frames, by pooling; greedy and expected.

    `table` is that of `zero_shot.table`.
    """
    table = table[table["metric"] == metric]
    if table["estimate"].notna().sum() == 0:
        return _empty()
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.2), sharey=True, layout="constrained")
    for axis, model in zip(axes, ("greedy", "expected"), strict=True):
        _curves(axis, table, model)
        axis.set(xscale="log", xlabel="frames of a clip", title=f"{model.capitalize()} scores")
        counts = sorted(table["frames"].dropna().unique().astype(int))
        axis.set_xticks(counts, counts)
        axis.minorticks_off()
    axes[0].set_ylabel(f"{metric.upper()} over clips")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _curves(axis: Axes, table: pd.DataFrame, model: str) -> None:
    ours = table[(table["model"] == model) & table["frames"].notna()]
    for (how, (label, colour)), shift in zip(POOLINGS.items(), (1.0, 1.05, 0.953), strict=True):
        rows = ours[(ours["pooling"] == how) | (ours["frames"] == 1)]
        _with_error(axis, rows, colour, shift, label)
    other = table[~table["model"].isin(["greedy", "expected"])]
    _with_error(axis, other, MUTED, 0.91, "sharpness alone, mean")
    home = table[(table["model"] == model) & (table["pooling"] == "photographs")]
    for row in home.itertuples():
        axis.axhline(
            row.estimate, color=INK, lw=1.2, ls=":", label="photographs of the set trained on"
        )


def _with_error(axis: Axes, rows: pd.DataFrame, colour, shift: float, label: str) -> None:
    error = np.abs(rows[["low", "high"]].to_numpy().T - rows["estimate"].to_numpy())
    axis.errorbar(
        rows["frames"] * shift, rows["estimate"], np.nan_to_num(error),
        color=colour, lw=1.8, elinewidth=1.1, marker="o", ms=5, capsize=3, label=label,
    )  # fmt: skip


def _empty() -> Figure:
    figure, axis = plt.subplots(figsize=(WIDTH, 0.8))
    axis.text(0.5, 0.5, NOTHING, ha="center", color=MUTED, transform=axis.transAxes)
    axis.axis("off")
    return figure
