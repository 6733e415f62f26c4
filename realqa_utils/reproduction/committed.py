"""The committed notebooks: executed copies, the same from any machine, as fresh as their code."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from realqa_utils.records import results
from realqa_utils.reproduction.parameters import read

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE_KEYS = ("file_extension", "mimetype", "name", "pygments_lexer")


def code_hash(notebook: NotebookNode) -> str:
    """SHA-256 of the sources of the code cells, in order."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def why_stale(path: Path) -> str:
    """Why the committed outputs of a notebook are not those of its code; empty when they are."""
    notebook = read(path)
    recorded = notebook.metadata.get("realqa", {}).get("code_hash")
    code = [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]
    counts = [cell.execution_count for cell in code]
    if recorded is None:
        return "was never executed by `make notebooks`"
    if recorded != code_hash(notebook):
        return "its code has changed since it was executed: run `make notebooks`"
    if counts != list(range(1, len(counts) + 1)):
        return f"its execution counts are {counts}, not 1..{len(counts)}"
    if any(output.output_type == "error" for cell in code for output in cell.outputs):
        return "a cell ends in an error"
    return ""


def portable(notebook: NotebookNode) -> NotebookNode:
    """`notebook` without what differs by machine or moment (papermill's metadata, timings, paths),
    and with the hash of its code."""
    language = notebook.metadata.get("language_info", {})
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": KERNEL,
            "language_info": {key: language[key] for key in LANGUAGE_KEYS if key in language},
            "realqa": {"code_hash": code_hash(notebook)},
        }
    )
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            cell.outputs = _without_paths(cell.outputs)
    return notebook


def _without_paths(content: object) -> object:
    """Absolute paths of this machine made relative: to the root, the environment, the home."""
    if isinstance(content, dict):
        return nbformat.from_dict(
            {
                key: value if str(key).startswith("image/") else _without_paths(value)
                for key, value in content.items()
            }
        )
    if isinstance(content, list):
        return [_without_paths(item) for item in content]
    return _shortened(content) if isinstance(content, str) else content


def _shortened(text: str) -> str:
    # Bounded: an open \S* takes quadratic time on a long text without blanks.
    text = re.sub(r"/\S{0,200}ipykernel_\d+/\d+\.py", "<cell>", text)
    places = {str(results.root()): ".", str(results.home()): ".", sys.prefix: "<environment>",
              str(Path.home()): "~"}  # fmt: skip
    for place in sorted(places, key=len, reverse=True):
        if place != "/":
            text = re.sub(rf"{re.escape(place)}(?![\w.-])", places[place], text)
    return text
