"""The scoreboard as a picture: all claims as one forest, an axis for each kind of unit."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from realqa_utils.claims.scoreboard import (
    NOT_RUN,
    SINGLE,
    SQUARED,
    is_single,
    marked,
    names,
    place,
)
from realqa_utils.plotting.plots import ACCENT, INK, SECOND

#: Dark enough for words on white.
COLOURS = {"holds": SECOND, "fails": ACCENT, "undecided": "#8a6100", NOT_RUN: "#6b7785"}
MARKERS = "oDs^v"  # one a profile
GLYPHS = "●◆■▲▼"  # the same beside the numbers
WIDTH, BLOCK = 7.6, 0.5  # inches: of the figure, and of the height of a claim
AXES = {False: "SRCC: a difference, or a correlation", True: SQUARED}


def forest(board: pd.DataFrame) -> Figure:
    """Every claim of `scoreboard.board`: its interval on the axis of its unit, a marker a profile.

    Beside it stand verdict and numbers. Right of the line at zero supports the claim. A profile on
    which a claim was not run has no line there.
    """
    facets = {squared: part for squared, part in board.groupby(board["unit"] == SQUARED)}
    claims = [part["claim"].nunique() for part in facets.values()]
    profiles = names(board)
    most = max(2, *board.loc[board["verdict"] != NOT_RUN, "claim"].value_counts(), 0)
    block = BLOCK * most / 2  # two lines of text fit into a block
    figure, axes = plt.subplots(
        len(facets), 1, figsize=(WIDTH, block * sum(claims) + 0.75 * len(facets) + 0.4),
        height_ratios=claims, squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis, (squared, part) in zip(axes[:, 0], facets.items(), strict=True):
        _facet(axis, part, profiles, 1 / most)
        axis.set_xlabel(AXES[squared], fontsize=10.5)
    figure.legend(handles=_handles(board), loc="outside upper left", ncols=6, frameon=False,
                  fontsize=10, handletextpad=0.3, columnspacing=1.2)  # fmt: skip
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # else each drawing moves it a little: other bytes
    return figure


def _handles(board: pd.DataFrame) -> list[Line2D]:
    """The marker of each profile where there are several, then how to read the picture."""
    profiles, single = names(board), any(map(is_single, board.to_dict("records")))
    markers = [(name, mark) for name, mark in zip(profiles, MARKERS, strict=False)]
    how = "95 % intervals, right of 0 for the claim" + f"; {SINGLE}" * single
    shown = [(how, "")] if len(profiles) == 1 else [*markers, (how, "")]
    return [Line2D([], [], ls="", marker=mark, color=INK, label=label) for label, mark in shown]


def _facet(axis, part: pd.DataFrame, profiles: list[str], step: float) -> None:
    claims = list(dict.fromkeys(part["claim"]))
    axis.axvline(0, color=INK, lw=1)
    for y, (_, rows) in enumerate(part.groupby("claim", sort=False)):
        _heading(axis, y, rows.iloc[0])
        if (rows["verdict"] == NOT_RUN).all():
            _words(axis, y, NOT_RUN, NOT_RUN)
            continue
        found = rows[rows["verdict"] != NOT_RUN].to_dict("records")
        for line, row in enumerate(found):
            shift = step * (line - (len(found) - 1) / 2)
            _interval(axis, y + shift, row, profiles.index(row["profile"]), len(profiles) > 1)
    axis.set(ylim=(len(claims) - 0.5, -0.5), yticks=[])
    axis.hlines(np.arange(1, len(claims)) - 0.5, 0, 1, transform=axis.get_yaxis_transform(),
                color="#e4e7eb", lw=0.8)  # fmt: skip
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
    axis.tick_params(axis="x", labelsize=10)
    if part["estimate"].isna().all():
        axis.set_xlim(-1, 1)


def _heading(axis, y: float, row: pd.Series) -> None:
    """Left of the axis: the short title, and where the claim is made and judged."""
    options = {"transform": axis.get_yaxis_transform(), "ha": "right", "va": "center"}
    axis.text(-0.03, y - 0.2, row["title"], weight="bold", fontsize=10.5, **options)
    where = f"{place(row['claim'])}, notebook {row['notebook']}"
    axis.text(-0.03, y + 0.22, where, color=COLOURS[NOT_RUN], fontsize=9, **options)


def _interval(axis, y: float, row: dict, number: int, several: bool) -> None:
    verdict = f"{GLYPHS[number]} {row['verdict']}" if several else row["verdict"]
    _words(axis, y, verdict, row["verdict"])
    _words(axis, y, marked(row), row["verdict"], points=76)
    if pd.isna(row["estimate"]):
        return
    ends = np.abs(np.array([[row["low"]], [row["high"]]]) - row["estimate"])
    axis.errorbar(
        row["estimate"], y, xerr=np.nan_to_num(ends), fmt=MARKERS[number], ms=6, lw=2, capsize=3,
        color=COLOURS[row["verdict"]],
    )  # fmt: skip


def _words(axis, y: float, text: str, verdict: str, points: float = 8) -> None:
    """Right of the axis, `points` from it."""
    axis.annotate(
        text, (1, y), xytext=(points, 0), xycoords=axis.get_yaxis_transform(),
        textcoords="offset points", color=COLOURS[verdict], fontsize=9.5, va="center",
        annotation_clip=False,
    )  # fmt: skip
