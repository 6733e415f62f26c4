"""TAD66K: the merged split in two files, on a small copy and on the real ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from public_sets import TAD66K, text, write_tad66k

from realqa_utils.datasets import tad66k
from realqa_utils.datasets.table import official_split
from realqa_utils.forms.scores import Scale


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_tad66k(tmp_path)


def test_both_files_and_the_split_that_they_are(folder):
    table = tad66k.load(folder)
    assert (table.name, table.scale) == ("tad66k", Scale(0, 10))
    assert table.frame["std"].isna().all()
    split = official_split(table)
    for part, side in ((split.train, "train"), (split.test, "test")):
        assert list(zip(part.frame["id"], part.frame["mos"], strict=True)) == TAD66K[side]
    for id_, path in zip(table.frame["id"], table.frame["path"], strict=True):
        assert Path(path) == folder / "TAD66K" / id_


def test_the_layout_of_the_archive_and_any_of_two_folders(folder):
    """There the photographs' folder is called like the set itself."""
    hashes = {tad66k.load(place).ids_hash for place in (folder, folder.parent)}
    (folder / "labels" / "merge").mkdir(parents=True)
    for side in tad66k.SIDES:
        (folder / f"{side}.csv").rename(folder / "labels" / "merge" / f"{side}.csv")
    hashes |= {tad66k.load(place).ids_hash for place in (folder, folder.parent)}
    assert len(hashes) == 1


def test_missing_files_and_photographs_say_where_to_get_them(folder, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        tad66k.load(tmp_path / "nowhere")
    for words in (str(tmp_path / "nowhere"), tad66k.HOME, "labels/merge/train.csv", "TAD66K/*.jpg"):
        assert words in str(caught.value)
    (folder / "TAD66K" / "12@N00.5.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"12@N00\.5\.jpg: 1 of 4 photographs of tad66k"):
        tad66k.load(folder)
    assert len(tad66k.load(folder, present_only=True)) == 3
    (folder / "test.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no test\.csv of TAD66K here; .*http"):
        tad66k.annotations(folder)


def test_a_photograph_on_both_sides_is_a_leak(folder):
    text(folder / "test.csv", "image,score\r\na.jpg,7\r\nlanphere54810922.jpg,2.85\r\n")
    with pytest.raises(ValueError, match=r"test\.csv, row 2 .*lanphere.* is in .*train\.csv too"):
        tad66k.annotations(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image;score\r\na.jpg;7\r\n", r"no column 'image'.*separator seems to be ';'"),
        ("name,score\r\na.jpg,7\r\n", r"no column 'image'; found \['name', 'score'\]"),
        ("image,score\r\na.jpg,\r\n", r"row 1 \(id 'a\.jpg'\): mos '' is not a number"),
        ("image,score\r\na.jpg,7\r\nb.jpg,76.3\r\n", r"row 2 .*off the scale.* 0 to 10"),
        ("image,score\r\na.jpg,0.7\r\nb.jpg,0.2\r\n", r"the MOS lie in 0\.2\.\.0\.7.* 0\.\.10"),
        ("image,score\r\na.jpg,7\r\na.jpg,7\r\n", r"row 2 .*earlier row"),
        ("image,score\r\n", "no rows"),
    ],
)
def test_damaged_files_are_named(folder, content, message):
    text(folder / "test.csv", content)
    with pytest.raises(ValueError, match=rf"test\.csv.*{message}"):
        tad66k.annotations(folder)


@pytest.mark.realdata
def test_the_real_files(real_file):
    table = tad66k.annotations(real_file("tad66k"))
    split = official_split(table)
    assert (len(split.train), len(split.test)) == (52248, 14079)
    mos = table.frame.set_index("id")["mos"]
    assert (mos.min(), mos.max()) == (1.13, 9.46)
    assert mos["43751877@N085618633908.jpg"] == 2.21
    assert split.train.frame["id"].str.contains("@").sum() == 18939
