"""`realqa chain-length`: notebook 08 again with several times the steps, for a table of lengths."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from realqa_utils.profiles import PROFILES, get_profile


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, and write the table, its record and its figure.

    Raises ValueError for an unknown profile and for lengths that are none.
    """
    options = _parser().parse_args(arguments)
    profile, times = get_profile(options.profile), _times(options.times)
    import pandas as pd  # seconds, with those below

    from realqa_utils.experiments import chain_length, scorers
    from realqa_utils.plotting import comparison_plots, plots
    from realqa_utils.records import results

    watch, tests = results.Stopwatch(), [split.test for split in scorers.splits(profile)]
    own, others = chain_length.readings(profile, times), chain_length.unseen(profile, times)
    home = chain_length.table(profile, own, options.seed)
    found = pd.concat([home, chain_length.unseen_table(profile, others, options.seed)])
    plots.use_style()
    figures = {"": comparison_plots.lengths(found[found["metric"] == "srcc"])}
    facts = scorers.facts(profile, tests, profile.chains, watch)
    path = results.save(chain_length.STEM, profile, found, figures=figures, **facts)
    for metric in ("srcc", chain_length.MINUS):
        print(f"{metric}\n{chain_length.shown(found, metric).to_string()}\n")
    print(path)
    return 0


def _times(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isdigit() and int(part) for part in parts) or len({*parts}) < len(parts):
        raise ValueError(f"--times {text}: right are different whole numbers, such as 1,3,6")
    return tuple(map(int, parts))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "realqa chain-length",
        description="Trainings with chains of thought and without, several times as long as in "
        "notebook 08, which shows the table. On mini half an hour on two cores; what was trained "
        "before is not trained again.",
    )
    add = parser.add_argument
    add("--profile", default="mini", metavar="P", help=f"{', '.join(PROFILES)} (default: mini)")
    add("--times", default="1,3,6", metavar="1,3,6", help="the profile's steps (default: 1,3,6)")
    add("--seed", type=int, default=0, metavar="K", help="of the bootstrap (default: 0)")
    return parser
