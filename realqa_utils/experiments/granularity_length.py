"""Table 2 at equal epochs, and at many equal steps: `realqa lengths granularity`.

The paper's stage 1 is two epochs of its conversations; taken for every row, that is 13 times as
many steps of what has 13 forms as of what has one. On small profiles notebook 03 has few, equal
steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from realqa_utils.experiments import attribute_scores, granularity, training_length, trials
from realqa_utils.experiments.attribute_scores import AVERAGE
from realqa_utils.experiments.granularity import ASKED, TITLES, Readings
from realqa_utils.forms.conversations import STAGE_1
from realqa_utils.profiles import Profile
from realqa_utils.records import results

STEM = "granularity_length"
#: What is trained on -> how many times the steps of one form make as many epochs.
EPOCHS = {name: len(STAGE_1[name]) for name in ASKED}
MOST = max(EPOCHS.values())


def readings(profile: Profile) -> dict[int, Readings]:
    """By times of the steps: every row of Table 2 at once and `MOST` times, and at equal epochs.

    Raises ValueError for a profile whose notebook has equal epochs already.
    """
    if profile.equal_epochs:
        raise ValueError(f"on {profile.name} notebook 03 has equal epochs already: nothing to do")
    data, lengths = granularity.split(profile), sorted({1, MOST, *EPOCHS.values()}, reverse=True)
    longer = {times: training_length.longer(profile, "stage_1", times) for times in lengths}
    names = {t: [name for name, own in EPOCHS.items() if t in (1, MOST, own)] for t in lengths}
    every = [
        granularity.trial(longer[times], data, name, seed)
        for times in lengths  # the longest first
        for name in names[times]
        for seed in granularity.seeds(profile)
    ]
    trials.run_all(every, results.run_dir(profile, "trials"), profile.workers)
    return {times: granularity.readings(longer[times], data, names[times]) for times in lengths}


def at_equal_epochs(found: Mapping[int, Readings]) -> Readings:
    """Of every row the training that has seen each of its conversations as often as the others."""
    return {
        (name, asked): found[EPOCHS[name]][name, asked] for name in ASKED for asked in ASKED[name]
    }


def table(profile: Profile, found: Mapping[int, Readings], seed: int) -> pd.DataFrame:
    """Mean SRCC over the attributes of every length and row; then all forms together minus others.

    The steps of a difference are those of the model with all forms.
    """
    data, unit, parts = granularity.split(profile), profile.stage_1.steps, []
    for times, some in sorted(found.items()):
        every = granularity.table(profile, data, some, seed)
        part = every[(every["attribute"] == AVERAGE) & (every["metric"] == training_length.SRCC)]
        words = part["model"] + ", asked: " + part["asked"]
        parts.append(part.assign(steps=times * unit, row=words))
    compared = {"equal steps": [(times, found[times]) for times in (1, MOST)]}
    compared["equal epochs"] = [(MOST, at_equal_epochs(found))]
    for how, pairs in compared.items():
        for times, some in pairs:
            judged = granularity.verdicts(profile, data, some, seed)
            judged = judged[judged["model"].str.startswith(TITLES["all"])]
            words = judged["model"] + f", {how}"
            parts.append(judged.assign(metric=f"srcc, {how}", steps=times * unit, row=words))
    return pd.concat(parts, ignore_index=True).drop(columns=["attribute", "unparsed", "verdict"])


def save(profile: Profile, table: pd.DataFrame, figure: Figure, watch: results.Stopwatch) -> Path:
    """Write the table with its record and figure; judge the claim again, at equal epochs.

    As in notebook 03 against the best of the other models.
    """
    seeds = granularity.seeds(profile)
    facts = attribute_scores.facts(profile, granularity.split(profile), seeds, watch)
    path = results.save(STEM, profile, table, figures={"": figure}, **facts)
    judged = table[table["metric"] == "srcc, equal epochs"]
    hardest = judged.loc[judged["estimate"].idxmin()]
    results.record_claim(
        profile,
        granularity.CLAIM,
        notebook="03",
        measured=f"{hardest['row']}, {hardest['steps']} steps",
        **hardest[results.FOUND],
        seeds=seeds,
        longer=True,
    )
    return path
