"""Training curves of anyone's runs as one tidy table, and their mean and band over seeds.

Figures and tests of curves need one form, in which it does not matter who trained, with what, and
what wrote the values down. The forms of single files are in `curve_forms`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from realqa_utils.ncm import curve_forms as forms
from realqa_utils.ncm.curve_forms import COLUMNS, KEY, SPLITS, STATE

__all__ = ["COLUMNS", "KEY", "SPLITS", "Source", "band", "read"]
Source = str | Path | Sequence[Mapping] | pd.DataFrame


def read(source: Source | Mapping[str, Source | Sequence[Source]]) -> pd.DataFrame:
    """Curves in tidy form: the columns group, run, step, split, metric, value.

    One row a value, in the metric's own unit; `split` is "train" or "held-out". Where a step was
    logged twice, as a resumed run does, the last one counts. NaN stays NaN.

    Args:
        source: one of
            a `trainer_state.json`, or the list `trainer.state.log_history` itself: numbers are
            metrics, and a name that begins with `eval_` is of the held-out set;
            a tidy CSV with the columns step, split, metric, value; other columns are not read;
            a wide CSV with the column step and one column a metric, named as in log_history; an
            empty cell was not logged, the word nan is a NaN;
            a table (DataFrame) in one of these two forms, such as this function gives;
            a folder: all of these files below it, hidden ones left out. One run a folder, named
            by its path; of several checkpoints the one with the most steps counts, and it counts
            before a CSV beside it. CSVs in one folder that log the same steps are a run each.
            What cannot be read is reported by a warning, and the others go on;
            a list of these;
            a mapping {group: source or list of sources}, such as the seeds of one setting.
            Without it every run is a group of its own, unless a table has a column group. A
            table of several runs tells them apart by a column run.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: a source that is malformed or has no metric in it; a folder with no run.

    >>> read([{"loss": 2.5, "step": 10, "epoch": 1.0}, {"eval_ncm": 0.75, "step": 10}])
      group  run  step     split metric  value
    0   run  run    10  held-out    ncm   0.75
    1   run  run    10     train   loss   2.50
    """
    if not isinstance(source, Mapping):
        return _tidy(_seeds("run", source))
    if not source:
        raise ValueError("an empty mapping; right is {group: source or list of sources}")
    groups = [_seeds(name, each).assign(group=str(name)) for name, each in source.items()]
    return _tidy(pd.concat(groups))


def band(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and band over the runs of each group, per step, split and metric.

    From three runs the band is the 95 % interval of the mean (Student's t, which takes the runs
    as independent and about normal); of two it is smallest to largest, and a single run is its
    own mean, low and high. A step counts where at least two runs logged it, unless there is only
    one run: nothing is interpolated, and runs of other lengths leave the mean of those that go
    on. A value that is not finite is left out of `runs`; where fewer than two are left, NaN.

    Args:
        frame: as `read` gives it.

    Returns:
        Columns group, split, metric, step, mean, low, high, runs (how many went into the mean).
        A group whose runs share no step is left out, with a warning.

    >>> curve = [{"ncm": 3.0, "step": 1}, {"ncm": 1.0, "step": 2}]
    >>> other = [{"ncm": 5.0, "step": 1}]
    >>> band(read({"two seeds": [curve, other]})).drop(columns=["split", "metric"])
           group  step  mean  low  high  runs
    0  two seeds     1   4.0  3.0   5.0     2
    """
    frame = frame.assign(value=frame["value"].where(np.isfinite(frame["value"])))
    curve = ["group", "split", "metric"]
    needed = frame.groupby(curve, sort=False)["run"].nunique().clip(upper=2).rename("needed")
    steps = frame.groupby([*curve, "step"], sort=False)["value"]
    table = steps.agg(["mean", "min", "max", "std", "count", "size"]).reset_index()
    table = table.join(needed, on=curve)
    table["shared"] = table["size"] >= table["needed"]
    for (group, split, metric), shared in table.groupby(curve, sort=False)["shared"]:
        if not shared.any():
            warnings.warn(
                f"group {group!r}: its runs share no step of {metric!r}, {split}, so there is no "
                "mean; right are runs logged at the same steps, or a group for each",
                stacklevel=2,
            )
    table = _with_band(table[table["shared"]])
    order = table.groupby(curve, sort=False).ngroup()
    table = table.assign(order=order).sort_values(["order", "step"]).reset_index(drop=True)
    return table[[*curve, "step", "mean", "low", "high", "runs"]]


def _with_band(table: pd.DataFrame) -> pd.DataFrame:
    runs = table["count"]
    several = runs >= 3
    half = stats.t.ppf(0.975, runs.clip(lower=2) - 1) * table["std"] / np.sqrt(runs.clip(lower=1))
    low = (table["mean"] - half).where(several, table["min"])
    high = (table["mean"] + half).where(several, table["max"])
    table = table.assign(low=low, high=high, runs=runs)
    enough = runs >= table["needed"]
    return table.assign(**{name: table[name].where(enough) for name in ("mean", "low", "high")})


# --- sources -----------------------------------------------------------------------------------


def _seeds(group: str, source: Source | Sequence[Source]) -> pd.DataFrame:
    """The runs of one group; equal names of different sources get their number."""
    listed = isinstance(source, Sequence) and not isinstance(source, str)
    several = listed and len(source) and not any(isinstance(each, Mapping) for each in source)
    if not several:
        return _read(source, str(group))
    frames = [_read(each, f"{group}[{number}]", "run") for number, each in enumerate(source)]
    names = pd.concat([frame["run"].drop_duplicates() for frame in frames])
    if names.is_unique:
        return pd.concat(frames)
    return pd.concat([f.assign(run=f["run"] + f" {number}") for number, f in enumerate(frames)])


def _read(source: Source, where: str = "run", name: str | None = None) -> pd.DataFrame:
    """One source that is no mapping; `where` is its name in errors, `name` that of its run."""
    name = name or where
    if isinstance(source, pd.DataFrame):
        return forms.from_table(source.reset_index(drop=True), where, name)
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder; right is {forms.FORMS}")
        return _from_folder(path) if path.is_dir() else forms.from_file(path)
    if isinstance(source, Sequence) and source:
        return forms.from_history(source, where, name)
    raise ValueError(
        f"{where}: {source!r:.60} of type {type(source).__name__}; right is {forms.FORMS}"
    )


# --- folders -----------------------------------------------------------------------------------


def _from_folder(top: Path) -> pd.DataFrame:
    found: dict[Path, dict[Path, pd.DataFrame]] = {}
    problems = []
    for path in _files(top):
        try:
            if path.name == STATE or forms.has_steps(path):
                found.setdefault(forms.home(path, top), {})[path] = forms.from_file(path)
        except (ValueError, OSError) as error:
            warnings.warn(f"left out: {error}", stacklevel=5)
            problems.append(str(error))
    if not found:
        why = f"; {len(problems)} left out, the first: {problems[0]}" if problems else ""
        raise ValueError(f"{top}: no run that can be read, nor in its subfolders{why}")
    return pd.concat([_runs_of(files, _name(home, top)) for home, files in sorted(found.items())])


def _files(top: Path) -> list[Path]:
    return sorted(
        path
        for path in top.rglob("*")
        if (path.name == STATE or path.suffix.lower() == ".csv")
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(top).parts)
    )


def _name(home: Path, top: Path) -> str:
    return top.resolve().name if home == top else home.relative_to(top).as_posix()


def _runs_of(files: dict[Path, pd.DataFrame], name: str) -> pd.DataFrame:
    """One run, unless its CSVs name several or log the same steps, as one CSV a seed does."""
    states = [frame for path, frame in files.items() if path.name == STATE]
    states = sorted(states, key=lambda state: (state["step"].max(), len(state)))[-1:]
    tables = [frame for path, frame in files.items() if path.name != STATE]
    together = pd.concat(tables) if tables else states[0]
    several = together["run"].nunique() > max(1, len(tables))
    if not several and not together.duplicated(KEY).any():
        whole = pd.concat([*tables, *states])  # the state last: its numbers are not rounded
        return whole[list(COLUMNS[2:])].drop_duplicates(KEY, keep="last").assign(run=name)
    seeds = together.assign(run=name + "/" + together["run"])
    return pd.concat([seeds, *(state.assign(run=name) for state in states)])


def _tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """Groups and runs as they came, each by split, metric and step."""
    group = frame.get("group", frame["run"])
    frame = frame.assign(group=group.where(group.notna() & (group != ""), frame["run"]))
    order = frame.groupby(["group", "run"], sort=False).ngroup()
    frame = frame.assign(order=order).sort_values(["order", *KEY], kind="stable")
    return frame[list(COLUMNS)].reset_index(drop=True)
