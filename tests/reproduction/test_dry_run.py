"""Every notebook on the profiles of real size: the mini backbone stands in for the weights, and
made-up files in the official layouts for the sets. No line of theirs is run on a GPU first."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
from small_notebooks import go_through

from realqa_utils import cli
from realqa_utils.datasets import made_up, realqa, registry
from realqa_utils.datasets.table import official_split
from realqa_utils.images.photos import open_photo
from realqa_utils.profiles import PROFILES, get_profile
from realqa_utils.records import results
from realqa_utils.reproduction import notebooks

PATHS = notebooks.find()
WEIGHTS = {"paper": "bfloat16", "gpu24": "nf4"}
#: What is timed here means nothing.
LESS = {"12_cost_and_speed": {"rounds": 1, "photographs": [10, 20]}}


@pytest.fixture(scope="module")
def data(scratch_root) -> Path:
    return made_up.write(scratch_root / "made-up")


@pytest.fixture
def dry(data, monkeypatch) -> None:
    monkeypatch.setenv("REALQA_DRY_RUN", "1")
    monkeypatch.setenv("REALQA_DATA", str(data))
    monkeypatch.setenv("REALQA_WORKERS", "1")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*non-interactive:UserWarning")  # of `figure.show`
@pytest.mark.parametrize("profile", WEIGHTS)
@pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
def test_goes_through(path, profile, dry):
    settings = go_through(path, profile=profile, **LESS.get(path.stem, {}))["settings"]
    assert (settings.name, settings.recipe.weights) == (profile, WEIGHTS[profile])


@pytest.mark.slow
def test_goes_through_in_a_kernel(dry, tmp_path):
    path = PATHS[0]
    out = notebooks.run(path, tmp_path / path.name, {"profile": "paper"})
    assert "profile paper" in out.read_text()


@pytest.mark.parametrize("name", ["paper", "gpu24"])
def test_a_dry_run_has_the_profiles_own_recipe(name, dry):
    mine, whole = get_profile(name), PROFILES[name]
    for key in ("recipe", "stage_1", "chains"):
        dry_one, real = vars(getattr(mine, key)), vars(getattr(whole, key))
        differs = {field for field in real if dry_one[field] != real[field]}
        assert differs == {"steps", "batch_size", "accumulation"}
    assert (mine.home, mine.labels, mine.data) == (whole.home, whole.labels, whole.data)
    assert mine.view.longest == whole.view.longest and any(mine.view.pixels)


def test_the_command_prepares_a_place_of_its_own(root, monkeypatch, capsys):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.delenv("REALQA_DATA", raising=False)
    asked = []
    monkeypatch.setattr(notebooks, "reproduce", lambda *a, **k: asked.append(a) or 0)
    assert cli.main(["reproduce", "--profile", "paper", "--dry-run"]) == 0
    assert asked and asked[0][0] == "paper"
    place = root / "runs" / "paper" / "dry-run"
    assert results.root() == place and get_profile("paper").model == "mini"
    assert registry.data_folder() == place / "data"
    assert "means nothing" in capsys.readouterr().out


# --- made-up sets --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "protocol", "train", "test"),
    [
        ("koniq", "official", 20, 10),
        ("spaq", "all", 0, 40),
        ("ava", "common", 30, 10),
        ("tad66k", "official", 4, 36),
        ("konvid", "all", 0, 4),
    ],
)
def test_made_up_sets_go_through_the_loaders_of_the_real_ones(data, name, protocol, train, test):
    (split,) = registry.splits(name, protocol, data)
    assert (len(split.train), len(split.test)) == (train, test)
    assert 3 < split.test.targets.mean() < 7 and split.test.targets.std() > 0.3
    if name != "konvid":
        sizes = {open_photo(path).size for path in split.test.frame["path"][:8]}
        assert len(sizes) > 1 and max(max(size) for size in sizes) > 512


def test_made_up_labels_are_those_of_the_drawing(data, scratch_root):
    split = official_split(realqa.load(data / "realqa"))
    assert (len(split.train), len(split.test)) == (30, 10)
    (file,) = (scratch_root / "runs" / "world").glob("mini-koniq-8-40-*/labels.csv")
    drawn = pd.read_csv(file)
    both = pd.concat([split.train.frame, split.test.frame]).sort_values("id")
    for name in ("composition", "level_shot", "exposure", "subject_background"):
        assert list(both[name]) == list(drawn[name])


def test_a_missing_copy_of_realqa_says_how_to_get_one(tmp_path, monkeypatch):
    from realqa_utils.experiments import granularity

    monkeypatch.setenv("REALQA_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="hf download MingxingLi/RealQA"):
        granularity.split(get_profile("paper"))
