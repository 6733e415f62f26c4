"""The experiment of notebook 05, on made-up readings."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats

from realqa_utils.experiments import digit_count
from realqa_utils.forms import scores
from realqa_utils.plotting import plots
from realqa_utils.profiles import get_profile
from realqa_utils.records import hashes, results

SMOKE = get_profile("smoke", train_images=12, test_images=10, seeds=(0, 1))


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("REALQA_ROOT", str(tmp_path_factory.mktemp("root")))
    yield digit_count.conditions(SMOKE)
    patch.undo()


@pytest.fixture
def readings(sets):
    """A perfect model that writes M digits: greedy is the rounded target, expected the target."""
    found = {}
    for name, splits in sets.items():
        for digits in (1, 3):
            for split in splits:
                target = split.test.targets
                frame = {"id": split.test.frame["id"], "target": target, "expected": target}
                frame |= {"greedy": scores.quantise(target, digits), "answers": 1, "parsed": 1}
                found.setdefault((name, digits), []).append(pd.DataFrame(frame))
    return found


def test_the_narrow_set_comes_first_and_is_narrow(sets):
    described = digit_count.describe(sets)
    narrow, wide = described.index
    assert "1 to 5" in narrow and "0 to 10" in wide
    assert described.loc[narrow, "unit"] < 1 < described.loc[wide, "unit"]
    for splits in sets.values():
        assert len(splits) == len(SMOKE.seeds)
        assert not set(splits[0].train.frame["id"]) & set(splits[0].test.frame["id"])


def test_the_narrow_set_is_written_on_its_own_scale(sets):
    narrow = next(iter(sets.values()))[0].test
    assert narrow.frame["mos"].between(1, 5).all()
    np.testing.assert_allclose(narrow.targets, narrow.frame["mos"])


def test_ceilings_rise_with_the_digits_and_are_what_a_perfect_model_gets(sets, readings):
    limits = digit_count.ceilings(sets, (1, 3))
    table = digit_count.table(SMOKE, sets, readings, seed=0)
    greedy = table[(table["model"] == "greedy") & (table["metric"] == "srcc")]
    for row in greedy.itertuples():
        same = (limits["dataset"] == row.dataset) & (limits["digits"] == row.digits)
        limit = limits[same & (limits["metric"] == "srcc")]["estimate"].item()
        assert row.estimate == pytest.approx(limit, abs=1e-12)
    by_digits = limits[limits["metric"] == "srcc"].groupby("digits")["estimate"].mean()
    assert by_digits[1] < by_digits[3]


def test_verdicts_compare_three_digits_with_one(sets, readings):
    judged = digit_count.verdicts(SMOKE, readings, seed=0)
    greedy, expected = judged[judged["model"] == "greedy"], judged[judged["model"] == "expected"]
    assert (greedy["estimate"] >= 0).all()
    assert (expected["estimate"] == 0).all()  # the same numbers: no difference
    assert (expected["verdict"] == "undecided").all()
    words = digit_count.summary(SMOKE, judged, digit_count.ceilings(sets, (1, 3)))
    assert len(words.splitlines()) == 4


def test_kept_digits_of_a_perfect_model_rise_and_end_at_its_own_score(readings):
    table = digit_count.kept_digits(SMOKE, readings)
    kept = table.pivot(index=["dataset", "digits"], columns="kept", values="estimate")
    for name, digits in readings:
        row = kept.loc[(name, digits)].dropna()
        assert list(row.index) == list(range(1, digits + 1))
        assert row.is_monotonic_increasing
        by_hand = [stats.spearmanr(f["target"], f["greedy"])[0] for f in readings[name, digits]]
        assert row.iloc[-1] == pytest.approx(np.mean(by_hand), abs=1e-9)


def test_unparsed_answers_are_counted(readings):
    frame = next(iter(readings.values()))[0]
    frame.loc[0, "parsed"] = 0
    counted = digit_count.parsed(readings)
    assert counted["answers"].sum() == 2 * 2 * 2 * 10
    assert counted["parsed"].sum() == counted["answers"].sum() - 1


def test_saving_writes_tables_figure_record_and_claim(root, sets, readings, monkeypatch):
    monkeypatch.setattr(hashes, "of_model", lambda source: "0" * 16)
    table = digit_count.table(SMOKE, sets, readings, seed=0)
    judged = digit_count.verdicts(SMOKE, readings, seed=0)
    kept = digit_count.kept_digits(SMOKE, readings)
    figure = plots.digit_count(table)
    assert isinstance(figure, Figure)
    watch = results.Stopwatch()
    alone = digit_count.ceilings(sets, [1])
    digit_count.save(SMOKE, sets, table, judged, kept, readings, alone, {"": figure}, watch)
    folder = results.figure_dir("smoke")
    assert (folder / "05_digit_count.png").stat().st_size > 5000
    assert len(pd.read_csv(folder / "05_digit_count_kept_digits.csv")) == len(kept)
    record = json.loads((folder / "05_digit_count.json").read_text())
    assert record["n"] == record["n_parsed"] == 80
    claim = results.claims("smoke").iloc[0]
    assert claim["claim"] == "T4-two-extra-digits" and "1 to 5" in claim["statement"]
    assert claim["estimate"] == pytest.approx(judged.iloc[0]["estimate"], rel=1e-5)


def test_baselines_answer_on_the_same_photographs(sets):
    splits = next(iter(sets.values()))[:1]
    for frames in (digit_count.svr_readings(splits), digit_count.mean_readings(splits)):
        assert frames[0]["id"].equals(splits[0].test.frame["id"])
        assert np.isfinite(frames[0]["expected"]).all()
    assert digit_count.mean_readings(splits)[0]["expected"].nunique() == 1
