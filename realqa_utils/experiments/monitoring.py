"""Trainings of notebook 06 with the monitor on: what NCM says while free-running scores improve.

The same backbone is trained with cross entropy alone and with a distance between numbers as an
extra term, and once from random weights. At every checkpoint NCM is measured on held-out
photographs, and the model, left to itself, scores the same ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
from transformers import TrainerCallback

from realqa_utils import datasets, parallel
from realqa_utils.datasets.table import Split
from realqa_utils.experiments import trials
from realqa_utils.experiments.trials import Trial
from realqa_utils.forms.conversations import FORMS
from realqa_utils.images.photos import open_photo
from realqa_utils.measures import evaluation, statistics
from realqa_utils.model.backbone import Backbone
from realqa_utils.ncm import NCM
from realqa_utils.ncm.callback import HELD_OUT, NCMCallback
from realqa_utils.profiles import Profile
from realqa_utils.records import results
from realqa_utils.scoring import digit_tree
from realqa_utils.training import fine_tuning

SET = "mini-livec"
CHECKPOINTS = 5  # after the start
PHOTOGRAPHS = 200  # held-out ones that every checkpoint scores
PLAIN, RANDOM = "cross entropy", "random start"
#: What is trained, by its name: the authors' weights of an extra term are 1 and 5.
CONDITIONS: dict[str, dict[str, object]] = {
    PLAIN: {},
    "with NCM x 1": {"expectation_weight": 1.0},
    "with NCM x 5": {"expectation_weight": 5.0},
    "with NTL x 1": {"number_token_weight": 1.0},
    "with NTL x 5": {"number_token_weight": 5.0},
    RANDOM: {"start": "random", "vision": "full"},
}
CODE = ("experiments.monitoring", "ncm.callback", "ncm.metric", "ncm.score_places")


def split(profile: Profile) -> Split:
    """What is trained on, and the held-out photographs that every checkpoint scores."""
    whole = datasets.open_splits(profile, SET)[0]
    test = whole.test.subset(whole.test.frame["id"][:PHOTOGRAPHS])
    return replace(whole, test=test)


def conditions(profile: Profile) -> list[str]:
    """What is trained; where only an adapter is, random weights would stay what they are."""
    is_lora = profile.recipe.language == "lora"
    return [name for name in CONDITIONS if not (is_lora and name == RANDOM)]


def record(
    profile: Profile, data: Split, chosen: Sequence[str] = ()
) -> dict[str, list[pd.DataFrame]]:
    """Curves (step, split, metric, value) of every condition, one a seed; kept on disk."""
    chosen = chosen or conditions(profile)
    steps = max(1, profile.recipe.steps // 2)  # by then the curves are flat
    base = replace(profile.recipe, steps=steps, opinion_spread=0.0, expectation_weight=0.0)
    keys = [(name, seed) for name in chosen for seed in profile.seeds]
    todo = [
        Trial(data, replace(base, seed=seed, **CONDITIONS[name]), profile.view, profile.model)
        for name, seed in keys
    ]
    job = partial(_record, cache=results.run_dir(profile, "trials"))
    frames = parallel.run_all(job, todo, profile.workers, "trainings")
    found: dict[str, list[pd.DataFrame]] = {name: [] for name in chosen}
    for (name, _), frame in zip(keys, frames, strict=True):
        found[name].append(frame)
    return found


def _record(trial: Trial, cache: Path) -> pd.DataFrame:
    path = Path(cache) / f"curve-{trials.key(trial, CODE)}.csv"
    results.once(path, lambda: results.write_table(path, _trained(trial, cache)))
    return pd.read_csv(path)


def _trained(trial: Trial, cache: Path) -> pd.DataFrame:
    backbone, recipe = trials.starting_point(trial, cache), trial.recipe
    every = max(1, recipe.steps // CHECKPOINTS)
    metric = NCM.of(backbone.tokenizer, FORMS[recipe.form], recipe.digits)
    reader = Reader(backbone, trial)
    with tempfile.TemporaryDirectory() as folder:
        csv = Path(folder) / "ncm.csv"
        monitor = NCMCallback(metric, every=max(1, every // 4), csv=csv)
        fine_tuning.train(
            backbone, trial.split.train, recipe, trial.view, Path(folder),
            callbacks=[monitor, reader], held_out=trial.split.test, evaluate_every=every,
        )  # fmt: skip
        heard = pd.read_csv(csv)
    return pd.concat([heard, pd.DataFrame(reader.rows)], ignore_index=True)


class Reader(TrainerCallback):
    """At every evaluation the model scores the held-out photographs, left to itself."""

    def __init__(self, backbone: Backbone, trial: Trial):
        test = trial.split.test
        fitted = [trial.view.fit(open_photo(path)) for path in test.frame["path"]]
        self.images = [trial.view.training(image, None) for image in fitted]
        self.targets, self.digits, self.backbone = test.targets, trial.recipe.digits, backbone
        self.rows: list[dict[str, object]] = []

    def on_evaluate(self, args, state, control, **_):
        with fine_tuning.attention(self.backbone, "sdpa"):  # a digit tree has masks of its own
            frame = digit_tree.as_frame(digit_tree.read(self.backbone, self.images, self.digits))
        for name in ("greedy", "expected"):
            answers = frame[name].fillna(evaluation.MIDDLE)
            self._add(state.global_step, f"srcc_{name}", statistics.srcc(self.targets, answers))
        self._add(state.global_step, "parsed", float(frame["parsed"].mean()))

    def _add(self, step: int, metric: str, value: float) -> None:
        row = {"step": step, "split": HELD_OUT, "metric": metric, "value": value}
        self.rows.append(row)
