"""Files that others made: lists and tables in the usual forms, and photos that have moved."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

import pandas as pd

TABLES = (".csv", ".json", ".jsonl", ".parquet")


def json_entries(path: Path) -> list:
    """The values of a JSON list, or of JSON Lines: one value a line, blank lines left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no UTF-8 or no JSON; names the line.
    """
    right = "right is a JSON list of objects, or JSON Lines with one object a line"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {right}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); {right}") from None
    if text.lstrip().startswith("["):
        return _decoded(text, str(path), right)
    # Not splitlines: a line of JSON may hold U+2028 and its like as they are.
    lines = enumerate(text.split("\n"), 1)
    return [_decoded(line, f"{path}, line {n}", right) for n, line in lines if line.strip()]


def _decoded(text: str, where: str, right: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error}); {right}") from None


def read_table(file: Path) -> pd.DataFrame:
    """A table as CSV, JSON, JSON Lines (an object a row) or Parquet, which needs pyarrow.

    The cells of CSV stay text, so that no id loses its zeros; empty ones are "".

    Raises:
        FileNotFoundError: no such file.
        ValueError: another suffix, or a damaged file.
    """
    kind = file.suffix.lower()
    if kind not in TABLES:
        raise ValueError(f"{file}: right is a file that ends in {', '.join(TABLES)}")
    if kind in (".json", ".jsonl"):
        return _records(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; right is a table of labels")
    try:
        if kind == ".parquet":
            return pd.read_parquet(file)
        return pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ImportError as error:
        raise ValueError(f"{file}: Parquet cannot be read here; pip install pyarrow") from error
    except Exception as error:  # a damaged file fails anywhere in the readers
        raise ValueError(f"{file}: not a readable {kind} file ({error})") from error


def _records(file: Path) -> pd.DataFrame:
    entries = json_entries(file)
    for row, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise ValueError(f"{file}, row {row}: {entry!r:.60}; right is an object")
    return pd.DataFrame(entries, dtype=object)  # as written: no number becomes another type


def locate(images: Iterable[str], folders: Sequence[Path]) -> dict[str, str]:
    """Where each image lies in the first of `folders` that has it.

    A path that is not there is shortened from the left until it is: `/old/place/train/1.jpg` is
    looked for as `place/train/1.jpg`, `train/1.jpg` and `1.jpg`. One that is not found at all is
    given a place in the first folder (an absolute path stays), for the caller to miss.

    Raises ValueError when shortening leads two images to the same file.
    """
    found: dict[str, str] = {}
    users: dict[str, tuple[str, bool]] = {}
    for image in dict.fromkeys(images):
        place, shortened = _locate(image, folders)
        other, was_shortened = users.setdefault(place, (image, shortened))
        if other != image and (shortened or was_shortened):
            raise ValueError(
                f"images {other!r} and {image!r} would both be {place}; right is a folder in which "
                "the last parts of the paths tell them apart"
            )
        found[image] = place
    return found


def _locate(image: str, folders: Sequence[Path]) -> tuple[str, bool]:
    """The place of an image, and whether its path had to be shortened."""
    parts = PurePath(image).parts
    for start in range(len(parts)):
        for folder in folders:
            place = folder.joinpath(*parts[start:])
            if place.is_file():
                return str(place), start > 0
    return str(folders[0] / image), False
