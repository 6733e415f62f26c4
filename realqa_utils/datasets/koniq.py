"""KonIQ-10k: 10,073 photographs from the web, about 120 opinions each.

V. Hosu, H. Lin, T. Sziranyi and D. Saupe, "KonIQ-10k: An Ecologically Valid Database for Deep
Learning of Blind Image Quality Assessment", IEEE Transactions on Image Processing, 2020.

The column MOS has two meanings. In `koniq10k_scores.csv` it is the mean of the five-point ratings
(1.125..4.364), beside MOS_zscore; in `koniq10k_distributions_sets.csv` it is the z-score MOS
(3.9..88.4), beside the sample standard deviation of the five-point ratings and the official split.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from realqa_utils.datasets import archives
from realqa_utils.datasets.files import read_table
from realqa_utils.datasets.table import Table, refuse

SCORES = ("koniq10k_scores.csv", "koniq10k_scores_and_distributions.csv")
SETS = ("koniq10k_distributions_sets.csv",)
FOLDERS = ("koniq10k", "koniq-10k", "koniq", "KonIQ-10k")
TITLE, SIZE = "KonIQ-10k", 10_073
HOME = "https://database.mmsp-kn.de/koniq-10k-database.html"
WHERE = f"""KonIQ-10k is at {HOME}; put
  koniq10k/koniq10k_scores.csv (MOS on 1..5)
  koniq10k/koniq10k_distributions_sets.csv (z-score MOS, standard deviation, official split)
  koniq10k/512x384/*.jpg, or koniq10k/1024x768/*.jpg"""


def load(folder: str | Path, zscore: bool = False, present_only: bool = False) -> Table:
    """The rated photographs: `annotations`, with their photographs checked.

    Args:
        folder: ``koniq10k``, or a folder that holds it. ``512x384`` goes before ``1024x768``.
        zscore: the z-score MOS on 0..100, and not the mean of the ratings on 1..5.
        present_only: leave out photographs that are missing.

    Raises:
        FileNotFoundError: an annotation file or a photograph is missing.
        ValueError: an annotation file has another content than the official one.
    """
    return archives.present(annotations(folder, zscore), WHERE, present_only)


def annotations(folder: str | Path, zscore: bool = False) -> Table:
    """All rated photographs, there or not; ids are file names. `mos_zscore` is a column of its own.

    The standard deviation belongs to the five-point ratings, so it is unknown on the z-score scale.
    It and the official split need the file of sets, the mean of the ratings needs that of scores;
    for z-scores either will do. Errors as `load`.
    """
    inside = archives.places(folder, FOLDERS, ("", "metadata"))
    scores, sets = archives.find(inside, SCORES), archives.find(inside, SETS)
    source = (sets or scores) if zscore else scores
    if source is None:
        raise FileNotFoundError(f"{sets or folder}: no {SCORES[0]} here; {WHERE}")
    frame = _sets(source) if source == sets else _scores(source)
    if zscore:
        frame = frame.assign(mos=frame["mos_zscore"], std=np.nan)
    elif sets:
        frame = _together(frame, _sets(sets), source, sets)
    where = archives.places(folder, FOLDERS, ("512x384", "1024x768", "images", ""))
    frame = frame.assign(path=archives.photographs(frame["id"], where))
    return archives.rated("koniq_zscore" if zscore else "koniq", frame, source)


def _scores(file: Path) -> pd.DataFrame:
    wanted = {"id": "image_name", "mos": "MOS", "mos_zscore": "MOS_zscore"}
    return archives.columns(read_table(file), file, wanted, ["mos", "mos_zscore"])


def _sets(file: Path) -> pd.DataFrame:
    wanted = {"id": "image_name", "mos_zscore": "MOS", "std": "SD", "split": "set"}
    frame = archives.columns(read_table(file), file, wanted, ["mos_zscore", "std"])
    return frame.assign(split=frame["split"].replace("training", "train"))


def _together(scores: pd.DataFrame, sets: pd.DataFrame, file: Path, other: Path) -> pd.DataFrame:
    """Both files, in the order of the scores; they must be about the same photographs."""
    if len(scores) != len(sets):
        raise ValueError(f"{file} has {len(scores)} rows and {other} {len(sets)}; right is as many")
    known = sets.drop_duplicates("id").set_index("id").reindex(scores["id"]).reset_index(drop=True)
    differs = ~((scores["mos_zscore"] - known["mos_zscore"]).abs() < 1e-6)  # also where unknown
    refuse(scores, differs, file, "mos_zscore", f"is not that of the photo in {other}")
    return scores.assign(std=known["std"], split=known["split"])
