"""The graph of the notebooks: what each depends on, and whether its results are up to date.

A notebook that went through leaves a stamp, `runs/<profile>/graph/<stem>.<fingerprint>.json`. The
fingerprint is a hash of all that decides the results: the cells, the parts of the package that they
import, the profile, parameters, versions, photographs. So results are up to date when the stamp of
that name is there and the files that it tells of are still as it says. `notebooks/Snakefile` makes
the stamps that are missing; since they are written last and in one step, that state survives any
kill, and nothing that the engine itself remembers is needed.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from realqa_utils.profiles import get_profile
from realqa_utils.records import provenance, results
from realqa_utils.reproduction import dependencies
from realqa_utils.reproduction.parameters import cells

PATTERN = "[0-9][0-9]_*.ipynb"
#: Numbers of the notebooks that read the results of all others, and so come last.
READERS = ("11",)
#: Results that a notebook shows and does not make: `realqa lengths` does.
SHOWN = {"03": "granularity_length", "04": "sorting_length", "08": "chain_length"}
#: Of those that compute little: one core each on a cluster too.
LIGHT = ("00", "01", "11")
LITTLE = 120.0  # core seconds of one of them of which no run is recorded
#: Of those that measure speed: nothing runs beside them.
ALONE = ("12",)
#: Cores that one notebook makes good use of on a cluster: most train a handful of models per
#: condition.
CORES = 4
#: Into the jobs, wherever they run.
PASSED_ON = ("REALQA_DATA", "REALQA_DRY_RUN", "REALQA_MODEL", "REALQA_PIXELS", "REALQA_SEEDS")


def plan(paths: Sequence[Path], profile: str, parameters: Mapping[str, object]) -> dict:
    """How to bring the notebooks at `paths` up to date, as plain JSON for the Snakefile and jobs.

    `notebooks` maps a stem to its path, its stamp, the stamps that come before it, its cores,
    whether it has the machine for itself, and the core seconds expected, or None. Stamps that do
    not hold are removed.
    """
    names = {path.stem: stamp(path, profile, parameters) for path in paths}
    for stem, name in names.items():
        _forget(stem, profile, keep=name if _holds(stem, name, profile) else "")
    one_by_one = get_profile(profile).workers == 1  # models that have the machine for themselves
    return {
        "run": secrets.token_hex(4),
        "profile": profile,
        "parameters": dict(parameters),
        "environment": {"REALQA_ROOT": str(results.root())}
        | {key: os.environ[key] for key in PASSED_ON if key in os.environ},
        "notebooks": {
            path.stem: {
                "path": str(path.resolve()),
                "stamp": names[path.stem],
                "after": [names[stem] for stem in _read_by(path) if stem in names],
                "cores": 1 if path.stem[:2] in LIGHT else CORES,
                "alone": one_by_one or path.stem[:2] in ALONE,
                "expected": expected(path.stem, profile),
            }
            for path in paths
        },
    }


def cores(notebook: Mapping, here: int | None) -> int:
    """Cores of one notebook of a plan, on a machine that has so many; None: on a cluster.

    On one machine each has one of its own, and whichever needs more borrows what is left over
    (`spare_cores`). One that runs alone has them all.
    """
    if not here:
        return notebook["cores"]
    return here if notebook["alone"] else 1


def folder(profile: str) -> Path:
    """Where plan, stamps, logs and the engine's own files of a profile are."""
    return results.run_dir(profile, "graph")


def _read_by(path: Path) -> list[str]:
    """Stems of the notebooks whose results a notebook reads."""
    stems = sorted(other.stem for other in path.parent.glob(PATTERN))
    reads = path.stem[:2] in READERS
    return [stem for stem in stems if stem[:2] not in READERS] if reads else []


def expected(stem: str, profile: str) -> float | None:
    """Core seconds that a notebook took when its results were recorded; None: they never were."""
    records = [path for path in results.figure_dir(profile).glob("*.json") if is_of(path, stem)]
    taken = [provenance.core_seconds(json.loads(path.read_text("utf-8"))) for path in records]
    return max(taken, default=LITTLE if stem[:2] in LIGHT else None)


# --- stamps --------------------------------------------------------------------------------------


def stamp(path: Path, profile: str, parameters: Mapping[str, object]) -> str:
    """Name of the stamp of a notebook's results as they would be now."""
    content = cells(path)
    used = dependencies.files(cell.source for cell in content if cell.kind == "code")
    facts = {
        "cells": content,
        "code": {
            os.path.relpath(file, dependencies.PACKAGE): provenance.file_hash(file) for file in used
        },
        "profile": asdict(get_profile(profile)),
        "parameters": dict(parameters),
        "versions": {name: metadata.version(name) for name in provenance.PACKAGES},
        "photographs": _photographs(profile),
        "reads": _read_by(path),
    }
    text = json.dumps(facts, sort_keys=True, default=str)
    return f"{path.stem}.{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def leave_stamp(name: str, path: Path, profile: str, parameters: Mapping[str, object]) -> Path:
    """Write the stamp of a notebook that has just gone through.

    Where its code was edited while it ran, the stamp says so, and does not hold in the next plan.
    """
    now = stamp(path, profile, parameters)
    return results.write_json(folder(profile) / name, _told(path.stem, now, profile))


def is_done(name: str, profile: str) -> bool:
    """Whether the stamp is there."""
    return (folder(profile) / name).exists()


def stamps(stem: str, profile: str) -> list[Path]:
    """The stamp of a notebook's last run, if that went through."""
    return sorted(folder(profile).glob(f"{stem}.{'[0-9a-f]' * 16}.json"))


def _holds(stem: str, name: str, profile: str) -> bool:
    if not is_done(name, profile):
        return False
    told = json.loads((folder(profile) / name).read_text("utf-8"))
    return told == _told(stem, name, profile)


def _forget(stem: str, profile: str, keep: str = "") -> None:
    """Remove a notebook's stamps but one: its results are overwritten from here on."""
    for path in stamps(stem, profile):
        if path.name != keep:
            path.unlink()


def _told(stem: str, name: str, profile: str) -> dict[str, str]:
    """What a stamp tells: its name, and what belongs to the results, with hashes of the tables.

    Records and pictures are only listed: a record has the time and date of its run. To a reader
    belong the tables of all others too, of every profile.
    """
    place, claims = results.figure_dir(profile), results.claims(profile)
    executed = results.run_dir(profile, "notebooks") / f"{stem}.ipynb"
    told = {
        "stamp": name,
        "executed": str(executed.exists()),
        "claims": claims[claims["notebook"] == stem[:2]].to_csv(index=False),
    }
    mine = [path for path in place.iterdir() if is_of(path, stem)]
    read = place.parent.glob("*/*.csv") if stem[:2] in READERS else []
    shown = place.glob(f"{SHOWN[stem[:2]]}.csv") if stem[:2] in SHOWN else []
    for path in sorted({*mine, *read, *shown}):
        key = path.relative_to(place.parent).as_posix()
        told[key] = provenance.file_hash(path) if path.suffix == ".csv" else ""
    return told


def is_of(path: Path, stem: str) -> bool:
    return path.stem == stem or path.stem.startswith(f"{stem}_")


def _photographs(profile: str) -> str:
    """Hash of the names and sizes below REALQA_DATA, where the profile reads it."""
    if get_profile(profile).data != "real":
        return ""
    place = Path(os.environ["REALQA_DATA"])
    files = (f"{p.relative_to(place)} {p.stat().st_size}" for p in place.rglob("*") if p.is_file())
    return hashlib.sha256("\n".join(sorted(files)).encode()).hexdigest()
