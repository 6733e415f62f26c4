"""Isotonic curves against hand-worked ones, and intervals that cover as often as they promise."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.isotonic import IsotonicRegression

from realqa_utils.scoring import calibration
from realqa_utils.scoring.calibration import (
    Calibration,
    conformal_quantile,
    coverage,
    fit,
    least_rows,
    load,
)


def photos(n: int, seed: int, honest: bool = True) -> pd.DataFrame:
    """Readings of a model that squeezes scores together; an honest one is wrong by its sd."""
    rng = np.random.default_rng(seed)
    expected, sd = rng.uniform(3, 7, n), rng.uniform(0.1, 0.9, n)
    noise = rng.normal(0, sd if honest else rng.permutation(sd))
    target = np.clip(5 + 1.8 * (expected - 5) + noise, 0, 10)
    return pd.DataFrame({"target": target, "expected": expected, "sd": sd})


TWO = Calibration((2.0, 6.0), (3.0, 5.0), (0.5, 0.9), (0.25, 1.0), (1.0, 2.0), 0.1, 8, 9, 0)


# --- the curve -----------------------------------------------------------------------------------


def test_the_curve_is_that_of_pooling_adjacent_violators_by_hand(monkeypatch):
    # 1, 2 | 6, 3 | 5 becomes 1, 2, 4.5, 4.5, 5
    x, y = np.array([1.0, 2, 3, 4, 5]), np.array([1.0, 2, 6, 3, 5])
    frame = pd.DataFrame({"expected": [*x, *x], "target": [*y, *y], "sd": 1.0})
    found = fit_on_first_half(frame, monkeypatch)
    assert (found.expected, found.score) == ((1, 2, 3, 4, 5), (1, 2, 4.5, 4.5, 5))
    probe = found.apply(pd.DataFrame({"expected": [0, 1.5, 3.5, 4.5, 9]}), 0.5)
    assert probe["score"].tolist() == [1, 1.5, 4.5, 4.75, 5]  # straight between, level beyond


def fit_on_first_half(frame: pd.DataFrame, monkeypatch) -> Calibration:
    class InOrder:
        def permutation(self, n):
            return np.arange(n)

    with monkeypatch.context() as patch:
        patch.setattr(np.random, "default_rng", lambda seed: InOrder())
        return fit(frame, [0.5], seed=0)


def test_the_curve_is_that_of_scikit_learn_everywhere(monkeypatch):
    frame = photos(400, 1)
    found = fit_on_first_half(frame, monkeypatch)
    half = frame.iloc[:200]
    wanted = IsotonicRegression(out_of_bounds="clip").fit(half["expected"], half["target"])
    grid = pd.DataFrame({"expected": np.linspace(0, 10, 2001)})
    np.testing.assert_allclose(
        found.apply(grid, 0.5)["score"], wanted.predict(grid["expected"]), rtol=0, atol=1e-12
    )


ROWS = st.lists(
    st.tuples(st.floats(0, 10), st.floats(0, 10), st.floats(0, 5)), min_size=2, max_size=40
)


@given(ROWS, st.sampled_from(calibration.KINDS))
def test_scores_never_fall_and_lie_within_their_intervals_on_the_scale(rows, kind):
    frame = pd.DataFrame(rows, columns=["target", "expected", "sd"])
    found = fit(frame, [0.5], seed=0).apply(frame.sort_values("expected"), 0.5, kind)
    assert (np.diff(found["score"]) >= 0).all()
    assert ((found["low"] <= found["score"]) & (found["score"] <= found["high"])).all()
    assert (found["low"] >= 0).all() and (found["high"] <= 10).all()


# --- the intervals -------------------------------------------------------------------------------


def test_quantiles_by_hand():
    residuals = [0.7, 0.1, 0.3, 0.2, 0.5, 0.9, 0.4, 0.8, 0.6]  # 0.1 .. 0.9
    assert conformal_quantile(residuals, 0.5) == 0.5  # ceil(10 * 0.5) = the 5th
    assert conformal_quantile(residuals, 0.51) == 0.6
    assert conformal_quantile(residuals, 0.9) == 0.9  # ceil(10 * 0.9) = the 9th
    assert conformal_quantile(range(1, 100), 0.55) == 55  # where 100 * 0.55 is 55.00000000000001


@pytest.mark.parametrize(("level", "least"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_a_level_needs_so_many_residuals_and_no_more(level, least):
    assert least_rows(level) == least
    assert conformal_quantile(range(least), level) == least - 1
    words = f"level {level:g} needs at least {least} residuals; there are {least - 1}"
    with pytest.raises(ValueError, match=words):
        conformal_quantile(range(least - 1), level)


@given(st.integers(1, 60), st.floats(0.01, 0.99))
def test_the_rank_is_the_lowest_whose_guarantee_reaches_the_level(n, level):
    if n < least_rows(level):
        return
    rank = conformal_quantile(range(1, n + 1), level)
    assert rank / (n + 1) >= level - 1e-12 and (rank - 1) / (n + 1) < level + 1e-12


def test_both_kinds_of_residuals_come_from_the_rows_that_the_curve_has_not_seen(monkeypatch):
    curve = pd.DataFrame({"expected": [2.0, 4, 6], "target": [2.0, 4, 6], "sd": 1.0})
    rest = pd.DataFrame(
        {"expected": [2.0, 3, 4], "target": [2.5, 4, 2], "sd": [1.0, 0.01, 4]}
    )  # |residuals| 0.5, 1, 2; over sd, taken as at least 0.1, 0.5, 10, 0.5
    found = fit_on_first_half(pd.concat([curve, rest]), monkeypatch)
    assert (found.absolute, found.normalised) == ((1.0,), (0.5,))
    assert (found.curve_rows, found.interval_rows, found.floor) == (3, 3, 0.1)


def test_intervals_by_hand_are_cut_to_the_scale():
    frame = pd.DataFrame({"expected": [4.0, 0, 4], "sd": [0.5, 2.0, 0.01], "id": list("abc")})
    plain = TWO.apply(frame)
    assert plain[["score", "low", "high"]].to_numpy().tolist() == [[4, 3, 5], [3, 2, 4], [4, 3, 5]]
    assert plain["id"].tolist() == list("abc") and "score" not in frame
    ours = TWO.apply(frame, kind="normalised")
    np.testing.assert_allclose(ours["low"], [3, 0, 3.8])  # 3 - 2 * 2 lies below the scale
    np.testing.assert_allclose(ours["high"], [5, 7, 4.2])  # the floor stands for 0.01
    half = TWO.apply(frame, 0.5)
    np.testing.assert_allclose(half["high"] - half["score"], 0.25)


@pytest.mark.parametrize("honest", [True, False])
def test_coverage_over_many_slices_is_what_was_promised(honest):
    level, slices, rows, fresh = 0.8, 250, 79, 40
    shares = {kind: [] for kind in calibration.KINDS}
    for seed in range(slices):
        found = fit(photos(rows, seed, honest), [level], seed=seed)
        test = photos(fresh, 10_000 + seed, honest)
        for kind, measured in shares.items():
            measured.append(coverage(found.apply(test, level, kind)).estimate)
    n = found.interval_rows
    rank = math.ceil((n + 1) * level)
    # Coverage given the slice is Beta(rank, n + 1 - rank), so the share of `fresh` photos is
    # beta-binomial, and the mean over the slices has this standard error: 0.6 %.
    error = stats.betabinom(fresh, rank, n + 1 - rank).std() / fresh / math.sqrt(slices)
    assert error < 0.006
    for measured in shares.values():
        assert np.mean(measured) == pytest.approx(33 / 41, abs=4 * error)
        assert np.std(measured) == pytest.approx(error * math.sqrt(slices), rel=0.2)


def test_intervals_from_the_rows_of_the_curve_itself_would_be_too_narrow():
    """Why the slice is cut in two: a test of the test above, which this flaw must fail."""
    level, shares = 0.8, []
    for seed in range(250):
        frame, test = photos(40, seed), photos(40, 10_000 + seed)
        curve = IsotonicRegression(out_of_bounds="clip").fit(frame["expected"], frame["target"])
        residuals = np.abs(frame["target"] - curve.predict(frame["expected"]))
        reach = conformal_quantile(residuals, level)
        shares.append((np.abs(test["target"] - curve.predict(test["expected"])) <= reach).mean())
    assert np.mean(shares) < level - 0.05


def test_honest_standard_deviations_narrow_the_intervals_and_others_widen_them():
    width = {
        (kind, honest): coverage(
            fit(photos(2000, 0, honest), seed=0).apply(photos(2000, 1, honest), 0.9, kind)
        ).width
        for kind in calibration.KINDS
        for honest in (True, False)
    }
    assert width["normalised", True] < 0.95 * width["absolute", True]
    assert width["normalised", False] > width["absolute", False]


# --- judging -------------------------------------------------------------------------------------


def test_coverage_counts_ends_in_and_has_wilsons_interval():
    frame = pd.DataFrame({"target": [1.0, 2, 3, 4], "low": [1.0, 0, 0, 0], "high": [2.0, 2, 3, 3]})
    found = coverage(frame)
    assert (found.estimate, found.width, found.n) == (0.75, 2.25, 4)
    z, p, n = stats.norm.ppf(0.975), 0.75, 4
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (found.low, found.high) == (
        pytest.approx(centre - reach),
        pytest.approx(centre + reach),
    )


def test_coverage_refuses_an_interval_that_is_upside_down():
    with pytest.raises(ValueError, match="row 2: low 3 exceeds high 2"):
        coverage(pd.DataFrame({"target": [1.0, 1], "low": [1.0, 3], "high": [1.0, 2]}))


def test_a_standard_deviation_that_foretells_the_error_is_told_from_one_that_does_not():
    frame = photos(600, 0).assign(expected=lambda f: f["target"])
    rng = np.random.default_rng(1)
    told = frame.assign(target=np.clip(frame["expected"] + rng.normal(0, frame["sd"]), 0, 10))
    found = calibration.sd_predicts_error(told, np.random.default_rng(0))
    wanted = stats.spearmanr(told["sd"], np.abs(told["target"] - told["expected"])).statistic
    assert found.estimate == pytest.approx(wanted)
    assert 0.2 < found.low < found.estimate < found.high
    mixed = told.assign(sd=rng.permutation(told["sd"]))
    found = calibration.sd_predicts_error(mixed, np.random.default_rng(0))
    assert found.low < 0 < found.high
    again = calibration.sd_predicts_error(mixed, np.random.default_rng(0))
    assert found == again


def test_the_error_may_be_that_of_the_calibrated_score():
    frame = pd.DataFrame({"target": [1.0, 2, 3], "score": [1.0, 3, 5], "sd": [0.1, 0.2, 0.3]})
    found = calibration.sd_predicts_error(frame, np.random.default_rng(0), column="score")
    assert found.estimate == pytest.approx(1)


# --- bad rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("target", math.nan, r"row 3: target is nan; right is a number from 0 to 10 .*1 of 60"),
        ("expected", math.inf, "row 3: expected is inf"),
        ("sd", -0.1, "row 3: sd is -0.1"),
        ("target", 55.0, "row 3: target is 55.0"),  # a scale of 0..100
    ],
)
def test_a_bad_value_is_named_by_its_row(column, value, words):
    frame = photos(60, 0)
    frame.loc[2, column] = value
    with pytest.raises(ValueError, match=words):
        fit(frame, seed=0)


def test_words_and_missing_columns_and_no_rows_are_named():
    frame = photos(60, 0).astype({"expected": object})
    frame.loc[4, "expected"] = "damaged"
    with pytest.raises(ValueError, match="row 5: expected is damaged"):
        TWO.apply(frame)
    with pytest.raises(ValueError, match="no column 'sd'; right are expected, sd"):
        TWO.apply(photos(3, 0)[["expected"]], kind="normalised")
    with pytest.raises(ValueError, match="no column 'low'; right are target, low, high"):
        coverage(photos(3, 0))
    with pytest.raises(ValueError, match="there are no rows"):
        TWO.apply(photos(0, 0))


@pytest.mark.parametrize(("level", "least"), [(0.5, 2), (0.9, 17), (0.95, 37)])
def test_a_slice_that_is_too_small_says_how_many_rows_it_needs(level, least):
    words = f"has {least - 1} rows; the level {level:g} needs at least {least}, "
    with pytest.raises(ValueError, match=words):
        fit(photos(least - 1, 0), [level], seed=0)
    assert fit(photos(least, 0), [level], seed=0).interval_rows == (least + 1) // 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"levels": [0.9, 0.8]}, r"levels\[1\] is 0.8; right is above 0.9"),
        ({"levels": [90]}, r"levels\[0\] is 90.0; right is a number between 0 and 1"),
        ({"levels": []}, "levels is of length 0; right is a list of one or more"),
        ({"floor": 0}, "floor is 0; right is a number from 0.001 on"),
        ({"floor": math.nan}, "floor is nan"),
    ],
)
def test_impossible_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        fit(photos(60, 0), **options, seed=0)


def test_a_level_or_kind_that_was_not_fitted_is_named_with_those_that_were():
    with pytest.raises(ValueError, match=r"unknown level 0.95: .*There are 0.5, 0.9"):
        TWO.apply(photos(3, 0), 0.95)
    with pytest.raises(ValueError, match="'normalized': did you mean 'normalised'"):
        TWO.apply(photos(3, 0), kind="normalized")


# --- files ---------------------------------------------------------------------------------------


@given(ROWS, st.integers(0, 5))
def test_a_saved_calibration_comes_back_exactly(tmp_path_factory, rows, seed):
    found = fit(pd.DataFrame(rows, columns=["target", "expected", "sd"]), [0.5], seed=seed)
    path = found.save(tmp_path_factory.mktemp("a") / "calibration.json")
    assert load(path) == found


def test_the_file_can_be_read_by_people_and_the_seed_may_be_numpys(tmp_path):
    path = fit(photos(60, 0), seed=np.int64(3)).save(tmp_path / "a.json")
    content = json.loads(path.read_text())
    assert content["calibration"] == 1 and content["levels"] == [0.5, 0.8, 0.9, 0.95]
    assert (content["seed"], content["curve_rows"], content["interval_rows"]) == (3, 30, 30)
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"calibration": 2}, "calibration is 2; right is the version 1"),
        ({"calibration": None}, "calibration is None"),
        ({"floor": None}, "floor is None"),
        ({"floor": "wide"}, "floor is wide"),
        ({"score": [3.0]}, "score is of length 1; right is a list of 2 numbers"),
        ({"score": [5.0, 3.0]}, r"score\[1\] is 3.0; right is at least 5.0"),
        ({"expected": [2.0, 2.0]}, r"expected\[1\] is 2.0; right is above 2.0"),
        ({"expected": 2.0}, "expected is 2.0; right is a list of one or more"),
        ({"absolute": [0.25, math.nan]}, r"absolute\[1\] is nan"),
        ({"absolute": [0.25, True]}, r"absolute\[1\] is True"),
        ({"normalised": [-1.0, 2.0]}, r"normalised\[0\] is -1.0"),
        ({"levels": ["0.5", 0.9]}, r"levels\[0\] is 0.5"),
        ({"interval_rows": 9.5}, "interval_rows is 9.5; right is a whole number from 1 on"),
        ({"intervals": 9}, "unknown key 'intervals'"),
    ],
)
def test_a_malformed_file_is_named_with_its_key(tmp_path, change, words):
    path = TWO.save(tmp_path / "a.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=words) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: not a calibration; ")


@pytest.mark.parametrize("key", ["expected", "levels", "seed"])
def test_a_missing_key_is_named(tmp_path, key):
    path = TWO.save(tmp_path / "a.json")
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"a.json: .*the key '{key}' is missing"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"7", b"\xff\xfe\x00"])
def test_a_file_of_something_else_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match="a.json: not a calibration; "):
        load(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match="b.json: no such file"):
        load(tmp_path / "b.json")
