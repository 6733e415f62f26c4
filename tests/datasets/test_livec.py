"""LIVE Challenge: the join of three .mat files, on a small copy of it and on the release."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from scipy.stats import spearmanr

from realqa_utils.datasets import livec
from realqa_utils.datasets.table import random_splits
from realqa_utils.forms.scores import Scale

NAMES = [f"t{k}.bmp" for k in range(1, 8)] + ["100.bmp", "9.JPG", "246.bmp", "1000.JPG", "333.bmp"]
MOS = 10.0 + 5 * np.arange(12)
STD = 1.0 + np.arange(12)


def write_data(root: Path, **arrays: np.ndarray) -> None:
    """The three files as MATLAB wrote them: names (n, 1) cells, scores (1, n)."""
    cells = np.empty((len(NAMES), 1), dtype=object)
    cells[:, 0] = NAMES
    content = {livec.NAMES: cells, livec.MOS: MOS[None], livec.STD: STD[None]} | arrays
    for key, array in content.items():
        savemat(root / "Data" / f"{key}.mat", {key: array})


@pytest.fixture
def release(tmp_path) -> Path:
    root = tmp_path / "livec" / "ChallengeDB_release"
    (root / "Data").mkdir(parents=True)
    (root / "Images" / "trainingImages").mkdir(parents=True)
    for k, name in enumerate(NAMES):
        folder = root / "Images" / ("trainingImages" if name.startswith("t") else "")
        shade = 200 if name in ("246.bmp", "333.bmp") else 10 * k
        Image.new("L", (8, 8), shade).save(folder / name)
    write_data(root)
    return root


def test_each_photo_gets_its_own_scores(release):
    """A join off by the seven training photos gives 100.bmp the scores of t1.bmp."""
    table = livec.load(release)
    assert (table.name, table.scale) == ("livec", Scale(0, 100))
    assert table.frame["id"].tolist() == NAMES[7:]
    assert table.frame["mos"].tolist() == MOS[7:].tolist()
    assert table.frame["std"].tolist() == STD[7:].tolist()
    for id_, path in zip(table.frame["id"], table.frame["path"], strict=True):
        assert Path(path) == release / "Images" / id_
    np.testing.assert_allclose(table.targets, MOS[7:] / 10)
    np.testing.assert_allclose(table.spread, STD[7:] / 10)


def test_training_photos_on_request(release):
    table = livec.load(release, training_photos=True)
    assert table.frame["id"].tolist() == NAMES
    assert table.frame["mos"].tolist() == MOS.tolist()
    assert Path(table.frame["path"][0]) == release / "Images" / "trainingImages" / "t1.bmp"


def test_equal_photos_share_a_group(release):
    table = livec.load(release)
    assert table.frame["group"].tolist() == ["100.bmp", "9.JPG", "246.bmp", "1000.JPG", "246.bmp"]
    for split in random_splits(table, 0, 5, test_share=0.4):
        twins = split.test.frame["id"].isin(["246.bmp", "333.bmp"]).sum()
        assert twins in (0, 2)


def test_any_of_three_folders_will_do(release):
    hashes = {livec.load(folder).ids_hash for folder in (release, *list(release.parents)[:2])}
    assert len(hashes) == 1


def test_wrong_folder_says_where_to_get_the_data(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        livec.load(tmp_path / "nowhere")
    for words in (
        str(tmp_path / "nowhere"),
        "live.ece.utexas.edu",
        "UT Austin",
        "ChallengeDB_release/Data/AllImages_release.mat",
        "trainingImages",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize("key", [livec.NAMES, livec.MOS, livec.STD])
def test_missing_damaged_and_strange_mat_files(release, key):
    path = release / "Data" / f"{key}.mat"
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{key}\.mat: no such file.*(?s:.)*UT Austin"):
        livec.load(release)
    for content in (whole[:150], b"", b"text, not MATLAB" * 20):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{key}\.mat: "):
            livec.load(release)
    savemat(path, {"other": MOS})
    with pytest.raises(ValueError, match=rf"{key}\.mat: no array '{key}'"):
        livec.load(release)


@pytest.mark.parametrize("key", [livec.MOS, livec.STD])
def test_a_lost_row_is_an_error_with_both_lengths(release, key):
    write_data(release, **{key: MOS[None, :-1]})
    with pytest.raises(ValueError, match=rf"{key}\.mat: 11 numbers for the 12 photos"):
        livec.load(release)


def test_scores_without_the_training_photos_are_not_shifted_into_place(release):
    write_data(release, **{livec.MOS: MOS[None, 7:], livec.STD: STD[None, 7:]})
    with pytest.raises(ValueError, match="5 numbers for the 12 photos"):
        livec.load(release)


def test_objects_are_refused(release):
    nested = np.empty((1, 12), dtype=object)
    nested[0, :] = [{"a": 1}] * 12
    write_data(release, **{livec.MOS: nested})
    with pytest.raises(ValueError, match=r"AllMOS_release\.mat: holds object; right is .*numbers"):
        livec.load(release)
    write_data(release, **{livec.NAMES: nested.T})
    with pytest.raises(ValueError, match=r"AllImages_release\.mat, row 1: no file name"):
        livec.load(release)
    write_data(release, **{livec.NAMES: np.arange(12.0)[:, None]})
    with pytest.raises(ValueError, match=r"AllImages_release\.mat, row 1: no file name"):
        livec.load(release)


def test_an_absent_photo_and_a_bad_score_name_their_row(release):
    write_data(release, **{livec.MOS: np.where(np.arange(12) == 9, np.nan, MOS)[None]})
    with pytest.raises(ValueError, match=r"row 10 \(id '246\.bmp'\): mos 'nan' is missing"):
        livec.load(release)
    write_data(release)
    (release / "Images" / "9.JPG").unlink()
    with pytest.raises(ValueError, match=r"row 9 \(id '9\.JPG'\): path .*9\.JPG' is not a file"):
        livec.load(release)


DATA = Path(os.environ.get("REALQA_DATA", "no-folder-given")) / "livec"
needs_release = pytest.mark.skipif(
    not (DATA / "ChallengeDB_release").is_dir(),
    reason="REALQA_DATA names no folder that holds livec/ChallengeDB_release",
)


@pytest.fixture(scope="module")
def real():
    return livec.load(DATA)


@pytest.mark.realdata
@needs_release
def test_the_release(real):
    frame = real.frame.set_index("id")
    assert len(real) == 1162
    assert sum(frame.index.str.endswith(".JPG")) == 627
    assert (frame["mos"].min(), round(frame["mos"].max(), 2)) == (3.42, 92.43)
    assert frame["std"].between(5, 40).all()
    assert frame["mos"]["100.bmp"] == pytest.approx(32.56107532)
    assert frame["std"]["100.bmp"] == pytest.approx(19.12472638)
    assert frame["mos"]["1164.bmp"] == pytest.approx(72.75387093)
    pairs = frame.index[frame["group"].duplicated(keep=False)]
    assert pairs.tolist() == ["246.bmp", "333.bmp"]
    assert len(livec.load(DATA, training_photos=True)) == 1169


@pytest.mark.realdata
@needs_release
def test_scores_belong_to_their_photos(real):
    """Sharp photos are rated higher; with the scores shifted by seven nothing is left of that."""
    sharpness = np.array([log_laplacian(path) for path in real.frame["path"]])
    assert spearmanr(sharpness, real.targets).statistic > 0.4
    assert abs(spearmanr(sharpness[:-7], real.targets[7:]).statistic) < 0.2


def log_laplacian(path: str) -> float:
    with Image.open(path) as image:
        grey = np.asarray(image.convert("L"), dtype=float)
    inner = 4 * grey[1:-1, 1:-1]
    edges = inner - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float(np.log(edges.var() + 1e-6))
