"""Files of others: JSON in either form, tables in four, and photos under another folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from realqa_utils.datasets.files import json_entries, locate, read_table

ROWS = [{"id": "007", "words": "vivid, \u2028 ½"}, {"id": "8", "words": ""}]


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS, indent=2),
        "\ufeff" + json.dumps(ROWS, ensure_ascii=False),
        "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS),
        "\r\n\r\n".join(json.dumps(row) for row in ROWS) + "\r\n",
    ],
)
def test_a_list_and_lines_hold_the_same(tmp_path, text):
    assert json_entries(write(tmp_path / "a.json", text)) == ROWS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", r"a\.json: not JSON .*; right is a JSON list of objects, or JSON Lines"),
        ('{"a": 1}\n\n{"a": ', r"a\.json, line 3: not JSON"),
        ('{\n  "a": 1\n}', r"a\.json, line 1: not JSON"),
        ("[" * 100_000, r"a\.json: not JSON"),
    ],
)
def test_damaged_json_names_file_and_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        json_entries(write(tmp_path / "a.json", text))


def test_other_encodings_and_missing_files_are_named(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(FileNotFoundError, match=r"a\.json: no such file; right is"):
        json_entries(path)
    path.write_bytes(json.dumps(ROWS, ensure_ascii=False).encode("utf-16"))
    with pytest.raises(ValueError, match=r"a\.json: not UTF-8"):
        json_entries(path)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_every_kind_of_table_reads_back_with_ids_as_they_were(tmp_path, suffix):
    frame, path = pd.DataFrame(ROWS), tmp_path / f"labels{suffix}"
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    elif suffix == ".parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=suffix == ".jsonl")
    assert read_table(path).to_dict("records") == ROWS


def test_damaged_and_strange_tables_are_named(tmp_path):
    for name, content in (("a.csv", 'x,y\n"1,2\n3,4,5,6'), ("b.csv", "")):
        with pytest.raises(ValueError, match=rf"{name}: not a readable \.csv file"):
            read_table(write(tmp_path / name, content))
    with pytest.raises(ValueError, match=r"c\.json, row 2: 7; right is an object"):
        read_table(write(tmp_path / "c.json", '[{"a": 1}, 7]'))
    with pytest.raises(ValueError, match=r"d\.xlsx: right is a file that ends in \.csv, \.json"):
        read_table(tmp_path / "d.xlsx")
    for name in ("e.csv", "e.json", "e.parquet"):
        with pytest.raises(FileNotFoundError, match=rf"{name}: no such file"):
            read_table(tmp_path / name)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    for package in ("pyarrow", "fastparquet"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=r"a\.parquet: Parquet cannot .* pip install pyarrow"):
        read_table(write(tmp_path / "a.parquet", "PAR1"))


@pytest.fixture
def photos(tmp_path) -> Path:
    for name in ("train/1.jpg", "test/1.jpg", "2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_photos_are_found_by_the_longest_part_of_their_path(photos):
    names = ["train/1.jpg", "/old/disk/test/1.jpg", "images/2.jpg", "gone/3.jpg", "/gone/4.jpg"]
    expected = ["train/1.jpg", "test/1.jpg", "2.jpg", "gone/3.jpg"]
    found = locate(names, [photos / "empty", photos])
    assert [found[name] for name in names[:3]] == [str(photos / name) for name in expected[:3]]
    assert found["gone/3.jpg"] == str(photos / "empty" / "gone/3.jpg")
    assert found["/gone/4.jpg"] == "/gone/4.jpg"


def test_the_first_folder_that_has_a_photo_wins(photos):
    assert locate(["1.jpg"], [photos / "test", photos / "train"]) == {
        "1.jpg": str(photos / "test" / "1.jpg")
    }


def test_two_photos_are_never_taken_for_one(photos):
    for other in ("/b/2.jpg", "2.jpg"):
        for pair in (["/a/2.jpg", other], [other, "/a/2.jpg"]):
            with pytest.raises(
                ValueError, match=f"'{pair[0]}' and '{pair[1]}' would both be .*2.jpg"
            ):
                locate(pair, [photos])
    same = locate(["2.jpg", "./2.jpg", "2.jpg"], [photos])
    assert set(same.values()) == {str(photos / "2.jpg")}
