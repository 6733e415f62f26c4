"""One job of the graph: a notebook run in a process of its own.

python -m realqa_utils.reproduction.job PLAN STEM WORKERS
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from realqa_utils import parallel, spare_cores
from realqa_utils.records import results
from realqa_utils.reproduction import graph, notebooks, progress
from realqa_utils.reproduction.parameters import NotebookError


def main(arguments: Sequence[str]) -> int:
    """Run one notebook of a plan on as many cores as WORKERS says; 1 when it fails."""
    path, stem, workers = arguments
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback; the kernel sees us go, and goes
    parallel.end_with_parent()
    plan = json.loads(Path(path).read_text("utf-8"))
    bar = progress.bar_of(plan["profile"], stem)
    bar.unlink(missing_ok=True)
    os.environ |= plan["environment"] | {"REALQA_WORKERS": workers, parallel.PROGRESS: str(bar)}
    if workers != "1":  # they are its own, and nobody else's
        os.environ.pop(spare_cores.SPARE, None)
    # One thread a process, so that what is computed does not depend on the cores there are.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # A process of a run that was killed may need a moment to go.
    with FileLock(graph.folder(plan["profile"]) / f"{stem}.lock"):
        return _run(plan, stem)


def _run(plan: dict, stem: str) -> int:
    notebook, profile = plan["notebooks"][stem], plan["profile"]
    if graph.is_done(notebook["stamp"], profile):  # by that process
        return 0
    path, started = Path(notebook["path"]), time.time()
    partial = results.run_dir(profile, "partial") / path.name

    def tell(state: str, **facts: object) -> None:
        seconds = {"started": started, "seconds": time.time() - started}
        progress.tell(profile, stem, {"run": plan["run"], "state": state} | seconds | facts)

    try:
        notebooks.run(
            path, partial, plan["parameters"], lambda k, n: tell("running", cell=k, cells=n)
        )
    except NotebookError as error:
        tell("failed", error=str(error))
        return 1
    os.replace(partial, results.run_dir(profile, "notebooks") / path.name)
    graph.leave_stamp(notebook["stamp"], path, profile, plan["parameters"])
    tell("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
