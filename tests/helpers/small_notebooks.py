"""Notebooks in tests: some of a few lines, and the cells of any, run without a kernel."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PARAMETERS = 'profile = "mini"\nseed = 0'


def write(folder: Path, name: str, *sources: str, parameters: str = PARAMETERS) -> Path:
    """A title, the parameters, then a cell for each source. Its cells are numbered from 1."""
    first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell("# Title"), first, *map(new_code_cell, sources)]
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def go_through(path: Path, **parameters: object) -> dict[str, object]:
    """Run the cells of a notebook in this process, with what each shows; gives their names.

    A kernel would take longer to start than most of them to run.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        for number, cell in enumerate(nbformat.read(path, 4).cells):
            if cell.cell_type != "code":
                continue
            body = ast.parse(cell.source).body
            shown = body.pop() if body and isinstance(body[-1], ast.Expr) else None
            where = f"{path.name}, cell {number}"
            exec(compile(ast.Module(body, []), where, "exec"), names)
            if shown is not None:
                value = eval(compile(ast.Expression(shown.value), where, "eval"), names)
                getattr(value, "_repr_html_", lambda value=value: repr(value))()
            if "parameters" in cell.metadata.get("tags", ()):
                names |= parameters
    finally:
        os.chdir(before)
        plt.close("all")
    return names
