"""Trials: what they cost once, and what makes them new."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pandas as pd
import pytest
from PIL import Image

from realqa_utils import trials
from realqa_utils.datasets import mini
from realqa_utils.datasets.table import Split
from realqa_utils.recipes import Recipe
from realqa_utils.trials import Trial
from realqa_utils.views import View


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    cache = tmp_path_factory.mktemp("world")
    return Split("s", mini.build("mini-koniq", 8, 0, cache), mini.build("mini-koniq", 4, 1, cache))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_backbone):
    path = tmp_path_factory.mktemp("model")
    tiny_backbone.save(path)
    return str(path)


@pytest.fixture
def trial(split, folder):
    recipe = Recipe(steps=2, batch_size=4, vision="frozen", rank=4, digits=2)
    return Trial(split, recipe, View(), folder)


def test_a_trial_reads_every_test_photograph_and_is_kept(trial, tmp_path, monkeypatch):
    frame = trials.run(trial, tmp_path)
    assert list(frame["id"]) == list(trial.split.test.frame["id"])
    assert frame["target"].tolist() == pytest.approx(trial.split.test.targets.tolist(), rel=1e-5)
    assert (frame["answers"] == 1).all() and frame["expected"].between(0, 9.9).all()
    assert ((frame["parsed"] == 1) == frame["greedy"].notna()).all()
    monkeypatch.setattr(trials, "_compute", lambda _: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(trials.run(trial, tmp_path), frame)


def test_the_same_trial_gives_the_same_numbers(trial, tmp_path):
    first = trials.run(trial, tmp_path / "a")
    pd.testing.assert_frame_equal(trials.run(trial, tmp_path / "b"), first)


def test_windows_of_a_photograph_are_averaged(trial, tmp_path):
    trial = replace(trial, view=View(112, 140, 2))
    frame = trials.run(trial, tmp_path)
    assert (frame["answers"] == 4).all()


def test_whatever_decides_the_outcome_changes_the_key(trial, split):
    other = Split("s", split.train.subset(split.train.frame["id"][:6]), split.test)
    changed = [
        replace(trial, recipe=replace(trial.recipe, seed=1)),
        replace(trial, recipe=replace(trial.recipe, digits=3)),
        replace(trial, view=View(112, 140, 2)),
        replace(trial, split=other),
        replace(trial, model="mini"),
    ]
    keys = {trials.key(t) for t in [trial, *changed]}
    assert len(keys) == 1 + len(changed)
    assert trials.key(trial) == trials.key(replace(trial))


def test_trials_side_by_side_come_back_in_order(trial, tmp_path):
    todo = [replace(trial, recipe=replace(trial.recipe, seed=s, steps=1)) for s in (3, 1)]
    frames = trials.run_all(todo, tmp_path, workers=1)
    for single, frame in zip(todo, frames, strict=True):
        pd.testing.assert_frame_equal(trials.run(single, tmp_path), frame)


def test_the_decisive_modules_exist():
    folder = trials.Path(trials.__file__).parent
    assert all((folder / f"{name}.py").exists() for name in trials.DECISIVE)


def test_another_picture_under_the_same_id_and_score_is_another_trial(trial, tmp_path):
    """The generator may draw the same scene differently: ids and MOS alone do not tell."""
    frame = trial.split.train.frame.copy()
    other = tmp_path / trials.Path(frame["path"][0]).name
    Image.new("RGB", (112, 112), "red").save(other)
    frame["path"] = [str(other), *frame["path"][1:]]
    changed = replace(trial.split, train=replace(trial.split.train, frame=frame))
    assert trials.key(replace(trial, split=changed)) != trials.key(trial)


def test_the_same_pictures_elsewhere_are_the_same_trial(trial, tmp_path):
    frame = trial.split.train.frame.copy()
    moved = [shutil.copy(path, tmp_path) for path in frame["path"]]
    same = replace(trial.split, train=replace(trial.split.train, frame=frame.assign(path=moved)))
    assert trials.key(replace(trial, split=same)) == trials.key(trial)


def test_a_window_is_seen_at_its_own_size(trial):
    small = trials.starting_point(replace(trial, view=View(56, 112)))
    large = trials.starting_point(replace(trial, view=View(168, 200)))
    for backbone, side in ((small, 56), (large, 168)):
        _, (grid,) = backbone.pixels([Image.new("RGB", (side, side))])
        assert grid == (1, side // 14, side // 14)
