"""The experiment of Sec. 4.7 (notebook 09): train on one set, test on five.

What is trained at home is asked about every set; the claim is about those it never saw, with chains
of thought against without. A heat map has every set in turn as the one that is trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from realqa_utils import datasets
from realqa_utils.claims import paper
from realqa_utils.datasets import registry
from realqa_utils.datasets.table import Split, Table
from realqa_utils.experiments import scorers, tracking
from realqa_utils.experiments.chain_of_thought import DIRECT, REASONED, chained, plain, reasoners
from realqa_utils.experiments.tracking import IMAGE_SETS, TO_TRAIN_ON
from realqa_utils.experiments.trials import Trial
from realqa_utils.measures import evaluation, statistics
from realqa_utils.profiles import Profile
from realqa_utils.records import results

NOTEBOOK = "09_sota_comparison"
CLAIM = "S47-cross-domain"
#: Real sets and the test side that is asked about: all of it where training was elsewhere.
PROTOCOLS = {
    "koniq": "official", "spaq": "all", "livec": "all", "ava": "common", "tad66k": "official",
}  # fmt: skip
UNSEEN = "all unseen sets"  # in place of a set's name
LEAST = 30  # photographs of a real set: a rank correlation of fewer says nothing
ASKED = {DIRECT: "direct", REASONED: "cot_regular"}
Readings = Mapping[tuple[str, str], Sequence[pd.DataFrame]]  # (model, tested on) -> one a seed


def tests(profile: Profile) -> tuple[dict[str, Table], list[str]]:
    """Test photographs of every set, the home set first, and why those that are missing are.

    MOS ranges are written as 0 to 10. Of real sets the photographs that are there count.
    """
    home = scorers.home(profile)
    one = replace(profile, seeds=profile.seeds[:1])
    found, missing = {home: scorers.splits(one)[0].test}, []
    if profile.data == "mini":
        return found | {n: scorers.splits(one, n)[0].test for n in IMAGE_SETS if n != home}, []
    for name, protocol in PROTOCOLS.items():
        if name == profile.home:
            continue
        known = registry.get(name)
        try:
            (split,) = registry.splits(name, protocol, present_only=True)
            test = datasets.written_on(split, scorers.TEN, known.title).test
            if len(test) < LEAST:
                raise ValueError(f"{len(test)} photographs are there; right is {LEAST} or more")
            found[known.title] = test
        except (OSError, ValueError) as problem:
            missing.append(f"{known.title} is left out: {problem}")
    return found, missing


def describe(tables: Mapping[str, Table]) -> pd.DataFrame:
    """Photographs of every set, mean and spread of their MOS."""
    rows = {
        name: {"photographs": len(t), "mean": t.targets.mean(), "sd": t.targets.std()}
        for name, t in tables.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").round(2)


def models(profile: Profile, splits: Sequence[Split]) -> dict[str, list[Trial]]:
    """The trainings of notebook 08, with chains and without, one a seed."""
    side = TO_TRAIN_ON if profile.data == "mini" else scorers.home(profile)
    (said, *_) = tracking.label(profile, {side: tracking.tables(profile)[side]})[side]
    return {
        DIRECT: plain(profile, splits),
        REASONED: reasoners(profile, chained(profile, splits, said)),
    }


def readings(profile: Profile, tables: Mapping[str, Table]) -> Readings:
    """Both models of notebook 08 on every set; at home, on the test side of each model's split."""
    home, *others = tables
    away = {name: tables[name] for name in others}
    found = {}
    for model, part in models(profile, scorers.splits(profile)).items():
        form = ASKED[model]
        found[model, home] = scorers.readings(profile, part, [form])["", form]
        if away:
            frames = scorers.readings(profile, part, [form], away)
            found |= {(model, name): frames[name, form] for name in away}
    return found


def crossed(profile: Profile, tables: Mapping[str, Table]) -> dict[tuple[str, str], list]:
    """Direct scorers of every set in turn on every set: (trained on, tested on) -> frames.

    One training a set, with the first seed; on real data the home set alone is trained on.
    """
    one = replace(profile, seeds=profile.seeds[:1])
    sources = tables if profile.data == "mini" else list(tables)[:1]
    todo = [scorers.all_trials(one, scorers.splits(one, name))[0] for name in sources]
    frames = scorers.readings(profile, todo, tables=tables)
    return {
        (source, name): [frames[name, "direct"][row]]
        for row, source in enumerate(sources)
        for name in tables
    }


def published() -> pd.DataFrame:
    """What others measured after training on KonIQ-10k: SRCC / PLCC by method and set."""
    rows = paper.published()
    rows = rows[rows["protocol"].str.startswith("trained on KonIQ-10k")]
    cells = [f"{r.srcc:.3f} / {r.plcc:.3f}" for r in rows.itertuples()]
    wide = rows.assign(cell=cells).pivot(
        index=["method", "source"], columns="dataset", values="cell"
    )
    names = [n for n in ("KonIQ-10k", "SPAQ", "LIVE Challenge") if n in wide]
    return wide[names].fillna("").rename_axis(columns=None)


def table(profile: Profile, found: Readings, seed: int) -> pd.DataFrame:
    """SRCC and PLCC of every model on every set, greedy and expected, tidy."""
    rows = []
    for (model, name), frames in found.items():
        for read in ("greedy", "expected"):
            for metric in ("srcc", "plcc"):
                interval = evaluation.estimate(metric, frames, read, seed, profile.resamples)
                row = evaluation.row(interval, name, model, metric, profile.seeds)
                rows.append(row | {"read": read})
    return pd.DataFrame(rows)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """SRCC with its interval: a model and way of reading a row, a set a column."""
    part = table[table["metric"] == "srcc"]
    cells = [f"{r.estimate:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in part.itertuples()]
    wide = part.assign(cell=cells).pivot(index=["model", "read"], columns="dataset", values="cell")
    return wide[list(dict.fromkeys(part["dataset"]))].rename_axis(columns=None)


def heat(profile: Profile, found: Mapping[tuple[str, str], Sequence], seed: int) -> pd.DataFrame:
    """SRCC of the expected score for every pair of sets, tidy: model is "trained on ..."."""
    rows = []
    for (source, name), frames in found.items():
        interval = evaluation.estimate("srcc", frames, "expected", seed, profile.resamples)
        row = evaluation.row(interval, name, f"trained on {source}", "srcc", profile.seeds[:1])
        rows.append(row | {"trained_on": source})
    return pd.DataFrame(rows)


def verdicts(profile: Profile, found: Readings, seed: int) -> pd.DataFrame:
    """Paired difference of SRCC with chains minus without, on every set and over the unseen ones.

    Over the unseen sets: the mean of their differences, sets and photographs resampled.
    """
    names = list(dict.fromkeys(name for _, name in found))
    home, unseen = names[0], names[1:]
    rows = []
    for read in ("greedy", "expected"):
        for name in names:
            interval = evaluation.difference(
                "srcc", found[REASONED, name], found[DIRECT, name], read, seed, profile.resamples
            )
            rows.append(_row(profile, interval, name, read, name != home))
        if unseen:
            interval = _over_sets(profile, found, unseen, read, seed)
            rows.append(_row(profile, interval, UNSEEN, read, True))
    return pd.DataFrame(rows)


def _row(profile: Profile, interval, name: str, read: str, is_unseen: bool) -> dict:
    row = evaluation.row(interval, name, REASONED, "srcc - direct only", profile.seeds)
    verdict = paper.verdict(interval.low, interval.high)
    return row | {"read": read, "unseen": is_unseen, "verdict": verdict}


def _over_sets(profile: Profile, found: Readings, names: Sequence[str], read: str, seed: int):
    triples = [
        (a["target"], *(f[read].fillna(evaluation.MIDDLE).to_numpy() for f in (a, b)))
        for name in names
        for a, b in zip(found[REASONED, name], found[DIRECT, name], strict=True)
    ]
    rng = np.random.default_rng([seed, 9])
    return statistics.pool_splits("srcc", triples, rng, profile.resamples)


def save(
    profile: Profile,
    tables: Mapping[str, Table],
    parts: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Figure],
    watch: results.Stopwatch,
) -> str:
    """Write the tables ("", "heat", "verdicts"), the figures and the claim."""
    facts = scorers.facts(profile, tables.values(), profile.chains, watch)
    folder = results.save_parts(NOTEBOOK, profile, parts, figures, **facts)
    judged = parts["verdicts"]
    chosen = judged[(judged["dataset"] == UNSEEN) & (judged["read"] == "greedy")]
    for row in chosen.to_dict("records"):
        results.record_claim(
            profile,
            CLAIM,
            notebook="09",
            measured=f"mean over unseen sets, regular form, greedy, {profile.chains.steps} steps",
            **{key: row[key] for key in [*results.FOUND, "seeds"]},
        )
    return folder


def summary(judged: pd.DataFrame) -> str:
    """The verdicts in words."""
    words = {"holds": "better", "fails": "worse"}
    return "\n".join(
        f"{row.dataset}{'' if row.unseen else ' (trained on)'}, {row.read}: with chains "
        f"{words.get(row.verdict, 'not told apart')} ({row.estimate:+.3f}, {row.low:+.3f} to "
        f"{row.high:+.3f})."
        for row in judged.itertuples()
    )
