"""What notebook 00 shows: the mini world, an untaught model, one training, one photograph."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from PIL import Image

from realqa_utils import datasets
from realqa_utils.datasets import mini, scenes
from realqa_utils.datasets.table import Split
from realqa_utils.experiments import trials
from realqa_utils.forms import captions, taxonomy
from realqa_utils.forms.conversations import DIRECT
from realqa_utils.images.photos import open_photo
from realqa_utils.measures import evaluation
from realqa_utils.model import adapters, backbone
from realqa_utils.profiles import Profile
from realqa_utils.records import results
from realqa_utils.scoring.digit_tree import Reading
from realqa_utils.training import fine_tuning


def photographs(seed: int, per_domain: int) -> tuple[list[Image.Image], list[str]]:
    """Photographs of every domain with their MOS as captions."""
    images, words = [], []
    for name in mini.DOMAINS:
        for index in range(per_domain):
            mos, _ = mini.rate(mini.scene_at(name, seed, index), name, seed, index)
            images.append(mini.photograph(name, seed, index))
            words.append(f"{name}: {mos:.1f}")
    return images, words


def tiers(seed: int) -> dict[str, list[Image.Image]]:
    """A scene of good quality in every tier of every attribute that is drawn with tiers."""
    best = {
        name: int(np.argmax([tier.code for tier in taxonomy.BY_NAME[name].tiers]))
        for name in taxonomy.SCORED[2:]
    }
    rows = {}
    for place, name in enumerate(best):
        drawn = mini.scene_at("mini-koniq", seed, place)
        scene = replace(drawn, **best, contrast=0.95, within=0.5, placement=0.14, size=0.5)
        count = len(taxonomy.BY_NAME[name].tiers)
        rows[name] = [scenes.render(replace(scene, **{name: tier})) for tier in range(count)]
    return rows


def caption_accuracy() -> pd.DataFrame:
    """The shipped backbone's record: accuracy of its captions per attribute, beside chance."""
    record = json.loads((backbone.MINI_FOLDER / "record.json").read_text())
    return pd.DataFrame(record["caption_accuracy"]).set_index("attribute").round(3)


def split(profile: Profile, seed: int) -> Split:
    """The photographs to learn from and to be judged on."""
    return datasets.open_splits(replace(profile, seeds=(seed,)), "mini-livec")[0]


def choose(split: Split, photo: str, seed: int) -> tuple[Image.Image, float | None]:
    """The photograph to ask about and its rated score 0..10, where it has one."""
    if photo:
        return open_photo(photo), None
    rows = np.random.default_rng(seed).permutation(len(split.test))[:50]
    row = int(min(rows, key=lambda r: abs(split.test.targets[r] - 7.5)))  # good enough to see
    return open_photo(split.test.frame["path"][row]), float(split.test.targets[row])


def ask_untaught(model: backbone.Backbone, image: Image.Image) -> None:
    """Two questions to the backbone as it comes: describe, and rate."""
    for question in (captions.QUESTION, DIRECT.question):
        (answer,) = model.generate([question], [image], 90)
        print(f"> {question}\n{answer}\n")


def teach(profile: Profile, split: Split, seed: int) -> backbone.Backbone:
    """One training with M = 3, with a progress bar."""
    if profile.model == "mini":  # too small for threads to help, and they wait for each other
        torch.set_num_threads(1)
    recipe = replace(profile.recipe, seed=seed, digits=3)
    out = results.run_dir(profile, "first_look")
    trial = trials.Trial(split, recipe, profile.view, profile.model)
    fresh = trials.starting_point(trial, results.run_dir(profile, "trials"))
    return fine_tuning.train(fresh, split.train, recipe, profile.view, out, progress=True)


def trained_parameters(model: backbone.Backbone) -> pd.DataFrame:
    """How many parameters each part has, and how many of them are trained."""
    return adapters.trainable_table(model.model).round(3)


def conversation(reading: Reading) -> str:
    """The question and the model's answer, and how the answer was read."""
    answer = f"{DIRECT.before}{reading.text}{DIRECT.after}"
    state = "parsed" if reading.parsed else "NOT parsed: left to itself the model deviates"
    return f"> {DIRECT.question}\n{answer}\n({state}; mean {reading.expected:.2f})"


def read_all(model: backbone.Backbone, profile: Profile, split: Split, seed: int) -> pd.DataFrame:
    """Readings of all test photographs."""
    recipe = replace(profile.recipe, seed=seed, digits=3)
    return trials.read_table(model, trials.Trial(split, recipe, profile.view, profile.model))


def report(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """SRCC and PLCC of both ways of reading, with 95 % bootstrap intervals."""
    rows = []
    for column in ("greedy", "expected"):
        for metric in ("srcc", "plcc"):
            found = evaluation.estimate(metric, [frame], column, seed)
            rows.append(
                {"read as": column, "metric": metric, "estimate": found.estimate,
                 "low": found.low, "high": found.high, "photographs": found.n,
                 "parsed": f"{frame['parsed'].sum()}/{frame['answers'].sum()}"}
            )  # fmt: skip
    return pd.DataFrame(rows).round(3)
