"""Where a result comes from: hashes of code and data, versions, machine, time.

Everything here is recorded beside each result (`results.save`), so that two results can be told
apart, or be told to be the same, without asking anybody.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from realqa_utils import __version__, parallel, spare_cores
from realqa_utils.records import energy

try:  # Unix only: elsewhere peak memory is not recorded
    import resource
except ImportError:  # pragma: no cover
    resource = None

PACKAGES = ("torch", "transformers", "peft", "numpy", "scipy")


@dataclass(frozen=True)
class Stopwatch:
    """Started where it is made; `seconds` is the wall time since, `joules` the machine's energy.

    `core_seconds` are those of the cores that this process has, and of those that it borrowed.
    """

    started: float = field(default_factory=time.perf_counter)
    energy: Mapping[Path, int] = field(default_factory=energy.counters, repr=False, compare=False)
    borrowed: float = field(default_factory=spare_cores.borrowed, repr=False, compare=False)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    @property
    def core_seconds(self) -> float:
        return self.seconds * parallel.cores() + spare_cores.borrowed() - self.borrowed

    @property
    def joules(self) -> float | None:
        return energy.joules(self.energy, self.seconds)


def core_seconds(record: Mapping) -> float:
    """Those of a result by its record; earlier ones tell the processes at work, or the CPUs."""
    if "core_seconds" in record:
        return record["core_seconds"]
    return record["wall_seconds"] * record.get("workers", record["cpus"])


def home() -> Path:
    """The checkout that the package runs from (it holds `notebooks/`), else the working folder."""
    checkout = _package().parent
    return checkout if (checkout / "notebooks").is_dir() else Path.cwd()


def _package() -> Path:
    return Path(__file__).resolve().parents[1]


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_hash() -> str:
    """SHA-256 of the package's Python sources, names included: the code's identity without git."""
    package = _package()
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py"), key=lambda path: path.as_posix()):
        digest.update(f"{path.relative_to(package).as_posix()}\0{file_hash(path)}\n".encode())
    return digest.hexdigest()


def provenance() -> dict[str, object]:
    """What a result says about code and machine: versions, code, CPUs, processes and threads at
    work, GPU, memory, date.

    `dirty` tells uncommitted changes of the package; it and `commit` are None outside of git.
    Peak memory is in MiB: of this process or of the largest process that it started.
    """
    torch = sys.modules.get("torch")  # asked only when it is loaded: its import takes seconds
    return {
        "versions": {name: metadata.version(name) for name in PACKAGES} | {"realqa": __version__},
        "code": {"source_hash": source_hash()} | _git_state(),
        "python": platform.python_version(),
        "cpus": _cpus(),
        "workers": parallel.cores(),
        "threads": torch.get_num_threads() if torch else None,
        "gpu": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None,
        "peak_memory_mib": _peak_memory(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def line(profile: str) -> str:
    """One line for the top of a notebook: profile, code, versions and machine."""
    facts = provenance()
    code = facts["code"]["source_hash"][:10]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    machine = f"Python {facts['python']}; {facts['cpus']} CPUs"
    return f"profile {profile}; code {code}; {versions}; {machine}"


def _cpus() -> int:
    """CPUs that this process may use; containers often allow fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # pragma: no cover


def _peak_memory() -> float | None:
    if resource is None:  # pragma: no cover
        return None
    owners = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(owner).ru_maxrss for owner in owners)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    return round(peak * unit / 2**20, 1)


def _git_state() -> dict[str, object]:
    if not (_package().parent / ".git").exists():  # an installed copy may lie in another's checkout
        return {"commit": None, "dirty": None}
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", "realqa_utils")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    try:
        run = subprocess.run(
            ["git", *arguments],
            cwd=_package().parent,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):  # no git, or no commit yet
        return None
    return run.stdout.strip()
