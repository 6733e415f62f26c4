"""How a run of the graph goes, told to a reader: from small files that the jobs write."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from realqa_utils import parallel
from realqa_utils.records import results
from realqa_utils.reproduction import graph

LOOK = 0.3  # seconds between two looks
LOG = 60.0  # seconds between two lines where the output is no terminal
TRIED = 300.0  # core seconds as recorded: so much of a run must be done to tell half of its pace


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook; `error` is empty unless it failed."""

    stem: str
    status: str  # ok | kept | failed | not run
    seconds: float | None = None  # None: it did not run
    error: str = ""


def tell(profile: str, stem: str, state: Mapping[str, object]) -> None:
    """Write how the job of a notebook stands."""
    results.write_json(graph.folder(profile) / f"{stem}.status.json", state)


def bar_of(profile: str, stem: str) -> Path:
    """The file in which a notebook's kernel tells how far a long cell is (`parallel.run_all`)."""
    return graph.folder(profile) / f"{stem}.bar.json"


def states(plan: dict) -> dict[str, dict]:
    """Stem -> how its job stands, for the jobs that this run has begun."""
    folder, found = graph.folder(plan["profile"]), {}
    for stem in plan["notebooks"]:
        state = _read(folder / f"{stem}.status.json")
        if state.get("run") == plan["run"]:
            found[stem] = state | {"bar": _read(bar_of(plan["profile"], stem))}
    return found


def _read(path: Path) -> dict:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def follow(process: Popen, plan: dict, spare: Path) -> None:
    """Print each notebook that ends, and how the others stand, until the engine's process ends.

    Meanwhile the file `spare` says how many cores no notebook needs (`spare_cores`).
    """
    live, ended, due = sys.stdout.isatty(), set(), time.monotonic() + LOG
    told = None
    while True:
        over = process.poll() is not None  # before the look, so that nothing is missed
        found = states(plan)
        if told != (left := left_over(plan, found, parallel.cores())):
            results.write_text(spare, str(left))
            told = left
        for stem, state in found.items():
            if state["state"] != "running" and stem not in ended:
                ended.add(stem)
                _print(f"{stem:<28} {_clock(state['seconds']):>7}  {state['state']}", live)
        if over:
            return
        if live:
            _print(line(plan, found, parallel.cores()), live, end="")
        elif time.monotonic() >= due:
            _print(line(plan, found, parallel.cores()), live)
            due += LOG
        time.sleep(LOOK)


def _print(text: str, live: bool, end: str = "\n") -> None:
    """In a terminal a line takes the place of the one before, which had no end."""
    if live:
        width = shutil.get_terminal_size().columns - 1
        text = f"\r{text[:width]:<{width}}"
    print(text, end=end, flush=True)


def left_over(plan: dict, found: Mapping[str, dict], cores: int) -> int:
    """Cores that notebooks may borrow: those beyond one for each that runs or could run.

    What has to wait for others counts once they have ended; what runs alone lends nothing.
    """
    wanted, notebooks, profile = 0, plan["notebooks"], plan["profile"]
    for stem, notebook in notebooks.items():
        state = found.get(stem, {}).get("state")
        if notebook["alone"]:
            wanted += cores if state == "running" else 0
        elif not (state in ("ok", "failed") or graph.is_done(notebook["stamp"], profile)):
            wanted += all(graph.is_done(name, profile) for name in notebook["after"])
    return max(0, cores - wanted)


def line(plan: dict, found: Mapping[str, dict], cores: int) -> str:
    """Done, running (cell, step of a long one, time) and time left, in one line.

    What notebooks took elsewhere is scaled by the pace of this run. Of one that was never recorded
    only a cell's own bar is known: time left is then "at least".
    """
    notebooks, pace = plan["notebooks"], _pace(plan, found, cores)
    spare = left_over(plan, found, cores)
    running = {stem: state for stem, state in found.items() if state["state"] == "running"}
    waiting = [
        stem
        for stem, notebook in notebooks.items()
        if stem not in found and not graph.is_done(notebook["stamp"], plan["profile"])
    ]
    parts = [f"{len(notebooks) - len(running) - len(waiting)} of {len(notebooks)} done"]
    left = sum(pace * (notebooks[stem]["expected"] or 0.0) for stem in waiting)
    for stem, state in running.items():
        notebook, elapsed = notebooks[stem], time.time() - state["started"]
        step, seconds = _step(state.get("bar", {}))
        parts.append(f"{stem}: cell {state['cell']} of {state['cells']}{step}, {_clock(elapsed)}")
        at_work = graph.cores(notebook, cores) + spare / len(running)
        expected = pace * (notebook["expected"] or 0.0)
        left += max(0.0, expected - elapsed * at_work, seconds * at_work)
    known = all(notebooks[stem]["expected"] is not None for stem in [*running, *waiting])
    about = "about" if known else "at least"
    return " | ".join([*parts, f"{about} {max(1, round(left / cores / 60))} min left"])


def _pace(plan: dict, found: Mapping[str, dict], cores: int) -> float:
    """How many times as long as recorded this run takes, by what has ended of it.

    `TRIED` at the recorded pace are counted in, so that a light notebook alone tells little.
    """
    taken = recorded = TRIED
    for stem, state in found.items():
        notebook = plan["notebooks"][stem]
        if state["state"] == "ok" and notebook["expected"]:
            taken += state["seconds"] * graph.cores(notebook, cores)
            recorded += notebook["expected"]
    return taken / recorded


def _step(bar: Mapping[str, object]) -> tuple[str, float]:
    """How far a long cell is, in words, and the seconds that it still needs at its pace."""
    if not bar or bar["done"] == bar["total"]:
        return "", 0.0
    left = (time.time() - bar["started"]) / max(1, bar["done"]) * (bar["total"] - bar["done"])
    return f", {bar['title']} {bar['done']} of {bar['total']}", left


def _clock(seconds: float) -> str:
    """Minutes and seconds.

    >>> _clock(192.6)
    '3:13'
    """
    return f"{round(seconds) // 60}:{round(seconds) % 60:02}"


# --- the end -------------------------------------------------------------------------------------


def outcomes(plan: dict) -> list[Outcome]:
    """What became of every notebook of a plan, once the engine has ended."""
    found = states(plan)
    return [_outcome(plan, stem, found.get(stem, {})) for stem in plan["notebooks"]]


def _outcome(plan: dict, stem: str, state: dict) -> Outcome:
    if not state:
        notebook, profile = plan["notebooks"][stem], plan["profile"]
        missing = [name for name in notebook["after"] if not graph.is_done(name, profile)]
        why = f": it reads {', '.join(name.split('.')[0] for name in missing)}" if missing else ""
        kept = graph.is_done(notebook["stamp"], profile)
        return Outcome(stem, "kept" if kept else f"not run{why}")
    if state["state"] == "running":  # and yet it is over
        error = f"{stem}.ipynb: killed in cell {state['cell']}; perhaps memory ran out"
        return Outcome(stem, "failed", state["seconds"], error)
    return Outcome(stem, state["state"], state["seconds"], state.get("error", ""))


def summary(ends: Sequence[Outcome]) -> str:
    """Notebook, seconds and status, one a line; below them the errors."""
    rows = [f"{'notebook':<28} {'seconds':>8}  status"]
    for end in ends:
        seconds = "-" if end.seconds is None else f"{end.seconds:.1f}"
        rows.append(f"{end.stem:<28} {seconds:>8}  {end.status}")
    errors = [f"\n{end.error}" for end in ends if end.error]
    return "\n".join([*rows, *errors])
