"""Data flows one way through the folders of the package: none imports from one that needs it."""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import TopologicalSorter

from realqa_utils.reproduction import dependencies
from realqa_utils.reproduction.dependencies import PACKAGE

#: Modules that look ahead, and the folder, or single file, that they look into.
LOOKS_AHEAD = {
    ("profiles", "training"),  # a profile is made of recipes
    ("model.adapters", "training"),  # the words for what a recipe trains
    ("model.quantised", "scoring"),  # whether 4 bits and float agree on scores
    ("records.hashes", "model"),  # the weights that decide a result
    ("records.results", "claims"),  # the names of claims and verdicts
    ("experiments.chain_of_thought", "plotting"),
    ("experiments.cost_table", "benchmarks"),  # what was measured on a GPU
}


def imported() -> Iterator[tuple[str, str]]:
    """Modules (`ncm.metric`, `cli`) and the folders, or single files, that each imports from."""
    for path in PACKAGE.rglob("*.py"):
        inside = path.relative_to(PACKAGE).with_suffix("").parts
        names = dependencies.imports(path.read_text("utf-8"), (PACKAGE.name, *inside[:-1])) or ()
        for name in names:
            first, *rest = name.split(".")
            if first == PACKAGE.name and rest and rest[0] != inside[0]:
                yield ".".join(inside), rest[0]


def test_no_folder_needs_one_that_needs_it():
    graph = TopologicalSorter()
    for module, needed in imported():
        if (module, needed) not in LOOKS_AHEAD:
            graph.add(module.split(".")[0], needed)
    order = list(graph.static_order())  # raises CycleError, which names the circle
    assert order.index("forms") < order.index("training") < order.index("experiments")


def test_who_looks_ahead_still_does():
    assert set(imported()) >= LOOKS_AHEAD
