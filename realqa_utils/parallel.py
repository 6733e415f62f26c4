"""Many small jobs on the cores there are: in this process and, of one thread each, in others; and
threads that open photographs.

For models this small, several processes of one thread do far more than one process of several
threads; and what a job computes does not depend on how many cores there are.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue

from filelock import FileLock, Timeout
from joblib.externals.loky import ProcessPoolExecutor
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from realqa_utils import spare_cores
from realqa_utils.spare_cores import Core

#: Names a file into which `run_all` writes how far it is, for whoever waits for this process.
PROGRESS = "REALQA_PROGRESS"
LOOK = 0.2  # seconds between two looks for a spare core
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)  # the environment of other processes

_inside = False  # a job of this process, which is a core's share already
_idle: list[ProcessPoolExecutor] = []  # processes that wait for work, in one executor each


def cores() -> int:
    """Processor cores for this process: REALQA_WORKERS, else all that it may use (a container may
    have fewer than the machine). Raises ValueError when REALQA_WORKERS is no number from 1.
    """
    if given := os.environ.get("REALQA_WORKERS"):
        if not (given.isdecimal() and int(given)):
            raise ValueError(f"REALQA_WORKERS is a whole number of at least 1, not {given!r}")
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Later(Exception):  # noqa: N818
    """What a job needs is being made by another process: other tasks come first."""


@contextmanager
def turn(lock: FileLock) -> Iterator[None]:
    """Hold a lock; where another process has it, a job of `run_all` does not wait but ends with
    `Later`."""
    try:
        lock.acquire(timeout=0 if _inside else -1)
    except Timeout:
        raise Later(lock.lock_file) from None
    try:
        yield
    finally:
        lock.release()


def run_all(
    job: Callable, tasks: Sequence, workers: int | None = None, title: str = "", batch: int = 1
) -> list:
    """`job(task)` for every task, results in the order of `tasks`.

    This process works on one core, others on the rest of `workers` (None: of all there are), or on
    those that are left over at the time. They are given `batch` tasks at once, which is for short
    ones. A title shows a progress bar with the time left. What a job runs in this way stays in its
    process. One that ends with `Later` is begun anew after the others: so several processes share
    the same tasks.
    """
    global _inside
    tasks, outer = list(tasks), _inside
    parts = [range(at, min(at + batch, len(tasks))) for at in range(0, len(tasks), batch)]
    others = 0 if outer else min(workers or _all_cores(), len(parts)) - 1
    found, title = [None] * len(tasks), "" if outer else title
    show = {"desc": title, "total": len(tasks), "disable": not title, "mininterval": 1}
    show |= {"file": sys.stdout, "leave": False}  # no trace of it in an executed notebook
    tell = _Told(title, len(tasks))
    _inside = True
    try:
        with tqdm(**show) as bar, _one_thread(others > 0), _settled(batch == 1 < len(parts)):
            for part, values in _done(job, [(p, [tasks[i] for i in p]) for p in parts], others):
                found[part.start : part.stop] = values
                bar.update(len(part))
                tell(len(part))
    finally:
        _inside = outer
    return found


def _all_cores() -> int:
    """Of one process of several as many as are left over: no number that is known before."""
    return sys.maxsize if spare_cores.SPARE in os.environ else cores()


class _Told:
    """Writes into the file that PROGRESS names how many tasks have been done."""

    def __init__(self, title: str, total: int):
        self.path = os.environ.get(PROGRESS) if title else None
        self.state = {"title": title, "total": total, "started": time.time(), "done": 0}
        self(0)

    def __call__(self, more: int) -> None:
        self.state["done"] += more
        if self.path:
            with open(f"{self.path}.part", "w") as file:
                json.dump(self.state, file)
            os.replace(f"{self.path}.part", self.path)


@contextmanager
def _one_thread(wanted: bool) -> Iterator[None]:
    """As other processes have it, so that it does not matter which one does a task."""
    torch = sys.modules.get("torch")  # has a number of its own
    if not wanted:
        yield
        return
    before = torch.get_num_threads() if torch else 1
    with threadpool_limits(1):
        if torch:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if torch:
                torch.set_num_threads(before)


def _done(job: Callable, parts: Sequence, others: int) -> Iterator[tuple[range, list]]:
    """Every part with its results, as they come."""
    todo, left, put_off = deque(parts), len(parts), 0
    with _Others(job, todo, others) as elsewhere:
        while left:
            if elsewhere.ended.empty() and (mine := elsewhere.next()):
                part, tasks = mine
                try:
                    values = [job(task) for task in tasks]
                except Later:
                    todo.append(mine)
                    put_off += 1
                    if put_off >= len(todo):  # all of them
                        time.sleep(LOOK)
                        put_off = 0
                    continue
                ended, put_off = (part, values), 0
            else:
                ended = elsewhere.result()
            if ended:
                yield ended
                left -= 1


# --- other processes -----------------------------------------------------------------------------


class _Others:
    """Processes that take from the same work, at most so many, while cores are left over."""

    def __init__(self, job: Callable, todo: deque, most: int):
        self.job, self.todo, self.most = job, todo, most
        self.at_work: dict[Future, ProcessPoolExecutor] = {}
        self.ended: SimpleQueue = SimpleQueue()  # (part, future)
        self.wake, self.over = threading.Event(), False
        self.thread = threading.Thread(target=self._lend, daemon=True)

    def __enter__(self) -> _Others:
        # Said when one that was idle for long ends as new work comes; another takes that up.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
        if self.most > 0:
            self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """After an error they are stopped, whatever they do."""
        self.over = True
        self.wake.set()
        if self.most > 0:
            self.thread.join()
        for process in list(self.at_work.values()):
            process.shutdown(wait=False, kill_workers=True)

    def next(self) -> tuple[range, Sequence] | None:
        """Take a part of the work; None where the rest is in other hands."""
        try:
            return self.todo.popleft()
        except IndexError:
            return None

    def result(self) -> tuple[range, list] | None:
        """Of a part that has ended; None if none does for now. Raises what its job raised."""
        try:
            part, future = self.ended.get(timeout=LOOK)
        except Empty:
            return None
        return part, future.result()

    def _lend(self) -> None:
        while not self.over:
            while len(self.at_work) < self.most and self.todo and (core := spare_cores.take()):
                if not (mine := self.next()):
                    core.release()
                    break
                try:
                    self._start(mine, core)
                except (OSError, RuntimeError):  # no room for another process, or an idle one died
                    core.release()
                    self.todo.append(mine)
                    break
            self.wake.wait(LOOK)
            self.wake.clear()

    def _start(self, mine: tuple[range, Sequence], core: Core) -> None:
        process = _idle.pop() if _idle else _new_process()
        future = process.submit(_elsewhere, self.job, mine[1])

        def end(_: Future) -> None:
            del self.at_work[future]
            core.release()
            error = future.cancelled() or future.exception()
            if isinstance(error, Later):
                self.todo.append(mine)
            else:
                self.ended.put((mine[0], future))
                self.wake.set()
            if not error or isinstance(error, Later):
                _idle.append(process)
            else:
                process.shutdown(wait=False)

        self.at_work[future] = process
        future.add_done_callback(end)


def _new_process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, timeout=300, initializer=_begin, env=ONE_THREAD)


def _begin() -> None:
    """What another process does first. Its work is part of a job."""
    global _inside
    _inside = True
    os.environ.pop(PROGRESS, None)
    end_with_parent()


def _elsewhere(job: Callable, tasks: Sequence) -> list:
    """Part of the work in another process, which has imported everything with the job."""
    if not gc.get_freeze_count():
        _freeze()
    return [job(task) for task in tasks]


@contextmanager
def _settled(wanted: bool) -> Iterator[None]:
    """What is there stays: to look through it for garbage takes a third of a second, and a
    `Trainer` asks for that in every training."""
    wanted = wanted and not gc.get_freeze_count()
    if wanted:
        _freeze()
    try:
        yield
    finally:
        if wanted:
            gc.unfreeze()


def _freeze() -> None:
    gc.collect()
    gc.freeze()


def opened_ahead(open_one: Callable, batches: Sequence[Sequence]) -> Iterator[tuple]:
    """Each batch with what `open_one` makes of its items, in their order; threads open the next
    one while the caller is busy. For photographs: decoders release the interpreter lock.
    """
    with ThreadPoolExecutor(cores()) as pool:

        def start(number: int) -> list[Future]:
            return [pool.submit(open_one, item) for item in batches[number]]

        ahead = start(0) if batches else []
        for number, batch in enumerate(batches):
            now, ahead = ahead, start(number + 1) if number + 1 < len(batches) else []
            yield batch, [future.result() for future in now]


def end_with_parent(seconds: float = 0.5) -> None:
    """End this process as soon as the one that started it is gone, however that went."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
