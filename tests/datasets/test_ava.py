"""AVA: counts of ratings in bare integers, on a small copy and on real lines."""

from __future__ import annotations

import statistics
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from public_sets import AVA, write_ava

from realqa_utils.datasets import ava, qalign
from realqa_utils.forms.scores import Scale


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_ava(tmp_path)


def test_mean_and_deviation_are_those_of_the_single_ratings(folder):
    table = ava.load(folder)
    assert (table.name, table.scale) == ("ava", Scale(1, 10))
    assert table.frame["id"].tolist() == [str(row[1]) for row in AVA]
    for row, made in zip(AVA, table.frame.itertuples(), strict=True):
        ratings = [rating for rating, count in enumerate(row[2:12], 1) for _ in range(count)]
        assert made.mos == pytest.approx(statistics.mean(ratings))
        assert made.std == pytest.approx(statistics.stdev(ratings))
        assert made.votes == len(ratings)
        assert Path(made.path) == folder / "images" / f"{row[1]}.jpg"
    assert table.frame["challenge"].tolist() == [1396, 1396, 1396, 7]


def test_a_tag_of_zero_is_no_tag(folder):
    tags = ava.load(folder).frame[["tag_1", "tag_2"]]
    assert tags.isna().to_numpy().tolist() == [
        [False, False], [True, True], [True, True], [False, True],
    ]  # fmt: skip
    assert tags["tag_1"].dropna().tolist() == [1, 15]


ENDS = st.sampled_from(["\n", " \n", "\t\n", "\r\n", " \r\n", "\n\n"])


@given(ends=st.lists(ENDS, min_size=3, max_size=3), last=st.sampled_from(["", " ", "\n", "\n\n"]))
def test_any_white_space_ends_a_line(tmp_path_factory, ends, last):
    folder = tmp_path_factory.mktemp("ava")
    lines = ["  ".join(map(str, row)) for row in AVA]
    content = "".join(line + end for line, end in zip(lines[:-1], ends, strict=True))
    (folder / "AVA.txt").write_bytes((content + lines[-1] + last).encode())
    assert ava.annotations(folder).frame["challenge"].tolist() == [1396, 1396, 1396, 7]


def test_a_part_under_another_name_and_photographs_beside_it(folder):
    (folder / "AVA.txt").rename(folder / "AVA.sample.txt")
    for path in (folder / "images").iterdir():
        path.rename(folder / path.name)
    table = ava.load(folder)
    assert len(table) == 4
    assert Path(table.frame["path"][0]) == folder / "953619.jpg"
    (folder / "953619.jpg").unlink()
    assert len(ava.load(folder, present_only=True)) == 3


def test_missing_set_says_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        ava.load(tmp_path)
    for words in (str(tmp_path), ava.HOME, "ava/AVA.txt", "ava/images/<image id>.jpg", ava.TEST):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,953619,0,1,5,17,38,36,15,6,5,1,1,22,1396", r"row 3: '1,9.*15 whole numbers"),
        (" ".join("1" * 14), r"row 3: .*right is 15 whole numbers separated by blanks"),
        (" ".join("1" * 16), "row 3: .*right is 15 whole numbers"),
        ("3 7 0 0 4 8 -41 56 10 3 4 0 0 0 1396", "row 3: .*right is 15 whole numbers"),
        ("3 7 0 0 4 8 4.5 56 10 3 4 0 0 0 1396", "row 3: .*right is 15 whole numbers"),
        ("3 7 0 0 0 0 0 0 0 0 0 0 0 0 1396", r"row 3 \(id '7'\): mos 'nan' is missing"),
        ("3 953619 0 0 4 8 4 56 10 3 4 0 0 0 9", r"row 3 \(id '953619'\): .* earlier row"),
    ],
)
def test_damaged_lines_are_named(folder, row, message):
    lines = (folder / "AVA.txt").read_text().split("\n")
    (folder / "AVA.txt").write_text("\n".join([*lines[:2], row, lines[3]]))
    with pytest.raises(ValueError, match=rf"AVA\.txt, {message}"):
        ava.annotations(folder)


def test_an_empty_file_and_one_that_is_no_text(folder):
    for content, message in ((b"", "no rows"), (b"\xff\xfe\x00", r"row 1: .*15 whole numbers")):
        (folder / "AVA.txt").write_bytes(content)
        with pytest.raises(ValueError, match=rf"AVA\.txt.*{message}"):
            ava.annotations(folder)


def test_the_common_split_is_a_list_and_all_others(folder):
    table = ava.load(folder)
    [split] = ava.common_splits(table, folder)
    assert split.train.frame["id"].tolist() == ["953619", "954184"]
    assert split.test.frame["id"].tolist() == ["953958", "954113"]
    lists = folder / "aesthetics_image_lists" / ava.TEST
    for content, message in (
        ("953958\n1\n", r"row 2 \(id '1'\): id '1' is no photo of the annotation of ava.*1 of 2"),
        ("953958\n953958\n", "row 2 .*is named before"),
    ):
        lists.write_text(content)
        with pytest.raises(ValueError, match=rf"{ava.TEST}, {message}"):
            ava.common_splits(table, folder)
    lists.unlink()
    with pytest.raises(FileNotFoundError, match=rf"no {ava.TEST} here; AVA is at http"):
        ava.common_splits(table, folder)


@pytest.mark.realdata
def test_real_lines(real_file):
    table = ava.annotations(real_file("ava"))
    frame = table.frame.set_index("id")
    assert len(table) == 19987
    assert (frame["mos"].min(), round(frame["mos"].max(), 3)) == (2.0, 8.387)
    assert frame["mos"]["953417"] == pytest.approx(758 / 124)
    assert frame["votes"].between(95, 478).all()
    assert frame["tag_1"].isna().sum() == 4292
    assert frame["tag_1"].dropna().between(1, 66).all()


@pytest.mark.realdata
def test_means_are_those_that_others_have_published(real_file):
    ours = ava.annotations(real_file("ava")).frame.set_index("id")["mos"]
    theirs = qalign.read(real_file("qalign/test_ava.json"))
    theirs = pd.Series(theirs["mos"].to_numpy(), theirs["id"].str.removesuffix(".jpg"))
    both = ours.index.intersection(theirs.index)
    assert len(both) == 1732
    assert (ours[both] - theirs[both]).abs().max() <= 0.005 + 1e-9
