"""Really killing a run, and running it again: nothing finished is lost, nothing half is taken.

The notebook that is killed works in stages that it keeps on disk, as trainings are (`trials`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from small_notebooks import write

from realqa_utils.reproduction import graph

pytestmark = pytest.mark.slow

RUN = """
import signal, sys
from pathlib import Path
from realqa_utils.reproduction import notebooks
# a shell that starts tests in the background has them ignore key presses
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(notebooks.reproduce("smoke", folder=Path(sys.argv[1])))
"""
#: Each stage is done by one of two processes, leaves its number and, first, a line in a log. While
#: the file `slow` is there it takes long.
STAGES = """
import os, sys, time
from pathlib import Path
from realqa_utils import parallel
from realqa_utils.records import results
root = Path(os.environ["REALQA_ROOT"])
(root / "kernel").write_text(str(os.getpid()))
def stage(number):
    kept = root / f"stage-{number}"
    if not kept.exists():
        with open(root / "log", "a") as log:
            print(number, file=log, flush=True)
        if number > 1 and (root / "slow").exists():
            (root / f"worker-{number}").write_text(str(os.getpid()))
            time.sleep(60)
        kept.write_text("done")
parallel.run_all(stage, range(4), workers=2)
"""


@pytest.fixture
def folder(root) -> Path:
    place = root / "notebooks"
    write(place, "00_quick", "1 + 1")
    write(place, "05_long", STAGES, "results.write_text(root / 'figures/smoke/05_long.csv', 'a')")
    (root / "slow").touch()
    return place


def _start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder)],
        env=os.environ | {"REALQA_WORKERS": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _wait_for(process: subprocess.Popen, *paths: Path, seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not all(path.exists() and path.read_text() for path in paths):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < until, f"{paths} did not come"
        time.sleep(0.05)


def _gone(pid: int, seconds: float = 30) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def _statuses(printed: str) -> list[str]:
    table = printed.split("notebook  ")[-1].split("\n\n")[0].splitlines()[1:]
    return [line.split(maxsplit=2)[2] for line in table]


@contextmanager
def _in_the_long_stage(folder: Path, root: Path) -> Iterator[subprocess.Popen]:
    """A run whose workers are in the stages 2 and 3; nothing of it may outlive the test."""
    process = _start(folder)
    try:
        _wait_for(process, root / "worker-2", root / "worker-3")
        yield process
        for name in ("kernel", "worker-2", "worker-3"):
            assert _gone(int((root / name).read_text())), f"the {name} goes on"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def _run_again(folder: Path, root: Path) -> None:
    (root / "slow").unlink()
    process = _start(folder)
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == 0, printed
    assert _statuses(printed) == ["kept", "ok"]
    log = (root / "log").read_text().split()
    assert sorted(log) == ["0", "1", "2", "2", "3", "3"]  # finished stages are done once
    executed = nbformat.read(root / "runs/smoke/notebooks/05_long.ipynb", 4)
    assert [c.execution_count for c in executed.cells if c.cell_type == "code"] == [1, 2, 3, 4]
    assert not list((root / "runs/smoke/partial").iterdir())


def test_killed_with_9_and_run_again(folder, root):
    with _in_the_long_stage(folder, root) as process:
        process.kill()  # the very command that the user typed
    assert not (root / "runs/smoke/notebooks/05_long.ipynb").exists()
    assert [path.name[:2] for path in graph.folder("smoke").glob("*.????????????????.json")] == [
        "00"
    ]
    _run_again(folder, root)


def test_a_key_press_ends_it_in_order(folder, root):
    with _in_the_long_stage(folder, root) as process:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=300)
    assert process.returncode not in (0, None)
    _run_again(folder, root)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to find a process's parent")
@pytest.mark.parametrize("victim", ["kernel", "job"])
def test_what_the_system_kills_has_failed(folder, root, victim):
    with _in_the_long_stage(folder, root) as process:
        kernel = int((root / "kernel").read_text())
        os.kill(kernel if victim == "kernel" else _parent(kernel), signal.SIGKILL)
        printed = process.communicate(timeout=300)[0]
    assert process.returncode == 1
    assert _statuses(printed) == ["ok", "failed"]
    assert "05_long.ipynb: " in printed.splitlines()[-1]  # what became of it


def test_killed_at_many_moments(folder, root):
    """Whenever it is killed: every stamp that is there is whole, and the last run finishes."""
    (root / "slow").unlink()
    for seconds in (0.5, 2, 3, 4):
        process = _start(folder)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        for path in graph.folder("smoke").glob("*.json"):
            assert json.loads(path.read_text()), path
    process = _start(folder)
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == 0, printed
    assert sorted((root / "log").read_text().split())[:1] == ["0"]
    assert {*_statuses(printed)} <= {"ok", "kept"}
    assert (root / "figures/smoke/05_long.csv").read_text() == "a"
    process = _start(folder)
    assert _statuses(process.communicate(timeout=300)[0]) == ["kept", "kept"]
