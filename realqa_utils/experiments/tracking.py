"""Self-labels, and whether they go with the MOS (Fig. 2, notebook 08).

The models of stage 1, one a seed, label photographs that they never saw, set by set, in parts that
survive a kill. Chains are made of what the first of them says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from realqa_utils import datasets, parallel
from realqa_utils.datasets.table import Table
from realqa_utils.experiments import granularity, scorers, self_labelling, trials
from realqa_utils.forms import taxonomy
from realqa_utils.measures import evaluation, statistics
from realqa_utils.profiles import Profile, is_dry_run
from realqa_utils.records import hashes, results
from realqa_utils.training import labels

#: The image sets of the paper's Fig. 2, as their stand-ins.
IMAGE_SETS = ("mini-koniq", "mini-spaq", "mini-livec", "mini-ava", "mini-tad66k")
TO_TRAIN_ON = "to train on"  # the home set's training photographs, in place of a set's name


def tables(profile: Profile) -> dict[str, Table]:
    """What is labelled, by name: the held-out photographs of every set, and all of the home set's
    training photographs (`TO_TRAIN_ON`)."""
    home = scorers.splits(profile)
    if profile.data == "real":
        both = pd.concat([home[0].train.frame, home[0].test.frame], ignore_index=True)
        return {scorers.home(profile): replace(home[0].train, frame=both)}
    one = replace(profile, seeds=profile.seeds[:1])
    found = {name: datasets.open_splits(one, name)[0].test for name in IMAGE_SETS}
    return found | {TO_TRAIN_ON: home[0].train}


def teachers(profile: Profile, name: str = "") -> tuple[int, ...]:
    """Seeds of the models of stage 1 that label a set: of real photographs, and of what is trained
    on, the first."""
    every = granularity.seeds(profile)
    return every[:1] if profile.data == "real" or name == TO_TRAIN_ON else every


def label(profile: Profile, found: Mapping[str, Table]) -> dict[str, list[pd.DataFrame]]:
    """What its teachers say of every table (`self_labelling.read`), in parts on disk."""
    todo = [(table, seed) for name, table in found.items() for seed in teachers(profile, name)]
    said = iter(parallel.run_all(partial(_label, profile), todo, profile.workers, "labelling"))
    return {name: [next(said) for _ in teachers(profile, name)] for name in found}


def _label(profile: Profile, task: tuple[Table, int]) -> pd.DataFrame:
    table, seed = task
    teacher = granularity.teacher(profile, granularity.split(profile), seed)
    name = hashes.of_facts({"teacher": trials.key(teacher), "ids": table.ids_hash})
    out = results.run_dir(profile, "labels") / name

    def make() -> None:
        model = trials.trained(teacher, results.run_dir(profile, "trials"))
        self_labelling.label_set(
            model, table, out, name, granularity.TOLD, teacher.view, progress=False
        )
        results.write_text(out / "done", "all parts are written\n")

    results.once(out / "done", make)
    said = self_labelling.read(out)
    return labels.completed(said) if is_dry_run() else said


def codes(said: pd.DataFrame) -> pd.DataFrame:
    """Labels as codes (n, 9), a missing one as the middle code; the index is the id."""
    columns = {}
    for name in taxonomy.SCORED:
        middle = float(np.median(taxonomy.BY_NAME[name].codes))
        values = [middle if pd.isna(v) else taxonomy.code(name, v) for v in said[name]]
        columns[name] = np.array(values, float)
    return pd.DataFrame(columns).set_axis(said["id"])


def agreement(table: Table, said: pd.DataFrame) -> pd.DataFrame:
    """Where the true labels are known: SRCC of every attribute, and the share that is right."""
    mine, true = codes(said).loc[table.frame["id"]], codes(table.frame)
    rows = [
        {"attribute": n, "srcc": statistics.srcc(true[n], mine[n]),
         "right": float((mine[n].to_numpy() == true[n].to_numpy()).mean())}
        for n in taxonomy.SCORED
    ]  # fmt: skip
    return pd.DataFrame(rows).set_index("attribute")


def agreement_by_set(
    profile: Profile, found: Mapping[str, Table], said: Mapping[str, Sequence[pd.DataFrame]]
) -> pd.DataFrame:
    """SRCC of self-labels with the true ones, a set a column, in the mean of the teachers; `right`
    is the mean share that is exactly right. Empty where nothing but photographs is known."""
    if profile.data == "real":
        return pd.DataFrame()
    parts = {
        name: sum(agreement(table, one) for one in said[name]) / len(said[name])
        for name, table in found.items()
    }
    wide = pd.DataFrame({name: part["srcc"] for name, part in parts.items()})
    wide.loc["right"] = [part["right"].mean() for part in parts.values()]
    return wide.round(3)


# --- Fig. 2 --------------------------------------------------------------------------------------


def tracking(
    profile: Profile,
    found: Mapping[str, Table],
    said: Mapping[str, Sequence[pd.DataFrame]],
    seed: int,
) -> pd.DataFrame:
    """SRCC of every self-labelled attribute with the MOS of every set, tidy; `top` marks three."""
    rows = []
    for name in (name for name in found if name != TO_TRAIN_ON):
        targets, code = found[name].targets, _by_teacher(found[name], said[name])
        part = []
        for attribute in taxonomy.SCORED:
            rng = np.random.default_rng([seed, 8])
            interval = statistics.bootstrap(
                "srcc", targets, code[attribute], rng, profile.resamples
            )
            seeds = teachers(profile, name)
            row = evaluation.row(interval, name, "self-labels", "srcc with MOS", seeds)
            part.append(row | {"attribute": attribute})
        top = sorted(part, key=lambda row: -np.nan_to_num(row["estimate"], nan=-2))[:3]
        rows += [row | {"top": row in top} for row in part]
    return pd.DataFrame(rows)


def _by_teacher(table: Table, said: Sequence[pd.DataFrame]) -> dict[str, np.ndarray]:
    """By attribute the codes of the table's photographs, (teachers, n)."""
    each = [codes(one).loc[table.frame["id"]] for one in said]
    return {name: np.stack([code[name] for code in each]) for name in taxonomy.SCORED}


def mean_tracking(
    profile: Profile,
    found: Mapping[str, Table],
    said: Mapping[str, Sequence[pd.DataFrame]],
    seed: int,
) -> statistics.Interval:
    """The mean of these correlations over sets and attributes; photographs, sets with attributes,
    and teachers resampled.

    An attribute of which a teacher has one value only in a set ranks nothing: it is left out there.
    """
    pairs = []
    for name, table in found.items():
        if name != TO_TRAIN_ON:
            code = _by_teacher(table, said[name]).values()
            pairs += [(table.targets, c) for c in code if np.ptp(c, axis=1).all()]
    rng = np.random.default_rng([seed, 2])
    return statistics.pool_splits("srcc", pairs, rng, profile.resamples)
