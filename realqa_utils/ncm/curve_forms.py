"""The forms in which training curves are written down, each read into the same tidy table.

What the Trainer writes (`trainer_state.json`), what loggers export (a CSV with one column a
metric) and what the kit writes (a tidy CSV) say the same in three ways. `curves.read` is the way
in; every error names the file or list, the row or entry, and what would be right.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd

COLUMNS = ("group", "run", "step", "split", "metric", "value")
SPLITS = ("train", "held-out")
KEY = ["split", "metric", "step"]
STATE = "trainer_state.json"
CHECKPOINT = re.compile(r"checkpoint-\d+")
BESIDE = ("step", "epoch", "run", "group")  # say where a value belongs, and are no metrics
FORMS = f"a {STATE}, its log_history, a CSV with the column step, a folder of them, or a table"


# --- files -------------------------------------------------------------------------------------


def from_file(path: Path, name: str | None = None) -> pd.DataFrame:
    if path.suffix.lower() == ".json":
        return from_history(_history(path), str(path), name or home(path).resolve().name)
    if path.suffix.lower() == ".csv":
        return from_table(_csv(path), str(path), name or path.stem)
    raise ValueError(f"{path}: neither .json nor .csv; right is {FORMS}")


def _history(path: Path) -> list:
    remedy = f"right is the {STATE} that the Trainer writes"
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: malformed JSON ({error}); {remedy}") from error
    history = content.get("log_history") if isinstance(content, dict) else None
    if not isinstance(history, list):
        raise ValueError(f"{path}: no list under the key 'log_history'; {remedy}")
    return history


def _csv(path: Path) -> pd.DataFrame:
    """All cells as text: an empty one and the word nan mean different things."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows beyond the header
            return pd.read_csv(
                path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig"
            )
    except (ValueError, pd.errors.ParserWarning) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: malformed CSV ({reason}); right is one header and as many cells in every row"
        ) from error


def home(path: Path, top: Path | None = None) -> Path:
    """The folder of the run that a file belongs to: a checkpoint belongs to the one above it."""
    inside = CHECKPOINT.fullmatch(path.parent.name) and path.parent != top
    return path.parent.parent if inside else path.parent


def has_steps(path: Path) -> bool:
    """Other tables than curves are no fault of the folder."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return "step" in re.split(r'[,"\s]+', file.readline(100_000))


# --- forms -------------------------------------------------------------------------------------


def from_history(history: Sequence, where: str, name: str) -> pd.DataFrame:
    rows = []
    for number, entry in enumerate(history):
        step = entry.get("step") if isinstance(entry, Mapping) else None
        if not _is_number(step) or not _is_step(step):
            raise ValueError(
                f"{where}: entry {number} of log_history, {entry!r:.80}, has no whole number under "
                "the key 'step'; right is such as {'step': 10, 'loss': 2.5}"
            )
        rows += [
            (int(step), *_split(str(key)), float(value))
            for key, value in entry.items()
            if key not in BESIDE and _is_number(value)
        ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS[2:])).assign(run=name)
    return _complete(frame, where, "log_history")


def from_table(table: pd.DataFrame, where: str, name: str) -> pd.DataFrame:
    tidy = "metric" in table
    for column in COLUMNS[2:] if tidy else ("step",):
        if column not in table:
            right = "step, split, metric, value, or step and one column a metric"
            raise ValueError(f"{where}: no column {column!r}; right are the columns {right}")
    steps, _ = _numbers(table["step"], where)
    _refuse(table["step"], ~_is_step(steps), where, "is no step; right is a whole number from 0")
    run = table["run"].astype("str") if "run" in table else pd.Series(name, table.index)
    run = run.where(run.notna() & (run != ""), name)
    table = table.assign(run=run, step=steps.astype("int64"))
    unknown = ~table["split"].isin(SPLITS) if "split" in table else False
    _refuse(table.get("split"), unknown, where, f"is unknown; right is {' or '.join(SPLITS)}")
    frame = _from_tidy(table, where) if tidy else _from_wide(table, where)
    return _complete(frame, where, "any column beside 'step'")


def _from_tidy(table: pd.DataFrame, where: str) -> pd.DataFrame:
    metric = table["metric"]
    _refuse(metric, metric.isna() | (metric == ""), where, "is empty; right is a name, such as ncm")
    return table.assign(value=_numbers(table["value"], where)[0], metric=metric.astype("str"))


def _from_wide(table: pd.DataFrame, where: str) -> pd.DataFrame:
    parts = [table.iloc[:0].assign(split="", metric="", value=0.0)]
    for column in table.columns:
        cells = table[column]
        if column in BESIDE or str(column).startswith("Unnamed") or not _any_number(cells):
            continue
        values, blank = _numbers(cells, where)
        split, metric = _split(str(column))
        part = table.assign(metric=metric, value=values, split=table.get("split", split))
        parts.append(part[~blank])
    return pd.concat(parts)


def _complete(frame: pd.DataFrame, where: str, place: str) -> pd.DataFrame:
    if frame.empty:
        raise ValueError(f"{where}: no metric in {place}; right is at least one number a step")
    kept = [column for column in COLUMNS if column in frame]
    return frame[kept].drop_duplicates(kept[:-1], keep="last")


# --- cells -------------------------------------------------------------------------------------


def _split(name: str) -> tuple[str, str]:
    held_out = name.startswith("eval_") and name != "eval_"
    return ("held-out", name.removeprefix("eval_")) if held_out else ("train", name)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_step(step):
    """Whether a number, or each of a Series, counts steps; beyond 2^53 floats do not count."""
    return (step >= 0) & (step < 2**53) & (step % 1 == 0)


def _float(cell: object) -> float | None:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None


def _any_number(cells: pd.Series) -> bool:
    return any(_float(cell) is not None for cell in cells if pd.notna(cell))


def _numbers(cells: pd.Series, where: str) -> tuple[pd.Series, pd.Series]:
    """The cells as floats, and which of them are empty; raises for one that is neither."""
    blank = cells.isna() | (cells.astype("str").str.strip() == "")
    values = pd.Series([np.nan if b else _float(c) for c, b in zip(cells, blank, strict=True)],
                       index=cells.index, dtype=object)  # fmt: skip
    bad = np.array([value is None for value in values], dtype=bool)
    _refuse(cells, bad, where, "is not a number; right is a number, nan, or nothing")
    return values.astype("float64"), blank


def _refuse(cells: pd.Series, bad: Sequence | bool, where: str, problem: str) -> None:
    """Raise for the first bad cell, if any; data rows count from 1."""
    bad = np.asarray(bad, dtype=bool)
    if bad.any():
        at = int(bad.argmax())
        cell = cells.iloc[at]
        raise ValueError(f"{where}, row {at + 1}: {cells.name} {str(cell)!r:.60} {problem}")
