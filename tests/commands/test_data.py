"""`realqa data`: what is listed of sets that are whole, broken and missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from public_sets import write_all

from realqa_utils.commands import data as data_command
from realqa_utils.datasets import koniq, qalign, registry, spaq


@pytest.fixture
def data(tmp_path) -> Path:
    return write_all(tmp_path / "data")


def listed(capsys, *arguments: str) -> str:
    assert data_command.main(list(arguments)) == 0
    return capsys.readouterr().out


def line(output: str, start: str) -> str:
    [found] = [
        line for line in output.splitlines() if line.split()[: len(start.split())] == start.split()
    ]
    return found


def test_sets_that_are_there(data, capsys):
    output = listed(capsys, "--folder", str(data))
    assert "KonIQ-10k: 6 of 10073 rated, MOS 1.125..4.364 on 1..5; 6 files" in output
    assert "KonIQ-10k: 6 of 10073 rated, MOS 3.912..88.39 on 0..100; 6 files" in output
    assert "KoNViD-1k: 4 of 1200 rated, MOS 1.22..4.64 on 1..5; 4 files" in output
    [split] = registry.splits("koniq", "official", data)
    hashes = f"{split.train.ids_hash} / {split.test.ids_hash}"
    assert line(output, "koniq official").split(maxsplit=2)[2].split() == [
        "3",
        "/",
        "2",
        *hashes.split(),
    ]
    assert line(output, "livec random 5")
    assert line(output, "spaq all").split()[2:6] == ["0", "/", "6", "-"]
    assert "not found" not in output and "not available" not in output


def test_missing_and_broken_sets_are_told_in_their_line(data, capsys):
    shutil.rmtree(data / "spaq")
    (data / "tad66k" / "train.csv").write_text("image;score\n1.jpg;7\n")
    (data / "koniq10k" / "512x384" / "6233.jpg").unlink()
    output = listed(capsys, "--folder", str(data))
    assert line(output, "spaq").endswith("SPAQ: not found")
    assert "broken" in line(output, "tad66k") and "train.csv: no column 'image'" in output
    assert "5 files" in output
    assert spaq.WHERE in output and output.count(koniq.WHERE) == 1
    assert not [text for text in output.splitlines() if text.split()[:2] == ["tad66k", "official"]]


def test_lists_that_are_missing_or_do_not_fit(data, capsys):
    (data / "qalign" / "test_ava.json").write_text('[{"image": "1.jpg", "gt_score": 5}]')
    (data / "qalign" / "train_spaq.json").unlink()
    output = listed(capsys, "--folder", str(data))
    assert "not available" in line(output, "ava qalign") and "'1.jpg' is no photo" in output
    assert line(output, "spaq qalign").endswith("no train_spaq.json of Q-Align here")
    assert output.count(qalign.WHERE) == 1


def test_whatever_a_set_holds_the_others_are_listed(data, capsys):
    for path in sorted(data.rglob("*")):
        if path.is_file() and "koniq10k" not in path.parts:
            path.write_bytes(b"\x00\xff damaged")
    output = listed(capsys, "--folder", str(data))
    assert output.count("broken: ") == 5
    assert "KonIQ-10k: 6 of 10073" in output


def test_an_empty_folder_lists_where_to_get_everything(tmp_path, capsys):
    output = listed(capsys, "--folder", str(tmp_path))
    assert output.count("not found") == len(registry.SETS)
    for rated in registry.SETS.values():
        assert output.count(rated.where) == 1


def test_without_a_folder_it_says_what_goes_into_one(capsys, monkeypatch, data):
    monkeypatch.delenv("REALQA_DATA", raising=False)
    output = listed(capsys)
    assert "set REALQA_DATA" in output
    for where in (*(rated.where for rated in registry.SETS.values()), qalign.WHERE):
        assert output.count(where) == 1
    monkeypatch.setenv("REALQA_DATA", str(data))
    assert "KonIQ-10k: 6 of 10073" in listed(capsys)


def test_a_folder_that_does_not_exist_is_a_mistake(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        data_command.main(["--folder", str(tmp_path / "nowhere")])


@pytest.mark.realdata
def test_the_real_folder(real_file, capsys):
    output = listed(capsys, "--folder", str(real_file(".")))
    assert "broken" not in output
    assert "SPAQ: 11125 of 11125 rated, MOS 2..96 on 0..100" in output
    assert line(output, "koniq official").split()[2:5] == ["7058", "/", "2015"]
