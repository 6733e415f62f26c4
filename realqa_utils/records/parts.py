"""Batches on disk: appended one at a time, whole or not at all, and found again after a kill.

A part is a file of JSON Lines that one process appends to; a line is one batch, a list of rows.
What a kill leaves of a line lacks the line end: readers pass it over, and its owner cuts it off
before the next append. Every row has a key `photo`, by which it is found.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Photo(NamedTuple):
    """A file as it was when it was listed: a changed one is another photograph."""

    path: str
    size: int  # bytes
    changed: int  # nanoseconds since 1970


class Place(NamedTuple):
    """Where a row stands: the part, the byte at which its line starts, its number in the line."""

    part: Path
    start: int
    row: int


@contextmanager
def appending(path: Path) -> Iterator[Callable[[list[dict]], None]]:
    """Gives `append(rows)`, after which the rows are on the disk, whatever happens next."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        file.truncate(sum(len(line) for _, line in _lines(path)))

        def append(rows: list[dict]) -> None:
            file.write(json.dumps(rows, allow_nan=False, separators=(",", ":")).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

        yield append


def index(folder: Path) -> dict[Photo, Place]:
    """Where the last row of every photograph stands, over all parts of a folder.

    Raises ValueError for a line that is damaged rather than cut off.
    """
    return {
        Photo(*row["photo"]): Place(part, start, number)
        for part in sorted(folder.glob("*.jsonl"))
        for start, line in _lines(part)
        for number, row in enumerate(_rows(line, part, start))
    }


def rows(places: Iterable[Place]) -> Iterator[dict]:
    """The rows at some places, in their order; neighbours of one line cost one reading of it."""
    last: dict[Path, tuple[int, list[dict]]] = {}  # of each part, the line read last
    for part, start, number in places:
        if part not in last or last[part][0] != start:
            with open(part, "rb") as file:
                file.seek(start)
                last[part] = start, _rows(file.readline(), part, start)
        yield last[part][1][number]


def _lines(part: Path) -> Iterator[tuple[int, bytes]]:
    """The complete lines of a part, each with the byte at which it starts."""
    start = 0
    with open(part, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield start, line
                start += len(line)


def _rows(line: bytes, part: Path, start: int) -> list[dict]:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(
            f"{part}: the line at byte {start} is damaged ({error}); delete this file, and the "
            "photographs in it are scored again"
        ) from error
