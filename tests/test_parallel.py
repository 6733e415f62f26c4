"""Jobs on several processes: the same results, in order, one thread each."""

from __future__ import annotations

import json
import operator
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from joblib.externals.loky.process_executor import TerminatedWorkerError

from realqa_utils import parallel, spare_cores
from realqa_utils.parallel import cores, opened_ahead, run_all
from realqa_utils.records import results


def test_cores_are_those_this_process_may_use():
    assert 1 <= cores() <= os.cpu_count()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no processor affinity here")
def test_cores_follow_the_affinity():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_the_order_of_the_tasks(workers):
    assert run_all(operator.neg, range(50), workers) == [-i for i in range(50)]


@pytest.mark.parametrize("workers", [None, 1, 2])
def test_no_tasks_no_results(workers):
    assert run_all(operator.neg, [], workers) == []


def test_one_worker_or_one_task_stays_in_this_process():
    here = os.getpid()
    assert run_all(lambda _: os.getpid(), range(3), 1) == [here] * 3
    assert run_all(lambda _: os.getpid(), [0], 8) == [here]


def _met(folder: Path, count: int) -> tuple[int, int]:
    """Process and torch's threads; not before so many processes have come here."""
    (folder / str(os.getpid())).touch()
    until = time.monotonic() + 60
    while len(list(folder.iterdir())) < count:
        assert time.monotonic() < until, "the others did not come"
        time.sleep(0.01)
    return os.getpid(), torch.get_num_threads()


def _processes(folder: Path, tasks: int, workers: int | None, count: int) -> set[int]:
    """Which did so many tasks, each waiting for as many as are expected."""
    folder.mkdir(exist_ok=True)
    found = run_all(partial(_met, count=count), [folder] * tasks, workers)
    assert {threads for _, threads in found} == {1}
    return {pid for pid, _ in found}


def test_this_process_and_another_have_one_thread_each(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)  # what the user asked for is for what is not shared
    try:
        found = _processes(tmp_path / "a", 6, 2, 2)
        assert len(found) == 2 and os.getpid() in found
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert _processes(tmp_path / "b", 6, 2, 2) == found  # it is still there


def test_there_are_no_more_processes_than_parts_of_the_work(tmp_path):
    assert len(_processes(tmp_path / "three", 3, 8, 3)) == 3
    folder = tmp_path / "batches"
    folder.mkdir()
    found = run_all(partial(_met, count=2), [folder] * 5, 8, batch=3)
    assert len(found) == 5 and len({pid for pid, _ in found}) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_job_comes_through(workers):
    with pytest.raises(ZeroDivisionError):
        run_all(lambda n: 1 // n, [1, 1, 0, 1], workers)


def _sleep_beside(folder: Path, here: int) -> None:
    _met(folder, 2)
    if os.getpid() == here:
        raise KeyError("here")
    time.sleep(100)


def test_after_an_error_here_nothing_goes_on_elsewhere(tmp_path):
    with pytest.raises(KeyError, match="here"):
        run_all(partial(_sleep_beside, here=os.getpid()), [tmp_path] * 2, 2)
    (other,) = {int(path.name) for path in tmp_path.iterdir()} - {os.getpid()}
    _wait_for_its_end(other)
    assert run_all(operator.neg, range(9), 2) == [-i for i in range(9)]


def _die_elsewhere(folder: Path, here: int) -> int:
    _met(folder, 2)
    if os.getpid() != here:
        os._exit(1)
    return 1


def test_a_process_that_dies_is_an_error_and_not_for_ever(tmp_path):
    with pytest.raises(TerminatedWorkerError):
        run_all(partial(_die_elsewhere, here=os.getpid()), [tmp_path] * 4, 2)
    assert run_all(operator.neg, range(9), 2) == [-i for i in range(9)]


def test_a_process_that_died_while_it_was_idle_is_replaced(tmp_path):
    (other,) = _processes(tmp_path / "a", 6, 2, 2) - {os.getpid()}
    os.kill(other, signal.SIGKILL)
    _wait_for_its_end(other)
    time.sleep(0.5)  # its executor has noticed
    assert other not in _processes(tmp_path / "b", 6, 2, 2)


# --- what another process makes ------------------------------------------------------------------


def _made(path: Path) -> str:
    results.once(path, lambda: results.write_text(path, str(os.getpid())))
    return path.read_text()


HOLD = """
import sys, time
from pathlib import Path
from realqa_utils.records import results
path, until = map(Path, sys.argv[1:])
def make():
    path.with_name("begun").touch()
    while not until.exists():
        time.sleep(0.01)
    results.write_text(path, "theirs")
results.once(path, make)
"""


def _made_unless_last(path: Path, until: Path) -> str:
    """The last of what nobody else makes lets the other process finish."""
    made = _made(path)
    if path.name == "d":
        assert not (path.parent / "a").exists()
        until.touch()
    return made


@pytest.mark.parametrize("workers", [1, 2])
def test_what_another_process_makes_comes_last(tmp_path, workers):
    """The first task waits for the other process, and that for the last task."""
    until = tmp_path / "until"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "a"), str(until)])
    try:
        while not (tmp_path / "begun").exists():
            assert other.poll() is None
            time.sleep(0.01)
        job = partial(_made_unless_last, until=until)
        found = run_all(job, [tmp_path / name for name in "abcd"], workers)
        assert found[0] == "theirs" and "theirs" not in found[1:]
        assert other.wait(60) == 0
    finally:
        other.kill()


def test_outside_of_jobs_it_is_waited_for(tmp_path):
    path, until = tmp_path / "a", tmp_path / "until"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(path), str(until)])
    try:
        while not (tmp_path / "begun").exists():
            assert other.poll() is None
            time.sleep(0.01)
        threading.Timer(0.3, until.touch).start()
        assert _made(path) == "theirs"
    finally:
        other.kill()


# --- cores that are left over --------------------------------------------------------------------


@pytest.fixture
def spare(tmp_path, monkeypatch) -> Path:
    """This process has one core; the file says how many more it may borrow."""
    place = tmp_path / "spare"
    monkeypatch.setenv(spare_cores.SPARE, str(place))
    monkeypatch.setenv("REALQA_WORKERS", "1")
    return place


def test_no_core_is_borrowed_that_is_not_left_over(spare, tmp_path):
    before = spare_cores.borrowed()
    assert _processes(tmp_path / "not told", 4, None, 1) == {os.getpid()}
    spare.write_text("0")
    assert _processes(tmp_path / "none", 4, None, 1) == {os.getpid()}
    spare.write_text("1")
    with FileLock(f"{spare}.0"):  # another has it
        assert _processes(tmp_path / "taken", 4, None, 1) == {os.getpid()}
    spare.write_text("2")
    assert _processes(tmp_path / "one by one", 4, 1, 1) == {os.getpid()}
    assert spare_cores.borrowed() == before


def test_cores_that_are_left_over_are_borrowed_and_counted(spare, tmp_path):
    spare.write_text("2")
    before = spare_cores.borrowed()
    with FileLock(f"{spare}.0"):
        assert len(_processes(tmp_path / "one", 8, None, 2)) == 2
    assert spare_cores.borrowed() > before
    assert len(_processes(tmp_path / "two", 8, None, 3)) == 3
    for number in range(2):  # and given back
        with FileLock(f"{spare}.{number}").acquire(timeout=0):
            pass


def _leave_one_over(place: Path, folder: Path, count: int) -> int:
    place.write_text("1")
    return _met(folder, count)[0]


def test_a_core_that_is_left_over_later_is_borrowed_then(spare, tmp_path):
    folder = tmp_path / "met"
    folder.mkdir()
    found = run_all(partial(_leave_one_over, spare, count=2), [folder] * 4)
    assert len(set(found)) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_a_title_shows_progress_and_none_shows_nothing(workers, capfd):
    run_all(operator.neg, range(3), workers)
    assert capfd.readouterr() == ("", "")
    run_all(operator.neg, range(3), workers, "turning signs")
    out, err = capfd.readouterr()
    assert err == ""
    assert "turning signs" in out and "/3" in out
    assert out.rsplit("\r", 2)[-2].strip() == ""  # the bar is wiped away at the end


def _look(path: Path) -> dict:
    return json.loads(path.read_text())


def _look_and_nest(path: Path) -> tuple[dict, str]:
    """What is told, and what a bar inside would tell."""
    run_all(operator.neg, [1, 2], 1, "inside")
    return _look(path), os.environ.get(parallel.PROGRESS, "")


@pytest.mark.parametrize("title", ["trainings", ""])
def test_whoever_waits_may_read_how_far_it_is(tmp_path, monkeypatch, title):
    path = tmp_path / "bar.json"
    monkeypatch.setenv(parallel.PROGRESS, str(path))
    run_all(lambda _: path.exists(), range(3), 1, title)
    if not title:
        assert not path.exists()
        return
    seen = [state["done"] for state in run_all(_look, [path] * 3, 1, title)]
    assert seen == [0, 1, 2]
    assert _look(path) | {"started": 0} == {"title": title, "total": 3, "started": 0, "done": 3}


def test_bars_of_jobs_are_not_told(tmp_path, monkeypatch):
    path = tmp_path / "bar.json"
    monkeypatch.setenv(parallel.PROGRESS, str(path))
    states = run_all(_look_and_nest, [path] * 4, 2, "trainings")
    assert {state["title"] for state, _ in states} == {"trainings"}
    assert {name for _, name in states} <= {"", str(path)}
    assert _look(path)["done"] == 4


def _nested(_: int) -> tuple[int, list[int]]:
    return os.getpid(), run_all(lambda _: os.getpid(), range(4), 2)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_job_runs_stays_in_its_process(workers):
    for pid, inside in run_all(_nested, range(4), workers):
        assert set(inside) == {pid}


def test_cores_may_be_given(monkeypatch):
    monkeypatch.setenv("REALQA_WORKERS", "3")
    assert cores() == 3
    for wrong in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv("REALQA_WORKERS", wrong)
        with pytest.raises(ValueError, match=f"at least 1, not '{wrong}'"):
            cores()


def test_a_process_ends_with_the_one_that_started_it(tmp_path):
    child = (
        "import os, sys, time; from realqa_utils import parallel; parallel.end_with_parent(0.05);"
        "open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
    )
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
    started = subprocess.Popen([sys.executable, "-c", parent, child, str(tmp_path / "pid")])
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.05)
    pid = int((tmp_path / "pid").read_text())
    os.kill(pid, 0)  # it is there
    started.kill()
    started.wait()
    _wait_for_its_end(pid)


def _wait_for_its_end(pid: int) -> None:
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("it goes on")


# --- photographs ---------------------------------------------------------------------------------


def test_batches_are_opened_in_order_and_one_ahead():
    """Of three batches never more than two are open."""
    opened, seen = [], []
    for batch, values in opened_ahead(lambda x: opened.append(x) or -x, [[1, 2], [3], [4, 5]]):
        assert values == [-x for x in batch]
        seen += batch
        assert len(set(opened) - set(seen)) <= 2
    assert seen == sorted(opened) == [1, 2, 3, 4, 5]
    assert list(opened_ahead(len, [])) == []


def test_what_cannot_be_opened_is_an_error_where_it_is_due():
    told = opened_ahead(lambda x: 1 / x, [[1], [0]])
    assert next(told) == ([1], [1.0])
    with pytest.raises(ZeroDivisionError):
        next(told)
