"""Chains of thought, trained longer: `realqa lengths chains`.

The trainings of notebook 08, with chains and without, with several times as many steps, asked at
home and about the sets of notebook 09. They are compared at equal steps and in the paper's
proportion: three times the steps for three forms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from realqa_utils.experiments import chain_of_thought, cross_domain, scorers, training_length
from realqa_utils.experiments.chain_of_thought import BRIEF, DIRECT, FORMS, REASONED
from realqa_utils.measures import evaluation
from realqa_utils.profiles import Profile
from realqa_utils.records import results

STEM = "chain_length"
TIMES = (1, 3, 6)  # the steps of notebook 08


@dataclass(frozen=True)
class Readings:
    """What the models of every length say, as `times` the steps of notebook 08."""

    home: Mapping[tuple[int, str, str], Sequence[pd.DataFrame]]  # (times, trained on, asked in)
    unseen: Mapping[int, cross_domain.Readings]  # by times

    def pairs(self) -> Iterator[tuple[int, str, int]]:
        """What is compared: times with chains, with what, times without."""
        lengths = sorted(self.unseen)
        for times in lengths:
            yield times, DIRECT, times
            if times % len(FORMS) == 0 and times // len(FORMS) in lengths:
                yield times, BRIEF, times // len(FORMS)


def readings(profile: Profile, times: Sequence[int] = TIMES) -> Readings:
    """Every length of both trainings; what is on disk is not trained again."""
    splits, (tables, _) = scorers.splits(profile), cross_domain.tests(profile)
    longer = {t: training_length.longer(profile, "chains", t) for t in times}
    by_times = {t: cross_domain.models(longer[t], splits) for t in times}
    home: dict = {}
    for model, forms in ((REASONED, FORMS), (DIRECT, ("direct",))):
        todo = [trial for t in times for trial in by_times[t][model]]
        frames = scorers.readings(profile, todo, forms)
        for place, t in enumerate(times):
            own = slice(place * len(splits), (place + 1) * len(splits))
            home |= {(t, model, form): frames["", form][own] for form in forms}
    return Readings(home, {t: cross_domain.readings(longer[t], tables) for t in times})


def table(profile: Profile, found: Readings, seed: int) -> pd.DataFrame:
    """SRCC of every length, training, form and way of reading; then with chains minus without, at
    home and over all unseen sets.

    The steps of a difference are those of the model with chains.
    """
    parts = [part(profile, found, seed) for part in (_models, _at_home, _away)]
    return pd.concat(parts, ignore_index=True)


def _models(profile: Profile, found: Readings, seed: int) -> pd.DataFrame:
    rows, dataset = [], scorers.home(profile)
    for (times, model, form), frames in found.home.items():
        facts = {"steps": times * profile.chains.steps, "row": f"{model}, asked: {form}"}
        for read in ("greedy", "expected"):
            interval = evaluation.estimate("srcc", frames, read, seed, profile.resamples)
            row = evaluation.row(interval, dataset, model, "srcc", profile.seeds)
            rows.append(row | facts | {"form": form, "read": read})
    return pd.DataFrame(rows)


def _at_home(profile: Profile, found: Readings, seed: int) -> pd.DataFrame:
    parts, dataset = [], scorers.home(profile)
    for times, against, brief in found.pairs():
        readings = {(REASONED, form): found.home[times, REASONED, form] for form in FORMS}
        readings |= {(against, "direct"): found.home[brief, DIRECT, "direct"]}
        judged = chain_of_thought.verdicts(profile, dataset, readings, seed)
        words = "asked: " + judged["form"] + f", minus {against}"
        parts.append(judged.assign(steps=times * profile.chains.steps, row=words))
    return _differences(parts)


def _away(profile: Profile, found: Readings, seed: int) -> pd.DataFrame:
    parts, form = [], cross_domain.ASKED[REASONED]
    for times, against, brief in found.pairs():
        with_chains = {k: v for k, v in found.unseen[times].items() if k[0] == REASONED}
        without = {k: v for k, v in found.unseen[brief].items() if k[0] == DIRECT}
        judged = cross_domain.verdicts(profile, with_chains | without, seed)
        judged = judged[judged["dataset"] == cross_domain.UNSEEN]
        words = f"asked: {form}, {cross_domain.UNSEEN}, minus {against}"
        facts = {"metric": f"srcc - {against}", "form": form, "against": against, "row": words}
        parts.append(judged.assign(**facts, steps=times * profile.chains.steps))
    return _differences(parts)


def _differences(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(parts).drop(columns=["verdict", "unseen"], errors="ignore")


def save(profile: Profile, table: pd.DataFrame, figure: Figure, watch: results.Stopwatch) -> Path:
    """Write the table with its record and figure; judge both claims again.

    In the paper's proportion, at the most steps of which a third was trained too; at equal steps
    it is notebooks 08 and 09 that judge.
    """
    tests = [split.test for split in scorers.splits(profile)]
    facts = scorers.facts(profile, tests, profile.chains, watch)
    path = results.save(STEM, profile, table, figures={"": figure}, **facts)
    form = cross_domain.ASKED[REASONED]
    judged = table[(table["metric"] == f"srcc - {BRIEF}") & (table["form"] == form)]
    judged = judged[(judged["read"] == "greedy") & (judged["steps"] == judged["steps"].max())]
    for row in judged.to_dict("records"):
        is_away = row["dataset"] == cross_domain.UNSEEN
        where = "mean over unseen sets" if is_away else row["dataset"]
        results.record_claim(
            profile,
            cross_domain.CLAIM if is_away else chain_of_thought.BEATS,
            notebook="09" if is_away else "08",
            measured=f"{where}, regular form, greedy, {row['steps']} steps, minus {BRIEF}",
            **{key: row[key] for key in results.FOUND},
            seeds=profile.seeds,
            longer=True,
        )
    return path
