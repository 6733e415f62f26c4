"""Where a result comes from."""

from __future__ import annotations

import hashlib
import shutil
import time
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path

import pytest

from realqa_utils import parallel
from realqa_utils.records import provenance


def test_file_hash_is_sha256_of_the_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert provenance.file_hash(path) == hashlib.sha256(b"abc").hexdigest()


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A package of two modules that takes the place of realqa_utils."""
    folder = tmp_path / "realqa_utils"
    (folder / "datasets").mkdir(parents=True)
    (folder / "records").mkdir()
    shutil.copy(provenance.__file__, folder / "records" / "provenance.py")
    (folder / "datasets" / "mini.py").write_text("x = 1\n")
    monkeypatch.setattr(provenance, "__file__", str(folder / "records" / "provenance.py"))
    return folder


def test_source_hash_sees_changes_names_and_subpackages_but_no_other_files(package):
    module = package / "datasets" / "mini.py"
    before = provenance.source_hash()
    (package / "notes.txt").write_text("not code")
    assert provenance.source_hash() == before
    module.write_text("x = 2\n")
    changed = provenance.source_hash()
    module.write_text("x = 1\n")
    assert changed != before == provenance.source_hash()
    module.rename(package / "mini.py")
    assert provenance.source_hash() not in (before, changed)


def test_home_is_a_checkout_or_else_the_working_folder(package, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert provenance.home() == elsewhere
    (tmp_path / "notebooks").mkdir()
    assert provenance.home() == tmp_path


def test_without_git_there_is_no_commit_but_a_source_hash(package):
    code = provenance.provenance()["code"]
    assert code == {"source_hash": provenance.source_hash(), "commit": None, "dirty": None}


def test_provenance_names_what_is_installed_and_when():
    facts = provenance.provenance()
    assert set(facts["versions"]) == {"torch", "transformers", "peft", "numpy", "scipy", "realqa"}
    assert facts["versions"]["numpy"] == metadata.version("numpy")
    assert facts["cpus"] >= 1
    assert facts["workers"] == parallel.cores()
    assert 10 < facts["peak_memory_mib"] < 1e6  # a Python with numpy takes tens of MiB
    assert datetime.now(UTC) - datetime.fromisoformat(facts["date"]) < timedelta(minutes=1)


def test_peak_memory_counts_what_was_allocated():
    before = provenance.provenance()["peak_memory_mib"]
    block = bytearray(b"1") * (int(before + 100) * 2**20)
    grown = provenance.provenance()["peak_memory_mib"]
    assert len(block) / 2**20 < grown < before + len(block) / 2**20 + 200


def test_stopwatch_runs():
    watch = provenance.Stopwatch()
    time.sleep(0.01)
    assert 0.01 <= watch.seconds < 5
    assert provenance.Stopwatch(watch.started - 10).seconds > 10


def test_line_is_one_line():
    line = provenance.line("mini")
    assert "\n" not in line
    assert line.startswith("profile mini; ")
    assert provenance.source_hash()[:10] in line
