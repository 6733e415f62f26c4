"""`realqa data [--folder DIR]`: which public sets are there, and where to get what is missing."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from realqa_utils.datasets import qalign, registry
from realqa_utils.datasets.registry import SETS, RatedSet
from realqa_utils.datasets.table import Split, Table


@dataclass(frozen=True)
class State:
    """A set as found: its table, or the problem with it; so too for each of its protocols."""

    table: Table | Exception
    photos: int = 0  # how many are there
    protocols: Mapping[str, list[Split] | Exception] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """List all sets; one that is missing or broken is told in its line.

    Raises FileNotFoundError where the folder of them all is missing.
    """
    parser = argparse.ArgumentParser(prog="realqa data", description="List the public sets.")
    parser.add_argument(
        "--folder", metavar="DIR", help="the folder that the sets lie in (default: REALQA_DATA)"
    )
    options = parser.parse_args(arguments)
    if options.folder or os.environ.get("REALQA_DATA"):
        folder = registry.data_folder(options.folder)
        print(report(folder, {name: survey(SETS[name], folder) for name in SETS}))
    else:
        print("No data folder: give --folder DIR or set REALQA_DATA. What goes into it:")
        print("\n".join(advice([*(rated.where for rated in SETS.values()), qalign.WHERE])))
    return 0


def survey(rated: RatedSet, folder: Path) -> State:
    """What there is of a set; does not raise, whatever its files hold."""
    try:
        table = rated.annotations(folder)
    except Exception as problem:  # one damaged set must not hide the others
        return State(problem)
    photos = sum(map(os.path.isfile, table.frame["path"]))
    made: dict[str, list[Split] | Exception] = {}
    for name, protocol in rated.protocols.items():
        try:
            made[name] = protocol(table, folder)
        except Exception as problem:
            made[name] = problem
    return State(table, photos, made)


def report(folder: Path, states: Mapping[str, State]) -> str:
    """The listing: a line a set, a line a split, and where to get what is missing."""
    lines = [f"Sets in {folder}"]
    lines += [f"  {name:<13} {_set(SETS[name], state)}" for name, state in states.items()]
    lines += ["", "Splits by protocol: train / test photographs, hashes of their ids and MOS"]
    for name, state in states.items():
        lines += [f"  {name:<13} {line}" for line in _protocols(SETS[name], state)]
    return "\n".join([*lines, *advice(_missing(states))])


def _set(rated: RatedSet, state: State) -> str:
    if isinstance(state.table, FileNotFoundError):
        return f"{rated.title}: not found"
    if isinstance(state.table, Exception):
        return f"{rated.title}: broken: {_line(state.table, rated)}"
    mos, scale = state.table.frame["mos"], rated.scale
    return (
        f"{rated.title}: {len(mos)} of {rated.size} rated, MOS {mos.min():.4g}..{mos.max():.4g} "
        f"on {scale.low:g}..{scale.high:g}; {state.photos} files are there"
    )


def _protocols(rated: RatedSet, state: State) -> Iterator[str]:
    for name, made in state.protocols.items():
        if isinstance(made, Exception):
            yield f"{name:<10} not available: {_line(made, rated)}"
            continue
        for number, split in enumerate(made, 1):
            title = name if len(made) == 1 else f"{name} {number}"
            sides = (split.train, split.test)
            hashes = " / ".join(side.ids_hash if len(side) else "-" for side in sides)
            yield f"{title:<10} {len(split.train):>6} / {len(split.test):<6} {hashes}"


def _line(problem: Exception, rated: RatedSet) -> str:
    """A problem in one line; where to get things is told at the end."""
    text = str(problem)
    for advised in (rated.where, qalign.WHERE):
        text = text.replace(advised, "")
    return " ".join(text.split()).rstrip("; ") or type(problem).__name__


def _missing(states: Mapping[str, State]) -> list[str]:
    """Where to get each set that is not whole, and Q-Align's lists if one of them is missing."""
    wanted = {}
    for name, state in states.items():
        rated = SETS[name]
        whole = isinstance(state.table, Table) and state.photos == len(state.table) >= rated.size
        if not whole or any(rated.where in str(made) for made in state.protocols.values()):
            wanted[rated.where] = None
    problems = [str(made) for state in states.values() for made in state.protocols.values()]
    if any(qalign.WHERE in problem for problem in problems):
        wanted[qalign.WHERE] = None
    return list(wanted)


def advice(wheres: Sequence[str]) -> list[str]:
    """Lines that say what to get where, each thing once."""
    return [line for where in dict.fromkeys(wheres) for line in ("", *where.splitlines())]
