"""What writing a score costs before any model errs: the true MOS against itself, rounded.

M digits cut the 0..10 scale into 10^M cells, the level words of Q-Align a set's own range into
five. How much of a rank correlation that leaves depends on how the MOS of a set are spread: one
digit on a set's own scale of 1 to 5 has five cells, where the paper's 0..10 has ten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from realqa_utils import datasets
from realqa_utils.datasets import registry
from realqa_utils.datasets.table import Table
from realqa_utils.experiments.tracking import IMAGE_SETS
from realqa_utils.forms import scores
from realqa_utils.measures import evaluation, statistics
from realqa_utils.profiles import Profile
from realqa_utils.training.level_words import Levels

WORDS, AS_IS = "five words", "M = 1, own scale"
METRICS = ("srcc", "plcc")


def tables(profile: Profile) -> tuple[dict[str, Table], dict[str, str]]:
    """Sets with their MOS by title, and why those that are missing are: no photographs needed.

    On real data every public set of which the annotation file is below REALQA_DATA; else the
    generated ones, whose MOS have the scale and the spread of the real sets.
    """
    if profile.data == "mini":
        sets = (*IMAGE_SETS, "mini-konvid")
        return {name: datasets.open_splits(profile, name)[0].test for name in sets}, {}
    found, missing = {}, {}
    for known in registry.SETS.values():
        title = known.title if known.title not in found else f"{known.title}, z-scores"
        try:
            found[title] = known.annotations(registry.data_folder())
        except (OSError, ValueError) as problem:
            missing[title] = str(problem)
    return found, missing


def ceilings(found: Mapping[str, Table], digits: Iterable[int] = (1, 2, 3)) -> pd.DataFrame:
    """SRCC and PLCC of the true MOS with itself in five words and in M digits, tidy; `written`."""
    rows = []
    for name, table in found.items():
        targets, levels = table.targets, Levels.of(table)
        ways = {WORDS: levels.values[levels.index(targets)]}
        if table.scale.high <= 10:  # could be written as it is, in fewer cells
            ways[AS_IS] = scores.quantise(table.frame["mos"].to_numpy(), 1)
        ways |= {f"M = {m}": scores.quantise(targets, m) for m in digits}
        for written, rounded in ways.items():
            for metric in METRICS:
                value = statistics.METRICS[metric](targets, rounded)
                interval = statistics.Interval(value, np.nan, np.nan, len(table))
                row = evaluation.row(interval, name, "rounding alone", metric, [])
                rows.append(row | {"written": written})
    return pd.DataFrame(rows)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """SRCC, a set a row, a way of writing a column; `n` is the number of MOS."""
    part = table[table["metric"] == "srcc"]
    wide = part.pivot(index=["dataset", "n"], columns="written", values="estimate")
    return wide[list(dict.fromkeys(part["written"]))].round(3).rename_axis(columns=None)
