"""Running notebooks. Two tests start kernels; the others look at files."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from realqa_utils import notebooks
from realqa_utils.notebooks import NotebookError

PARAMETERS = 'profile = "mini"\nseed = 0'
OK = ["import os, sys\nprint(profile, seed, sys.executable)\nprint(os.getcwd())", "", "seed + 41"]


def _write(folder: Path, name: str, *sources: str, parameters: str = PARAMETERS) -> Path:
    first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell("# Title"), first, *map(new_code_cell, sources)]
    folder.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def _text(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


# --- with kernels --------------------------------------------------------------------------------


@pytest.mark.slow
def test_ok_after_failing_cell_and_its_partial_copy(root, capsys):
    folder = root / "notebooks"
    _write(folder, "01_failing_cell", "1 + 1", "raise KeyError('mos')", "print('never')")
    ok = _write(folder, "02_ok", *OK)
    before = ok.read_bytes()

    assert notebooks.reproduce("smoke", parameters={"seed": 3}, folder=folder) == 1

    table = capsys.readouterr().out.splitlines()
    partial = root / "runs/smoke/notebooks/01_failing_cell.ipynb"
    assert table[0].split() == ["notebook", "seconds", "status"]
    assert "failed: 01_failing_cell.ipynb: cell [4] KeyError: 'mos'" in table[1]
    assert f"(partial notebook: {partial})" in table[1]
    assert table[2].startswith("02_ok") and table[2].endswith("ok")

    cells = [c for c in nbformat.read(partial, 4).cells if c.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [1, 2, 3, 4, None]
    executed = nbformat.read(root / "runs/smoke/notebooks/02_ok.ipynb", 4)
    assert executed.cells[2].metadata.tags == ["injected-parameters"]
    assert _text(executed.cells[3]) == f"smoke 3 {sys.executable}\n{folder}\n"
    assert ok.read_bytes() == before  # a run never touches the original


@pytest.mark.slow
def test_refresh_writes_back_what_is_fresh_and_portable(root, capsys):
    folder = root / "notebooks"
    path = _write(folder, "02_ok", *OK)
    assert notebooks.why_stale(path) == "was never executed by `make notebooks`"

    assert notebooks.refresh(folder=folder) == 0

    assert notebooks.why_stale(path) == ""
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


# --- without -------------------------------------------------------------------------------------


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


def test_nothing_runs_when_one_notebook_does_not_know_a_parameter(root, monkeypatch):
    _write(root, "01_ok", "1 + 1")
    _write(root, "02_unknown_parameter", "1 + 1", parameters="profile = 'mini'")
    monkeypatch.setattr(notebooks, "run", lambda *_: pytest.fail("a notebook ran"))
    with pytest.raises(NotebookError, match="02_unknown_parameter.ipynb: unknown parameter 'seed'"):
        notebooks.reproduce("smoke", parameters={"seed": 1}, folder=root)
    with pytest.raises(ValueError, match="unknown profile 'smok': did you mean 'smoke'"):
        notebooks.reproduce("smok", folder=root)
    with pytest.raises(NotebookError, match="no notebooks"):
        notebooks.reproduce("smoke", folder=root / "empty")


def test_summary_has_one_line_per_notebook():
    outcomes = [
        notebooks.Outcome(Path("05_digits.ipynb"), Path("out"), 61.26),
        notebooks.Outcome(Path("06_ncm.ipynb"), Path("out"), 2.0, "E: two\n  lines"),
    ]
    lines = notebooks.summary(outcomes).splitlines()
    assert [line.split(maxsplit=2) for line in lines[1:]] == [
        ["05_digits", "61.3", "ok"],
        ["06_ncm", "2.0", "failed: E: two lines"],
    ]


def test_photos_need_their_folder(root, monkeypatch):
    _write(root, "01_ok")
    monkeypatch.chdir(root)
    monkeypatch.delenv("REALQA_DATA", raising=False)
    with pytest.raises(NotebookError, match="set REALQA_DATA to their folder \\(it is not set\\)"):
        notebooks.reproduce("photos", folder=root)
    monkeypatch.setenv("REALQA_DATA", "nowhere")
    with pytest.raises(NotebookError, match="nowhere is no folder"):
        notebooks.reproduce("photos", folder=root)

    seen = []  # the notebooks run in another folder: they need an absolute path
    monkeypatch.setattr(notebooks, "run", lambda *_: seen.append(os.environ["REALQA_DATA"]))
    monkeypatch.setenv("REALQA_DATA", "photos")
    (root / "photos").mkdir()
    assert notebooks.reproduce("photos", folder=root) == 0
    assert seen == [str(root / "photos")]


def test_refresh_wants_mini_as_default(root):
    _write(root, "01_smoke", parameters="profile = 'smoke'")
    with pytest.raises(NotebookError, match="01_smoke.ipynb: .* must say profile = 'mini'"):
        notebooks.refresh(folder=root)


@pytest.fixture
def fresh(tmp_path) -> Path:
    """A notebook as `refresh` leaves it, without a kernel."""
    path = _write(tmp_path, "01_ok", "1 + 1", "")
    notebook = nbformat.read(path, 4)
    notebook.cells[1].execution_count, notebook.cells[2].execution_count = 1, 2
    nbformat.write(notebooks.portable(notebook), path)
    return path


def _change(path: Path, change) -> str:
    notebook = nbformat.read(path, 4)
    change(notebook)
    nbformat.write(notebook, path)
    return notebooks.why_stale(path)


def test_a_fresh_notebook_stays_fresh_when_only_its_text_changes(fresh):
    assert notebooks.why_stale(fresh) == ""
    assert _change(fresh, lambda nb: nb.cells[0].update(source="# Another title")) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda nb: nb.cells[2].update(source="1 + 2"), "its code has changed"),
        (lambda nb: nb.cells.append(new_code_cell("x")), "its code has changed"),
        (lambda nb: nb.cells.pop(), "its code has changed"),
        (lambda nb: nb.cells[2].update(execution_count=7), "counts are \\[1, 7\\], not 1..2"),
        (lambda nb: nb.cells[2].update(execution_count=None), "counts are \\[1, None\\]"),
        (lambda nb: nb.metadata.pop("realqa"), "never executed"),
        (
            lambda nb: nb.cells[2].outputs.append(
                new_output("error", ename="E", evalue="", traceback=[])
            ),
            "ends in an error",
        ),
    ],
)
def test_stale(fresh, change, reason):
    assert re.search(reason, _change(fresh, change))


def test_portable_outputs_hold_no_paths_of_the_machine(root):
    warning = f"{tempfile.gettempdir()}/ipykernel_123/456.py:3: UserWarning: slow\n"
    outputs = [
        new_output("stream", text=f"{root}/figures/mini {root}-other {sys.prefix}/lib\n{warning}"),
        new_output(
            "display_data", data={"text/html": f"<b>{Path.home()}/x</b>", "image/png": "aa"}
        ),
    ]
    cell = new_code_cell("1", outputs=outputs, metadata={"execution": {"iopub.execute": "now"}})
    notebook = new_notebook(cells=[cell], metadata={"papermill": {"input_path": str(root)}})
    text = json.dumps(notebooks.portable(notebook))
    assert f"./figures/mini {root}-other <environment>/lib\\n<cell>:3: UserWarning: slow" in text
    assert "<b>~/x</b>" in text
    assert 'execution"' not in text and "papermill" not in text


def test_pictures_are_kept_as_they_are_and_long_text_takes_no_time(root):
    """An embedded picture is one word of a million letters; searching it for paths would hang."""
    picture = str(notebooks.results.home()) + "A" * 1_000_000
    cell = nbformat.v4.new_code_cell("1")
    cell.outputs = [
        nbformat.v4.new_output("display_data", {"image/png": picture, "text/plain": picture})
    ]
    out = notebooks.portable(nbformat.v4.new_notebook(cells=[cell])).cells[0].outputs[0].data
    assert out["image/png"] == picture
    assert out["text/plain"].endswith("A" * 1_000_000)
