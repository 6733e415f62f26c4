"""RealQA itself: photos with ten labelled attributes, read from a local copy (Sec. 3.1).

The photos and labels are on the Hugging Face hub as `MingxingLi/RealQA`. Whoever wrote this module
could not look at those files: the names in `COLUMNS` and the words in `WORDS` are guesses after the
paper's figures, and no test has seen the real ones. Where they differ, say so in a file
`realqa_columns.json` beside the labels, or in an argument; no code need change:

    {"columns": {"image": "file_name", "exposure": "Light", "score": null},
     "words": {"image_clarity": {"sharp": "clear"}, "split": {"dev": "validation"}},
     "scale": [0, 100]}

A column set to null is not looked for. Where names or words do not match, the error lists what was
found and what was expected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import pandas as pd

from realqa_utils.datasets.files import TABLES, locate, read_table
from realqa_utils.datasets.table import SPLITS, Table, make_table
from realqa_utils.forms.scores import Scale
from realqa_utils.forms.taxonomy import ATTRIBUTES, Attribute
from realqa_utils.profiles import unknown

#: Our name of a column and the published one; case, spaces and punctuation make no difference.
COLUMNS: dict[str, str | None] = {
    "image": "image",
    "id": "id",
    "split": "split",
    "score": "score",  # the composite score, which becomes the MOS
    "eye_catching_reason": "Reason for Eye-Catching Score",
    "eye_catching": "Eye-Catching Score",
    "composition_reason": "Reason for Composition Score",
    "composition": "Composition Score",
    "subject_background": "Subject and Background",
    "subject_integrity": "Subject Integrity",
    "subject_clutter": "Subject Clutter",
    "background_clutter": "Background Clutter",
    "level_shot": "Level Shot",
    "image_clarity": "Image Clarity",
    "exposure": "Exposure",
    "saturation": "Saturation",
}
#: Columns that may be absent, unless a change of `COLUMNS` names them.
OPTIONAL = ("id", "split", "score", "eye_catching_reason", "composition_reason")
#: Published words beside those of the taxonomy, and what they mean there.
WORDS: dict[str, Mapping[str, str]] = {
    "level_shot": {"straight": "level", "not straight": "tilted", "yes": "level", "no": "tilted"},
    "split": {"training": "train", "val": "validation", "valid": "validation", "testing": "test"},
}
SCALE = Scale(0, 10)  # of the composite score
NAMES_FILE = "realqa_columns.json"
NO_LABELS = (NAMES_FILE, "dataset_info.json", "dataset_infos.json")


@dataclass(frozen=True)
class Names:
    """`COLUMNS`, `WORDS` and `SCALE` with changes applied; `required` are columns in our names."""

    columns: Mapping[str, str | None]
    words: Mapping[str, Mapping[str, str]]
    scale: Scale
    required: tuple[str, ...]


def load(
    folder: str | Path,
    annotations: str | Path | Sequence[str | Path] | None = None,
    images: str | Path | None = None,
    names: Mapping | None = None,
) -> Table:
    """The photos of a copy with their attributes: scores 1..10, tier indices, and texts.

    Args:
        folder: has the labels as CSV, JSON, JSON Lines or Parquet, and the photos, in itself or in
            its folder `images`.
        annotations: the file or files of labels; by default all those in `folder` or its folder
            `data`. Without a column of splits, a name like `train.csv` says which split a file is.
        images: the folder of the photos, where it is elsewhere.
        names: what `realqa_columns.json` could say; goes before it.

    The columns of labels are those that stage-1 conversations ask for: `<attribute>`, and
    `<attribute>_reason` for the two high-level scores. Without a column of ids, file names are ids.
    The MOS is the composite score; without such a column it is the mean of the two high-level
    scores, and the table is called `realqa-high-level`, so that neither passes for the other.

    Raises:
        FileNotFoundError: no folder, or no labels in it.
        ValueError: columns, words or numbers other than expected, or a photo that is missing.
    """
    folder = Path(folder)
    known = _names(folder, names)
    places = [Path(images)] if images is not None else [folder, folder / "images"]
    frames = {file: _frame(file, known, places) for file in _files(folder, annotations)}
    composite = all("mos" in frame for frame in frames.values())
    name, scale = ("realqa", known.scale) if composite else ("realqa-high-level", Scale(1, 10))
    tables = [
        make_table(name, scale, frame if composite else _high_level(frame), source=file)
        for file, frame in frames.items()
    ]
    together = pd.concat([table.frame for table in tables], ignore_index=True)
    return make_table(name, scale, together, source=folder)  # again: an id may be in two files


def _files(folder: Path, annotations: str | Path | Sequence[str | Path] | None) -> list[Path]:
    if annotations is not None:
        given = [annotations] if isinstance(annotations, str | Path) else annotations
        return [Path(file) for file in given]
    files = [
        file
        for place in (folder, folder / "data")
        for file in sorted(place.glob("[!.]*"))
        if file.suffix.lower() in TABLES and file.name not in NO_LABELS
    ]
    if not files:
        right = f"a copy of MingxingLi/RealQA with a file that ends in {', '.join(TABLES)}"
        raise FileNotFoundError(f"{folder}: no labels here or in data; right is {right}")
    return files


def _high_level(frame: pd.DataFrame) -> pd.DataFrame:
    scores = frame.reindex(columns=["eye_catching", "composition"])
    return frame.assign(mos=scores.mean(axis=1))


# --- what things are called ----------------------------------------------------------------------

_EXAMPLE = '{"columns": {"exposure": "Light"}, "words": {"exposure": {"dark": "underexposed"}}}'


def _names(folder: Path, argument: Mapping | None) -> Names:
    file = folder / NAMES_FILE
    changes = [] if argument is None else [("names", argument)]
    if file.is_file():
        changes.insert(0, (str(file), _decoded(file)))
    columns, words, scale, named = dict(COLUMNS), dict(WORDS), SCALE, set()
    for source, change in changes:
        _check_change(source, change)
        columns |= change.get("columns", {})
        named |= set(change.get("columns", {}))
        for name, meanings in change.get("words", {}).items():
            words[name] = {**words.get(name, {}), **meanings}
        scale = Scale(*change["scale"]) if "scale" in change else scale
    expected = (name for name in columns if name in named or name not in OPTIONAL)
    required = tuple(name for name in expected if name == "image" or columns[name] is not None)
    return Names(columns, words, scale, required)


def _decoded(file: Path) -> object:
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error}); right is {_EXAMPLE}") from None


def _check_change(source: str, change: object) -> None:
    """Anything that is not understood is an error: a misspelt name would change nothing."""
    _check_part(source, change, ("columns", "words", "scale"), object)
    _check_part(source, change.get("columns", {}), COLUMNS, str | None)
    tiered = ("split", *(a.name for a in ATTRIBUTES if a.kind == "tier"))
    _check_part(source, change.get("words", {}), tiered, Mapping)
    try:
        Scale(*change.get("scale", (0, 10)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source}: scale, {error}; right is [lowest, highest]") from None


def _check_part(source: str, part: object, allowed: Sequence[str] | Mapping, kind: type) -> None:
    if not isinstance(part, Mapping):
        raise ValueError(f"{source}: {part!r:.60} is no object; right is like {_EXAMPLE}")
    for key, value in part.items():
        if key not in allowed:
            raise ValueError(f"{source}: {unknown('name', key, allowed)}")
        if not isinstance(value, kind):
            raise ValueError(f"{source}: {key} is {value!r:.60}; right is like {_EXAMPLE}")


def _plain(text: str) -> str:
    """Lower-case words with one space between: all that counts in a name or a label."""
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def _find_columns(raw: pd.DataFrame, file: Path, names: Names) -> dict[str, str]:
    """Our names of the columns that are there, each with its name in the file."""
    alike = {_plain(str(column)).replace(" ", ""): column for column in reversed(raw.columns)}
    alike |= {column: column for column in raw.columns}  # the very name goes first
    wanted = {name: published for name, published in names.columns.items() if published is not None}
    found = {
        name: alike.get(published, alike.get(_plain(published).replace(" ", "")))
        for name, published in wanted.items()
    }
    absent = [name for name in names.required if found.get(name) is None]
    if absent:
        expected = ", ".join(f"{names.columns[name]!r} (our {name})" for name in absent)
        raise ValueError(
            f"{file}: expected also the columns {expected}; found {', '.join(map(repr, raw))}; "
            f"right is to say in {NAMES_FILE} beside the labels what they are called, like "
            f'{{"columns": {{"{absent[0]}": "the name there"}}}}'
        )
    return {name: column for name, column in found.items() if column is not None}


# --- one file of labels --------------------------------------------------------------------------


def _frame(file: Path, names: Names, places: Sequence[Path]) -> pd.DataFrame:
    """A frame for `make_table`; without a score it has no mos. Its index counts the file's rows."""
    raw = read_table(file)
    found = _find_columns(raw, file, names)
    cells = {name: [_text(cell) for cell in raw[column]] for name, column in found.items()}
    images = _images(raw[found["image"]], file)
    where = locate(images, places)
    frame = {"id": cells.get("id") or _ids(images), "path": [where[image] for image in images]}
    if "score" in cells:
        frame["mos"] = cells["score"]
    frame["split"] = _splits(cells.get("split"), file, found.get("split"), names) or ""
    for attribute in ATTRIBUTES:
        name, reason = attribute.name, f"{attribute.name}_reason"
        if reason in cells:
            frame[reason] = pd.Series(cells[reason], dtype="str")
        if name in cells:
            frame[name] = _labels(attribute, cells[name], file, found[name], names)
    return pd.DataFrame(frame)


def _text(cell: object) -> str | None:
    """A cell as text, 7.0 as `7`; None for nothing."""
    if isinstance(cell, float):
        cell = None if cell != cell else int(cell) if cell.is_integer() else cell
    return None if cell is None else str(cell).strip() or None


def _images(cells: pd.Series, file: Path) -> list[str]:
    for row, cell in enumerate(cells, 1):
        if not isinstance(cell, str) or not cell.strip():
            raise ValueError(
                f"{file}, row {row}, column {cells.name!r}: {cell!r:.60}; right is the path of a "
                "photo (save those that are in the table itself as files first)"
            )
    return list(cells)


def _ids(images: list[str]) -> list[str]:
    """File names, or the whole paths where names come twice."""
    names = [PurePath(image).name for image in images]
    return names if len(set(names)) == len(names) else images


def _splits(texts: list | None, file: Path, column: str | None, names: Names) -> list[str] | str:
    """The split of every row; of the whole file when only its name says it."""
    known = _meanings("split", {side: side for side in SPLITS}, names)
    if texts is not None:
        return _understood([text or "" for text in texts], known, file, column)
    sides = {known[word] for word in _plain(file.stem).split() if word in known}
    return sides.pop() if len(sides) == 1 else ""


def _labels(attribute: Attribute, texts: list, file: Path, column: str, names: Names) -> Sequence:
    if attribute.kind == "text":
        return pd.Series(texts, dtype="str")
    if attribute.kind == "score":
        known = {str(score): score for score in range(1, 11)}
        return _understood(texts, known, file, column, lambda text: text.removesuffix(".0"))
    words = [tier.words for tier in attribute.tiers]
    own = {word: tier for tier, word in enumerate(words)}
    own |= {word.split(" (")[0]: tier for word, tier in own.items()}
    return _understood(texts, _meanings(attribute.name, own, names), file, column)


def _meanings(name: str, own: Mapping[str, object], names: Names) -> dict[str, object]:
    """Every word known for a column, plain, and what it stands for."""
    known = {_plain(word): value for word, value in own.items()}
    for word, meaning in names.words.get(name, {}).items():
        if _plain(str(meaning)) not in known:
            raise ValueError(f"words for {name}: {word!r} is {unknown('word', meaning, own)}")
        known[_plain(str(word))] = known[_plain(str(meaning))]
    return known


def _understood(
    texts: list, known: Mapping[str, object], file: Path, column: str, plain: Callable = _plain
) -> list:
    values = [None if text is None else known.get(plain(text)) for text in texts]
    bad = [row for row, value in enumerate(values) if value is None]
    if bad:
        raise ValueError(
            f"{file}, row {bad[0] + 1}, column {column!r}: {texts[bad[0]]!r} is unknown; known are "
            f"{', '.join(filter(None, known))}; right is one of them, or its meaning said under "
            f"words in {NAMES_FILE} (cells like this: {len(bad)} of {len(texts)})"
        )
    return values
