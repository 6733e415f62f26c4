"""The splits that Q-Align published, as JSON lists of photographs with their MOS.

H. Wu et al., "Q-Align: Teaching LMMs for Visual Scoring via Discrete Text-Defined Levels",
ICML 2024.

The path of a photograph is under `image` or `img_path`; its MOS is `gt_score`, or stands in `id`
as in `10004473376.jpg->77.38`. MOS are those of the official files (KonIQ: z-scores), for AVA
rounded to two decimals. The extremes of some sets are left out, and the lists of LIVE Challenge
count the seven photographs that only taught its raters the task.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pandas as pd

from realqa_utils.datasets import archives
from realqa_utils.datasets.files import json_entries
from realqa_utils.datasets.table import Split, Table, refuse

ROUNDING = 0.005 + 1e-6  # two decimals
FOLDERS = ("qalign", "Q-Align")
INSIDE = ("", "training_sft", "test_jsons", "ft")
HOME = "https://github.com/Q-Future/Q-Align"
WHERE = f"""Q-Align's splits are in playground/data of {HOME}; put
  qalign/train_koniq.json, test_koniq.json, train_spaq.json, test_spaq.json, test_ava.json
  qalign/livec/train_split_1.json, test_split_1.json .. 5 (or that folder as it is, as qalign)"""


def split(
    table: Table,
    folder: str | Path,
    train: str | None,
    test: str,
    mos: str = "mos",
    spare: str | None = None,
) -> Split:
    """The photographs of two lists; without a list to train on, that side is empty.

    Args:
        folder: ``qalign``, or a folder that holds it.
        train, test: the lists, such as ``train_koniq.json``.
        mos: the column of the table that must agree with the MOS of the lists.
        spare: pattern of photographs in the lists that the table may lack.

    Raises:
        FileNotFoundError: a list is missing.
        ValueError: a list names a photograph that is not in the table or stands there with another
            MOS, or names it twice; or is in another form. Names the file and the row.
    """
    sides = [
        table.subset([]) if name is None else _chosen(table, _file(folder, name), mos, spare)
        for name in (train, test)
    ]
    return Split("qalign", *sides)


def read(file: Path) -> pd.DataFrame:
    """One list: `id`, the name of the photograph without its folder, and `mos`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no JSON, or an entry without a name or a MOS; names the row.
    """
    rows = [_entry(entry, f"{file}, row {row}") for row, entry in enumerate(json_entries(file), 1)]
    return pd.DataFrame(rows, columns=["id", "mos"])


def _entry(entry: object, where: str) -> tuple[str, float]:
    try:
        image = entry["image"] if "image" in entry else entry["img_path"]
        said = entry["gt_score"] if "gt_score" in entry else entry["id"].rpartition("->")[2]
        return PurePosixPath(image).name, float(said)
    except (TypeError, KeyError, ValueError, AttributeError):
        raise ValueError(
            f"{where}: {entry!r:.80}; right is an object with image or img_path, and the MOS as "
            'gt_score or in id, like "10004473376.jpg->77.38"'
        ) from None


def _file(folder: str | Path, name: str) -> Path:
    inside = [*INSIDE, *(f"playground/data/{part}" for part in INSIDE)]
    file = archives.find(archives.places(folder, FOLDERS, inside), [name])
    if file is None:
        raise FileNotFoundError(f"{folder}: no {name} of Q-Align here; {WHERE}")
    return file


def _chosen(table: Table, file: Path, mos: str, spare: str | None) -> Table:
    listed = read(file)
    known = table.frame.set_index("id")[mos]
    bare = listed["id"].map(archives.stem)  # ids of AVA and KoNViD-1k are bare numbers
    listed["id"] = listed["id"].mask(bare.isin(known.index), bare)
    if spare is not None:
        listed = listed[listed["id"].isin(known.index) | ~listed["id"].str.match(spare)]
    archives.assert_known(listed, table, file)
    agrees = (listed["mos"] - known.reindex(listed["id"]).to_numpy()).abs() <= ROUNDING
    problem = f"is not the {mos} of that photo in {table.name}; is it on another scale?"
    refuse(listed, ~agrees, file, "mos", problem)
    return table.subset(listed["id"])
