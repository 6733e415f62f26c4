"""Jobs on several processes: the same results, in order, one thread each."""

from __future__ import annotations

import json
import operator
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from realqa_utils import parallel
from realqa_utils.parallel import cores, opened_ahead, run_all


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


def test_two_workers_are_other_processes_of_one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")  # what the user asked for is for this process
    found = run_all(lambda _: (os.getpid(), os.environ.get("OMP_NUM_THREADS")), range(4), 2)
    assert os.getpid() not in {pid for pid, _ in found}
    assert {threads for _, threads in found} == {"1"}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_job_comes_through(workers):
    with pytest.raises(ZeroDivisionError):
        run_all(lambda n: 1 // n, [1, 1, 0, 1], workers)


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


def test_bars_of_workers_are_not_told(tmp_path, monkeypatch):
    path = tmp_path / "bar.json"
    monkeypatch.setenv(parallel.PROGRESS, str(path))
    states = run_all(_look_and_nest, [path] * 4, 2, "trainings")
    assert {(state["title"], name) for state, name in states} == {("trainings", "")}


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
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("it outlived the process that started it")


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
