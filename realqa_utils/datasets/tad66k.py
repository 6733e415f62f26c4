"""TAD66K: 66,327 photographs of 47 themes, rated by theme for their aesthetics.

S. He, Y. Zhang, R. Xie, D. Jiang and A. Ming, "Rethinking Image Aesthetics Assessment: Models,
Datasets and Benchmarks", IJCAI 2022.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from realqa_utils.datasets import archives
from realqa_utils.datasets.files import read_table
from realqa_utils.datasets.table import Table, refuse

SIDES = ("train", "test")
FOLDERS = ("tad66k", "TAD66K")
TITLE, SIZE = "TAD66K", 66_327
HOME = "https://github.com/woshidandan/TANet-image-aesthetics-and-quality-assessment"
WHERE = f"""TAD66K is at {HOME}; put
  tad66k/labels/merge/train.csv and test.csv (or both in tad66k itself)
  tad66k/TAD66K/*.jpg"""


def load(folder: str | Path, present_only: bool = False) -> Table:
    """The rated photographs: `annotations`, with their photographs checked.

    Args:
        folder: ``tad66k``, or a folder that holds it.
        present_only: leave out photographs that are missing.

    Raises:
        FileNotFoundError: an annotation file or a photograph is missing.
        ValueError: an annotation file has another content than the official one.
    """
    return archives.present(annotations(folder), WHERE, present_only)


def annotations(folder: str | Path) -> Table:
    """All rated photographs, there or not, with the official merged split; ids are file names.

    The MOS is on 0..10; its standard deviation is not published. Errors as `load`.
    """
    inside = archives.places(folder, FOLDERS, ("labels/merge", "merge", ""))
    files = [archives.find(inside, [f"{side}.csv"]) for side in SIDES]
    if None in files:
        absent = SIDES[files.index(None)]
        raise FileNotFoundError(f"{folder}: no {absent}.csv of TAD66K here; {WHERE}")
    train, test = (_side(file, side) for file, side in zip(files, SIDES, strict=True))
    refuse(test, test["id"].isin(train["id"]), files[1], "id", f"is in {files[0]} too")
    frame = pd.concat([train, test], ignore_index=True)
    where = archives.places(folder, FOLDERS, ("TAD66K", "TAD66K/imgs", "images", "imgs", ""))
    frame = frame.assign(path=archives.photographs(frame["id"], where))
    return archives.rated("tad66k", frame, files[0].parent)


def _side(file: Path, side: str) -> pd.DataFrame:
    """One file, checked by itself so that errors name its rows."""
    wanted = {"id": "image", "mos": "score"}
    frame = archives.columns(read_table(file), file, wanted, ["mos"])
    return archives.rated("tad66k", frame.assign(path="", split=side), file).frame
