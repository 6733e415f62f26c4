"""The plan: what makes results out of date, and what does not. Nothing is run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from small_notebooks import write

from realqa_utils.experiments import chain_length, granularity_length
from realqa_utils.number_sorting import sorting_length
from realqa_utils.records import results
from realqa_utils.records.results import CLAIM_COLUMNS
from realqa_utils.reproduction import graph

GIVEN = {"profile": "smoke"}


@pytest.fixture
def folder(root, monkeypatch) -> Path:
    """Three notebooks that use one module, with results and claims of two, all up to date."""
    place = root / "notebooks"
    write(place, "01_first", "1 + 1")
    write(place, "05_digits", "2 + 2")
    write(place, "11_scoreboard", "3 + 3")
    module = root / "module.py"
    module.write_text("value = 1")
    monkeypatch.setattr(graph.dependencies, "files", lambda sources: [module])
    monkeypatch.setattr(graph, "SHOWN", {"01": "longer"})
    figures = results.figure_dir("smoke")
    for stem in ("01_first", "05_digits", "05_digits_verdicts"):
        (figures / f"{stem}.csv").write_text("a,b\n1,2\n")
        record = {"wall_seconds": 100.0 if "verdicts" in stem else 20.0, "workers": 2, "cpus": 4}
        (figures / f"{stem}.json").write_text(json.dumps(record))
    rows = [["T4-two-extra-digits", "05", "s", 1, 0, 2, 9, "0", "holds"],
            ["F5-ncm-falls", "06", "s", 1, 0, 2, 9, "0", "holds"]]  # fmt: skip
    pd.DataFrame(rows, columns=CLAIM_COLUMNS).to_csv(figures / "claims.csv", index=False)
    _bring_up_to_date(place)
    return place


def _plan(place: Path, profile: str = "smoke", **parameters) -> dict:
    return graph.plan(sorted(place.glob("*.ipynb")), profile, GIVEN | parameters)


def _bring_up_to_date(place: Path) -> None:
    """As if all were run now."""
    for stem, notebook in _plan(place)["notebooks"].items():
        (results.run_dir("smoke", "notebooks") / f"{stem}.ipynb").write_text("executed")
        graph.leave_stamp(notebook["stamp"], place / f"{stem}.ipynb", "smoke", GIVEN)


def _open(place: Path, **parameters) -> list[str]:
    """Numbers of the notebooks that are out of date."""
    notebooks = _plan(place, **parameters)["notebooks"]
    return [s[:2] for s, step in notebooks.items() if not graph.is_done(step["stamp"], "smoke")]


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_nothing_is_out_of_date_when_nothing_has_changed(folder):
    assert _open(folder) == []
    assert _open(folder) == []  # looking changes nothing


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda nb, root: _edit(nb / "05_digits.ipynb", "2 + 2", "2 + 3"), ["05"]),
        (lambda nb, root: _edit(nb / "05_digits.ipynb", "# Title", "# Name"), ["05"]),
        (lambda nb, root: _edit(root / "module.py", "1", "2"), ["01", "05", "11"]),
        (lambda nb, root: (root / "runs/smoke/notebooks/05_digits.ipynb").unlink(), ["05"]),
        (lambda nb, root: write(nb, "06_new"), ["06", "11"]),
        # tables: the reader has read those of all, in every profile
        (lambda nb, root: _edit(root / "figures/smoke/05_digits.csv", "1,2", "1,3"), ["05", "11"]),
        (lambda nb, root: (root / "figures/smoke/05_digits_verdicts.csv").unlink(), ["05", "11"]),
        (lambda nb, root: (root / "figures/smoke/05_digits.json").unlink(), ["05"]),
        (lambda nb, root: _edit(root / "figures/smoke/claims.csv", "05,s", "05,t"), ["05", "11"]),
        (lambda nb, root: _edit(root / "figures/smoke/claims.csv", "06,s", "06,t"), ["11"]),
        (lambda nb, root: results.write_text(root / "figures/photos/05_digits.csv", "a"), ["11"]),
        # a table that a notebook shows and does not make
        (lambda nb, root: results.write_text(root / "figures/smoke/longer.csv", "a"), ["01", "11"]),
        (lambda nb, root: results.write_text(root / "figures/photos/longer.csv", "a"), ["11"]),
        # what decides nothing
        (lambda nb, root: _edit(root / "figures/smoke/05_digits.json", "20.0", "30.0"), []),
        (lambda nb, root: results.write_text(root / "other_module.py", "x = 2"), []),
        (lambda nb, root: os.utime(nb / "05_digits.ipynb"), []),
    ],
)
def test_what_a_change_makes_out_of_date(folder, root, change, expected):
    change(folder, root)
    assert _open(folder) == expected
    _bring_up_to_date(folder)
    assert _open(folder) == []


def test_what_notebooks_show_is_what_the_command_writes():
    assert graph.SHOWN == {
        "03": granularity_length.STEM,
        "04": sorting_length.STEM,
        "08": chain_length.STEM,
    }


def test_outputs_of_a_notebook_decide_nothing(folder):
    notebook = nbformat.read(folder / "05_digits.ipynb", 4)
    notebook.cells[1].execution_count = 1
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text="4")]
    notebook.metadata["realqa"] = {"code_hash": "x"}
    nbformat.write(notebook, folder / "05_digits.ipynb")
    assert _open(folder) == []


def test_parameters_and_seeds_decide(folder, monkeypatch):
    monkeypatch.setenv("REALQA_SEEDS", "0")
    assert _open(folder) == []  # the seeds that smoke has
    monkeypatch.setenv("REALQA_SEEDS", "0,1")
    assert _open(folder) == ["01", "05", "11"]
    monkeypatch.delenv("REALQA_SEEDS")
    # The figures may be those of the other seeds by now: what was up to date no longer is.
    assert _open(folder) == ["01", "05", "11"]
    _bring_up_to_date(folder)
    assert _open(folder, seed=3) == ["01", "05", "11"]


def test_versions_decide(folder, monkeypatch):
    monkeypatch.setattr(graph.metadata, "version", lambda name: "99")
    assert _open(folder) == ["01", "05", "11"]


def test_only_what_is_asked_for_loses_its_stamp(folder, monkeypatch):
    graph.plan([folder / "05_digits.ipynb"], "smoke", GIVEN | {"seed": 3})
    assert _open(folder) == ["05"]


def test_code_that_was_edited_while_a_notebook_ran_is_run_again(folder, root):
    _edit(folder / "05_digits.ipynb", "2 + 2", "2 + 3")
    step = _plan(folder)["notebooks"]["05_digits"]
    _edit(folder / "05_digits.ipynb", "2 + 3", "2 + 4")
    graph.leave_stamp(step["stamp"], folder / "05_digits.ipynb", "smoke", GIVEN)
    assert graph.is_done(step["stamp"], "smoke")  # the engine goes on
    _edit(folder / "05_digits.ipynb", "2 + 4", "2 + 3")
    assert _open(folder) == ["05"]


def test_the_reader_waits_for_those_that_run_with_it(folder):
    notebooks = _plan(folder)["notebooks"]
    others = [notebooks[stem]["stamp"] for stem in ("01_first", "05_digits")]
    assert notebooks["11_scoreboard"]["after"] == others
    assert notebooks["05_digits"]["after"] == []
    alone = graph.plan([folder / "11_scoreboard.ipynb"], "smoke", GIVEN)
    assert alone["notebooks"]["11_scoreboard"]["after"] == []


def test_cores_and_expected_core_seconds(folder):
    write(folder, "12_speed")
    notebooks = _plan(folder)["notebooks"]
    assert [step["cores"] for step in notebooks.values()] == [1, 4, 1, 4]
    assert [step["alone"] for step in notebooks.values()] == [False, False, False, True]
    # 01 and 05 were recorded at work on two; of the others only 11 is known to be light
    assert [step["expected"] for step in notebooks.values()] == [40, 200, 120, None]


def test_each_notebook_has_a_core_and_one_that_measures_has_all(folder):
    write(folder, "12_speed")
    steps = _plan(folder)["notebooks"].values()
    assert [graph.cores(step, 1) for step in steps] == [1, 1, 1, 1]
    assert [graph.cores(step, 8) for step in steps] == [1, 1, 1, 8]
    assert [graph.cores(step, None) for step in steps] == [1, 4, 1, 4]  # a cluster


def test_models_that_need_the_machine_have_it_one_by_one(folder, tmp_path, monkeypatch):
    """Of the profiles of the paper's size: two trainings do not fit on a card side by side."""
    monkeypatch.setenv("REALQA_DATA", str(tmp_path))
    steps = graph.plan(sorted(folder.glob("*.ipynb")), "gpu24", {})["notebooks"].values()
    assert [graph.cores(step, 8) for step in steps] == [8, 8, 8]
    assert [graph.cores(step, None) for step in steps] == [1, 4, 1]


def test_a_plan_is_plain_json(folder):
    plan = _plan(folder, rate=0.5)
    assert json.loads(json.dumps(plan)) == plan
    assert plan["environment"]["REALQA_ROOT"] == str(results.root())
