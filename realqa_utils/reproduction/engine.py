"""Snakemake, which decides what of the graph runs when, in a process of its own.

What it prints goes to a log: `progress` tells a reader what happens.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from realqa_utils import parallel, spare_cores
from realqa_utils.records import provenance

#: Whether results are up to date is told by stamps alone (`graph`), which are never half-written.
#: So a kill leaves no lock and no mark that somebody would have to remove before the next run.
OPTIONS = (
    "--keep-going", "--nolock", "--ignore-incomplete", "--drop-metadata",
    "--rerun-triggers", "mtime", "--scheduler", "greedy", "--nocolor",
)  # fmt: skip
PATIENCE = 20  # seconds for the engine to cancel its jobs


def start(plan: Path, cluster: str = "") -> subprocess.Popen:
    """Run the graph that the file `plan` describes.

    `cluster` names a folder with a Snakemake profile, here or in `notebooks/profiles/`; without
    it the jobs run on this machine's cores. Raises FileNotFoundError when there is no such folder.
    """
    notebooks = provenance.home() / "notebooks"
    options = ["--snakefile", str(notebooks / "Snakefile"), "--directory", str(plan.parent)]
    options += ["--config", f"plan={plan}", *OPTIONS]
    environment = dict(os.environ)
    if cluster:
        options += ["--profile", str(_cluster(cluster, notebooks / "profiles"))]
    else:  # and no profile of the user's
        options += ["--profile", "none", "--workflow-profile", "none"]
        options += ["--cores", str(parallel.cores())]
        environment[spare_cores.SPARE] = str(spare(plan))
    with open(log(plan), "wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "realqa_utils.reproduction.engine", *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a key press reaches `stop` only
        )


def log(plan: Path) -> Path:
    """The file that the engine prints into."""
    return plan.with_name("engine.log")


def spare(plan: Path) -> Path:
    """The file that tells notebooks on this machine how many cores are left over."""
    return plan.with_name("spare")


def _cluster(name: str, profiles: Path) -> Path:
    for place in (Path(name), profiles / name):
        if (place / "config.yaml").is_file():
            return place.resolve()
    raise FileNotFoundError(
        f"cluster {name!r}: neither {name} nor {profiles / name} is a folder with a config.yaml"
    )


def stop(process: subprocess.Popen) -> None:
    """End the engine and its jobs: as a key press would, so that it takes them off a cluster."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    parallel.end_with_parent()
    from snakemake.cli import main

    main(sys.argv[1:])
