"""Self-labels, and whether they go with the MOS (Fig. 2, notebook 08).

The model of stage 1 labels photographs that it never saw, set by set, in parts that survive a kill.
"""

from __future__ import annotations

from collections.abc import Mapping
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


def label(profile: Profile, found: Mapping[str, Table]) -> dict[str, pd.DataFrame]:
    """What the model of stage 1 says of every table (`self_labelling.read`), in parts on disk."""
    job = partial(_label, profile=profile)
    said = parallel.run_all(job, list(found.values()), profile.workers, "labelling")
    return dict(zip(found, said, strict=True))


def _label(table: Table, profile: Profile) -> pd.DataFrame:
    told, data = granularity.TOLD, granularity.split(profile)
    teacher = granularity.trial(profile, data, told, granularity.seeds(profile)[0])
    name = hashes.of_facts({"teacher": trials.key(teacher), "ids": table.ids_hash})
    out = results.run_dir(profile, "labels") / name

    def make() -> None:
        model = trials.trained(teacher, results.run_dir(profile, "trials"))
        self_labelling.label_set(model, table, out, name, told, teacher.view, progress=False)
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
    profile: Profile, found: Mapping[str, Table], said: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """SRCC of self-labels with the true ones, a set a column; `right` is the mean share that is
    exactly right. Empty where nothing but photographs is known."""
    if profile.data == "real":
        return pd.DataFrame()
    parts = {name: agreement(table, said[name]) for name, table in found.items()}
    wide = pd.DataFrame({name: part["srcc"] for name, part in parts.items()})
    wide.loc["right"] = [part["right"].mean() for part in parts.values()]
    return wide.round(3)


# --- Fig. 2 --------------------------------------------------------------------------------------


def tracking(
    profile: Profile, found: Mapping[str, Table], said: Mapping[str, pd.DataFrame], seed: int
) -> pd.DataFrame:
    """SRCC of every self-labelled attribute with the MOS of every set, tidy; `top` marks three."""
    rows = []
    for name in (name for name in found if name != TO_TRAIN_ON):
        table = found[name]
        code = codes(said[name]).loc[table.frame["id"]]
        part = []
        for attribute in taxonomy.SCORED:
            rng = np.random.default_rng([seed, 8])
            values = code[attribute].to_numpy()
            interval = statistics.bootstrap("srcc", table.targets, values, rng, profile.resamples)
            seeds = granularity.seeds(profile)[:1]
            row = evaluation.row(interval, name, "self-labels", "srcc with MOS", seeds)
            part.append(row | {"attribute": attribute})
        top = sorted(part, key=lambda row: -np.nan_to_num(row["estimate"], nan=-2))[:3]
        rows += [row | {"top": row in top} for row in part]
    return pd.DataFrame(rows)


def mean_tracking(
    profile: Profile, found: Mapping[str, Table], said: Mapping[str, pd.DataFrame], seed: int
) -> statistics.Interval:
    """The mean of these correlations over sets and attributes; photographs and sets resampled.

    An attribute of which a set has one value only ranks nothing: it is left out there.
    """
    pairs = []
    for name, table in found.items():
        if name != TO_TRAIN_ON:
            code = codes(said[name]).loc[table.frame["id"]]
            pairs += [(table.targets, code[n].to_numpy()) for n in code if code[n].nunique() > 1]
    rng = np.random.default_rng([seed, 2])
    return statistics.pool_splits("srcc", pairs, rng, profile.resamples)
