"""Archives that are only partly there: tables without photographs, places, columns."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from realqa_utils.datasets import archives
from realqa_utils.datasets.table import assert_disjoint, make_table
from realqa_utils.forms.scores import SCALES


def rated(folder: Path, ids=("a", "b", "c"), **columns):
    frame = pd.DataFrame({"id": ids, "path": [str(folder / f"{id_}.jpg") for id_ in ids],
                          "mos": [2.0, 3.0, 4.5][: len(ids)]} | columns)  # fmt: skip
    return archives.rated("koniq", frame, Path("scores.csv"))


def test_a_table_without_photographs_is_checked_in_all_else(tmp_path):
    table = rated(tmp_path)
    assert table.targets.tolist() == [2.5, 5.0, 8.75]
    with pytest.raises(ValueError, match=r"scores\.csv, row 2 .*mos '9\.0' is off the scale"):
        rated(tmp_path, mos=[2, 9, 4])
    with pytest.raises(ValueError, match=r"row 1 .*path .* is not a file"):
        make_table("koniq", SCALES["koniq"], table.frame, source="scores.csv")


def test_disjoint_by_id_alone_where_there_are_no_files(tmp_path):
    table = rated(tmp_path)
    assert_disjoint(table.subset(["a"]), table.subset(["b"]), photos=False)
    with pytest.raises(ValueError, match="'b' of koniq and test photo 'b' .* same id"):
        assert_disjoint(table.subset(["a", "b"]), table.subset(["b"]), photos=False)
    with pytest.raises(FileNotFoundError):
        assert_disjoint(table.subset(["a"]), table.subset(["b"]))


@pytest.mark.parametrize(
    ("name", "mos"),
    [("spaq", [1.2, 5.0]), ("koniq_zscore", [1.125, 4.36]), ("tad66k", [1.0, 5.0]),
     ("spaq", [0.1, 0.96])],
)  # fmt: skip
def test_a_scale_that_hides_in_the_lower_half_of_the_promised_one(name, mos):
    frame = pd.DataFrame({"id": ["a", "b"], "path": "", "mos": mos})
    with pytest.raises(ValueError, match=rf"f\.csv: the MOS lie in {mos[0]:g}\.\.{mos[1]:g}, .*"):
        archives.rated(name, frame, Path("f.csv"))
    assert len(archives.rated(name, frame.assign(mos=[mos[0], SCALES[name].high]), Path("f"))) == 2


def test_all_some_and_none_of_the_photographs(tmp_path):
    table = rated(tmp_path)
    for present_only in (False, True):
        with pytest.raises(FileNotFoundError) as caught:
            archives.present(table, "they are at HOME", present_only)
        assert str(caught.value) == (
            f"{tmp_path}/a.jpg: 3 of 3 photographs of koniq are missing; they are at HOME"
        )
    (tmp_path / "a.jpg").touch()
    with pytest.raises(FileNotFoundError, match=r"b\.jpg: 2 of 3 .*present_only=True does without"):
        archives.present(table, "")
    assert archives.present(table, "", present_only=True).frame["id"].tolist() == ["a"]
    for name in "bc":
        (tmp_path / f"{name}.jpg").touch()
    assert archives.present(table, "") is table
    assert len(archives.present(table.subset([]), "")) == 0  # nothing asked, nothing missing


def test_photographs_come_from_one_place(tmp_path):
    small, large = tmp_path / "small", tmp_path / "large"
    for path in (small / "1.png", large / "1.jpg", large / "2.jpg", large / "1.png"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    names, nowhere = ["1.jpg", "2.jpg"], tmp_path / "nowhere"
    found = archives.photographs(names, [nowhere, small, large])
    assert found == [str(small / "1.png"), str(small / "2.jpg")]
    assert archives.photographs(names, [large]) == [str(large / name) for name in names]
    assert archives.photographs(["7.jpg"], [nowhere, small]) == [str(nowhere / "7.jpg")]


def test_the_sets_own_folder_goes_before_a_file_of_that_name_above_it(tmp_path):
    (tmp_path / "train.csv").touch()
    where = archives.places(tmp_path, ["tad66k"], ["labels", ""])
    assert archives.find(where, ["train.csv"]) == tmp_path / "train.csv"
    (tmp_path / "tad66k").mkdir()
    (tmp_path / "tad66k" / "train.csv").touch()
    assert archives.find(where, ["train.csv"]) == tmp_path / "tad66k" / "train.csv"
    (tmp_path / "test.csv").mkdir()
    assert archives.find(where, ["test.csv"]) is None


def test_columns_by_our_names():
    raw = pd.DataFrame({"image": ["007", "8"], "more": ["x", "y"], "score": ["1", "2.5"]})
    frame = archives.columns(raw, Path("f.csv"), {"id": "image", "mos": "score"}, ["mos"])
    assert frame.to_dict("list") == {"id": ["007", "8"], "mos": [1.0, 2.5]}
    with pytest.raises(ValueError, match=r"f\.csv: no column 'mos'; found \['image', 'more', 's"):
        archives.columns(raw, Path("f.csv"), {"id": "image", "mos": "mos"}, ["mos"])
    shifted = raw.set_index("image").rename(columns={"more": "image"})
    with pytest.raises(ValueError, match=r"f\.csv: the rows have more cells than the header"):
        archives.columns(shifted, Path("f.csv"), {"id": "image", "mos": "score"}, ["mos"])
