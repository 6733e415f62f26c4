"""AVA: 255,530 photographs of a photo contest, about 210 ratings from 1 to 10 each.

N. Murray, L. Marchesotti and F. Perronnin, "AVA: A Large-Scale Database for Aesthetic Visual
Analysis", CVPR 2012.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from realqa_utils.datasets import archives
from realqa_utils.datasets.table import Split, Table

FILES = ("AVA.txt", "AVA*.txt")  # a part of it may have another name
TEST = "generic_test.jpgl"
FIELDS = 15  # index, image id, counts of the ratings 1..10, two tags, challenge
FOLDERS = ("ava", "AVA", "AVA_dataset")
TITLE, SIZE = "AVA", 255_530
HOME = "https://github.com/imfing/ava_downloader"
WHERE = f"""AVA is at {HOME}; put
  ava/AVA.txt
  ava/aesthetics_image_lists/{TEST} (the 20,000 photographs of the common test side)
  ava/images/<image id>.jpg"""


def load(folder: str | Path, present_only: bool = False) -> Table:
    """The rated photographs: `annotations`, with their photographs checked.

    Args:
        folder: ``ava``, or a folder that holds it.
        present_only: leave out photographs that are missing; of some, no copy is left.

    Raises:
        FileNotFoundError: the annotation file or a photograph is missing.
        ValueError: the annotation file has another content than the official one.
    """
    return archives.present(annotations(folder), WHERE, present_only)


def annotations(folder: str | Path) -> Table:
    """All rated photographs, there or not; ids are the image ids, MOS is the mean rating, 1..10.

    The standard deviation is the sample one. `votes`, `challenge`, and `tag_1` and `tag_2`, which
    may be absent (<NA>), are columns. Errors as `load`.
    """
    source = archives.find(archives.places(folder, FOLDERS, ("", "AVA_dataset")), FILES)
    if source is None:
        raise FileNotFoundError(f"{folder}: no AVA here; {WHERE}")
    rows = _rows(source)
    counts, ratings = rows[:, 2:12], np.arange(1, 11)
    votes = counts.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # no votes: the MOS is missing
        mos = counts @ ratings / votes
        squares = (counts * (ratings - mos[:, None]) ** 2).sum(axis=1)
        frame = pd.DataFrame({"id": rows[:, 1], "mos": mos, "std": np.sqrt(squares / (votes - 1))})
    tags = pd.DataFrame(rows[:, 12:14], columns=["tag_1", "tag_2"]).astype("Int64")
    frame = frame.join(tags.mask(tags == 0)).assign(votes=votes, challenge=rows[:, 14])
    names = [f"{id_}.jpg" for id_ in rows[:, 1]]
    where = archives.places(folder, FOLDERS, ("images", "image", ""))
    return archives.rated("ava", frame.assign(path=archives.photographs(names, where)), source)


def common_splits(table: Table, folder: str | Path) -> list[Split]:
    """The common 230k/20k: the list of test photographs that comes with AVA, and all others.

    Raises:
        FileNotFoundError: the list is missing.
        ValueError: the list names a photograph that the table does not have.
    """
    inside = ("aesthetics_image_lists", "AVA_dataset/aesthetics_image_lists", "")
    source = archives.find(archives.places(folder, FOLDERS, inside), [TEST])
    if source is None:
        raise FileNotFoundError(f"{folder}: no {TEST} here; {WHERE}")
    ids = source.read_text(encoding="utf-8", errors="replace").split()
    archives.assert_known(pd.DataFrame({"id": ids}), table, source)
    tested = table.frame["id"].isin(ids)
    return [Split("common", table.subset(~tested), table.subset(tested))]


def _rows(source: Path) -> np.ndarray:
    """The integers of the file, int64 of shape (n, 15)."""
    lines = source.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [
        _integers(line, f"{source}, row {row}") for row, line in enumerate(lines, 1) if line.strip()
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, FIELDS)


def _integers(line: str, where: str) -> list[int]:
    """White space alone separates: some copies end lines in a blank or lack the last newline."""
    fields = line.split()
    if len(fields) != FIELDS or not all(field.isdecimal() for field in fields):
        raise ValueError(
            f"{where}: {line!r:.80}; right is {FIELDS} whole numbers separated by blanks: index, "
            "image id, counts of the ratings 1..10, two tags, challenge"
        )
    return [int(field) for field in fields]
