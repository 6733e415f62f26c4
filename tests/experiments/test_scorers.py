"""Models that notebooks share: trained once, read once, whoever comes first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from realqa_utils.experiments import scorers, trials
from realqa_utils.profiles import get_profile

SMOKE = get_profile("smoke", workers=1)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REALQA_ROOT", str(tmp_path_factory.mktemp("root")))
        splits = scorers.splits(SMOKE)
        todo = scorers.all_trials(SMOKE, splits)
        yield splits, todo, scorers.readings(SMOKE, todo)


def test_the_home_set_is_written_from_0_to_10(home):
    splits, todo, _ = home
    assert [(s.train.scale, s.test.scale) for s in splits] == [(scorers.TEN, scorers.TEN)]
    assert [(t.recipe.seed, t.recipe.digits, t.keep) for t in todo] == [(0, 3, True)]


def test_a_second_look_trains_and_reads_nothing(home, monkeypatch):
    _, todo, found = home
    monkeypatch.setattr(trials, "trained", lambda *_: pytest.fail("loaded or trained again"))
    again = scorers.readings(SMOKE, todo)
    assert again["", "direct"][0].equals(found["", "direct"][0])
    assert list(again) == [("", "direct")]


def test_another_table_is_read_by_the_same_model(home, monkeypatch):
    _, todo, _ = home
    monkeypatch.setattr(trials.fine_tuning, "train", lambda *_, **__: pytest.fail("trained again"))
    other = scorers.splits(SMOKE, "mini-ava")[0].test
    found = scorers.readings(SMOKE, todo, tables={"ava": other})
    (frame,) = found["ava", "direct"]
    assert frame["id"].tolist() == other.frame["id"].tolist()
    # a file keeps six digits
    assert frame["target"].to_numpy() == pytest.approx(other.targets, rel=1e-5)


def test_what_is_read_is_told_apart(home):
    splits, todo, _ = home
    other = scorers.splits(SMOKE, "mini-ava")[0].test
    (trial,) = todo
    keys = {
        trials.key_of_reading(trial, splits[0].test, "direct"),
        trials.key_of_reading(trial, splits[0].test, "cot_regular"),
        trials.key_of_reading(trial, other, "direct"),
        trials.key_of_reading(
            replace(trial, recipe=replace(trial.recipe, seed=9)), other, "direct"
        ),
    }
    assert len(keys) == 4
