"""Notebooks of a few lines, for the tests of what runs them."""

from __future__ import annotations

from pathlib import Path

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
