"""`realqa score PHOTOS... --model FOLDER --out DIR`: what a trained model makes of photographs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from realqa_utils.scoring.folders import Summary

SHOWN = 50  # problems told on the terminal; the table has all of them
ADVICE = (
    "the shipped backbone has not learnt to score. Train one (fine_tuning.train, as notebook 00 "
    "does), keep it with Backbone.save(FOLDER), and give --model FOLDER"
)


def main(arguments: list[str] | None = None) -> int:
    """Score photographs and say where the results are. 1: not one of them could be scored.

    Raises ValueError and FileNotFoundError for bad input, before anything is scored.
    """
    options = _parser().parse_args(arguments)
    from realqa_utils.images.views import View
    from realqa_utils.measures import composite
    from realqa_utils.model import backbone  # seconds
    from realqa_utils.scoring import calibration, folders

    if options.model is None or _is_untaught(options.model, backbone.MINI_FOLDER):
        raise ValueError(f"--model {options.model or ''}: {ADVICE}")
    view = View(options.size, options.short, options.grid)
    weights = composite.load(options.composite) if options.composite else None
    curve = calibration.load(options.calibration) if options.calibration else None
    folders.select(options.photos)  # a misspelt path is told before a large model is loaded
    with backbone.quiet():
        model = backbone.load(options.model)
    summary = folders.score(
        model,
        options.photos,
        options.out,
        digits=options.digits,
        view=view,
        attributes=options.attributes,
        composite=weights,
        calibration=curve,
        batch_size=options.batch_size,
        page=options.html,
    )
    if summary is None:  # the first of several processes tells for all
        return 0
    print(report(summary, options.digits))
    return int(len(summary.problems) == summary.photographs)


def report(summary: Summary, digits: int) -> str:
    """What is told on the terminal when a run is over."""
    bad, out = len(summary.problems), summary.out
    scored = summary.photographs - bad
    lines = [f"{scored} of {summary.photographs} photographs have a score."]
    names = ("scores.csv", "scores.parquet", "index.html")
    lines += [f"  {out / name}" for name in names if (out / name).exists()]
    if summary.unparsed:
        lines.append(
            f"Left to itself, the model would have answered {summary.unparsed} of {scored} in "
            f"another form (column parsed): was it trained for {digits} digits and photographs "
            "seen like these?"
        )
    if bad:
        lines.append("Without a score:")
    lines += [f"  {_one_line(path)}: {why}" for path, why in summary.problems[:SHOWN]]
    if bad > SHOWN:
        lines.append(f"  and {bad - SHOWN} more, in the column problem of the tables")
    return "\n".join(lines)


def _one_line(path: str) -> str:
    """A path that cannot break the line or command the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in path)


def _is_untaught(model: str, shipped: Path) -> bool:
    return model == "mini" or Path(model).resolve() == shipped.resolve()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "realqa score",
        description="Score photographs: tables, and a page to look through them. A run that was "
        "cut off goes on where it was. Several processes: torchrun --nproc-per-node N -m "
        "realqa_utils.cli score ...",
    )
    add = parser.add_argument
    add("photos", nargs="+", metavar="PHOTOS", help="files and folders, with all subfolders")
    add("--out", required=True, metavar="DIR", help="folder for the results")
    add("--model", metavar="FOLDER", help="a trained model: a folder of Backbone.save, or hub name")
    add("--digits", type=int, default=3, metavar="M", help="of a score, as trained (default: 3)")
    add("--attributes", action="store_true", help="ask about the ten attributes as well")
    add("--composite", metavar="FILE", help="weights of the attributes (Composite.save)")
    add("--calibration", metavar="FILE", help="for scores and intervals (Calibration.save)")
    view = parser.add_argument_group("view", "as in training; by default the whole photograph")
    view.add_argument("--size", type=int, default=0, metavar="PX", help="side of a window")
    view.add_argument("--short", type=int, default=0, metavar="PX", help="short side before that")
    view.add_argument("--grid", type=int, default=1, metavar="N", help="N x N windows, averaged")
    add("--batch-size", type=int, default=64, metavar="N", help="photographs at a time")
    add("--no-html", dest="html", action="store_false", help="tables only, for very many")
    return parser
