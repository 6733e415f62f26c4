"""The models that several notebooks share: trained on one set's scores, M = 3, kept on disk.

Notebooks 05 and 07 to 10 compare them with others on identical photographs, steps and seeds; who
comes first trains them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import product
from pathlib import Path

import pandas as pd

from realqa_utils import datasets, parallel
from realqa_utils.datasets.table import Split, Table
from realqa_utils.experiments import trials
from realqa_utils.experiments.trials import Trial
from realqa_utils.forms.scores import Scale
from realqa_utils.model.backbone import Backbone
from realqa_utils.profiles import Profile
from realqa_utils.records import hashes, results
from realqa_utils.training import fine_tuning
from realqa_utils.training.recipes import Recipe

#: Not the stand-in of KonIQ-10k, on which the paper trains: from that one stage 1 has its labels,
#: and a model that labels photographs itself must not have seen their true labels.
HOME = "mini-livec"
TEN = Scale(0, 10)


def home(profile: Profile) -> str:
    """The name of the set that is trained on."""
    return HOME if profile.data == "mini" else datasets.title(profile)


def splits(profile: Profile, name: str = "") -> list[Split]:
    """One split for every seed of the profile, with its MOS range written as 0 to 10."""
    name = name or home(profile)
    return [datasets.written_on(s, TEN, name) for s in datasets.open_splits(profile, name)]


def trial(profile: Profile, split: Split, recipe: Recipe, seed: int, **changes: object) -> Trial:
    """A training on `split` whose weights are kept; `changes` are fields of the recipe."""
    recipe = replace(recipe, seed=seed, **changes)
    return Trial(split, recipe, profile.view, profile.model, keep=True)


def all_trials(
    profile: Profile, splits: Sequence[Split], recipe: Recipe | None = None, **changes: object
) -> list[Trial]:
    """One trial for every seed of the profile, on its own split; by the profile's recipe."""
    pairs = zip(profile.seeds, splits, strict=True)
    chosen = recipe or profile.recipe
    return [trial(profile, split, chosen, seed, **changes) for seed, split in pairs]


def readings(
    profile: Profile,
    todo: Sequence[Trial],
    forms: Sequence[str] = ("direct",),
    tables: Mapping[str, Table] | None = None,
) -> dict[tuple[str, str], list[pd.DataFrame]]:
    """By (table, form), what the model of each trial says of each table, asked in each form.

    `forms` are "direct" or names of chains of thought; without `tables`, each trial reads the test
    side of its own split, under the name "". Frames are as `trials.run` gives. Models are trained
    and tables read at most once: both are kept on disk.
    """
    cache = results.run_dir(profile, "trials")
    job = partial(_read_all, forms=tuple(forms), tables=tables, cache=cache)
    found = parallel.run_all(job, todo, profile.workers, "models")
    return {key: [frames[key] for frames in found] for key in product(tables or [""], forms)}


def _read_all(trial: Trial, forms: tuple, tables: Mapping | None, cache: Path) -> dict:
    model, out = lru_cache(partial(trials.trained, trial, cache)), {}  # only if it is asked

    def read(path: Path, table: Table, form: str) -> None:
        asked = replace(trial, split=replace(trial.split, test=table))
        results.write_table(path, trials.read_table(model(), asked, form))

    for (name, table), form in product((tables or {"": trial.split.test}).items(), forms):
        path = cache / f"read-{trials.key_of_reading(trial, table, form)}.csv"
        results.once(path, partial(read, path, table, form))
        out[name, form] = pd.read_csv(path, dtype={"id": str})
    return out


def trained(profile: Profile, trial: Trial) -> Backbone:
    """The model of a trial, from disk where it was trained before."""
    return trials.trained(trial, results.run_dir(profile, "trials"))


def facts(
    profile: Profile, tables: Iterable[Table], recipe: Recipe, watch: results.Stopwatch
) -> dict[str, object]:
    """What the record of every comparison says; what was parsed is a column of the tables."""
    tables = {table.name: table for table in tables}
    return {
        "seeds": profile.seeds,
        "n": sum(map(len, tables.values())),
        "n_parsed": None,
        "interval": "95 % percentile bootstrap over test images, pooled over seeds",
        "data_hashes": {name: table.ids_hash for name, table in tables.items()},
        "model_hash": hashes.of_model(profile.model),
        "started": watch,
        "notes": str(fine_tuning.recipe_record(recipe, profile.view)),
    }
