"""Tiny copies of the public sets, each file in the very form in which it is distributed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.io import savemat

# KonIQ-10k: name, fractions of the ratings 1..5, ratings, z-score MOS, sd, set; mean of the ratings
KONIQ = [
    ("10004473376.jpg", (0, 0, 0.25, 0.7, 0.05), 105, 77.3836206897, 0.527277894494, "training"),
    ("10007357496.jpg", (0, 0.05, 0.45, 0.5, 0), 96, 68.7285714286, 0.580003024795, "test"),
    ("2704811.jpg", (0.5, 0.5, 0, 0, 0), 101, 3.91176470588, 0.6, "training"),
    ("187640892.jpg", (0.1, 0.4, 0.5, 0, 0), 101, 31.5, 0.62, "training"),
    ("6233.jpg", (0, 0, 0, 0.6, 0.4), 98, 88.3888888889, 0.55, "validation"),
    ("43280.jpg", (0, 0.5, 0.5, 0, 0), 100, 41.25, 0.5, "test"),
]
KONIQ_MEANS = [3.925619834, 3.45, 1.125, 2.5, 4.363636363, 2.6]
SPAQ = [48.86, 62.5, 96, 2, 68.43, 33.17]
# AVA: index, image id, counts of the ratings 1..10, tags, challenge
AVA = [
    (1, 953619, 0, 1, 5, 17, 38, 36, 15, 6, 5, 1, 1, 22, 1396),
    (2, 953958, 10, 7, 15, 26, 26, 21, 10, 8, 1, 2, 0, 0, 1396),
    (3, 954184, 0, 0, 4, 8, 41, 56, 10, 3, 4, 0, 0, 0, 1396),
    (4, 954113, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 15, 0, 7),
]
TAD66K = {
    "train": [("lanphere54810922.jpg", 2.85), ("43751877@N085618633908.jpg", 9.46)],
    "test": [("hs_yin152947873.jpg", 1.9), ("12@N00.5.jpg", 7.58)],
}
# KoNViD-1k, sorted by MOS as published; the first id needs more than 32 bits
KONVID = [(8536919744, 1.22), (2999049224, 2.98), (13291575674, 3.5), (5115335471, 4.64)]
LIVEC = ["t1.bmp", "t2.bmp", "100.bmp", "9.JPG", "246.bmp", "1000.JPG", "333.bmp", "7.bmp"]
LIVEC_MOS = [63.9, 25.3, 32.56107532, 9.2, 60.5, 71.25, 61.5, 92.43]
LIVEC_TWINS = ("246.bmp", "333.bmp")


def text(path: Path, content: str) -> Path:
    """Bytes as they are: no line ending becomes another one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode())
    return path


def photos(folder: Path, names: Iterable[str]) -> None:
    """Files of different content; nobody here looks at pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"photo " + name.encode())


def write_koniq(data: Path) -> Path:
    folder = data / "koniq10k"
    rows = [
        f"{name},{','.join(f'{c:.12g}' for c in shares)},{count},{z},{sd},{side}\n"
        for name, shares, count, z, sd, side in KONIQ
    ]
    header = "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set\n"
    text(folder / "koniq10k_distributions_sets.csv", header + "".join(rows))
    scores = [
        f'"{name}",{z + 3e-11:.13f},{mean}\r\n'
        for (name, _, _, z, _, _), mean in zip(KONIQ, KONIQ_MEANS, strict=True)
    ]
    header = '"image_name","MOS_zscore","MOS"\r\n'
    text(folder / "koniq10k_scores.csv", header + "".join(reversed(scores)))
    photos(folder / "512x384", (row[0] for row in KONIQ))
    return folder


def spaq_sheet() -> pd.DataFrame:
    names = [f"{k:05d}.jpg" for k in range(1, len(SPAQ) + 1)]
    attributes = ("Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness")
    columns = {name: [10.5 + k + step for step in range(len(SPAQ))]
               for k, name in enumerate(attributes)}  # fmt: skip
    return pd.DataFrame({"Image name": names, "MOS": SPAQ} | columns)


def write_spaq(data: Path) -> Path:
    folder = data / "spaq"
    (folder / "Annotations").mkdir(parents=True)
    sheet = folder / "Annotations" / "MOS and Image attribute scores.xlsx"
    spaq_sheet().to_excel(sheet, sheet_name="Sheet1", index=False)
    photos(folder / "TestImage", spaq_sheet()["Image name"])
    return folder


def write_ava(data: Path) -> Path:
    """Lines end in a blank, and the last one in nothing."""
    folder = data / "ava"
    text(folder / "AVA.txt", " \n".join(" ".join(map(str, row)) for row in AVA))
    text(folder / "aesthetics_image_lists" / "generic_test.jpgl", "953958\n954113\n")
    photos(folder / "images", (f"{row[1]}.jpg" for row in AVA))
    return folder


def write_tad66k(data: Path) -> Path:
    folder = data / "tad66k"
    for side, rows in TAD66K.items():
        lines = [f"{name},{score}\r\n" for name, score in rows]
        text(folder / f"{side}.csv", "image,score\r\n" + "".join(lines))
    photos(folder / "TAD66K", (name for rows in TAD66K.values() for name, _ in rows))
    return folder


def write_konvid(data: Path) -> Path:
    """Half of the clips have the name of the attributes file, half the short one."""
    folder = data / "konvid1k"
    long = "_original_centercrop_960x540_8s.mp4"
    header = "flickr_id,download_id,file_name,MOS,ti,si,colorfulness,contrast,blur,vniqe\n"
    rows = [
        f"{id_},1015445,{id_}{long},{mos},4.5,14.4,45.7,20.2,0.48,21.7\n" for id_, mos in KONVID
    ]
    text(folder / "KoNViD_1k_attributes.csv", header + "".join(rows))
    names = [f"{id_}{long if k % 2 else '.mp4'}" for k, (id_, _) in enumerate(KONVID)]
    photos(folder / "KoNViD_1k_videos", names)
    return folder


def write_livec(data: Path) -> Path:
    """246.bmp and 333.bmp are one photograph."""
    root = data / "livec" / "ChallengeDB_release"
    (root / "Data").mkdir(parents=True)
    cells = np.empty((len(LIVEC), 1), dtype=object)
    cells[:, 0] = LIVEC
    arrays = {"AllImages": cells, "AllMOS": [LIVEC_MOS], "AllStdDev": [[15.0] * len(LIVEC)]}
    for name, array in arrays.items():
        savemat(root / "Data" / f"{name}_release.mat", {f"{name}_release": array})
    photos(root / "Images", LIVEC[2:])
    photos(root / "Images" / "trainingImages", LIVEC[:2])
    for name in LIVEC_TWINS:
        (root / "Images" / name).write_bytes(b"twin")
    return root


def qalign_entry(folder: str, name: str, mos: float, tested: bool) -> dict:
    """As in the files for training: the MOS stands in `id`; those for testing have `gt_score`."""
    said = [
        {"from": "human", "value": "Rate this.\n<|image|>"},
        {"from": "gpt", "value": "Good."},
    ]
    entry = {"id": f"{name}->{mos}", "image": f"{folder}/{name}", "conversations": said}
    return entry | ({"gt_score": mos} if tested else {})


def write_qalign(data: Path) -> Path:
    """Extremes left out; LIVE Challenge with the photographs that taught the raters."""
    folder = data / "qalign"
    koniq = [qalign_entry("koniq", row[0], row[3], row[5] == "test") for row in KONIQ]
    spaq = [
        qalign_entry("spaq", name, mos, tested=k > 3)
        for k, (name, mos) in enumerate(zip(spaq_sheet()["Image name"], SPAQ, strict=True))
    ]
    livec = [qalign_entry("livec", *row, tested=True) for row in zip(LIVEC, LIVEC_MOS, strict=True)]
    ava = [{"image": f"ava_images/{AVA[k][1]}.jpg", "gt_score": mos} for k, mos in
           ((0, 5.64), (2, 5.67))]  # fmt: skip
    konvid = [{"img_path": f"{id_}.mp4", "gt_score": mos} for id_, mos in reversed(KONVID)]
    lists = {
        "train_koniq": [koniq[0], koniq[3]],
        "test_koniq": [koniq[5], koniq[1]],
        "train_spaq": [spaq[k] for k in (3, 1, 0)],
        "test_spaq": spaq[4:],
        "test_ava": ava,
        "konvid": konvid,
    }
    for k in range(1, 6):
        lists[f"livec/train_split_{k}"] = [livec[k] for k in (0, 2, 4, 6)]
        lists[f"livec/test_split_{k}"] = [livec[k] for k in (1, 3, 5)]
    for name, entries in lists.items():
        indent = 4 if "train" in name else None
        text(folder / f"{name}.json", json.dumps(entries, indent=indent))
    return folder


WRITERS = {
    "koniq": write_koniq,
    "spaq": write_spaq,
    "ava": write_ava,
    "tad66k": write_tad66k,
    "konvid": write_konvid,
    "livec": write_livec,
}


def write_all(data: Path) -> Path:
    """A data folder with all of them."""
    for write in (*WRITERS.values(), write_qalign):
        write(data)
    return data
