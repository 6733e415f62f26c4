"""`realqa score PHOTOS... --model FOLDER --out DIR`: what a trained model makes of photographs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from realqa_utils.images.views import View
    from realqa_utils.model.taught import Taught
    from realqa_utils.scoring.folders import Summary

SHOWN = 50  # problems told on the terminal; the table has all of them
ADVICE = (
    "the shipped backbone has not learnt to score. Train one: `realqa train scores` tells its "
    "FOLDER; then give --model FOLDER"
)


def main(arguments: list[str] | None = None) -> int:
    """Score photographs and say where the results are. 1: not one of them could be scored.

    Raises ValueError and FileNotFoundError for bad input, before anything is scored.
    """
    options = _parser().parse_args(arguments)
    from realqa_utils.measures import composite
    from realqa_utils.model import backbone, taught  # seconds
    from realqa_utils.scoring import calibration, folders

    known = _known(options, backbone.MINI_FOLDER)
    view = _view(options, known.view if known else None)
    weights = composite.load(options.composite) if options.composite else None
    curve = calibration.load(options.calibration) if options.calibration else None
    digits = options.digits or (known.digits if known else 3)
    form = _form(options, known)
    folders.select(options.photos)  # a misspelt path is told before a large model is loaded
    with backbone.quiet():
        model = taught.load(options.model, options.adapter, options.weights)
    summary = folders.score(
        model,
        options.photos,
        options.out,
        digits=digits,
        view=view,
        attributes=form,
        composite=weights,
        calibration=curve,
        batch_size=options.batch_size,
        page=options.html,
    )
    if summary is None:  # the first of several processes tells for all
        return 0
    print(report(summary, digits))
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
    if summary.off_form:
        lines.append(
            f"Left to itself, the model would have written the attributes of {summary.off_form} of "
            f"{scored} in another way (column form_left_at): was it taught this form?"
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


def _known(options: argparse.Namespace, shipped: Path) -> Taught | None:
    """What the folder of the model tells of it, if anything.

    Raises ValueError for a model that writes no scores.
    """
    from realqa_utils.model import taught

    if not options.model:
        raise ValueError(f"--model: {ADVICE}")
    is_mini = options.model == "mini" or Path(options.model).resolve() == shipped.resolve()
    if is_mini and not options.adapter:
        raise ValueError(f"--model {options.model}: {ADVICE}")
    place = options.adapter or options.model
    known = taught.read(place)
    if known and known.problem:
        raise ValueError(f"{place} {known.problem}")
    return known


def _form(options: argparse.Namespace, known: Taught | None) -> str:
    """The form that attributes are asked for in, as taught where that is known; "" for none.

    Raises ValueError for a model that was taught no attributes.
    """
    from realqa_utils.forms.chains import REGULAR

    if options.form or not (options.attributes or options.composite):
        return options.form
    if known and not known.attributes_in:
        raise ValueError(
            f"{options.adapter or options.model} was taught scores and no attributes; right for "
            "--attributes and --composite is a model of `realqa train chains` (--attribute-form "
            "asks this one all the same)"
        )
    return known.attributes_in if known else REGULAR.name


def _view(options: argparse.Namespace, trained: View | None) -> View:
    """What is seen of a photograph: as asked for, else as in training, else the whole.

    Raises ValueError for windows and --pixels together.
    """
    from realqa_utils.images.views import PRESETS, View

    windows = {"size": options.size, "short": options.short, "grid": options.grid}
    windows = {key: value for key, value in windows.items() if value is not None}
    if options.pixels and windows:
        raise ValueError(f"--pixels is for whole photographs: leave out --{next(iter(windows))}")
    if options.pixels:
        return PRESETS.get(options.pixels, View())
    return View(**windows) if windows or not trained else trained


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
    add("--model", metavar="FOLDER", help="a trained model: the folder that `realqa train` tells, "
        "one of Backbone.save, or a hub name")  # fmt: skip
    add("--adapter", default="", metavar="A", help="LoRA for it: a folder, or owner/name/folder")
    add("--weights", choices=("float32", "bfloat16", "nf4"), default="float32", help="precision")
    add("--digits", type=int, metavar="M", help="of a score (default: as trained, else 3)")
    add("--attributes", action="store_true", help="ask about the ten attributes as well, of a "
        "model that was taught them: by `realqa train chains`, or the released ones")  # fmt: skip
    add("--attribute-form", dest="form", choices=("mix", "cot_natural", "cot_regular"), default="",
        help="of that question (default: as taught, else cot_regular)")  # fmt: skip
    add("--composite", metavar="FILE", help="weights of the attributes (Composite.save)")
    add("--calibration", metavar="FILE", help="for scores and intervals (Calibration.save)")
    about = "as in training, where the model's folder tells; else the whole photograph"
    view = parser.add_argument_group("view", about)
    view.add_argument("--size", type=int, metavar="PX", help="side of a window")
    view.add_argument("--short", type=int, metavar="PX", help="short side before that")
    view.add_argument("--grid", type=int, metavar="N", help="N x N windows, averaged")
    view.add_argument("--pixels", choices=("repo", "clean", "as-is"), help="of a whole photograph: "
        "as by the authors' code, as in their README, as the checkpoint says")  # fmt: skip
    add("--batch-size", type=int, default=64, metavar="N", help="photographs at a time")
    add("--no-html", dest="html", action="store_false", help="tables only, for very many")
    return parser
