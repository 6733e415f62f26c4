"""`realqa lengths`: the trainings of notebook 03, 04 or 08 again, several times as long."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from realqa_utils.profiles import PROFILES, Profile, get_profile
from realqa_utils.records.provenance import Stopwatch


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing; write the table, its record, its figure, and the claims anew.

    Raises ValueError for an unknown profile and for lengths that are none.
    """
    options = _parser().parse_args(arguments)
    profile, times = get_profile(options.profile), _times(options.times)
    # seconds
    from realqa_utils.experiments import chain_length, granularity_length, training_length
    from realqa_utils.plotting import comparison_plots, plots

    watch = Stopwatch()
    plots.use_style()
    if options.what == "sorting":
        return _sorting(profile, options.seed, watch)
    if options.what == "chains":
        experiment, found = chain_length, chain_length.readings(profile, times)
    else:
        experiment, found = granularity_length, granularity_length.readings(profile)
    table = experiment.table(profile, found, options.seed)
    models, differences = training_length.models(table), training_length.differences(table)
    path = experiment.save(profile, table, comparison_plots.lengths(models), watch)
    for part, form in ((models, ".3f"), (differences, "+.3f")):
        print(training_length.shown(part, form).to_string(), end="\n\n")
    print(path)
    return 0


def _sorting(profile: Profile, seed: int, watch: Stopwatch) -> int:
    from realqa_utils.number_sorting import sorting_length
    from realqa_utils.plotting import sorting_plots

    found, points = sorting_length.tables(profile, seed)
    figure = sorting_plots.plot_foresight(points, *sorting_length.parts(found[""]))
    path = sorting_length.save(profile, found, figure, watch)
    print(sorting_length.shown(found[""]).to_string(), end="\n\n")
    print(sorting_length.shown_verdicts(found["verdicts"]).to_string(), end="\n\n")
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
        "table. On mini half an hour or more each on two cores; what was trained before is kept.",
    )
    add = parser.add_argument
    add("what", choices=("granularity", "sorting", "chains"),
        help="granularity: notebook 03, at equal epochs; sorting: notebook 04, until lists are "
        "sorted; chains: notebooks 08 and 09")  # fmt: skip
    add("--profile", default="mini", metavar="P", help=f"{', '.join(PROFILES)} (default: mini)")
    add("--times", default="1,3,6", metavar="1,3,6",
        help="of chains: times the profile's steps (default: 1,3,6)")  # fmt: skip
    add("--seed", type=int, default=0, metavar="K", help="of the bootstrap (default: 0)")
    return parser
