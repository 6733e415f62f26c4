"""Numbers of ours against printed ones: reproduced, close, differs, not comparable, not run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from realqa_utils.claims import paper
from realqa_utils.measures.statistics import Interval
from realqa_utils.profiles import PROFILES, Profile, get_profile
from realqa_utils.records import results

VERDICTS = ("reproduced", "close", "differs", "not comparable", "not run")
TOLERANCE = 0.01

# --- one number ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """What a number was measured with: two can be compared only where all four agree."""

    profile: str
    checkpoint: str  # the model that training starts from, or that is asked
    split: str  # the test photographs
    fit: str = "none"  # of predictions before PLCC; see `statistics.plcc`


class Comparison(NamedTuple):
    verdict: str  # one of VERDICTS
    why: str


def mismatch(ours: Setting, theirs: Setting) -> str:
    """What is another in `ours`, in words; empty where the two can be compared.

    >>> paper = Setting("paper", "Qwen2-VL-7B", "KonIQ-10k")
    >>> mismatch(Setting("paper", "Qwen2-VL-7B", "KonIQ-10k", "logistic4"), paper)
    'fit logistic4, not none'
    """
    pairs = [(f.name, getattr(ours, f.name), getattr(theirs, f.name)) for f in fields(Setting)]
    return "; ".join(f"{name} {a}, not {b}" for name, a, b in pairs if a != b)


def compare(
    printed: float,
    measured: Interval | None,
    ours: Setting,
    theirs: Setting,
    reason: str = "",
    tolerance: float = TOLERANCE,
) -> Comparison:
    """The verdict on a printed number, and why.

    Without a measurement it is `not run`; where split, fit, checkpoint or profile is another, or
    the paper has N.A. (NaN), `not comparable`; `reproduced` where `printed` lies in the measured
    95 % interval; `close` within `tolerance` of the estimate; else `differs`, for `reason`.

    >>> paper = Setting("paper", "Qwen2-VL-7B", "KonIQ-10k")
    >>> compare(0.94, Interval(0.92, 0.90, 0.95, n=2010), paper, paper).verdict
    'reproduced'

    Raises ValueError where the two differ and no reason is given.
    """
    if measured is None:
        return Comparison("not run", "no result")
    if other := mismatch(ours, theirs):
        return Comparison("not comparable", other)
    if math.isnan(printed):
        return Comparison("not comparable", "N.A. in the paper")
    interval = f"[{measured.low:.3f}, {measured.high:.3f}]"
    if measured.low <= printed <= measured.high:
        return Comparison("reproduced", f"{printed:g} lies in {interval}")
    # Rounded: else 0.71 - 0.70 is more than 0.01.
    if (apart := round(abs(measured.estimate - printed), 9)) <= tolerance:
        return Comparison("close", f"{apart:.3g} apart, within {tolerance:g}")
    if not reason.strip():
        raise ValueError(
            f"ours is {measured.estimate:.3f} {interval}, printed is {printed:g}: "
            "right is a reason why the two differ"
        )
    return Comparison("differs", reason)


# --- whole tables --------------------------------------------------------------------------------

#: What the paper shows -> the result of ours that stands beside it.
SHOWN_BY = {
    "Table 1": "02_attribute_extraction",
    "Table 2": "03_training_granularity",
    "Table 3": "04_number_sorting",
    "Table 4": "05_digit_count",
    "Fig. 2": "08_chain_of_thought",
    "Fig. 5": "06_ncm_curves",
    "Sec. 4.6": "07_regression_and_levels",
    "Sec. 4.7, CoT": "08_chain_of_thought",
    "Sec. 4.7, images": "09_sota_comparison",
    "Sec. 4.7, video": "10_video_zero_shot",
}
#: Row of the paper that is a training or the backbone of ours; other rows keep their name.
ROWS = {"after stage 1": "Ours", "untuned, asked": "Qwen2-VL-7B"}
NO_CELL = "the paper has no such cell"
KEYS = ["row", "column", "metric"]


def overview(profile: str, figures: Path) -> pd.DataFrame:
    """What the paper shows, how much of it can be read, and how much of it was run here."""
    rows = []
    for shown, stem in SHOWN_BY.items():
        path = figures / profile / f"{stem}.csv"
        ours = f"{len(pd.read_csv(path))} estimates" if path.exists() else "not run"
        rows.append((shown, _readable(shown), stem, ours))
    columns = ["in the paper", "its numbers", "notebook", "ours"]
    return pd.DataFrame(rows, columns=columns).set_index("in the paper")


def _readable(shown: str) -> str:
    """How much of a table, figure or section of the paper can be read."""
    kind, _, number = shown.partition(" ")
    if kind == "Table" and int(number) in paper.READABLE:
        return f"{len(paper.printed(int(number)))} cells"
    return "a figure: its values are not printed" if kind == "Fig." else paper.NOT_AVAILABLE


def beside(
    table: int, profile: str, figures: Path, reasons: Mapping[tuple[str, ...], str] | None = None
) -> pd.DataFrame:
    """Table 1, 2 or 3 with ours beside it: a line a cell of the paper's, then what it has not.

    Columns: row, column, metric, paper (its value), those of `results.TABLE_COLUMNS` for ours,
    verdict and why. `figures` holds the profiles' folders; `reasons` says for a key (row, column,
    metric) why a number of ours differs.

    Raises ValueError for a table that cannot be read, and for a number that differs without reason.
    """
    printed = paper.printed(table).rename(columns={"value": "paper", "dataset": "split"})
    printed = printed.fillna({"column": ""})
    ours = _estimates(figures / profile / f"{SHOWN_BY[f'Table {table}']}.csv")
    ours = ours[ours["column"].isin(printed["column"])]  # Table 2 has averages only
    known = ours.set_index(KEYS).index.isin(printed.set_index(KEYS).index)
    lines = pd.concat([printed.merge(ours, "left", KEYS), ours[~known]], ignore_index=True)
    verdicts = [
        _verdict(line, table, get_profile(profile), reasons or {})
        for line in lines.to_dict("records")
    ]
    lines[["verdict", "why"]] = pd.DataFrame(verdicts, index=lines.index)
    columns = dict.fromkeys([*KEYS, "paper", *results.TABLE_COLUMNS, "verdict", "why"])
    return lines[list(columns)].fillna({"seeds": ""})


def _estimates(path: Path) -> pd.DataFrame:
    """A result of ours with the keys of the paper's table; without rows where it has not run."""
    if not path.exists():
        return pd.DataFrame(columns=[*results.TABLE_COLUMNS, "row", "column"])
    table = pd.read_csv(path, dtype={"seeds": str}).astype({"n": "Int64"})
    table = table.assign(row=table["model"].replace(ROWS), column=table.get("attribute", ""))
    if "asked" in table:  # one model may be asked in several forms
        table["model"] += ", asked: " + table["asked"]
    return table[[*results.TABLE_COLUMNS, "row", "column"]]


def _verdict(line: Mapping, table: int, profile: Profile, reasons: Mapping) -> Comparison:
    """Of one line of `beside`, of which either side may be missing."""
    if pd.isna(line["split"]):
        return Comparison("not comparable", NO_CELL)
    measured = None
    if not pd.isna(line["model"]):
        measured = Interval(*(line[name] for name in ("estimate", "low", "high", "n")))
    # What is trained starts from the profile's backbone; what is only asked is itself.
    trained = table == 2 or line["row"] in ROWS.values()
    theirs = Setting("paper", PROFILES["paper"].model if trained else line["row"], line["split"])
    ours = Setting(profile.name, profile.model if trained else line["model"], line["dataset"])
    key = tuple(line[name] for name in KEYS)
    try:
        return compare(line["paper"], measured, ours, theirs, reasons.get(key, ""))
    except ValueError as error:
        raise ValueError(f"Table {table}, {', '.join(filter(None, key))}: {error}") from None


def shown(lines: pd.DataFrame, by: str = "row") -> pd.DataFrame:
    """`beside` for reading: the paper's value and ours of each metric, a line a `by`.

    `by` is "row", of whole tables or of averages, or "column", of the lines of one row.
    """
    if by == "row":
        lines = lines[lines["column"].isin(["", "average"])]
    said = lines.assign(
        paper=lines["paper"].map("{:.3f}".format).replace("nan", "N.A."),
        ours=[cell(line) for line in lines.to_dict("records")],
        model=lines["model"].fillna(""),
    )
    said["model"] = [
        m.removeprefix(f"{r}, ") for m, r in zip(said["model"], said["row"], strict=True)
    ]
    said.loc[lines["why"] == NO_CELL, ["paper", "row"]] = ""
    said.loc[lines["model"].isna(), "ours"] = ""
    index = ["row", "model"] if by == "row" else [by]
    wide = said.pivot(index=index, columns="metric", values=["paper", "ours"]).fillna("")
    metrics = lines["metric"].unique()
    order = said.set_index(index).index.unique()
    wide = wide.loc[order, [(side, name) for name in metrics for side in ("paper", "ours")]]
    wide.columns = [f"{name}, {side}" for side, name in wide.columns]
    return wide


def counted(lines: pd.DataFrame) -> pd.DataFrame:
    """How many cells got which verdict, and why."""
    return lines.groupby(["verdict", "why"], sort=False).size().rename("cells").reset_index()


def cell(row: pd.Series | Mapping, form: str = ".3f") -> str:
    """An estimate with its interval; N.A. where there is none.

    >>> cell({"estimate": 0.5, "low": 0.41, "high": 0.6})
    '0.500 [0.410, 0.600]'
    """
    if pd.isna(row["estimate"]):
        return "N.A."
    ends = f" [{row['low']:{form}}, {row['high']:{form}}]" if pd.notna(row["low"]) else ""
    return f"{row['estimate']:{form}}{ends}"
