"""The command `realqa`.

realqa reproduce [--profile P] [--only 05,06] [--seeds 0,1,2] [--set key=value ...] [--cluster C]
                 [--dry-run]
realqa notebooks refresh [--only 05,06]
realqa report [--profile P]
realqa score PHOTOS... --model FOLDER --out DIR
realqa evaluate ...    what a model makes of the test side of a public set
realqa curves RUN...   the NCM curves of trainings, as a figure and a table
realqa data            which public sets are there, and how to get the others
realqa train WHAT      one training of a profile, on one GPU or many
realqa plan ...        what a profile needs: memory, hours, disk; before any download
realqa doctor          is this machine ready for a profile?
realqa pretrain ...    rebuild the shipped mini backbone
realqa lengths WHAT    trainings of notebook 03, 04 or 08, several times as long: half an hour each
realqa benchmark ...   training speed against the plain way
realqa benchmark-ncm   what listening to NCM costs, beside a naive loop
realqa benchmark-gpu   what a profile costs on the GPU that is here, beside its plan
realqa readme          the numbers in README.md, from figures/
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import sys
from collections.abc import Sequence

from realqa_utils import __version__
from realqa_utils.profiles import PROFILES, seeds

#: Commands with options of their own: the module whose `main` takes them, and what they are for.
FORWARDED = {
    "score": ("commands.score", "score photographs with a trained model"),
    "evaluate": ("commands.evaluate", "a model on the test side of a public set"),
    "curves": ("commands.curves", "NCM curves of trainings as a figure"),
    "data": ("commands.data", "which public sets are there"),
    "train": ("commands.train", "one training of a profile"),
    "plan": ("planning.plan_command", "what a profile needs: memory, hours, disk"),
    "doctor": ("planning.doctor", "is this machine ready for a profile?"),
    "pretrain": ("training.pretraining", "rebuild the shipped mini backbone"),
    "lengths": ("commands.lengths", "trainings of notebook 03, 04 or 08, longer"),
    "benchmark": ("benchmarks.benchmark", "training speed against the plain way"),
    "benchmark-ncm": ("benchmarks.ncm_benchmark", "what listening to NCM costs"),
    "benchmark-gpu": ("benchmarks.gpu_benchmark", "what a profile costs on this GPU"),
    "readme": ("reproduction.readme", "renew the numbers in README.md"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 is success, 1 a notebook that failed; 2 is bad input, told in one line on stderr.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in FORWARDED:
            module = importlib.import_module(f"realqa_utils.{FORWARDED[arguments[0]][0]}")
            return module.main(arguments[1:]) or 0
        options = _parser().parse_args(arguments)
        return options.command(options)
    except (ValueError, FileNotFoundError) as error:
        print(f"realqa: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("realqa: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="realqa",
        description="Reproduce RealQA.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28),
    )
    parser.add_argument("--version", action="version", version=f"realqa {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    reproduce = commands.add_parser("reproduce", help="run the notebooks that are out of date")
    _add_profile(reproduce)
    _add_only(reproduce)
    reproduce.add_argument(
        "--seeds", type=_seeds, metavar="0,1,2", help="train on these, not on the profile's"
    )
    reproduce.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        type=_setting,
        metavar="KEY=VALUE",
        dest="settings",
        help="parameters of the notebooks, e.g. --set seed=3",
    )
    reproduce.add_argument(
        "--cluster", default="", metavar="C", help="slurm, or a folder with a Snakemake profile"
    )
    reproduce.add_argument(
        "--dry-run",
        action="store_true",
        help="two steps on a handful of photographs, by the mini backbone: does every line run?",
    )
    reproduce.set_defaults(command=_reproduce)

    notebooks = commands.add_parser("notebooks", help="keep the committed notebooks fresh")
    notebooks.add_argument("action", choices=["refresh"], help="execute on mini and write back")
    _add_only(notebooks)
    notebooks.set_defaults(command=_refresh)

    report = commands.add_parser("report", help="executed notebooks and claims as web pages")
    _add_profile(report)
    report.set_defaults(command=_report)

    for name, (_, purpose) in FORWARDED.items():
        commands.add_parser(name, help=purpose, add_help=False)
    return parser


def _add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile", default="mini", metavar="P", help=f"{', '.join(PROFILES)} (default: mini)"
    )


def _add_only(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only",
        type=lambda text: [item.strip() for item in text.split(",") if item.strip()],
        metavar="05,06",
        help="these notebooks only, by number or name",
    )


def _setting(text: str) -> tuple[str, object]:
    """`key=value` as (key, value): a Python literal where it reads as one, else text."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def _seeds(text: str) -> str:
    try:
        seeds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(error) from None
    return text


def _reproduce(options: argparse.Namespace) -> int:
    # imports cost a second: after the options are known good
    from realqa_utils.reproduction import notebooks

    if options.seeds:
        os.environ["REALQA_SEEDS"] = options.seeds  # into every process that asks for the profile
    if options.dry_run:
        notebooks.prepare_dry_run(options.profile)
    return notebooks.reproduce(
        options.profile, options.only, dict(options.settings), cluster=options.cluster
    )


def _refresh(options: argparse.Namespace) -> int:
    from realqa_utils.reproduction import notebooks

    return notebooks.refresh(options.only)


def _report(options: argparse.Namespace) -> int:
    from realqa_utils.reproduction import report

    print(report.build(options.profile))
    return 0


if __name__ == "__main__":
    sys.exit(main())
