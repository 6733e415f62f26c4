"""`realqa lengths`: the trainings of notebook 03 or 08 again with several times the steps."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from realqa_utils.profiles import PROFILES, get_profile


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing; write the table, its record, its figure, and the claims anew.

    Raises ValueError for an unknown profile and for lengths that are none.
    """
    options = _parser().parse_args(arguments)
    profile, times = get_profile(options.profile), _times(options.times)
    # seconds
    from realqa_utils.experiments import chain_length, granularity_length, training_length
    from realqa_utils.plotting import comparison_plots, plots
    from realqa_utils.records.provenance import Stopwatch

    watch = Stopwatch()
    if options.what == "chains":
        experiment, found = chain_length, chain_length.readings(profile, times)
    else:
        experiment, found = granularity_length, granularity_length.readings(profile)
    table = experiment.table(profile, found, options.seed)
    models, differences = training_length.models(table), training_length.differences(table)
    plots.use_style()
    path = experiment.save(profile, table, comparison_plots.lengths(models), watch)
    for part, form in ((models, ".3f"), (differences, "+.3f")):
        print(training_length.shown(part, form).to_string(), end="\n\n")
    print(path)
    return 0


def _times(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isdigit() and int(part) for part in parts) or len({*parts}) < len(parts):
        raise ValueError(f"--times {text}: right are different whole numbers, such as 1,3,6")
    return tuple(sorted(map(int, parts)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "realqa lengths",
        description="Trainings of a notebook with several times the steps; the notebook shows the "
        "table. On mini 40 minutes each on two cores; what was trained before is not trained "
        "again.",
    )
    add = parser.add_argument
    add("what", choices=("granularity", "chains"),
        help="granularity: notebook 03, at equal epochs; chains: notebooks 08 and 09")  # fmt: skip
    add("--profile", default="mini", metavar="P", help=f"{', '.join(PROFILES)} (default: mini)")
    add("--times", default="1,3,6", metavar="1,3,6",
        help="of chains: times the profile's steps (default: 1,3,6)")  # fmt: skip
    add("--seed", type=int, default=0, metavar="K", help="of the bootstrap (default: 0)")
    return parser
