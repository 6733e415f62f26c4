"""SPAQ: 11,125 photographs from 66 smartphones, with a MOS and five attribute scores each.

Y. Fang, H. Zhu, Y. Zeng, K. Ma and Z. Wang, "Perceptual Quality Assessment of Smartphone
Photography", CVPR 2020.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from realqa_utils.datasets import archives
from realqa_utils.datasets.table import Table, refuse

FILE = "MOS and Image attribute scores.xlsx"
NAME = r"\d{5}\.jpg"
ATTRIBUTES = ("brightness", "colorfulness", "contrast", "noisiness", "sharpness")
FOLDERS = ("spaq", "SPAQ")
TITLE, SIZE = "SPAQ", 11_125
HOME = "https://github.com/h4nwei/SPAQ"
WHERE = f"""SPAQ is at {HOME}; put
  spaq/Annotations/{FILE}
  spaq/TestImage/00001.jpg .. 11125.jpg (or the same in another format, such as 00001.png)"""


def load(folder: str | Path, present_only: bool = False) -> Table:
    """The rated photographs: `annotations`, with their photographs checked.

    Args:
        folder: ``spaq``, or a folder that holds it.
        present_only: leave out photographs that are missing.

    Raises:
        FileNotFoundError: the annotation file or a photograph is missing.
        ValueError: the annotation file has another content than the official one.
    """
    return archives.present(annotations(folder), WHERE, present_only)


def annotations(folder: str | Path) -> Table:
    """All rated photographs, there or not, with their MOS on 0..100; ids are like 00001.jpg.

    No standard deviation is published. The attribute scores `brightness` .. `sharpness`, on 0..100
    too, are columns. Errors as `load`.
    """
    source = archives.find(
        archives.places(folder, FOLDERS, ("Annotations", "annotations", "")), [FILE]
    )
    if source is None:
        raise FileNotFoundError(f"{folder}: no SPAQ here; {WHERE}")
    wanted = {"id": "Image name", "mos": "MOS"} | {name: name.capitalize() for name in ATTRIBUTES}
    frame = archives.columns(_sheet(source), source, wanted, ["mos", *ATTRIBUTES])
    refuse(frame, ~frame["id"].str.fullmatch(NAME), source, "id", "is no name like 00001.jpg")
    where = archives.places(folder, FOLDERS, ("TestImage", "images", ""))
    frame = frame.assign(path=archives.photographs(frame["id"], where))
    return archives.rated("spaq", frame, source)


def _sheet(source: Path) -> pd.DataFrame:
    """The first sheet, as text: no name loses its zeros."""
    try:
        return pd.read_excel(source, dtype=str, keep_default_na=False)
    except ImportError as error:
        raise ValueError(f"{source}: cannot be read here; pip install openpyxl") from error
    except Exception as error:  # a damaged file fails anywhere in the reader
        raise ValueError(f"{source}: not a readable .xlsx file ({error}); {WHERE}") from error
