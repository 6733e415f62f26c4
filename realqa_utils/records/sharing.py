"""One folder of results, many runs: one after another, or several processes at once.

Processes are those that `torchrun` and `accelerate launch` start; they see one folder and meet
through `torch.distributed`, of which nothing is asked but to wait for each other.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import distributed

from realqa_utils.records import results


def same_run(path: Path, manifest: dict) -> None:
    """Write what the results in a folder are of, or compare. Raises ValueError for another run."""
    if not path.exists():
        results.write_json(path, manifest)
    found = json.loads(path.read_text("utf-8"))
    manifest = json.loads(json.dumps(manifest))  # as it comes back: tuples are lists
    for key in manifest:
        if found.get(key) != manifest[key]:
            raise ValueError(
                f"{path}: the scores in this folder are of another run: {key} was "
                f"{found.get(key)!r} and is {manifest[key]!r}; give another folder, or delete this "
                "one to score everything anew"
            )


@contextmanager
def alone(out: Path, rank: int) -> Iterator[None]:
    """One run a folder at a time; the system frees the lock when its holder ends, however."""
    if rank:
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"{out}: another run is writing here; wait for it, or give another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def processes(tasks: Sequence) -> Iterator[tuple[int, int]]:
    """Number of this process and how many there are, by the variables that launchers set.

    Raises ValueError where their `tasks` (photographs, as JSON knows them) are not the same.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        yield 0, 1
        return
    ours = not distributed.is_initialized()
    if ours:  # a month: the first to be done waits for the last
        distributed.init_process_group("gloo", timeout=timedelta(days=30))
    try:
        _agree(tasks)
        yield distributed.get_rank(), distributed.get_world_size()
    finally:
        if ours:
            distributed.destroy_process_group()


def _agree(tasks: Sequence) -> None:
    digest = hashlib.sha256(json.dumps(tasks).encode()).digest()
    number = torch.tensor(int.from_bytes(digest[:7], "big"))
    ends = torch.stack([number, -number])  # equal for all where the largest is the smallest
    distributed.all_reduce(ends, distributed.ReduceOp.MAX)
    if ends[0] != -ends[1]:
        raise ValueError(
            "the processes do not see the same photographs; right is one folder that none of them "
            "changes, under the same path for all"
        )


def wait(world: int) -> None:
    if world > 1:
        distributed.barrier()
