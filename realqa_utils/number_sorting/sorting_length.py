"""Table 3 with models that can sort: `realqa lengths sorting`.

The courses of notebook 04 end where sorting begins. Here they are three times as long, with Muon,
lists of any length all along, four times the text in every step, and four times the captions, as
many as in pretraining: of smaller batches the model loses what it sees. The same probe, fine-tuning
and claim follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from realqa_utils.number_sorting import number_text, sorting_claim
from realqa_utils.number_sorting.number_text import Course
from realqa_utils.profiles import Profile
from realqa_utils.records import results

STEM = "sorting_length"
TIMES, MORE = 3, 4  # the steps of notebook 04; the numbers and captions of one
LISTS_SEED = 0  # those that notebook 04 asks about
SAID = {"position": "places right", "accuracy": "lists right", "recall": "given numbers said",
        "hallucination": "said, but not given"}  # fmt: skip


def courses(profile: Profile) -> list[Course]:
    """Sorting and, for comparison, captions alone; then the backbone as shipped.

    Raises ValueError for a profile on which no model is taught to sort.
    """
    if not number_text.teaches(profile):
        raise ValueError(
            f"on {profile.name} notebook 04 takes models as they come and teaches none to sort; "
            "lengths sorting is for mini and photos"
        )
    first = number_text.courses(profile)[0]
    size = {"numbers": MORE * first.numbers, "captions": MORE * first.captions}
    sorting = Course("sorting", TIMES * first.steps, **size, grows=False, muon=True)
    return [sorting, replace(sorting, task="captions"), Course()]


def tables(profile: Profile, seed: int) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """What the models sort and score, and the verdicts, by suffix; then `sorting_claim.points`.

    What is on disk is not trained again. Rows of the first whose metric is `srcc` have a `reading`.
    """
    taken, lists = courses(profile), number_text.probe_lists(profile, LISTS_SEED)
    places = number_text.models(profile, lists, taken)
    answers = {n: number_text.answers(profile, places, rows) for n, rows in lists.items()}
    data = number_text.splits(profile)
    scores = number_text.scores(profile, places, data)
    sorted_by = sorting_claim.table(answers, LISTS_SEED, seed, profile.resamples)
    srcc = sorting_claim.scores_table(profile, data, scores, seed)
    first, fair = answers[number_text.LENGTHS[0]], number_text.longest(taken)
    judged = sorting_claim.verdicts(profile, data, first, scores, seed, fair)
    found = {"": pd.concat([sorted_by, srcc], ignore_index=True), "verdicts": judged}
    return found, sorting_claim.points(first, scores)


def parts(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What is sorted and what is scored, as the tables of notebook 04 have it."""
    scored = table["metric"] == "srcc"
    return table[~scored], table[scored]


def shown(table: pd.DataFrame) -> pd.DataFrame | str:
    """A model a row: what it sorts of the paper's lists, and the SRCC of its scores."""
    if table.empty:
        return "no model was taught to sort on this profile: realqa lengths sorting"
    lists, scores = parts(table)
    lists = lists[lists["dataset"] == lists["dataset"].iloc[0]].replace({"metric": SAID})
    scores = scores.assign(metric="SRCC, " + scores["reading"])
    rows = pd.concat([lists, scores])
    cells = [
        "" if pd.isna(r.estimate) else f"{r.estimate:.3f} [{r.low:.3f}, {r.high:.3f}]"
        for r in rows.itertuples()
    ]
    wide = rows.assign(cell=cells).pivot(index="model", columns="metric", values="cell")
    order = [*SAID.values(), *dict.fromkeys(scores["metric"])]
    return wide.loc[list(dict.fromkeys(rows["model"])), order].fillna("").rename_axis(columns=None)


def shown_verdicts(judged: pd.DataFrame) -> pd.DataFrame | str:
    """What is compared a row, a measure a column: estimate, interval, verdict."""
    if judged.empty:
        return ""
    cells = [
        f"{r.estimate:+.3f} [{r.low:+.3f}, {r.high:+.3f}] {r.verdict}" for r in judged.itertuples()
    ]
    wide = judged.assign(cell=cells).pivot(index="model", columns="metric", values="cell")
    order = [list(dict.fromkeys(judged[key])) for key in ("model", "metric")]
    return wide.loc[order[0], order[1]].rename_axis(index=None, columns=None)


def save(
    profile: Profile, found: Mapping[str, pd.DataFrame], figure: Figure, watch: results.Stopwatch
) -> Path:
    """Write the tables with their records and the figure; judge the claim again."""
    facts = sorting_claim.facts_of(profile, number_text.splits(profile), found[""], watch)
    facts |= {"notes": f"{courses(profile)}; {profile.recipe}"}
    results.save_parts(STEM, profile, found, {"": figure}, **facts)
    judged = found["verdicts"]
    first = judged.iloc[1]
    results.record_claim(
        profile,
        sorting_claim.CLAIM,
        notebook="04",
        measured=f"SRCC on {first['dataset']}, {first['model']}, greedy",
        verdict=sorting_claim.decide(judged),
        **first[results.FOUND],
        seeds=facts["seeds"],
        longer=True,
    )
    return results.figure_dir(profile) / f"{STEM}.csv"
