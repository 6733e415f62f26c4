"""Small copies of the real sets, in the layout in which they are distributed: for dry runs.

Photographs are drawn (`mini`), enlarged and saved as JPEG; scores are the mini world's, on each
set's own scale. Nothing that is measured on them says anything about the sets.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from realqa_utils.datasets import clips, mini, realqa
from realqa_utils.forms.conversations import MIX
from realqa_utils.forms.scores import SCALES, Scale
from realqa_utils.images.photos import open_photo
from realqa_utils.records import results

PHOTOGRAPHS, CLIPS = 40, 4  # of each set
SIZES = ((640, 480), (480, 640), (560, 420), (320, 320), (600, 400))  # width x height, in turn


def write(data: Path) -> Path:
    """Fill the folder `data`, unless that is done already, and return it."""
    return results.once(data, lambda: results.write_folder(data, _fill))


def _fill(data: Path) -> None:
    cache = results.root() / "runs" / "world"
    _koniq(data / "koniq10k", _drawn("mini-koniq", cache))
    _spaq(data / "spaq", _drawn("mini-spaq", cache))
    _ava(data / "ava", _drawn("mini-ava", cache))
    _tad66k(data / "tad66k", _drawn("mini-tad66k", cache))
    _realqa(data / "realqa", _drawn("mini-koniq", cache, seed=8))
    _konvid(data / "konvid1k", clips.build(CLIPS, 9, cache).frame)


def _drawn(name: str, cache: Path, seed: int = 9) -> pd.DataFrame:
    """Photographs of a domain, with their MOS as a share of its scale."""
    table = mini.build(name, PHOTOGRAPHS, seed, cache)
    return table.frame.assign(share=table.targets / 10)


def _rescaled(frame: pd.DataFrame, scale: Scale) -> np.ndarray:
    return (scale.low + frame["share"] * (scale.high - scale.low)).to_numpy()


def _save(frame: pd.DataFrame, folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for number, (path, name) in enumerate(zip(frame["path"], names, strict=True)):
        image = open_photo(path).resize(SIZES[number % len(SIZES)], Image.Resampling.BICUBIC)
        image.save(folder / name, "JPEG", quality=90)


def _names(count: int) -> list[str]:
    return [f"{number:05d}.jpg" for number in range(1, count + 1)]


# --- sets ----------------------------------------------------------------------------------------


def _koniq(folder: Path, frame: pd.DataFrame) -> None:
    """Ratings lie on the two grades around the MOS; half of the photographs are to train on."""
    names, mos = _names(len(frame)), _rescaled(frame, SCALES["koniq"])
    _save(frame, folder / "1024x768", names)
    zscore = 25 * (mos - 1)
    grades = {f"c{g}": np.clip(1 - np.abs(mos - g), 0, 1) for g in range(1, 6)}
    sides = ["training", "test", "training", "validation"]
    columns = {"image_name": names, **grades, "c_total": 100, "MOS": zscore, "SD": 0.6}
    sets = pd.DataFrame(columns | {"set": [sides[k % 4] for k in range(len(names))]})
    sets.to_csv(folder / "koniq10k_distributions_sets.csv", index=False)
    scores = pd.DataFrame({"image_name": names, "MOS_zscore": zscore, "MOS": mos})
    scores.to_csv(folder / "koniq10k_scores.csv", index=False)


def _spaq(folder: Path, frame: pd.DataFrame) -> None:
    names = _names(len(frame))
    _save(frame, folder / "TestImage", names)
    attributes = ("Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness")
    sheet = {"Image name": names, "MOS": _rescaled(frame, SCALES["spaq"])}
    place = folder / "Annotations"
    place.mkdir()
    pd.DataFrame(sheet | dict.fromkeys(attributes, 50.0)).to_excel(
        place / "MOS and Image attribute scores.xlsx", index=False
    )


def _ava(folder: Path, frame: pd.DataFrame) -> None:
    """A hundred votes on the two grades around the MOS; a quarter is to test on."""
    ids = range(1, len(frame) + 1)
    _save(frame, folder / "images", [f"{number}.jpg" for number in ids])
    lines, grades = [], np.arange(1, 11)
    for number, mos in zip(ids, _rescaled(frame, SCALES["ava"]), strict=True):
        votes = np.clip(1 - np.abs(mos - grades), 0, 1)
        counts = np.round(100 * votes).astype(int)
        lines.append(" ".join(map(str, (number, number, *counts, 0, 0, 1))))
    results.write_text(folder / "AVA.txt", "\n".join(lines) + "\n")
    tested = "".join(f"{number}\n" for number in ids if number % 4 == 0)
    results.write_text(folder / "aesthetics_image_lists" / "generic_test.jpgl", tested)


def _tad66k(folder: Path, frame: pd.DataFrame) -> None:
    """All but four are to test on, so that these are enough for a rank correlation."""
    names = _names(len(frame))
    _save(frame, folder / "TAD66K", names)
    table = pd.DataFrame({"image": names, "score": _rescaled(frame, SCALES["tad66k"])})
    table[:4].to_csv(folder / "train.csv", index=False)
    table[4:].to_csv(folder / "test.csv", index=False)


def _realqa(folder: Path, frame: pd.DataFrame) -> None:
    """The ten attributes in the words of the conversations."""
    names = _names(len(frame))
    _save(frame, folder / "images", names)
    rows = []
    for number, row in enumerate(frame.to_dict("records")):
        said = {realqa.COLUMNS[slot.key]: slot.say(row[slot.key]) for slot in MIX.slots}
        side = "test" if number % 4 == 3 else "train"
        rows.append({"image": names[number], "split": side, "score": 10 * row["share"]} | said)
    pd.DataFrame(rows).to_csv(folder / "labels.csv", index=False)


def _konvid(folder: Path, frame: pd.DataFrame) -> None:
    place = folder / "KoNViD_1k_videos"
    place.mkdir(parents=True)
    ids = [str(8_536_919_744 + number) for number in range(len(frame))]
    for identity, path in zip(ids, frame["path"], strict=True):
        shutil.copyfile(path, place / f"{identity}.mp4")
    table = pd.DataFrame({"flickr_id": ids, "MOS": frame["mos"]})
    table.to_csv(folder / "KoNViD_1k_attributes.csv", index=False)
