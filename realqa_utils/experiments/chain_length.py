"""Is it only that chains need longer? `realqa chain-length`, shown in notebook 08.

The trainings of notebook 08, with chains and without, again with several times as many steps. Half
an hour on two cores is too long for a notebook that is run often, so the result is kept in
`figures/<profile>/chain_length.csv` until the command is given again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from realqa_utils.experiments import cross_domain, scorers
from realqa_utils.experiments.chain_of_thought import DIRECT, FORMS, REASONED
from realqa_utils.measures import evaluation
from realqa_utils.profiles import Profile
from realqa_utils.records import provenance

STEM = "chain_length"
TIMES = (1, 3, 6)  # the steps of notebook 08
MINUS = f"srcc - {DIRECT}"  # of the same length
#: (times, trained on, asked in) -> one frame a seed
Readings = Mapping[tuple[int, str, str], Sequence[pd.DataFrame]]


def readings(profile: Profile, times: Sequence[int] = TIMES) -> Readings:
    """Every length of both trainings, as in notebook 08; what is on disk is not trained again."""
    splits = scorers.splits(profile)
    by_times = {t: cross_domain.models(_longer(profile, t), splits) for t in times}
    found: dict = {}
    for model, forms in ((REASONED, FORMS), (DIRECT, ("direct",))):
        todo = [trial for t in times for trial in by_times[t][model]]
        frames = scorers.readings(profile, todo, forms)
        for place, t in enumerate(times):
            own = slice(place * len(splits), (place + 1) * len(splits))
            found |= {(t, model, form): frames["", form][own] for form in forms}
    return found


def unseen(profile: Profile, times: Sequence[int] = TIMES) -> dict[int, cross_domain.Readings]:
    """The readings of notebook 09, of every length: the same models on the sets they never saw."""
    tables, _ = cross_domain.tests(profile)
    return {t: cross_domain.readings(_longer(profile, t), tables) for t in times}


def _longer(profile: Profile, times: int) -> Profile:
    return replace(profile, chains=replace(profile.chains, steps=times * profile.chains.steps))


def table(profile: Profile, found: Readings, seed: int) -> pd.DataFrame:
    """SRCC of every length, training, form and way of reading, and with chains minus without."""
    rows, dataset, n = [], scorers.home(profile), profile.resamples
    for (times, model, form), frames in found.items():
        for read in ("greedy", "expected"):
            facts = {"steps": times * profile.chains.steps, "form": form, "read": read}
            interval = evaluation.estimate("srcc", frames, read, seed, n)
            rows.append(evaluation.row(interval, dataset, model, "srcc", profile.seeds) | facts)
            if model == REASONED:
                other = found[times, DIRECT, "direct"]
                interval = evaluation.difference("srcc", frames, other, read, seed, n)
                rows.append(evaluation.row(interval, dataset, model, MINUS, profile.seeds) | facts)
    return pd.DataFrame(rows)


def unseen_table(
    profile: Profile, found: Mapping[int, cross_domain.Readings], seed: int
) -> pd.DataFrame:
    """With chains minus without over all unseen sets, as further rows of `table`."""
    parts = [pd.DataFrame()]
    for times, frames in found.items():
        judged = cross_domain.verdicts(profile, frames, seed)
        facts = {"model": REASONED, "metric": MINUS, "steps": times * profile.chains.steps}
        part = judged[judged["dataset"] == cross_domain.UNSEEN]
        parts.append(part.assign(**facts, form=cross_domain.ASKED[REASONED]))
    return pd.concat(parts).drop(columns=["unseen", "verdict"], errors="ignore")


def kept(profile: Profile) -> pd.DataFrame:
    """The table that the command has left for a profile; empty where there is none."""
    path = provenance.home() / "figures" / profile.name / f"{STEM}.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame()


def shown(table: pd.DataFrame, metric: str = "srcc") -> pd.DataFrame | str:
    """With intervals: a training, form and way of reading a row, a number of steps a column."""
    if table.empty:
        return "nothing was trained longer on this profile: realqa chain-length"
    part = table[table["metric"] == metric]
    cells = [f"{r.estimate:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in part.itertuples()]
    names = part["model"] + ", asked: " + part["form"]
    names += [f", {d}" if d == cross_domain.UNSEEN else "" for d in part["dataset"]]
    wide = part.assign(cell=cells, model=names).pivot(
        index=["model", "read"], columns="steps", values="cell"
    )
    return wide.sort_index(ascending=[True, False])
