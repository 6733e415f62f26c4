"""KoNViD-1k: 1,200 clips of 8 seconds from the web, about 114 opinions each.

V. Hosu et al., "The Konstanz Natural Video Database (KoNViD-1k)", QoMEX 2017.
"""

from __future__ import annotations

import re
from pathlib import Path

from realqa_utils.datasets import archives
from realqa_utils.datasets.files import read_table
from realqa_utils.datasets.table import Table, refuse

#: The official file, and the one of the UGC-VQA benchmark with its MOS rounded elsewhere.
FILES = {"KoNViD_1k_attributes.csv": "MOS", "KONVID_1K_metadata.csv": "mos"}
FOLDERS = ("konvid1k", "konvid-1k", "konvid", "KoNViD-1k", "KoNViD_1k")
TITLE, SIZE = "KoNViD-1k", 1_200
HOME = "https://database.mmsp-kn.de/konvid-1k-database.html"
WHERE = f"""KoNViD-1k is at {HOME}; put
  konvid1k/KoNViD_1k_attributes.csv
  konvid1k/KoNViD_1k_videos/<Flickr id>.mp4 (or in a folder `videos`)"""


def load(folder: str | Path, present_only: bool = False) -> Table:
    """The rated clips: `annotations`, with their clips checked; a clip is the `path` of its row.

    Args:
        folder: ``konvid1k``, or a folder that holds it.
        present_only: leave out clips that are missing.

    Raises:
        FileNotFoundError: the annotation file or a clip is missing.
        ValueError: the annotation file has another content than the official one.
    """
    return archives.present(annotations(folder), WHERE, present_only)


def annotations(folder: str | Path) -> Table:
    """All rated clips, there or not; ids are Flickr's, MOS on 1..5, no standard deviation.

    The official file is sorted by MOS, so neither row nor place in the folder says which clip is
    which: clips are named `<id>.mp4` or `<id>_original_centercrop_960x540_8s.mp4`, and found by
    the id. Errors as `load`.
    """
    inside = archives.places(folder, FOLDERS, ("", "KoNViD_1k_metadata", "metadata"))
    source = archives.find(inside, list(FILES))
    if source is None:
        raise FileNotFoundError(f"{folder}: no KoNViD-1k here; {WHERE}")
    wanted = {"id": "flickr_id", "mos": FILES[source.name]}
    frame = archives.columns(read_table(source), source, wanted, ["mos"])
    # As text: as 32-bit or short decimal numbers, as spreadsheets save them, ids lose digits.
    refuse(frame, ~frame["id"].str.fullmatch(r"\d+"), source, "id", "is no Flickr id, all digits")
    where = archives.places(folder, FOLDERS, ("KoNViD_1k_videos", "videos", ""))
    names = [f"{id_}.mp4" for id_ in frame["id"]]
    frame = frame.assign(path=archives.photographs(names, where, clip_id, (".mp4",)))
    return archives.rated("konvid", frame, source)


def clip_id(name: str) -> str:
    """The number that a clip's name begins with.

    >>> clip_id("5115335471_original_centercrop_960x540_8s.mp4")
    '5115335471'
    """
    return re.split(r"\D", name, maxsplit=1)[0]
