"""From the rows of a scored folder to its tables and its page, a chunk at a time.

Calibration and composite are applied here: with another calibration, nothing is scored again.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from realqa_utils.forms.answers import Parsed
from realqa_utils.forms.conversations import MIX, Slot
from realqa_utils.measures.composite import Composite
from realqa_utils.records import results
from realqa_utils.scoring import contact_sheet
from realqa_utils.scoring.folder_rows import thumbnail_of

if TYPE_CHECKING:
    from realqa_utils.scoring.calibration import Calibration

CHUNK = 1024  # photographs in memory at a time, and in a row group of the Parquet file
DIGITS, CALIBRATED = "5-95 % of the digits", "calibrated, 90 %"  # where an interval comes from
CHANCE = "_probability"  # behind the name of an attribute: of the value that was chosen
#: The slot at which the model, left to itself, would have written something else; "" where nowhere.
LEFT = "form_left_at"
#: Columns of the tables and their types; in front of `composite` come those of `slot_columns` and
#: `LEFT`.
READING = {
    "score": "float64", "low": "float64", "high": "float64", "interval": "str", "greedy": "float64",
    "expected": "float64", "sd": "float64", "parsed": "boolean", "off_format": "float64",
}  # fmt: skip
LAST = {"seconds": "float64", "problem": "str"}
TYPES = {"float64": pa.float64(), "Int64": pa.int64(), "boolean": pa.bool_(), "str": pa.string()}


def columns(attributes: bool, composite: bool) -> dict[str, str]:
    """The columns of the tables, with the pandas type of each."""
    middle = {name: kind for slot in MIX.slots for name, kind in slot_columns(slot).items()}
    middle |= {LEFT: "str"}
    end = {"composite": "float64"} if composite else {}
    return {"path": "str"} | READING | (middle if attributes else {}) | end | LAST


def slot_columns(slot: Slot) -> dict[str, str]:
    """The columns of one slot: its value in words, and how likely it is where it is a choice."""
    if slot.is_reason or slot.attribute.kind == "text":
        return {slot.key: "str"}
    kind = "Int64" if slot.attribute.kind == "score" else "str"
    return {slot.key: kind, slot.key + CHANCE: "float64"}


# --- frames --------------------------------------------------------------------------------------


def frames(
    rows: Iterable[dict],
    wanted: dict[str, str],
    composite: Composite | None = None,
    calibration: Calibration | None = None,
) -> Iterator[tuple[list[dict], pd.DataFrame]]:
    """Rows in chunks, each with the frame of the columns `wanted` that stands for it in tables."""
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, CHUNK)):
        frame = pd.DataFrame([_flat(row, wanted) for row in chunk], columns=list(wanted))
        frame = _calibrated(_typed(frame, wanted), calibration)
        if composite:
            frame["composite"] = _composite(chunk, composite)
        yield chunk, frame


def _typed(frame: pd.DataFrame, wanted: dict[str, str]) -> pd.DataFrame:
    return frame.astype({name: kind for name, kind in wanted.items() if kind != "str"})


def _flat(row: dict, wanted: dict[str, str]) -> dict:
    flat = {name: row.get(name) for name in (*READING, *LAST)} | {"path": shown(row["photo"][0])}
    if row["problem"]:
        return flat
    flat |= {"score": row["expected"], "interval": DIGITS}
    if LEFT in wanted:
        flat[LEFT] = row["left"]
    for slot in MIX.slots:
        flat |= _slot(slot, row) if slot.key in wanted else {}
    return flat


def _slot(slot: Slot, row: dict) -> dict:
    name = slot.attribute.name
    label = row["reasons" if slot.is_reason else "values"].get(name)
    said = {slot.key: None if label is None else slot.say(label)}
    if slot.attribute.kind == "score" and not slot.is_reason:
        said[slot.key] = label
    if label is not None and name in row["chances"] and not slot.is_reason:
        first = 1 if slot.attribute.kind == "score" else 0
        said[slot.key + CHANCE] = row["chances"][name][label - first]
    return said


def shown(path: str) -> str:
    """A path as text: what is no Unicode in a name becomes the replacement character."""
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", path)


def _calibrated(frame: pd.DataFrame, calibration: Calibration | None) -> pd.DataFrame:
    scored = frame["expected"].notna()
    if calibration is None or not scored.any():
        return frame
    found = calibration.apply(frame[scored])
    for name in ("score", "low", "high"):
        frame.loc[scored, name] = np.asarray(found[name], dtype=float)
    frame.loc[scored, "interval"] = CALIBRATED
    return frame


def _composite(rows: Iterable[dict], composite: Composite) -> np.ndarray:
    """Composite scores (n,); NaN where an attribute has no value."""
    labels = [row.get("values", {}) for row in rows]
    codes = np.array([[Parsed(values=said).code(n) for n in composite.names] for said in labels])
    scores = composite.score(codes, impute=True)
    return np.where(np.isnan(codes).any(axis=1), np.nan, scores)


# --- files ---------------------------------------------------------------------------------------


def write_tables(
    folder: Path, wanted: dict[str, str], chunks: Iterable[tuple[list[dict], pd.DataFrame]]
) -> None:
    """Write `scores.csv`, floats with 6 digits, and `scores.parquet`, floats as they are."""

    def write(csv: Path, table: Path) -> None:
        schema = pa.schema([(name, TYPES[kind]) for name, kind in wanted.items()])
        with parquet.ParquetWriter(table, schema) as writer, open(csv, "wb") as file:
            for number, (_, frame) in enumerate(chunks):
                writer.write(pa.Table.from_pandas(frame, schema, preserve_index=False))
                frame.to_csv(
                    file, header=not number, index=False, float_format="%.6g", lineterminator="\n"
                )

    def both(csv: Path) -> None:
        results.write_atomically(folder / "scores.parquet", lambda table: write(csv, table))

    results.write_atomically(folder / "scores.csv", both)


def write_page(
    path: Path,
    digits: int,
    wanted: dict[str, str],
    chunks: Iterable[tuple[list[dict], pd.DataFrame]],
) -> None:
    """Write the contact sheet; a row that was kept without a thumbnail gets one now."""
    photographs = (
        _on_page(row, line)
        for rows, frame in chunks
        for row, line in zip(rows, frame.to_dict("records"), strict=True)
    )
    attributes, composite = MIX.slots[0].key in wanted, "composite" in wanted
    contact_sheet.write(path, photographs, "Photographs by score", digits, attributes, composite)


def _on_page(row: dict, line: dict) -> dict:
    if row["problem"]:
        return {"name": line["path"], "problem": row["problem"]}
    numbers = {name: line[name] for name in (*READING, "composite") if name in line}
    names = ("bars", "values", "reasons", "chances", "left")
    kept = {name: row[name] for name in names if name in row}
    picture = row["thumbnail"] or thumbnail_of(row["photo"][0])
    return {"name": line["path"], "problem": "", "thumbnail": picture} | numbers | kept
