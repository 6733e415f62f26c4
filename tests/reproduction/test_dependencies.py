"""Which files a notebook depends on: against hand-made packages, and the library's own finder."""

from __future__ import annotations

from modulefinder import ModuleFinder
from pathlib import Path

import pytest

from realqa_utils.reproduction import dependencies, notebooks
from realqa_utils.reproduction.parameters import cells

PATHS = notebooks.find()
SOURCES = {
    "__init__.py": "",
    "a.py": "from . import b\nNAMES = 'a.csv'",
    "b.py": "def later():\n    from kit.inner.c import value",
    "d.py": "TABLE = 'd.csv'",
    "e.py": "import importlib\nimportlib.import_module(chosen)",
    "f.py": "import subprocess\nsubprocess.run(['python', '-m', 'kit.d'])",
    "inner/__init__.py": "",
    "inner/c.py": "from ..d import x\nfrom .. import weights",
    "inner/unused.py": "from . import c",
    "a.csv": "",
    "d.csv": "",
    "weights/w.bin": "",
    "nobody_knows.txt": "",
    "__pycache__/a.pyc": "",
}
ALL = {name for name in SOURCES if "pycache" not in name}


@pytest.fixture
def package(tmp_path) -> Path:
    folder = tmp_path / "kit"
    for name, text in SOURCES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def _used(package: Path, *code: str) -> set[str]:
    return {path.relative_to(package).as_posix() for path in dependencies.files(code, package)}


@pytest.mark.parametrize(
    ("code", "modules"),
    [
        ("import os", set()),
        ("import kit", {"__init__.py"}),
        ("from kit import d", {"__init__.py", "d.py", "d.csv"}),
        ("import kit.d as x", {"__init__.py", "d.py", "d.csv"}),
        ("if x:\n    from kit.d import TABLE", {"__init__.py", "d.py", "d.csv"}),
        ("%matplotlib inline\n!ls\nfrom kit import d", {"__init__.py", "d.py", "d.csv"}),
        # a -> b -> inner.c, within a function -> d, and the folder of weights
        (
            "from kit import a",
            {"__init__.py", "a.py", "b.py", "inner/__init__.py", "inner/c.py", "d.py", "a.csv",
             "d.csv", "weights/w.bin"},
        ),
        ("from kit import f", {"__init__.py", "f.py", "d.py", "d.csv"}),
        ("from kit import e", ALL),
        ("__import__(name)", ALL),
        ("def broken(", ALL),
    ],
)  # fmt: skip
def test_what_code_imports_and_the_data_of_that(package, code, modules):
    assert _used(package, code) == modules | {"nobody_knows.txt"}


def test_cells_are_taken_together(package):
    assert _used(package, "import kit", "from kit import d") == _used(package, "import kit.d")


@pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
def test_modules_of_the_notebooks_are_those_that_python_finds(path, tmp_path):
    code = [cell.source for cell in cells(path) if cell.kind == "code"]
    found = dependencies.files(code)
    script = tmp_path / "notebook.py"
    script.write_text("\n".join(code))
    finder = ModuleFinder([str(dependencies.PACKAGE.parent)])
    finder.run_script(str(script))
    wanted = {Path(m.__file__) for m in finder.modules.values() if m.__file__} - {script}
    assert {file for file in found if file.suffix == ".py"} == wanted
    names = {file.relative_to(dependencies.PACKAGE).as_posix() for file in found}
    weights = "model/mini_backbone/model.safetensors"
    assert (weights in names) == ("model/backbone.py" in names)
    assert "records/results.py" in names and "cli.py" not in names
