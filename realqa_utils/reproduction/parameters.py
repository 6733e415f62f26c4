"""The parameters of a notebook: read without running it, and checked before anything runs.

papermill only warns about a misspelt parameter and runs the default, and without a `parameters` tag
it lets the notebook overwrite what was given. Both are errors here.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from realqa_utils.profiles import unknown

if TYPE_CHECKING:
    from nbformat import NotebookNode


class NotebookError(ValueError):
    """A notebook that cannot be run as asked, or failed while it ran."""


class Cell(NamedTuple):
    """What decides how a cell runs."""

    kind: str  # code | markdown | raw
    source: str
    tags: tuple[str, ...]


def cells(path: Path) -> list[Cell]:
    """The cells of the notebook at `path`, without outputs.

    A plain look into the JSON, since nbformat takes two seconds to import. Raises NotebookError
    when there is no notebook of format 4 that can be read.
    """
    try:
        notebook = json.loads(path.read_text("utf-8"))
        if notebook.get("nbformat") != 4:
            raise ValueError(f"format {notebook.get('nbformat')}, not 4")
        return [_cell(cell) for cell in notebook["cells"]]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise NotebookError(f"{path}: cannot be read as a notebook: {error}") from None


def _cell(cell: dict) -> Cell:
    tags = cell.get("metadata", {}).get("tags", [])
    return Cell(cell["cell_type"], "".join(cell["source"]), tuple(tags))  # a list of lines, or text


def read(path: Path) -> NotebookNode:
    """The notebook at `path`. Raises NotebookError when there is none that can be read."""
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except (OSError, nbformat.reader.NotJSONError) as error:
        raise NotebookError(f"{path}: cannot be read as a notebook: {error}") from None


def defaults(path: Path) -> dict[str, object]:
    """The parameters of a notebook and their defaults, without running it.

    Raises NotebookError when there is not exactly one cell tagged `parameters`, or it holds
    anything but assignments of literals.
    """
    tagged = [cell for cell in cells(path) if "parameters" in cell.tags]
    if len(tagged) != 1:
        raise NotebookError(f"{path.name}: {len(tagged)} cells are tagged 'parameters', not one")
    try:
        return dict(_assignment(node) for node in ast.parse(tagged[0].source).body)
    except (SyntaxError, ValueError) as error:
        raise NotebookError(
            f"{path.name}: the parameters cell holds assignments of literals only, "
            f"like seed = 0: {error}"
        ) from None


def _assignment(node: ast.stmt) -> tuple[str, object]:
    """(name, value) of `name = literal`. Raises ValueError for any other statement."""
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        target = node.target
    else:
        raise ValueError(f"line {node.lineno} is no assignment")
    if not isinstance(target, ast.Name):
        raise ValueError(f"line {node.lineno} assigns to more than one name")
    try:
        return target.id, ast.literal_eval(node.value)
    except ValueError:
        raise ValueError(f"line {node.lineno}: {target.id} is no literal") from None


def check_parameters(path: Path, parameters: Mapping[str, object]) -> dict[str, object]:
    """Those of `parameters` that differ from the notebook's defaults: what has to be injected.

    Raises NotebookError for an unknown name (with the nearest right one) or a value whose type is
    not the default's. An int may stand for a float; a default of None takes anything.
    """
    known = defaults(path)
    for name, value in parameters.items():
        if name not in known:
            raise NotebookError(f"{path.name}: " + unknown("parameter", name, known))
        if not _fits(value, known[name]):
            wanted, given = type(known[name]).__name__, type(value).__name__
            raise NotebookError(f"{path.name}: {name} is of type {wanted}, not {given}: {value!r}")
    return {name: value for name, value in parameters.items() if value != known[name]}


def _fits(value: object, default: object) -> bool:
    if default is None or type(value) is type(default):
        return True
    pair = {type(value), type(default)}
    return pair == {list, tuple} or (type(value) is int and type(default) is float)
