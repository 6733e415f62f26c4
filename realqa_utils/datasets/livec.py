"""LIVE In the Wild Image Quality Challenge: 1162 phone photos, about 175 opinions each.

D. Ghadiyaram and A. C. Bovik, "Massive Online Crowdsourced Study of Subjective and Objective
Picture Quality", IEEE Transactions on Image Processing, 2016.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.io import loadmat

from realqa_utils.datasets.table import Table, group_by_bytes, make_table
from realqa_utils.forms.scores import SCALES

NAMES, MOS, STD = "AllImages_release", "AllMOS_release", "AllStdDev_release"
TRAINING_NAME = r"t\d+\."  # t1.bmp .. t7.bmp, the first seven rows; the others are plain numbers
TITLE, SIZE = "LIVE Challenge", 1_162
HOME = "http://live.ece.utexas.edu/research/ChallengeDB/index.html"
WHERE = f"""LIVE Challenge is at {HOME}
(Laboratory for Image and Video Engineering, UT Austin) and unpacks to
  ChallengeDB_release/Data/AllImages_release.mat, AllMOS_release.mat, AllStdDev_release.mat
  ChallengeDB_release/Images/*.JPG, *.bmp and Images/trainingImages/t1.bmp .. t7.bmp"""


def load(folder: str | Path, training_photos: bool = False) -> Table:
    """The rated photos; ids are the file names, MOS and standard deviation on 0..100.

    Args:
        folder: ``ChallengeDB_release``, or a folder that holds it or ``livec/ChallengeDB_release``.
        training_photos: keep the seven photos that only taught the raters the task.

    Photos with equal bytes (246.bmp and 333.bmp, which have two MOS) share a group.

    Raises:
        FileNotFoundError: the folder or one of its annotation files is missing.
        ValueError: an annotation file has another content than the release; a photo is missing.
    """
    return group_by_bytes(_table(Path(folder), training_photos, photos=True))


def annotations(folder: str | Path, training_photos: bool = False) -> Table:
    """The same photos whether they are there or not; each is a group of its own. See `load`."""
    return _table(Path(folder), training_photos, photos=False)


def _table(folder: Path, training_photos: bool, photos: bool) -> Table:
    root = _root(folder)
    names = _names(root / "Data" / f"{NAMES}.mat")
    mos, std = (_numbers(root / "Data" / f"{key}.mat", names) for key in (MOS, STD))
    training = names.str.match(TRAINING_NAME)
    places = training.map({True: root / "Images" / "trainingImages", False: root / "Images"})
    paths = [str(place / name) for place, name in zip(places, names, strict=True)]
    frame = pd.DataFrame({"id": names, "path": paths, "mos": mos, "std": std})
    kept = frame if training_photos else frame[~training]  # the index still counts the file's rows
    return make_table("livec", SCALES["livec"], kept, source=root / "Data", photos=photos)


def _root(folder: Path) -> Path:
    inside = Path("ChallengeDB_release")
    for root in (folder, folder / inside, folder / "livec" / inside):
        if (root / "Data").is_dir():
            return root
    raise FileNotFoundError(f"{folder}: no LIVE Challenge here; {WHERE}")


def _read(path: Path) -> np.ndarray:
    """The one variable of a .mat file, which is named like the file, as a flat array."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {WHERE}")
    try:
        content = loadmat(path, variable_names=[path.stem])
    except Exception as error:  # a damaged file fails anywhere in scipy's reader
        raise ValueError(f"{path}: not a readable MATLAB 5 file ({error}); {WHERE}") from error
    if not isinstance(content.get(path.stem), np.ndarray):
        raise ValueError(f"{path}: no array {path.stem!r} in it; {WHERE}")
    return content[path.stem].ravel()  # names are (n, 1), scores (1, n)


def _names(path: Path) -> pd.Series:
    """File names from a cell array of strings; no other object is let through."""
    names = []
    for row, cell in enumerate(_read(path), start=1):
        text = np.asarray(cell)
        if text.dtype.kind != "U" or text.size != 1:
            raise ValueError(f"{path}, row {row}: no file name in the cell; right is one string")
        names.append(str(text.item()))
    return pd.Series(names, dtype="str")


def _numbers(path: Path, names: pd.Series) -> np.ndarray:
    values = _read(path)
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{path}: holds {values.dtype}; right is an array of numbers")
    if len(values) != len(names):
        raise ValueError(
            f"{path}: {len(values)} numbers for the {len(names)} photos of "
            f"{NAMES}.mat; right is one number for each"
        )
    return values.astype(float)
