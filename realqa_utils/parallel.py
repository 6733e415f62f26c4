"""Many small jobs on the cores there are: processes of one thread each, through joblib; and threads
that open photographs.

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

#: Names a file into which `run_all` writes how far it is, for whoever waits for this process.
PROGRESS = "REALQA_PROGRESS"


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


def run_all(
    job: Callable, tasks: Sequence, workers: int | None = None, title: str = "", batch="auto"
) -> list:
    """`job(task)` for every task, results in the order of `tasks`.

    A title shows a progress bar with the time left. Few tasks run in this process.
    """
    workers = max(1, min(workers or cores(), len(tasks)))
    show = {"desc": title, "total": len(tasks), "disable": not title, "mininterval": 1}
    show |= {"file": sys.stdout, "leave": False}  # no trace of it in an executed notebook
    if workers == 1:
        return list(_told((job(task) for task in tqdm(tasks, **show)), title, len(tasks)))
    once = {"inner_max_num_threads": 1, "initializer": _begin}
    # Said when a worker that was idle for long ends as new work comes; another one takes that up.
    warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
    with parallel_config(backend="loky", **once):
        run = Parallel(n_jobs=workers, return_as="generator", batch_size=batch)
        results = tqdm(run(delayed(_settled)(job, task) for task in tasks), **show)
        return list(_told(results, title, len(tasks)))


def _told(results: Iterable, title: str, total: int) -> Iterator:
    """Pass results on, and write into the file that PROGRESS names how many there have been."""
    path = os.environ.get(PROGRESS) if title else None
    state = {"title": title, "total": total, "started": time.time()}
    _write(path, state | {"done": 0})
    for done, result in enumerate(results, 1):
        _write(path, state | {"done": done})
        yield result


def _write(path: str | None, state: dict) -> None:
    if path:
        with open(f"{path}.part", "w") as file:
            json.dump(state, file)
        os.replace(f"{path}.part", path)


def _begin() -> None:
    """What a worker does first. Bars of its own are none of a reader's business."""
    os.environ.pop(PROGRESS, None)
    end_with_parent()


def _settled(job: Callable, task: object) -> object:
    """A job in a worker, which has imported everything by its first one.

    What is there then stays, and to look through it for garbage takes a third of a second: a
    `Trainer` asks for that in every training.
    """
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()
    return job(task)


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
