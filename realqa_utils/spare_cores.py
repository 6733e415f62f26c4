"""Cores that are left over, while several processes that have one core each share a machine.

Whoever starts them writes into a file how many there are at the time (`reproduction.progress`).
Each is a lock beside that file, which the system frees when its holder ends, however it ends.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from filelock import FileLock, Timeout

#: Names the file, for the processes that may borrow.
SPARE = "REALQA_SPARE"

_seconds = 0.0


def borrowed() -> float:
    """Seconds so far for which cores that were left over worked for this process."""
    return _seconds


class Core:
    """A core that is left over, until it is given back."""

    def __init__(self, lock: FileLock | None = None):
        self.lock, self.since = lock, time.monotonic()

    def release(self) -> None:
        global _seconds
        if self.lock:
            _seconds += time.monotonic() - self.since
            self.lock.release()


def take() -> Core | None:
    """Take one of those of `SPARE`, if there is; without it they are this process's own."""
    place = os.environ.get(SPARE)
    if not place:
        return Core()
    for number in range(_left_over(Path(place))):
        lock = FileLock(f"{place}.{number}", thread_local=False)  # freed when its holder ends
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        return Core(lock)
    return None


def _left_over(place: Path) -> int:
    try:
        return int(place.read_text("utf-8"))
    except (OSError, ValueError):  # not told yet
        return 0
