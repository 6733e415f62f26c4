"""Trials: what they cost once, and what makes them new."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from realqa_utils.datasets import mini
from realqa_utils.datasets.table import Split
from realqa_utils.experiments import trials
from realqa_utils.experiments.trials import Trial
from realqa_utils.images.views import View
from realqa_utils.records import hashes
from realqa_utils.reproduction import dependencies
from realqa_utils.scoring import folders
from realqa_utils.training import adaptation
from realqa_utils.training.recipes import Recipe


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
    monkeypatch.setattr(trials, "_compute", lambda *_: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(trials.run(trial, tmp_path), frame)


def test_the_same_trial_gives_the_same_numbers(trial, tmp_path):
    first = trials.run(trial, tmp_path / "a")
    pd.testing.assert_frame_equal(trials.run(trial, tmp_path / "b"), first)


def test_photographs_are_opened_a_few_at_a_time(trial, tmp_path, monkeypatch):
    whole = trials.run(trial, tmp_path / "a")
    monkeypatch.setattr(trials, "AT_ONCE", 3)
    parts = trials.run(trial, tmp_path / "b")
    pd.testing.assert_frame_equal(parts, whole, atol=1e-5)
    assert len(whole) == 4


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
    names = trials.DECISIVE + trials.DECISIVE_FOR_TOWER
    assert len(hashes.of_code(names)) == 8 * len(names)


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


def test_a_window_is_seen_at_its_own_size(trial, tmp_path):
    small = trials.starting_point(replace(trial, view=View(56, 112)), tmp_path)
    large = trials.starting_point(replace(trial, view=View(168, 200)), tmp_path)
    for backbone, side in ((small, 56), (large, 168)):
        _, (grid,) = backbone.pixels([Image.new("RGB", (side, side))])
        assert grid == (1, side // 14, side // 14)


def test_a_random_start_has_learnt_nothing_and_follows_the_seed(trial, tmp_path):
    def start(**changes):
        recipe = replace(trial.recipe, language="full", vision="full", **changes)
        return trials.starting_point(replace(trial, recipe=recipe), tmp_path).model.state_dict()

    given, first, again = start(), start(start="random"), start(start="random")
    other = start(start="random", seed=1)
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(first[name], again[name], atol=0, rtol=0)
    assert not torch.equal(first[name], other[name]) and not torch.equal(first[name], given[name])
    assert {key: value.shape for key, value in first.items()} == {
        key: value.shape for key, value in given.items()
    }


# --- adapted towers ----------------------------------------------------------------------------


@pytest.fixture
def adapted(trial):
    return replace(
        trial, recipe=replace(trial.recipe, tower_steps=2), view=View(112, 112, 1, random=True)
    )


def test_trials_of_one_split_and_seed_share_a_tower(adapted, tmp_path, monkeypatch):
    todo = [replace(adapted, recipe=replace(adapted.recipe, digits=m)) for m in (1, 2)]
    made = []
    adapt = adaptation.adapt
    monkeypatch.setattr(adaptation, "adapt", lambda *a: made.append(1) or adapt(*a))
    trials.run_all(todo, tmp_path, workers=1)
    assert len(made) == 1
    trials.run_all(todo, tmp_path, workers=1)
    assert len(made) == len(list(tmp_path.glob("tower-*.safetensors"))) == 1


def test_a_trial_starts_from_the_adapted_tower(adapted, trial, tmp_path):
    plain, start = (trials.starting_point(t, tmp_path).model for t in (trial, adapted))
    (file,) = tmp_path.glob("tower-*.safetensors")
    tower = load_file(file)
    for name, weight in start.model.visual.named_parameters():
        torch.testing.assert_close(weight, tower[name], atol=0, rtol=0)
    same = {
        name: torch.equal(weight, other)
        for (name, weight), other in zip(start.named_parameters(), plain.parameters(), strict=True)
    }
    assert all(same[name] for name in same if "visual" not in name)
    assert not any(same[name] for name in same if "visual.blocks" in name and "weight" in name)


def test_what_decides_a_tower_changes_its_key(adapted, trial):
    other = adapted.split.train.subset(adapted.split.train.frame["id"][:6])
    changed = [
        replace(adapted, recipe=replace(adapted.recipe, tower_steps=3)),
        replace(adapted, recipe=replace(adapted.recipe, seed=1)),
        replace(adapted, view=View(112, 140, 1, random=True)),
        replace(adapted, split=replace(adapted.split, train=other)),
        replace(adapted, model="mini"),
    ]
    keys = {trials.tower_key(t) for t in [adapted, *changed]}
    assert len(keys) == 1 + len(changed)
    unrated = adapted.split.train.frame.assign(mos=3.0)
    same = [
        replace(adapted, recipe=replace(adapted.recipe, digits=1, steps=9)),
        replace(
            adapted,
            split=replace(adapted.split, train=replace(adapted.split.train, frame=unrated)),
        ),
    ]
    assert {trials.tower_key(t) for t in same} == {trials.tower_key(adapted)}
    assert trials.tower_key(trial) == ""
    assert trials.key(adapted) != trials.key(replace(trial, view=adapted.view))


def test_language_does_not_decide_a_tower(adapted, tiny_backbone, tmp_path):
    def saved(change: str) -> str:
        folder = tmp_path / change
        tiny_backbone.save(folder)
        weights = load_file(folder / "model.safetensors")
        (name, *_) = [name for name in weights if change in name]
        save_file(weights | {name: weights[name] + 1}, folder / "model.safetensors")
        return str(folder)

    language, vision = (replace(adapted, model=saved(part)) for part in ("embed_tokens", "visual"))
    assert trials.tower_key(language) == trials.tower_key(adapted) != trials.tower_key(vision)
    assert trials.key(language) != trials.key(adapted)


# --- stage 1 -----------------------------------------------------------------------------------


@pytest.fixture
def stage_1(trial):
    recipe = replace(trial.recipe, form="levels", steps=2, batch_size=2)
    return replace(trial, recipe=recipe, asked=("levels", "mix"), keep=True)


def test_a_trial_of_stage_1_labels_every_test_photograph(stage_1, tmp_path):
    frame = trials.run(stage_1, tmp_path)
    test = stage_1.split.test.frame["id"]
    assert len(frame) == 2 * len(test) * 9
    for asked, part in frame.groupby("asked"):
        assert asked in stage_1.asked
        assert list(dict.fromkeys(part["id"])) == list(test)
    assert (frame["said"].isna() == (frame["why"].fillna("") != "")).all()


@pytest.mark.parametrize(
    ("changes", "file"),
    [
        ({"language": "full", "vision": "frozen"}, "model.safetensors"),
        (
            {"language": "full", "vision": "frozen", "form": "direct", "objective": "regression"},
            "model.safetensors",
        ),
        ({}, "adapter_model.safetensors"),
        ({"vision": "full"}, "adapter_model.safetensors"),
        ({"form": "direct", "objective": "regression"}, "adapter_model.safetensors"),
        ({"weights": "bfloat16", "checkpointing": True}, "adapter_model.safetensors"),
        ({"weights": "nf4", "checkpointing": True}, "adapter_model.safetensors"),
    ],
)
def test_kept_weights_come_back(stage_1, tmp_path, monkeypatch, changes, file):
    recipe = replace(stage_1.recipe, **{"language": "lora", "vision": "lora"} | changes)
    one = replace(stage_1, recipe=recipe)
    seen, train = [], trials.fine_tuning.train

    def watched(*arguments, **more):
        seen.append(train(*arguments, **more))
        return seen[0]

    monkeypatch.setattr(trials.fine_tuning, "train", watched)
    again = trials.trained(one, tmp_path)
    (folder,) = tmp_path.glob("model-*")
    assert (folder / file).exists() and not list(folder.glob("*.bin"))
    learnt = {n: p for n, p in seen[0].model.named_parameters() if p.requires_grad}
    here = dict(again.model.named_parameters())
    assert learnt
    for name, weight in learnt.items():
        torch.testing.assert_close(here[name].float(), weight.float(), atol=0, rtol=0)
    trials.trained(one, tmp_path)
    assert len(seen) == 1


def test_labels_and_questions_decide_a_trial_of_stage_1(stage_1):
    frame = stage_1.split.train.frame
    other = replace(stage_1.split.train, frame=frame.assign(saturation=2 - frame["saturation"]))
    changed = [
        replace(stage_1, split=replace(stage_1.split, train=other)),
        replace(stage_1, asked=("mix",)),
        replace(stage_1, recipe=replace(stage_1.recipe, form="mix")),
    ]
    assert len({trials.key(t) for t in [stage_1, *changed]}) == 4
    assert trials.key(replace(stage_1, keep=False)) == trials.key(stage_1)


@pytest.mark.parametrize(
    ("entry", "decisive", "others"),
    [
        # what they give is in the hashes of data and weights, or decides nothing
        ("experiments import trials", trials.DECISIVE,
         {"claims.paper", "measures.resampling", "measures.statistics", "model.released",
          "model.taught", "parallel", "profiles",
          "records.energy", "records.hashes", "records.provenance", "records.results",
          "spare_cores", "training.adaptation", "training.spectra"}),
        ("scoring import folder_rows", folders.DECISIVE,
         {"parallel", "records.parts", "spare_cores"}),
    ],
)  # fmt: skip
def test_every_module_that_decides_is_in_the_key(entry, decisive, others):
    """A module that is imported on the way and not named would leave old results in the cache."""
    used = dependencies.files([f"from realqa_utils.{entry}"])
    modules = [path.relative_to(dependencies.PACKAGE) for path in used if path.suffix == ".py"]
    names = {".".join(module.with_suffix("").parts) for module in modules}
    names = {n for n in names if not n.endswith("__init__") and not n.startswith("datasets.")}
    assert names - others == set(decisive)
