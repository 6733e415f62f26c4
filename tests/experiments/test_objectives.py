"""Sec. 4.6 on made-up readings: who is compared with whom, read how; and one real smoke run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_up import readings

from realqa_utils.experiments import objectives, scorers
from realqa_utils.experiments.objectives import DIGITS, HEAD, METHODS, TREE
from realqa_utils.measures import statistics
from realqa_utils.plotting import comparison_plots
from realqa_utils.profiles import get_profile
from realqa_utils.records import results

PROFILE = replace(get_profile("mini"), seeds=(0, 1, 2), resamples=200)


@pytest.fixture(scope="module")
def found():
    return {DIGITS: readings(0.4, 1), "level words": readings(0.4, 2), HEAD: readings(2.0, 3)}


def test_every_method_has_a_source_and_a_recipe():
    assert list(METHODS) == list(objectives.SOURCES)
    for name in METHODS:
        replace(PROFILE.recipe, **METHODS[name])
    assert objectives.overview().loc[DIGITS, "changes"] == "-"


def test_the_table_is_that_of_scipy(found):
    table = objectives.table(PROFILE, "set", found, 0)
    row = table.query(f"model == '{HEAD}' and metric == 'srcc'")
    assert list(row["read"]) == ["expected"]
    mean = np.mean([statistics.srcc(f["target"], f["expected"]) for f in found[HEAD]])
    assert row["estimate"].item() == pytest.approx(mean)
    assert set(results.TABLE_COLUMNS) <= set(table)
    assert objectives.shown(table).loc[HEAD, ("srcc", "greedy")] == ""


def test_a_worse_head_lets_the_claim_hold_and_an_equal_rival_leaves_it_open(found):
    judged = objectives.verdicts(PROFILE, "set", found, 0).set_index(["model", "read"])
    assert judged.loc[(HEAD, "greedy"), "verdict"] == "holds"
    assert judged.loc[(HEAD, "expected"), "verdict"] == "holds"
    assert judged.loc[("level words", "expected"), "verdict"] == "undecided"
    # greedy digits stand against the others' expected value
    digits, words = found[DIGITS], found["level words"]
    by_hand = np.mean(
        [
            statistics.srcc(a["target"], a["greedy"]) - statistics.srcc(b["target"], b["expected"])
            for a, b in zip(digits, words, strict=True)
        ]
    )
    assert judged.loc[("level words", "greedy"), "estimate"] == pytest.approx(by_hand)


def test_what_has_no_words_is_not_counted_as_parsed(found):
    unread = [frame.assign(parsed=0) for frame in found[HEAD]]
    assert objectives.parsed(found | {HEAD: unread, TREE: unread}) == (720, 720)


def test_the_claim_is_about_greedy_digits_and_the_head(found, root):
    table = objectives.table(PROFILE, "set", found, 0)
    judged = objectives.verdicts(PROFILE, "set", found, 0)
    splits = scorers.splits(replace(get_profile("smoke")))
    figures = {"": comparison_plots.forest(table)}
    watch = results.Stopwatch()
    objectives.save(PROFILE, splits, table, judged, found, figures, watch)
    claim = results.claims(PROFILE).set_index("claim").loc[objectives.CLAIM]
    wanted = judged.query(f"model == '{HEAD}' and read == 'greedy'").iloc[0]
    assert claim["verdict"] == "holds"
    assert claim["estimate"] == pytest.approx(wanted["estimate"])
    said = objectives.summary(table, judged)
    assert "Digits, greedy, are better than: regression head" in said


@pytest.mark.parametrize("name", ["level words, soft", HEAD, TREE])
def test_a_method_trains_and_is_read(root, name):
    smoke = get_profile("smoke", workers=1)
    (frame,) = objectives.readings(smoke, scorers.splits(smoke), [name])[name]
    assert len(frame) == smoke.test_images
    assert frame["expected"].between(-5, 15).all()
