"""The parameters of a notebook."""

from __future__ import annotations

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from realqa_utils.reproduction.parameters import NotebookError, check_parameters, defaults

SOURCE = '# the size\nprofile = "mini"\nseed: int = 0\nrate = 1e-3\nflags = [1]\nlimit = None\n'


@pytest.fixture
def notebook(tmp_path):
    """Writes `05_digits.ipynb` with these sources as its `parameters` cells."""

    def write(*sources):
        cells = [new_code_cell("1 + 1"), *(new_code_cell(source) for source in sources)]
        for cell in cells[1:]:
            cell.metadata["tags"] = ["parameters"]
        path = tmp_path / "05_digits.ipynb"
        nbformat.write(new_notebook(cells=cells), path)
        return path

    return write


def test_defaults_are_values_not_text(notebook):
    assert defaults(notebook(SOURCE)) == {
        "profile": "mini", "seed": 0, "rate": 0.001, "flags": [1], "limit": None,
    }  # fmt: skip


def test_only_what_differs_is_injected(notebook):
    given = {"profile": "photos", "seed": 0, "rate": 1, "flags": (2,), "limit": 3}
    assert check_parameters(notebook(SOURCE), given) == {
        "profile": "photos", "rate": 1, "flags": (2,), "limit": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "05_digits.ipynb: 0 cells are tagged 'parameters', not one"),
        (["a = 1", "b = 2"], "2 cells are tagged 'parameters', not one"),
        (["a = 1\nimport os"], "literals only.*line 2 is no assignment"),
        (["a = max(1, 2)"], "line 1: a is no literal"),
        (["a = b = 1"], "line 1 is no assignment"),
        (["a, b = 1, 2"], "line 1 assigns to more than one name"),
        (["a: int"], "line 1 is no assignment"),
        (["a = "], "literals only"),
    ],
)
def test_no_parameters_or_no_literals(notebook, sources, message):
    with pytest.raises(NotebookError, match=message):
        defaults(notebook(*sources))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"sead": 1}, "05_digits.ipynb: unknown parameter 'sead': did you mean 'seed'"),
        ({"seed": "1"}, "seed is of type int, not str: '1'"),
        ({"seed": 1.0}, "seed is of type int, not float"),
        ({"seed": True}, "seed is of type int, not bool"),
        ({"seed": None}, "seed is of type int, not NoneType"),
        ({"profile": 3}, "profile is of type str, not int"),
        ({"flags": {"a": 1}}, "flags is of type list, not dict"),
    ],
)
def test_unknown_parameter_or_wrong_type(notebook, parameters, message):
    with pytest.raises(NotebookError, match=message):
        check_parameters(notebook(SOURCE), parameters)


def test_what_is_no_notebook(tmp_path):
    (tmp_path / "05_x.ipynb").write_text("not json")
    for name in ("05_x.ipynb", "06_missing.ipynb"):
        with pytest.raises(NotebookError, match=f"{name}: cannot be read as a notebook"):
            defaults(tmp_path / name)
