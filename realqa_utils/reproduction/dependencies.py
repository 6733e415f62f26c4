"""Which files of the package a notebook depends on, read from its imports without running it.

An edit of any other file leaves the notebook's results as they are. Where imports cannot be read
(code that does not parse, a module imported under a name made at run time) every file counts.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
DYNAMIC = {"import_module", "__import__"}
MAGIC = re.compile(r"^(\s*)[%!].*$", re.MULTILINE)  # of IPython: no Python


def files(sources: Iterable[str], package: Path = PACKAGE) -> list[Path]:
    """The modules of the package that pieces of code import, directly or not, and their data files.

    A data file belongs to the modules whose text has its name, or that of the folder it lies in
    (if that is no package); one that no module knows belongs to all.
    """
    everything = sorted(package.rglob("*.py"))
    found: set[Path] = set()
    waiting = [imports(MAGIC.sub(r"\1pass", source)) for source in sources]
    while waiting:
        names = waiting.pop()
        new = set(everything if names is None else _paths(names, package)) - found
        found |= new
        waiting += [_module_imports(path, package) for path in new]
    return sorted([*found, *_data(found, everything, package)])


@cache
def imports(code: str, inside: tuple[str, ...] = ()) -> frozenset[str] | None:
    """Dotted names of what is imported: modules, and names in them that may be modules.

    `inside` is the package that the code is in, for its relative imports. None: it cannot be told.

    >>> sorted(imports("import os.path\\nfrom . import scores", inside=("realqa_utils", "forms")))
    ['os.path', 'realqa_utils.forms.scores']
    """
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except SyntaxError:
        return None
    if any(DYNAMIC & {getattr(node, "id", ""), getattr(node, "attr", "")} for node in nodes):
        return None
    return frozenset(name for node in nodes for name in _names(node, inside))


def _names(node: ast.AST, inside: tuple[str, ...]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = inside[: len(inside) + 1 - node.level] if node.level else ()
        module = ".".join([*above, *([node.module] if node.module else [])])
        yield from (f"{module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Constant) and re.fullmatch(r"\w+(\.\w+)+", str(node.value)):
        yield str(node.value)  # of a command, perhaps: python -m realqa_utils.cli


def _paths(names: Iterable[str], package: Path) -> Iterator[Path]:
    """Files of the modules among dotted names, and of the packages above them."""
    for name in names:
        first, *rest = name.split(".")
        for depth in range(len(rest) + 1) if first == package.name else ():
            place = package.joinpath(*rest[:depth])
            candidates = (place / "__init__.py", place.with_suffix(".py"))
            yield from (path for path in candidates if path.is_file())


def _module_imports(path: Path, package: Path) -> frozenset[str] | None:
    inside = (package.name, *path.relative_to(package).parts[:-1])
    return imports(path.read_text("utf-8"), inside)


def _data(used: Iterable[Path], modules: Iterable[Path], package: Path) -> Iterator[Path]:
    text = {path: path.read_text("utf-8") for path in modules}
    for path in package.rglob("*"):
        names = {path.name} | {
            folder.name
            for folder in path.parents
            if package in folder.parents and not (folder / "__init__.py").exists()
        }
        if path.suffix == ".py" or "__pycache__" in names or not path.is_file():
            continue
        knowing = [module for module in modules if any(name in text[module] for name in names)]
        if not knowing or set(knowing) & set(used):
            yield path
