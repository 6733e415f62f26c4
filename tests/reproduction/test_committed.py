"""What is committed: fresh copies, the same from any machine."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from small_notebooks import write

from realqa_utils.records import results
from realqa_utils.reproduction import committed


@pytest.fixture
def fresh(tmp_path) -> Path:
    """A notebook as `refresh` leaves it, without a kernel."""
    path = write(tmp_path, "01_ok", "1 + 1", "")
    notebook = nbformat.read(path, 4)
    notebook.cells[1].execution_count, notebook.cells[2].execution_count = 1, 2
    nbformat.write(committed.portable(notebook), path)
    return path


def _change(path: Path, change) -> str:
    notebook = nbformat.read(path, 4)
    change(notebook)
    nbformat.write(notebook, path)
    return committed.why_stale(path)


def test_a_fresh_notebook_stays_fresh_when_only_its_text_changes(fresh):
    assert committed.why_stale(fresh) == ""
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
    text = json.dumps(committed.portable(notebook))
    assert f"./figures/mini {root}-other <environment>/lib\\n<cell>:3: UserWarning: slow" in text
    assert "<b>~/x</b>" in text
    assert 'execution"' not in text and "papermill" not in text


def test_pictures_are_kept_as_they_are_and_long_text_takes_no_time(root):
    """An embedded picture is one word of a million letters; searching it for paths would hang."""
    picture = str(results.home()) + "A" * 1_000_000
    cell = nbformat.v4.new_code_cell("1")
    cell.outputs = [
        nbformat.v4.new_output("display_data", {"image/png": picture, "text/plain": picture})
    ]
    out = committed.portable(nbformat.v4.new_notebook(cells=[cell])).cells[0].outputs[0].data
    assert out["image/png"] == picture
    assert out["text/plain"].endswith("A" * 1_000_000)
