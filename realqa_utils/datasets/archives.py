"""What the public sets have in common: files in usual places, columns, scales, photographs.

The archives of a set are often only partly there. So its module has two readers: `annotations`
needs the official annotation files only and gives every rated photograph, `load` needs the
photographs too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from realqa_utils.datasets.table import Table, make_table, refuse
from realqa_utils.forms.scores import SCALES

PICTURES = (".jpg", ".jpeg", ".png", ".bmp")


def places(folder: str | Path, names: Sequence[str], inside: Sequence[str]) -> list[Path]:
    """The paths `inside` the set's folder, which is `folder` itself or one of `names` in it.

    >>> [place.as_posix() for place in places("data", ["ava"], ["", "images"])]
    ['data/ava', 'data/ava/images', 'data', 'data/images']
    """
    roots = [*(Path(folder, name) for name in names), Path(folder)]
    return [root / part for root in roots for part in inside]


def find(where: Sequence[Path], names: Sequence[str]) -> Path | None:
    """The first file in the first of the places that has one; a name may be a pattern."""
    found = (path for place in where for name in names for path in sorted(place.glob(name)))
    return next((path for path in found if path.is_file()), None)


def columns(
    raw: pd.DataFrame, source: Path, wanted: Mapping[str, str], numbers: Sequence[str]
) -> pd.DataFrame:
    """The `wanted` columns of a table of text under our names, those in `numbers` as floats.

    Args:
        raw: as `files.read_table` gives it; one row a photo.
        wanted: our names and the published ones.

    Raises:
        ValueError: a column that is missing, perhaps as the separator is another; more cells than
            columns; a cell that is no number. Names the file, and the column or the row.
    """
    right = f"right is a table with the columns {', '.join(wanted.values())}"
    absent = [name for name in wanted.values() if name not in raw]
    if absent:
        names = [str(column) for column in raw.columns]
        other = next((sign for sign in ";\t|" if sign in "".join(names)), None)
        hint = f"; the separator seems to be {other!r}, right is a comma" if other else ""
        raise ValueError(f"{source}: no column {absent[0]!r}; found {names!r:.200}{hint}; {right}")
    if not isinstance(raw.index, pd.RangeIndex):  # pandas has taken the first cells for an index
        raise ValueError(f"{source}: the rows have more cells than the header; {right}")
    frame = pd.DataFrame({ours: raw[name] for ours, name in wanted.items()})
    for column in numbers:
        values = pd.to_numeric(frame[column], errors="coerce")
        refuse(frame, values.isna(), source, column, "is not a number")
        frame[column] = values.astype("float64")
    return frame


def rated(name: str, frame: pd.DataFrame, source: Path) -> Table:
    """The table of a set, photographs or not, when the MOS is on the scale of `SCALES[name]`.

    Raises:
        ValueError: as `make_table`; or no MOS in the upper half of the scale, in which every
            complete set has some: so 1..5 does not pass for 0..100.
    """
    scale = SCALES[name]
    table = make_table(name, scale, frame, source=source, photos=False)
    low, high = table.frame["mos"].min(), table.frame["mos"].max()
    if high <= (scale.low + scale.high) / 2:
        raise ValueError(
            f"{source}: the MOS lie in {low:g}..{high:g}, which looks like another scale; right "
            f"for {name} is {scale.low:g}..{scale.high:g} with some in the upper half"
        )
    return table


def assert_known(named: pd.DataFrame, table: Table, source: Path) -> None:
    """Check a list of photographs, a column `id`, against the table that it chooses from.

    Raises:
        ValueError: a photograph that the table does not have, or that is named twice.
    """
    unknown = ~named["id"].isin(table.frame["id"])
    refuse(named, unknown, source, "id", f"is no photo of the annotation of {table.name}")
    refuse(named, named["id"].duplicated(), source, "id", "is named before; right is once")


def stem(name: str) -> str:
    """A file's name without its ending: a photograph may have been saved in another format."""
    return os.path.splitext(name)[0]


def photographs(
    names: Sequence[str],
    where: Sequence[Path],
    key: Callable[[str], str] = stem,
    endings: tuple[str, ...] = PICTURES,
) -> list[str]:
    """The path of every photograph, all in the first place that has any of them.

    A file of another name with the same `key` will do. A photograph that is missing is given the
    path that it should have, in the first place when there is none at all.
    """
    names = list(names)
    keys = [key(name) for name in names]
    for place in where:
        there = _files(place, endings)
        alike = {key(name): name for name in reversed(there)}
        found = [
            name if name in there else alike.get(its_key)
            for name, its_key in zip(names, keys, strict=True)
        ]
        if any(found):
            named = [name or missing for name, missing in zip(found, names, strict=True)]
            return [os.path.join(place, name) for name in named]
    return [os.path.join(where[0], name) for name in names]


def _files(place: Path, endings: tuple[str, ...]) -> dict[str, None]:
    """Names in order; a folder of a quarter of a million is listed once, not asked for each."""
    if not place.is_dir():
        return {}
    names = sorted(entry.name for entry in os.scandir(place))
    return dict.fromkeys(name for name in names if name.lower().endswith(endings))


def present(table: Table, where: str, present_only: bool = False) -> Table:
    """The table when all of its photographs are there; its part that is, if `present_only`.

    Args:
        where: how to get the photographs, and what to put where; for the message.

    Raises:
        FileNotFoundError: photographs are missing, or all of them are; says how many.
    """
    there = [os.path.isfile(path) for path in table.frame["path"]]
    missing = len(there) - sum(there)
    if not missing:
        return table
    if present_only and any(there):
        return table.subset(there)
    first = table.frame["path"][there.index(False)]
    choice = "" if missing == len(there) else "; present_only=True does without them"
    raise FileNotFoundError(
        f"{first}: {missing} of {len(table)} photographs of {table.name} are missing{choice}; "
        f"{where}"
    )
