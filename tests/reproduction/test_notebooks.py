"""Finding and running notebooks. Tests marked `slow` start kernels."""

from __future__ import annotations

import json
import sys

import nbformat
import pytest
from filelock import FileLock
from small_notebooks import PARAMETERS, write

from realqa_utils.reproduction import committed, engine, graph, notebooks
from realqa_utils.reproduction.parameters import NotebookError

OK = ["import os, sys\nprint(profile, seed, sys.executable)\nprint(os.getcwd())", "", "seed + 41"]


def _text(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def _rows(printed: str) -> list[list[str]]:
    """Stem, seconds and status of the summary's lines, without its head."""
    lines = printed.split("notebook  ")[-1].split("\n\n")[0].splitlines()[1:]
    return [line.split(maxsplit=2) for line in lines]


# --- with kernels --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_failing_notebook_stops_only_its_reader_and_is_run_again(root, capfd):
    folder = root / "notebooks"
    write(folder, "01_failing_cell", "1 + 1", "raise KeyError('mos')", "print('never')")
    ok = write(folder, "02_ok", *OK)
    write(folder, "11_reader", "print('read')")
    before = ok.read_bytes()

    assert notebooks.reproduce("smoke", parameters={"seed": 3}, folder=folder) == 1

    printed, err = capfd.readouterr()
    assert err == ""  # nothing of the engine's
    assert [[row[0], row[2]] for row in _rows(printed)] == [
        ["01_failing_cell", "failed"],
        ["02_ok", "ok"],
        ["11_reader", "not run: it reads 01_failing_cell"],
    ]
    partial = root / "runs/smoke/partial/01_failing_cell.ipynb"
    assert printed.endswith(
        f"01_failing_cell.ipynb: cell [4] KeyError: 'mos' (partial notebook: {partial})\n"
    )
    cells = [c for c in nbformat.read(partial, 4).cells if c.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [1, 2, 3, 4, None]
    assert [path.name for path in (root / "runs/smoke/notebooks").iterdir()] == ["02_ok.ipynb"]
    executed = nbformat.read(root / "runs/smoke/notebooks/02_ok.ipynb", 4)
    assert executed.cells[2].metadata.tags == ["injected-parameters"]
    assert _text(executed.cells[3]) == f"smoke 3 {sys.executable}\n{folder}\n"
    assert ok.read_bytes() == before  # a run never touches the original

    write(folder, "01_failing_cell", "1 + 1", "'no longer'")
    assert notebooks.reproduce("smoke", parameters={"seed": 3}, folder=folder) == 0
    assert [row[2] for row in _rows(capfd.readouterr().out)] == ["ok", "kept", "ok"]


#: Tasks that none of its processes can do without the other.
TOGETHER = """
import os, time
from pathlib import Path
from realqa_utils import parallel, spare_cores
met = Path(os.environ["REALQA_ROOT"]) / "met"
met.mkdir()
def meet(_):
    (met / str(os.getpid())).touch()
    until = time.monotonic() + 100
    while len(list(met.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    return os.getpid()
assert parallel.cores() == 1
assert len(set(parallel.run_all(meet, range(2)))) == 2
assert spare_cores.borrowed() > 0
"""


@pytest.mark.slow
def test_the_last_notebook_borrows_the_cores_of_those_that_have_ended(root, monkeypatch):
    monkeypatch.setenv("REALQA_WORKERS", "2")
    write(root / "notebooks", "01_ends", "1 + 1")
    write(root / "notebooks", "05_goes_on", TOGETHER)
    assert notebooks.reproduce("smoke", folder=root / "notebooks") == 0
    assert (graph.folder("smoke") / "spare").read_text() == "2"  # at the end


@pytest.mark.slow
def test_refresh_writes_back_what_is_fresh_and_portable(root):
    folder = root / "notebooks"
    path = write(folder, "02_ok", *OK)
    assert committed.why_stale(path) == "was never executed by `make notebooks`"

    assert notebooks.refresh(folder=folder) == 0

    assert committed.why_stale(path) == ""
    text = path.read_text()
    for private in (str(root), sys.prefix, "papermill", "start_time", "iopub", '"version"'):
        assert private not in text, private
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert [cell.source for cell in notebook.cells] == ["# Title", PARAMETERS, *OK]
    assert [cell.get("execution_count") for cell in notebook.cells] == [None, 1, 2, None, 3]
    assert "mini 0 " in _text(notebook.cells[2])
    assert "./notebooks" in _text(notebook.cells[2])
    assert notebook.cells[4].outputs[0].data["text/plain"] == "41"

    write(folder, "02_ok", *OK)  # its outputs are lost, but it was run
    assert notebooks.refresh(folder=folder) == 0
    assert path.read_text() == text


# --- without -------------------------------------------------------------------------------------


@pytest.fixture
def plans(monkeypatch):
    """The plans that would be run, instead of running them."""
    seen = []
    monkeypatch.setattr(
        notebooks, "_follow", lambda path, cluster: seen.append(json.loads(path.read_text())) or []
    )
    return seen


def test_find_picks_by_number_or_name_in_order(tmp_path):
    for name in ("10_video", "05_digits", "00_start", "draft", "5_x"):
        (tmp_path / f"{name}.ipynb").touch()

    def stems(only=None):
        return [path.stem for path in notebooks.find(only, tmp_path)]

    assert stems() == ["00_start", "05_digits", "10_video"]
    assert stems(["10_video", "5", "05"]) == ["05_digits", "10_video"]
    with pytest.raises(
        NotebookError, match="unknown notebook '05_digit': did you mean '05_digits'"
    ):
        stems(["05_digit"])


def test_nothing_runs_when_one_notebook_is_asked_wrongly(root, plans):
    write(root, "01_ok", "1 + 1")
    write(root, "02_unknown_parameter", "1 + 1", parameters="profile = 'mini'")
    with pytest.raises(NotebookError, match="02_unknown_parameter.ipynb: unknown parameter 'seed'"):
        notebooks.reproduce("smoke", parameters={"seed": 1}, folder=root)
    with pytest.raises(NotebookError, match="01_ok.ipynb: .* 'sead': did you mean 'seed'"):
        notebooks.reproduce("smoke", ["01"], {"sead": 1}, root)
    with pytest.raises(NotebookError, match="01_ok.ipynb: seed is of type int, not str: 'one'"):
        notebooks.reproduce("smoke", ["01"], {"seed": "one"}, root)
    with pytest.raises(ValueError, match="unknown profile 'smok': did you mean 'smoke'"):
        notebooks.reproduce("smok", folder=root)
    with pytest.raises(NotebookError, match="no notebooks"):
        notebooks.reproduce("smoke", folder=root / "empty")
    (root / "02_unknown_parameter.ipynb").write_text('{"nbformat": 4, "cells": []}')
    with pytest.raises(NotebookError, match="0 cells are tagged 'parameters', not one"):
        notebooks.reproduce("smoke", folder=root)
    assert plans == []


def test_an_unknown_cluster_is_told_before_anything_runs(root):
    write(root, "01_ok")
    with pytest.raises(FileNotFoundError, match="cluster 'slurn': neither slurn nor .*/slurn is a"):
        notebooks.reproduce("smoke", folder=root, cluster="slurn")


def test_one_run_at_a_time_of_a_profile(root, plans):
    write(root, "01_ok")
    with (
        FileLock(graph.folder("smoke") / "run.lock"),
        pytest.raises(NotebookError, match="profile smoke is being reproduced already"),
    ):
        notebooks.reproduce("smoke", folder=root)
    assert plans == []
    assert notebooks.reproduce("smoke", folder=root) == 0
    assert len(plans) == 1


def test_seeds_of_the_environment_reach_the_jobs(root, plans, monkeypatch):
    write(root, "01_ok")
    notebooks.reproduce("smoke", folder=root)
    monkeypatch.setenv("REALQA_SEEDS", "3,4")
    notebooks.reproduce("smoke", folder=root)
    assert "REALQA_SEEDS" not in plans[0]["environment"]
    assert plans[1]["environment"]["REALQA_SEEDS"] == "3,4"
    stamps = {plan["notebooks"]["01_ok"]["stamp"] for plan in plans}
    assert len(stamps) == 2  # other seeds: out of date


def test_photos_need_their_folder(root, plans, monkeypatch):
    write(root, "01_ok")
    monkeypatch.chdir(root)
    monkeypatch.delenv("REALQA_DATA", raising=False)
    with pytest.raises(NotebookError, match="set REALQA_DATA to their folder \\(it is not set\\)"):
        notebooks.reproduce("photos", folder=root)
    monkeypatch.setenv("REALQA_DATA", "nowhere")
    with pytest.raises(NotebookError, match="nowhere is no folder"):
        notebooks.reproduce("photos", folder=root)

    monkeypatch.setenv("REALQA_DATA", "photos")
    (root / "photos").mkdir()
    assert notebooks.reproduce("photos", folder=root) == 0
    (root / "photos" / "new.jpg").write_bytes(b"1")
    assert notebooks.reproduce("photos", folder=root) == 0
    # the notebooks run in another folder: they need an absolute path
    assert {plan["environment"]["REALQA_DATA"] for plan in plans} == {str(root / "photos")}
    assert len({plan["notebooks"]["01_ok"]["stamp"] for plan in plans}) == 2  # other photographs


def test_refresh_wants_mini_as_it_is(root, plans, monkeypatch):
    write(root, "01_smoke", parameters="profile = 'smoke'")
    with pytest.raises(NotebookError, match="01_smoke.ipynb: .* must say profile = 'mini'"):
        notebooks.refresh(folder=root)
    write(root, "01_smoke")
    monkeypatch.setenv("REALQA_SEEDS", "5")
    with pytest.raises(NotebookError, match="REALQA_SEEDS is set"):
        notebooks.refresh(folder=root)
    assert plans == []


def test_what_the_engine_says_is_shown_when_it_cannot_run(root, monkeypatch, capsys):
    write(root, "01_ok")
    snakefile = root / "home" / "notebooks" / "Snakefile"
    snakefile.parent.mkdir(parents=True)
    snakefile.write_text("raise ValueError('a broken graph')\n")
    monkeypatch.setattr(engine.provenance, "home", lambda: root / "home")
    assert notebooks.reproduce("smoke", folder=root) == 1
    printed = capsys.readouterr().out
    assert "Snakemake could not run the graph." in printed and "a broken graph" in printed
    assert _rows(printed) == [["01_ok", "-", "not run"]]
