"""SPAQ: a spreadsheet of names with leading zeros, on a small copy and on the real one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from public_sets import SPAQ, spaq_sheet, write_spaq

from realqa_utils.datasets import spaq
from realqa_utils.forms.scores import Scale


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_spaq(tmp_path)


def sheet(folder: Path) -> Path:
    return folder / "Annotations" / spaq.FILE


def test_names_keep_their_zeros_and_attributes_come_along(folder):
    table = spaq.load(folder)
    assert (table.name, table.scale) == ("spaq", Scale(0, 100))
    assert table.frame["id"].tolist() == [f"0000{k}.jpg" for k in range(1, 7)]
    assert table.frame["mos"].tolist() == SPAQ
    assert table.frame["std"].isna().all()
    assert table.frame["brightness"].tolist() == [10.5 + k for k in range(6)]
    assert table.frame["sharpness"][5] == 19.5
    for id_, path in zip(table.frame["id"], table.frame["path"], strict=True):
        assert Path(path) == folder / "TestImage" / id_


def test_photographs_saved_in_another_format_are_found(folder):
    photos = folder / "TestImage"
    (photos / "00002.jpg").rename(photos / "00002.png")
    (photos / "00003.bmp").write_bytes(b"the published name goes before it")
    (photos / "00004.txt").write_bytes(b"no picture")
    (photos / "00004.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"00004\.jpg: 1 of 6 photographs of spaq .*http"):
        spaq.load(folder)
    paths = spaq.load(folder, present_only=True).frame["path"]
    assert [Path(path).name for path in paths[:3]] == ["00001.jpg", "00002.png", "00003.jpg"]


def test_any_of_two_folders_and_a_sheet_beside_the_photographs(folder):
    hashes = {spaq.load(place).ids_hash for place in (folder, folder.parent)}
    sheet(folder).rename(folder / spaq.FILE)
    hashes.add(spaq.load(folder).ids_hash)
    assert len(hashes) == 1


def test_missing_set_says_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        spaq.load(tmp_path)
    for words in (str(tmp_path), spaq.HOME, f"spaq/Annotations/{spaq.FILE}", "spaq/TestImage"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("Image name", [1, 2, 3, 4, 5, 6], r"row 1 \(id '1'\): id '1' is no name like 00001\.jpg"),
        ("MOS", [50, 60, "x", 1, 2, 3], r"row 3 \(id '00003\.jpg'\): mos 'x' is not a number"),
        ("MOS", [50, 60, None, 1, 2, 3], r"row 3 \(id '00003\.jpg'\): mos '' is not a number"),
        ("MOS", [5, 6, 7.5, 1, 2, 3], r"MOS lie in 1\.\.7\.5, which .* right for spaq is 0\.\.100"),
        ("MOS", [488, 6, 7.5, 1, 2, 3], r"row 1 .*mos '488\.0' is off the scale.* 0 to 100"),
        ("Sharpness", ["-"] * 6, r"row 1 .*sharpness '-' is not a number"),
        ("Image name", ["00001.jpg"] * 6, r"row 2 .*is in an earlier row too"),
    ],
)
def test_damaged_cells_are_named(folder, column, values, message):
    spaq_sheet().assign(**{column: values}).to_excel(sheet(folder), index=False)
    with pytest.raises(ValueError, match=rf"{spaq.FILE}.*{message}"):
        spaq.annotations(folder)


def test_missing_columns_and_files_that_are_no_spreadsheet(folder, monkeypatch):
    spaq_sheet().drop(columns="MOS").to_excel(sheet(folder), index=False)
    with pytest.raises(ValueError, match=r"no column 'MOS'; found \['Image name', 'Brightness'"):
        spaq.annotations(folder)
    whole = sheet(folder).read_bytes()
    for content in (b"", b"name,MOS\n1,2\n", whole[: len(whole) // 2]):
        sheet(folder).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{spaq.FILE}: not a readable \.xlsx file"):
            spaq.annotations(folder)


def test_without_its_reader_the_message_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ValueError, match=rf"{spaq.FILE}: cannot .* pip install openpyxl"):
        spaq.annotations(folder)


@pytest.mark.realdata
def test_the_real_sheet(real_file):
    table = spaq.annotations(real_file("spaq"))
    frame = table.frame.set_index("id")
    assert len(table) == 11125
    assert (frame["mos"].min(), frame["mos"].max()) == (2, 96)
    assert (frame["mos"]["00001.jpg"], frame["brightness"]["00001.jpg"]) == (48.86, 47.43)
    assert frame["colorfulness"]["00004.jpg"] == pytest.approx(69.43)
    assert frame["mos"].idxmax() == "07248.jpg"
    there = spaq.load(real_file("spaq"), present_only=True)
    assert [Path(path).name for path in there.frame["path"]] == ["00914.png", "05293.png"]
