"""`realqa train WHAT --profile P`: one training of a profile, on one GPU or on many.

    realqa train attributes --profile paper
    accelerate launch --config_file notebooks/profiles/accelerate/ddp.yaml \
        -m realqa_utils.commands.train chains --profile paper

What comes out lies where the notebooks look for it, so that they do not train it again. A training
that was cut off goes on at its last checkpoint, with as many processes or with others.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from realqa_utils.profiles import PROFILES, Profile, get_profile, unknown

if TYPE_CHECKING:
    from realqa_utils.experiments.trials import Trial

#: What is trained, by name.
WHAT = {
    "attributes": "stage 1: the model that labels photographs (notebooks 02 and 08)",
    "scores": "direct scores of M digits (notebook 05)",
    "direct": "direct scores, as many steps as with chains (notebook 08)",
    "chains": "direct scores and both chains of thought, on labels by `attributes` (notebook 08)",
}
WATCHED = 200  # held-out photographs of which NCM is told


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, unless that is done, and say where the weights and the NCM curves are.

    Raises ValueError for an unknown profile or seed, and for chains without labels.
    """
    options = _parser().parse_args(arguments)
    profile = get_profile(options.profile)
    if options.seed is None:
        options.seed = profile.seeds[0]
    if options.seed not in profile.seeds:
        raise ValueError(unknown("seed", str(options.seed), profile.seeds))
    from realqa_utils.experiments import trials
    from realqa_utils.records import results  # seconds

    cache = results.run_dir(profile, "trials")
    trial = trial_of(profile, options.what, options.seed, options.digits)
    folder = trials.kept(trial, cache)
    out = results.run_dir(profile, "checkpoints", folder.name)
    if not folder.exists():
        _train(trial, cache, folder, out, options)
    if os.environ.get("RANK", "0") == "0":
        print(f"weights: {folder}")
        if options.what != "attributes":
            more = " --attributes" if options.what == "chains" else ""
            print(f"scores:  realqa score PHOTOS --model {folder}{more} --out DIR")
        if (out / "ncm.csv").exists():
            print(f"NCM:     {out / 'ncm.csv'} (realqa curves {out / 'ncm.csv'})")
    return 0


def trial_of(profile: Profile, what: str, seed: int, digits: int = 3) -> Trial:
    """The very trial that the notebooks train. Raises ValueError for chains without labels."""
    from realqa_utils.experiments import (
        chain_of_thought,
        cross_domain,
        granularity,
        scorers,
        trials,
    )
    from realqa_utils.records import results

    if what == "attributes":
        return granularity.teacher(profile, granularity.split(profile), seed)
    splits, row = scorers.splits(profile), profile.seeds.index(seed)
    if what == "scores":
        return scorers.all_trials(profile, splits, digits=digits)[row]
    if what == "direct":
        return chain_of_thought.plain(profile, splits)[row]
    teacher = trial_of(profile, "attributes", granularity.seeds(profile)[0])
    place = trials.kept(teacher, results.run_dir(profile, "trials"))
    if not place.exists():
        raise ValueError(
            f"chains are learnt from labels, and {place} is missing: first "
            f"realqa train attributes --profile {profile.name}"
        )
    return cross_domain.models(profile, splits)[chain_of_thought.REASONED][row]


def _train(trial: Trial, cache: Path, folder: Path, out: Path, options) -> None:
    from realqa_utils.experiments import trials
    from realqa_utils.ncm import NCM, NCMCallback
    from realqa_utils.training import fine_tuning

    recipe, test, callbacks = trial.recipe, trial.split.test, []
    start = trials.starting_point(trial, cache)
    if not trial.asked:
        metric = NCM(None, start.digit_ids, recipe.digits)
        callbacks.append(NCMCallback(metric, every=options.every, csv=out / "ncm.csv"))
    is_direct = recipe.form == "direct"  # held-out photographs have no labels to make chains from
    fine_tuning.train(
        start, trial.split.train, recipe, trial.view, out,
        save_steps=min(options.save_every, recipe.steps), progress=True, callbacks=callbacks,
        held_out=test.subset(test.frame["id"][:WATCHED]) if is_direct else None,
        evaluate_every=max(1, recipe.steps // 10) if is_direct else 0,
        keep=folder,
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "realqa train",
        description="One training of a profile, where the notebooks will find it.",
        epilog="; ".join(f"{name}: {text}" for name, text in WHAT.items()),
    )
    add = parser.add_argument
    add("what", choices=WHAT)
    add("--profile", default="mini", metavar="P", help=f"{', '.join(PROFILES)} (default: mini)")
    add("--seed", type=int, metavar="K", help="one of the profile's (default: its first)")
    add("--digits", type=int, default=3, choices=(1, 2, 3, 4), help="M (default: 3)")
    add("--every", type=int, default=5, metavar="N", help="steps between two NCM (default: 5)")
    add("--save-every", type=int, default=50, metavar="N", help="steps between checkpoints")
    return parser


if __name__ == "__main__":
    sys.exit(main())
