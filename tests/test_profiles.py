"""Profiles."""

from __future__ import annotations

import dataclasses

import pytest

from realqa_utils.profiles import PROFILES, get_profile, unknown


def test_the_five_profiles_in_order_of_size():
    assert list(PROFILES) == ["smoke", "mini", "photos", "gpu24", "paper"]
    assert all(profile.name == name for name, profile in PROFILES.items())


def test_only_generated_data_has_a_size_of_its_own():
    for profile in PROFILES.values():
        assert (profile.train_images > 0) == (profile.data == "mini"), profile.name


def test_profiles_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROFILES["mini"].resamples = 1


def test_overrides_make_a_new_profile():
    changed = get_profile("mini", resamples=7, seeds=(3,))
    assert (changed.resamples, changed.seeds) == (7, (3,))
    assert changed.recipe == PROFILES["mini"].recipe
    assert PROFILES["mini"].resamples != 7


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("mimi", {}, "unknown profile 'mimi': did you mean 'mini'\\? There are smoke, mini, "),
        ("xyz", {}, "unknown profile 'xyz': There are smoke"),
        ("mini", {"seed": 5}, "unknown profile key 'seed': did you mean 'seeds'\\?"),
        ("mini", {"name": "maxi"}, "unknown profile key 'name'"),
        ("mini", {"test_images": -1}, "test_images is an integer of at least 0, not -1"),
        ("mini", {"test_images": 2.5}, "test_images is an integer of at least 0, not 2.5"),
        ("mini", {"resamples": 0}, "resamples is an integer of at least 1, not 0"),
        ("mini", {"data": "fake"}, "data is 'mini' or 'real', not 'fake'"),
        ("mini", {"seeds": 3}, "seeds is a tuple of integers: 3"),
        ("mini", {"seeds": ()}, "seeds is a tuple"),
    ],
)
def test_a_wrong_name_key_or_value_is_named(name, overrides, message):
    with pytest.raises(ValueError, match=message):
        get_profile(name, **overrides)


def test_unknown_of_nothing_known():
    assert unknown("notebook", "05", []) == "unknown notebook '05': There are none"


def test_seeds_of_the_environment(monkeypatch):
    monkeypatch.setenv("REALQA_SEEDS", "5, 7")
    assert get_profile("mini").seeds == (5, 7)
    assert get_profile("mini", seeds=(1,)).seeds == (1,)  # what is asked for in code is nearer
    assert PROFILES["mini"].seeds == (0, 1, 2)
    monkeypatch.setenv("REALQA_SEEDS", "")
    assert get_profile("mini").seeds == (0, 1, 2)


@pytest.mark.parametrize("text", ["x", "1,,2", "1,1", "-1", "1.5", "0 1"])
def test_what_are_no_seeds(monkeypatch, text):
    monkeypatch.setenv("REALQA_SEEDS", text)
    with pytest.raises(ValueError, match="seeds are different whole numbers from 0, like 0,1,2"):
        get_profile("mini")
