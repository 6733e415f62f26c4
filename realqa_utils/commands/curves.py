"""`realqa curves RUN...`: the NCM curves of anyone's trainings as a figure and a table."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from realqa_utils.ncm import curves
from realqa_utils.plotting import curve_plots, plots
from realqa_utils.records import results

METRICS = ("ncm", "ncm_star", "digit_ce")


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the curves; what cannot be read of a folder is told, and the rest is drawn.

    Raises FileNotFoundError and ValueError for a run or metric that is not there, and for an
    `--out` that is no PNG or whose table would be taken for a run.
    """
    options = _parser().parse_args(arguments)
    figure_path, sources = Path(options.out), _sources(options.runs)
    table_path = _table_path(figure_path, [path for each in sources.values() for path in each])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        frame = read(sources)
        known = set(frame["metric"])
        metrics = options.metric or [m for m in METRICS if m in known] or METRICS
        plots.use_style()
        figure = curve_plots.plot_ncm_curves(frame, metrics, options.split)
    for text in dict.fromkeys(str(one.message) for one in said):
        print(f"realqa curves: {text}", file=sys.stderr)
    drawn = frame[frame["metric"].isin(metrics)]
    drawn = drawn[drawn["split"].isin(options.split or curves.SPLITS)]
    results.write_table(table_path, drawn)
    results.save_figure(figure, figure_path)
    print(f"{drawn.groupby(['group', 'run']).ngroups} runs\n  {figure_path}\n  {table_path}")
    return 0


def read(sources: dict[str, list[Path]]) -> pd.DataFrame:
    """Curves of several runs as `curves.read` gives them; those under "" are a group each."""
    named = {name: paths for name, paths in sources.items() if name}
    frames = [curves.read(sources[""])] if sources.get("") else []
    frames += [curves.read(named)] if named else []
    return pd.concat(frames, ignore_index=True)


def _sources(runs: Sequence[str]) -> dict[str, list[Path]]:
    """Paths by the name of their group: `name=PATH`, or "" where there is no name.

    >>> _sources(["a.csv", "mine=b", "mine=c"])
    {'': [PosixPath('a.csv')], 'mine': [PosixPath('b'), PosixPath('c')]}
    """
    found: dict[str, list[Path]] = {}
    for run in runs:
        name, equals, path = run.partition("=")
        if Path(run).exists() or not (name and equals and path):
            name, path = "", run
        found.setdefault(name, []).append(Path(path))
    return found


def _table_path(figure: Path, paths: Sequence[Path]) -> Path:
    if figure.suffix.lower() != ".png":
        raise ValueError(f"--out {figure}: right is a file that ends in .png")
    table = figure.with_suffix(".csv")
    for path in paths:
        if table.resolve().is_relative_to(path.resolve()):  # the file itself, or below the folder
            raise ValueError(
                f"--out {figure}: {table} would be, or be taken for, a run of {path}; "
                "right is a file outside of it"
            )
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "realqa curves",
        description="NCM curves of trainings: a figure, and beside it the numbers as a CSV.",
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="a CSV of NCMCallback, a trainer_state.json or a "
        "folder with either; name=RUN names it, and runs of one name (seeds) are drawn as mean "
        "and band")  # fmt: skip
    add("--out", default="curves.png", metavar="PNG", help="default: curves.png")
    add("--metric", nargs="+", metavar="M", help=f"default: what there is of {', '.join(METRICS)}")
    add("--split", nargs="+", choices=curves.SPLITS, help="where logged (default: both)")
    return parser
