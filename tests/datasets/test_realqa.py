"""RealQA from a local copy: its labels in words, in every container, and every mismatch named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest

from realqa_utils.datasets import realqa
from realqa_utils.datasets.exchange import from_table
from realqa_utils.datasets.table import official_split
from realqa_utils.forms import taxonomy
from realqa_utils.forms.conversations import ALL_SETS, MIX
from realqa_utils.forms.scores import Scale

ROWS = [
    {
        "image": "0001.jpg",
        "split": "train",
        "score": "7.25",
        "Reason for Eye-Catching Score": "a red boat on still water",
        "Eye-Catching Score": "8",
        "Reason for Composition Score": "thirds",
        "Composition Score": "6",
        "Subject and Background": "a boat, behind it a lake",
        "Subject Integrity": "partially complete (slightly cut off or slightly obscured)",
        "Subject Clutter": "uncluttered",
        "Background Clutter": "moderately cluttered",
        "Level Shot": "level",
        "Image Clarity": "clear",
        "Exposure": "slightly overexposed",
        "Saturation": "vivid",
    },
    {
        "image": "0002.jpg",
        "split": "test",
        "score": "3.5",
        "Reason for Eye-Catching Score": "nothing stands out",
        "Eye-Catching Score": "2",
        "Reason for Composition Score": "crowded",
        "Composition Score": "10",
        "Subject and Background": "a dish, behind it a table",
        "Subject Integrity": " Complete. ",
        "Subject Clutter": "CLUTTERED",
        "Background Clutter": "Moderately-Cluttered",
        "Level Shot": "not straight",
        "Image Clarity": "slightly  blurry",
        "Exposure": "properly exposed",
        "Saturation": "Dull",
    },
]
SCORED = {  # by hand: the tiers of the taxonomy, counted from 0
    "eye_catching": [8, 2],
    "composition": [6, 10],
    "subject_integrity": [1, 2],
    "subject_clutter": [2, 0],
    "background_clutter": [1, 1],
    "level_shot": [1, 0],
    "image_clarity": [2, 1],
    "exposure": [3, 2],
    "saturation": [2, 0],
}


@pytest.fixture
def copy(tmp_path) -> Path:
    (tmp_path / "images").mkdir()
    for row in ROWS:
        (tmp_path / "images" / row["image"]).touch()
    return tmp_path


def changed(row: int = 1, /, **cells: object) -> list[dict]:
    """The rows with some cells of one of them replaced; underscores stand for spaces."""
    rows = [dict(each) for each in ROWS]
    rows[row] |= {name.replace("_", " "): cell for name, cell in cells.items()}
    return rows


def without(*columns: str) -> list[dict]:
    return [{name: row[name] for name in row if name not in columns} for row in ROWS]


def renamed(names: Mapping[str, str]) -> list[dict]:
    return [{names.get(name, name): cell for name, cell in row.items()} for row in ROWS]


def put(folder: Path, rows: list[dict], name: str = "labels.json") -> Path:
    path, frame = folder / name, pd.DataFrame(rows)
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=path.suffix == ".jsonl")
    return path


def configure(folder: Path, **names: object) -> None:
    (folder / "realqa_columns.json").write_text(json.dumps(names))


# --- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["labels.csv", "labels.json", "labels.jsonl", "data/labels.parquet"]
)
def test_every_container_gives_the_same_table(copy, name):
    put(copy, ROWS, name)
    table = realqa.load(copy)
    frame = table.frame
    assert (table.name, table.scale) == ("realqa", Scale(0, 10))
    assert frame["id"].tolist() == ["0001.jpg", "0002.jpg"]
    assert frame["path"].tolist() == [str(copy / "images" / id_) for id_ in frame["id"]]
    assert frame["mos"].tolist() == [7.25, 3.5]
    assert frame["split"].tolist() == ["train", "test"]
    assert {key: frame[key].tolist() for key in SCORED} == SCORED
    assert frame["composition_reason"].tolist() == ["thirds", "crowded"]
    assert frame["subject_background"][0] == "a boat, behind it a lake"


def test_numbers_may_be_numbers(copy):
    rows = changed(0, score=7.25, **{"Eye-Catching_Score": 8, "Composition_Score": 6.0})
    put(copy, rows)
    frame = realqa.load(copy).frame
    assert {key: frame[key].tolist() for key in SCORED} == SCORED
    put(copy, changed(0, **{"Composition_Score": "6.0"}))
    assert realqa.load(copy).frame["composition"].tolist() == [6, 10]


def test_the_labels_make_conversations_that_say_the_same(copy):
    put(copy, ROWS)
    table = realqa.load(copy)
    talks = from_table(table, ALL_SETS)
    assert len(talks) == 2 * 13
    for k, talk in enumerate(talks[12::13]):
        values = MIX.parse(talk.answer).values
        assert {name: values[name] for name in SCORED} == {n: SCORED[n][k] for n in SCORED}


def test_every_word_of_the_taxonomy_is_understood(copy):
    for attribute in taxonomy.ATTRIBUTES:
        for tier, words in enumerate(each.words for each in attribute.tiers):
            for form in (words, words.upper(), words.split(" (")[0]):
                put(copy, changed(1, **{attribute.title.replace(" ", "_"): form}))
                assert realqa.load(copy).frame[attribute.name][1] == tier, form


def test_names_of_columns_may_differ_in_case_and_punctuation(copy):
    names = {"image": "IMAGE", "Eye-Catching Score": "eye_catching_score", "Exposure": "exposure "}
    put(copy, renamed(names))
    frame = realqa.load(copy).frame
    assert {key: frame[key].tolist() for key in SCORED} == SCORED


def test_the_very_name_goes_before_one_that_is_only_alike(copy):
    put(copy, [{"Image": "x"} | row | {"IMAGE": "y"} for row in ROWS])
    assert realqa.load(copy).frame["id"].tolist() == ["0001.jpg", "0002.jpg"]


def test_ids_keep_their_zeros_and_may_be_a_column(copy):
    put(copy, [row | {"id": row["image"][:4]} for row in ROWS], "a.csv")
    assert realqa.load(copy).frame["id"].tolist() == ["0001", "0002"]


def test_equal_file_names_in_two_folders_get_whole_paths_for_ids(copy):
    for side in ("train", "test"):
        (copy / "images" / side).mkdir()
        (copy / "images" / side / "1.jpg").touch()
    rows = [row | {"image": f"{row['split']}/1.jpg"} for row in ROWS]
    put(copy, rows)
    frame = realqa.load(copy).frame
    assert frame["id"].tolist() == ["train/1.jpg", "test/1.jpg"]
    assert frame["path"].nunique() == 2


def test_photos_may_lie_elsewhere(copy, tmp_path_factory):
    other = tmp_path_factory.mktemp("photos")
    for row in ROWS:
        (other / row["image"]).touch()
    put(copy, [row | {"image": f"/their/disk/{row['image']}"} for row in ROWS])
    frame = realqa.load(copy, images=other).frame
    assert frame["path"].tolist() == [str(other / row["image"]) for row in ROWS]


# --- splits and scores ---------------------------------------------------------------------------


def test_the_official_split_comes_from_its_column(copy):
    put(copy, changed(0, split="Training"))
    split = official_split(realqa.load(copy))
    assert split.train.frame["id"].tolist() == ["0001.jpg"]
    assert split.test.frame["id"].tolist() == ["0002.jpg"]


def test_without_a_column_the_names_of_the_files_say_the_split(copy):
    first, second = without("split")
    put(copy, [first], "realqa_train.csv")
    put(copy, [second], "data/test-00000-of-00001.jsonl")
    frame = realqa.load(copy).frame.set_index("id")
    assert frame["split"].to_dict() == {"0001.jpg": "train", "0002.jpg": "test"}
    only = realqa.load(copy, annotations=copy / "realqa_train.csv")
    assert only.frame["id"].tolist() == ["0001.jpg"]


def test_a_photo_in_two_files_is_an_error(copy):
    put(copy, ROWS, "a.csv")
    put(copy, ROWS[1:], "b.csv")
    with pytest.raises(ValueError, match=r"row 3 \(id '0002\.jpg'\): id .* is in an earlier row"):
        realqa.load(copy)


def test_no_split_is_no_error_until_it_is_asked_for(copy):
    put(copy, without("split"))
    table = realqa.load(copy)
    assert table.frame["split"].tolist() == ["", ""]
    with pytest.raises(ValueError, match="no official split"):
        official_split(table)


def test_without_a_composite_score_the_table_says_so_in_its_name(copy):
    put(copy, without("score"))
    table = realqa.load(copy)
    assert (table.name, table.scale) == ("realqa-high-level", Scale(1, 10))
    assert table.frame["mos"].tolist() == [7.0, 6.0]


def test_reasons_may_be_absent_or_empty(copy):
    put(copy, without("Reason for Composition Score"))
    assert "composition_reason" not in realqa.load(copy).frame
    put(copy, changed(1, Reason_for_Composition_Score=""), "labels.json")
    assert realqa.load(copy).frame["composition_reason"].isna().tolist() == [False, True]


# --- configuration -------------------------------------------------------------------------------


def test_columns_words_and_scale_come_from_the_file_and_the_argument(copy):
    rows = renamed({"image": "file_name", "Exposure": "Light", "score": "quality"})
    rows = [row | {"Light": 1, "quality": 50, "Saturation": "pale", "split": "dev"} for row in rows]
    put(copy, rows)
    configure(
        copy,
        columns={"image": "file_name", "exposure": "Light", "score": "quality"},
        words={
            "exposure": {"1": "overexposed"},
            "saturation": {"pale": "vivid"},
            "split": {"dev": "validation"},
        },
        scale=[0, 100],
    )
    table = realqa.load(copy, names={"words": {"saturation": {"pale": "dull"}}})
    assert table.targets.tolist() == [5, 5]
    assert table.frame["exposure"].tolist() == [4, 4]
    assert table.frame["saturation"].tolist() == [0, 0]  # the argument goes first
    assert table.frame["split"].tolist() == ["validation", "validation"]


def test_a_column_set_to_null_is_not_looked_for(copy):
    put(copy, without("Exposure"))
    with pytest.raises(ValueError, match=r"'Exposure' \(our exposure\)"):
        realqa.load(copy)
    configure(copy, columns={"exposure": None, "score": None})
    table = realqa.load(copy)
    assert table.name == "realqa-high-level" and "exposure" not in table.frame


def test_an_optional_column_that_is_named_must_be_there(copy):
    put(copy, ROWS)
    with pytest.raises(ValueError, match=r"expected also the columns 'fold' \(our split\)"):
        realqa.load(copy, names={"columns": {"split": "fold"}})


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], r"\[\] is no object; right is like"),
        ({"column": {}}, r"unknown name 'column': did you mean 'columns'\?"),
        ({"columns": []}, r"\[\] is no object"),
        ({"columns": {"light": "x"}}, r"unknown name 'light'"),
        ({"columns": {"exposure": 5}}, r"exposure is 5; right is like"),
        ({"columns": {"image": None}}, r"expected also the columns None \(our image\)"),
        ({"words": {"composition": {}}}, r"unknown name 'composition'"),
        ({"words": {"exposure": "dark"}}, r"exposure is 'dark'; right is like"),
        ({"words": {"exposure": {"x": "dim"}}}, r"words for exposure: 'x' is unknown word 'dim'"),
        ({"scale": 10}, r"scale, .*; right is \[lowest, highest\]"),
        ({"scale": [10, 0]}, r"scale, .*; right is \[lowest, highest\]"),
        ({"scale": ["a", "b"]}, r"scale, .*; right is \[lowest, highest\]"),
    ],
)
def test_a_configuration_that_is_not_understood_is_an_error(copy, names, problem):
    put(copy, ROWS)
    with pytest.raises(ValueError, match=problem):
        realqa.load(copy, names=names)
    (copy / "realqa_columns.json").write_text(json.dumps(names))
    with pytest.raises(ValueError, match=problem):
        realqa.load(copy)


def test_a_configuration_that_is_no_json_is_an_error(copy):
    put(copy, ROWS)
    (copy / "realqa_columns.json").write_text("{columns: ...}")
    with pytest.raises(ValueError, match=r"realqa_columns\.json: not JSON"):
        realqa.load(copy)


# --- mismatches ----------------------------------------------------------------------------------


def test_a_mismatch_lists_what_was_expected_and_what_was_found(copy):
    put(copy, renamed({"image": "picture", "Level Shot": "Horizon"}))
    with pytest.raises(ValueError, match=r"labels\.json: expected") as caught:
        realqa.load(copy)
    message = str(caught.value)
    assert "'image' (our image), 'Level Shot' (our level_shot); found 'picture', 'split'" in message
    assert "'Horizon'" in message and "'Exposure' (our" not in message
    assert "realqa_columns.json beside the labels" in message
    assert '{"columns": {"image": "the name there"}}' in message


@pytest.mark.parametrize(
    ("column", "cell", "known"),
    [
        ("Exposure", "dim", "underexposed, slightly underexposed, properly exposed, slightly over"),
        ("Exposure", None, "underexposed"),
        ("Level Shot", "tilted a bit", "tilted, level, straight, not straight, yes, no"),
        ("Image Clarity", 3, "blurry, slightly blurry, clear"),
        ("Composition Score", "0", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10;"),
        ("Composition Score", "11", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10;"),
        ("Composition Score", "-7", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10;"),
        ("Composition Score", 6.5, "1, 2, 3, 4, 5, 6, 7, 8, 9, 10;"),
        ("Eye-Catching Score", "high", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10;"),
        ("split", "fold 1", "known are train, validation, test, training, val, valid, testing;"),
    ],
)
def test_an_unknown_word_names_file_row_column_and_the_words_known(copy, column, cell, known):
    rows = [dict(row) for row in ROWS]
    rows[1][column] = cell
    put(copy, rows)
    said = None if cell is None else str(cell)
    with pytest.raises(ValueError) as caught:
        realqa.load(copy)
    start = f"{copy / 'labels.json'}, row 2, column {column!r}: {said!r} is unknown; known are "
    assert str(caught.value).startswith(start)
    assert known in str(caught.value) and "(cells like this: 1 of 2)" in str(caught.value)


@pytest.mark.parametrize("cell", [{"bytes": "AAAA", "path": "0002.jpg"}, None, " ", 7])
def test_a_photo_in_the_table_itself_is_refused(copy, cell):
    put(copy, changed(1, image=cell))
    with pytest.raises(
        ValueError, match=r"row 2, column 'image': .*; right is the path of a photo"
    ):
        realqa.load(copy)


def test_missing_photos_and_scores_off_the_scale_name_their_row(copy):
    put(copy, changed(1, image="0003.jpg"))
    with pytest.raises(ValueError, match=r"labels\.json, row 2 .*0003\.jpg' is not a file"):
        realqa.load(copy)
    put(copy, changed(1, score="87"))
    with pytest.raises(ValueError, match=r"labels\.json, row 2 .*mos '87\.0' is off the scale"):
        realqa.load(copy)


def test_a_wrong_folder_says_what_would_be_right(tmp_path):
    configure(tmp_path)
    (tmp_path / "dataset_info.json").write_text("{}")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"no labels .* copy of MingxingLi/RealQA"):
            realqa.load(folder)
    with pytest.raises(FileNotFoundError, match=r"x\.csv: no such file"):
        realqa.load(tmp_path, annotations=[tmp_path / "x.csv"])
