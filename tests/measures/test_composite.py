"""The composite score against least squares, hand-worked cases and the labels of the mini world."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realqa_utils.datasets import mini
from realqa_utils.forms import taxonomy
from realqa_utils.measures import composite, resampling, statistics

pytestmark = pytest.mark.filterwarnings("error")
NINE = len(taxonomy.SCORED)


@cache
def world(name: str, seed: int, count: int) -> pd.DataFrame:
    """Labels and MOS of a mini domain; no photograph is drawn."""
    rows = []
    for index in range(count):
        scene = mini.scene_at(name, seed, index)
        rows.append(mini.labels(scene) | {"mos": mini.rate(scene, name, seed, index)[0]})
    return pd.DataFrame(rows)


def made(n=200, noise=0.5, seed=0, columns=NINE):
    """Codes (n, 9), of which the first `columns` vary and go together, a target, true weights."""
    rng = np.random.default_rng(seed)
    x = rng.integers(1, 4, (n, NINE)) + rng.integers(0, 2, (n, 1)) * 1.0
    x[:, columns:] = 2.0
    true = np.where(np.arange(NINE) < columns, rng.normal(size=NINE), 0)
    return x, 3 + x @ true + noise * rng.normal(size=n), true


def least_squares(x, y):
    """Raw weights and intercept."""
    *raw, intercept = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y)[0]
    return np.array(raw), intercept


# --- codes ---------------------------------------------------------------------------------------


def labels(**columns) -> pd.DataFrame:
    rows = len(next(iter(columns.values()))) if columns else 1
    return pd.DataFrame(dict.fromkeys(taxonomy.SCORED, [1] * rows) | columns)


def test_codes_are_those_of_the_taxonomy():
    for name in taxonomy.SCORED:
        attribute = taxonomy.BY_NAME[name]
        tiers = attribute.codes if attribute.kind == "score" else range(len(attribute.tiers))
        column = taxonomy.SCORED.index(name)
        found = composite.codes(labels(**{name: list(tiers)}))[:, column]
        assert found.tolist() == [taxonomy.code(name, tier) for tier in tiers]


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_a_missing_label_becomes_nan(missing):
    frame = labels(exposure=pd.array([0, missing], dtype="Int64"), composition=[missing, 10])
    found = composite.codes(frame)
    assert np.argwhere(np.isnan(found)).tolist() == [[0, 1], [1, 7]]
    assert (found[0, 7], found[1, 1]) == (1, 10)


@pytest.mark.parametrize(
    "name, value", [("exposure", 5), ("exposure", -1), ("exposure", 1.5), ("exposure", "2"),
                    ("exposure", np.inf), ("composition", 0), ("composition", 11)],
)  # fmt: skip
def test_what_is_no_label_is_refused_with_its_row(name, value):
    with pytest.raises(ValueError, match=rf"row 2: {name} is .*; right is a whole number from"):
        composite.codes(labels(**{name: [1, value, value]}).astype({name: object}))


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="no column 'exposure'"):
        composite.codes(labels().drop(columns="exposure"))


# --- fit -----------------------------------------------------------------------------------------


def test_one_component_by_hand():
    """Weights in proportion to the covariances of standardised codes with the target."""
    x = np.full((4, NINE), 1.0)
    x[:, 0], x[:, 1] = [1, 3, 1, 3], [1, 1, 2, 2]
    y = np.array([0.0, 2, 1, 7])
    # Both standardised columns are +-sqrt(3)/2; their products with y sum to 8 and 6, halves of
    # sqrt(3). So the direction is (4, 3)/5, and the score along it sqrt(3)/2 (-7, 1, -1, 7)/5.
    direction, scores = np.array([4, 3]) / 5, np.sqrt(3) / 10 * np.array([-7, 1, -1, 7])
    expected = direction * (scores @ y) / (scores @ scores)
    found = composite.bootstrap_weights(x, y, 1, seed=0, resamples=1)["estimate"]
    np.testing.assert_allclose(found, [*expected, *[0] * 7], atol=1e-12)


@pytest.mark.parametrize("columns", [1, 4, NINE])
def test_with_every_component_it_is_least_squares(columns):
    x, y, _ = made(columns=columns)
    raw, intercept = least_squares(x[:, :columns], y)
    found = composite.bootstrap_weights(x, y, columns, seed=0, resamples=1)["estimate"]
    expected = np.r_[raw * x[:, :columns].std(axis=0, ddof=1), np.zeros(NINE - columns)]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_an_exact_rule_is_found_and_applied_to_new_photos():
    x, y, true = made(noise=0)
    fitted = composite.fit(x, y, seed=0)
    np.testing.assert_allclose(fitted.raw_weights, true, atol=1e-9)
    assert fitted.intercept == pytest.approx(3)
    assert max(fitted.cross_validated) == pytest.approx(1)
    new = np.random.default_rng(1).uniform(1, 10, (5, NINE))
    np.testing.assert_allclose(fitted.score(new), 3 + new @ true)


def test_weights_of_standardised_and_of_raw_codes_give_the_same_score():
    x, y, _ = made()
    fitted = composite.fit(x, y, seed=0)
    z = (x - np.array(fitted.means)) / np.array(fitted.sds)
    np.testing.assert_allclose(fitted.score(x), fitted.target_mean + z @ np.array(fitted.weights))
    np.testing.assert_allclose(fitted.sds, pd.DataFrame(x).std())
    assert (fitted.target_mean, fitted.target_sd) == pytest.approx((y.mean(), y.std(ddof=1)))
    assert (fitted.n, fitted.folds, fitted.seed, fitted.names) == (200, 10, 0, taxonomy.SCORED)


def test_the_curve_is_what_held_out_folds_say():
    """With all components, least squares on the other folds; the folds are redrawn here."""
    x, y, _ = made(n=40, noise=2, columns=2)
    fitted = composite.fit(x, y, seed=3, folds=4)
    held_out = np.empty(40)
    shuffled = np.arange(40)
    np.random.RandomState(3).shuffle(shuffled)
    for test in np.split(shuffled, 4):
        train = np.setdiff1d(shuffled, test)
        raw, intercept = least_squares(x[train, :2], y[train])
        held_out[test] = x[test, :2] @ raw + intercept
    expected = 1 - ((y - held_out) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert len(fitted.cross_validated) == 2
    assert fitted.cross_validated[1] == pytest.approx(expected)


def test_the_best_number_of_components_is_taken():
    x, y, _ = made(n=60, noise=4)
    fitted = composite.fit(x, y, seed=0)
    assert fitted.cross_validated[fitted.components - 1] == max(fitted.cross_validated)
    chosen = composite.bootstrap_weights(x, y, fitted.components, seed=0, resamples=1)
    np.testing.assert_allclose(fitted.weights, chosen["estimate"])


def test_noise_is_not_taken_for_a_composite():
    """Cross-validated, no share of a target that has nothing to do with the codes is explained."""
    x, y, _ = made(n=300)
    assert max(composite.fit(x, y, seed=0).cross_validated) > 0.5
    shuffled = np.random.default_rng(0).permutation(y)
    assert max(composite.fit(x, shuffled, seed=0).cross_validated) < 0.02


def test_the_seed_draws_the_folds_and_nothing_else_is_random():
    x, y, _ = made(n=50)
    assert composite.fit(x, y, seed=1) == composite.fit(x, y, seed=1)
    curves = {composite.fit(x, y, seed=seed).cross_validated for seed in range(3)}
    assert len(curves) == 3


@pytest.mark.parametrize("value", [2.0, 0.1])  # the mean of tenths is not 0.1: rounding
def test_a_constant_attribute_has_weight_0(value):
    x, y, _ = made()
    x[:, 4] = value
    fitted = composite.fit(x, y, seed=0)
    assert (fitted.weights[4], fitted.raw_weights[4], fitted.sds[4]) == (0, 0, 0)
    low, high = composite.bootstrap_weights(x, y, 2, seed=0, resamples=20).loc[4, ["low", "high"]]
    assert (low, high) == (0, 0)
    x_new = x.copy()
    x_new[:, 4] += 1
    np.testing.assert_array_equal(fitted.score(x_new), fitted.score(x))


def test_missing_codes_are_refused_or_stand_at_the_training_mean():
    x, y, _ = made()
    holes = x.copy()
    holes[[3, 8], 2] = np.nan
    filled = holes.copy()
    filled[[3, 8], 2] = np.delete(x[:, 2], [3, 8]).mean()
    with pytest.raises(
        ValueError, match=r"row 4: .*subject_integrity is nan.*impute=True.*2 of 20"
    ):
        composite.fit(holes, y, seed=0)
    fitted = composite.fit(holes, y, seed=0, impute=True)
    assert fitted == composite.fit(filled, y, seed=0)
    with pytest.raises(ValueError, match="row 4"):
        fitted.score(holes)
    np.testing.assert_allclose(fitted.score(holes, impute=True), fitted.score(filled))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x, y: (x[:9], y[:9]), "10 folds for 9 photos"),
        (lambda x, y: (x, np.where(np.arange(200) == 6, np.inf, y)), "row 7: the target is inf"),
        (lambda x, y: (x, np.where(np.arange(200) == 6, np.nan, y)), "row 7: the target is nan"),
        (lambda x, y: (x, y * 0 + 0.1), "the target of 200 photos do"),
        (lambda x, y: (x * 0 + 0.1, y), "the codes of 200 photos do"),
        (lambda x, y: (x, y[:-1]), r"target has shape \(199,\) for 200 photos"),
        (lambda x, y: (x[:, :8], y), r"codes have shape \(200, 8\); right is \(n, 9\)"),
        (lambda x, y: (np.where(x == x[5, 5], np.inf, x), y), "of .* is inf"),
    ],
)
def test_what_cannot_be_weighed_is_refused(change, message):
    x, y, _ = made()
    with pytest.raises(ValueError, match=message):
        composite.fit(*change(x, y), seed=0)


def test_impute_cannot_help_a_column_without_any_value():
    x, y, _ = made()
    x[:, 0] = np.nan
    with pytest.raises(ValueError, match="eye_catching is nan; right is a finite number \\(rows"):
        composite.fit(x, y, seed=0, impute=True)


@pytest.mark.parametrize("seed", range(3))
def test_attributes_that_follow_from_others_do_no_harm(seed):
    x, y, _ = made(seed=seed)
    x[:, 1], x[:, 2] = 0.3 * x[:, 0], x[:, 0] + x[:, 3]
    fitted = composite.fit(x, y, seed=0)
    assert len(fitted.cross_validated) == 7  # as many components as there are directions
    found = composite.bootstrap_weights(x, y, NINE, seed=0, resamples=10)
    assert np.abs(found[["low", "high", "estimate"]].to_numpy()).max() < 2 * y.std()
    raw, intercept = least_squares(x[:, [0, *range(3, NINE)]], y)
    expected = x[:, [0, *range(3, NINE)]] @ raw + intercept
    assert np.mean((fitted.score(x) - expected) ** 2) < 0.01 * y.var()


@settings(max_examples=25)
@given(
    rows=st.lists(st.lists(st.integers(0, 2), min_size=NINE, max_size=NINE), min_size=2),
    scores=st.lists(st.integers(0, 2), min_size=200, max_size=200),
    folds=st.integers(2, 5),
)
def test_few_photos_and_collinear_attributes_give_finite_weights_or_one_error(rows, scores, folds):
    x, y = np.array(rows, dtype=float), np.array(scores[: len(rows)], dtype=float)
    try:
        fitted = composite.fit(x, y, seed=0, folds=min(folds, len(x)))
    except ValueError as error:
        assert "do not vary" in str(error)
        return
    assert np.isfinite(fitted.score(x)).all()
    # No worse on its own photos than the mean is; so nothing was divided by a rounding error.
    assert ((fitted.score(x) - y) ** 2).sum() <= ((y - y.mean()) ** 2).sum() * (1 + 1e-9)


def test_a_target_that_goes_with_nothing_gets_weights_of_0():
    x = np.full((8, NINE), 1.0)
    x[:, 0], x[:, 1] = [0, 1] * 4, [0, 0, 1, 1] * 2
    y = np.array([0.0, 1, 1, 0] * 2)  # exclusive or: no covariance with either
    found = composite.bootstrap_weights(x, y, 1, seed=0, resamples=1)["estimate"]
    np.testing.assert_allclose(found, 0, atol=1e-12)


# --- file ----------------------------------------------------------------------------------------


def test_a_composite_comes_back_exactly(tmp_path):
    x, y, _ = made()
    fitted = composite.fit(x, y / 3, seed=0)
    path = fitted.save(tmp_path / "deep" / "composite.json")
    again = composite.load(path)
    assert again == fitted
    np.testing.assert_array_equal(again.score(x), fitted.score(x))


def test_a_file_that_holds_no_composite_is_refused(tmp_path):
    x, y, _ = made()
    content = asdict(composite.fit(x, y, seed=0))
    path = tmp_path / "composite.json"
    short, words = content["weights"][:-1], ["much", *content["weights"][1:]]
    unnamed = content["names"][:-1]
    bad = ["{", "[1]", "3", {}, content | {"more": 1}, content | {"weights": short},
           content | {"weights": words}, content | {"means": 3}, content | {"names": unnamed},
           content | {"sds": [float("nan")] * NINE}]  # fmt: skip
    for each in bad:
        path.write_text(each if isinstance(each, str) else json.dumps(each))
        with pytest.raises(ValueError, match="composite.json: not a composite"):
            composite.load(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        composite.load(tmp_path / "nowhere.json")


# --- intervals -----------------------------------------------------------------------------------


def test_intervals_are_quantiles_of_least_squares_on_the_same_resamples():
    x, y, _ = made(n=60, columns=3)
    found = composite.bootstrap_weights(x, y, 3, seed=5, resamples=40)
    (counts,) = resampling.draw_counts(np.random.default_rng(5), 40, np.arange(60))
    values = []
    for row in counts.astype(int):
        drawn, target = np.repeat(x[:, :3], row, axis=0), np.repeat(y, row)
        values.append(least_squares(drawn, target)[0] * drawn.std(axis=0, ddof=1))
    np.testing.assert_allclose(found["low"][:3], np.quantile(values, 0.025, axis=0))
    np.testing.assert_allclose(found["high"][:3], np.quantile(values, 0.975, axis=0))
    assert found["attribute"].tolist() == list(taxonomy.SCORED)


def test_intervals_are_as_wide_as_the_standard_errors_of_least_squares():
    x, y, true = made(n=400, noise=1)
    found = composite.bootstrap_weights(x, y, NINE, seed=0, resamples=400)
    z = (x - x.mean(axis=0)) / x.std(axis=0, ddof=1)
    errors = np.sqrt(np.diag(np.linalg.inv(z.T @ z)))  # the noise has a standard deviation of 1
    # On top comes that the standard deviation of a code is not known either.
    width = np.sqrt(errors**2 + (true * x.std(axis=0) * 0.03) ** 2) * 2 * 1.96
    np.testing.assert_allclose(found["high"] - found["low"], width, rtol=0.25)


@pytest.mark.parametrize("options", [{"components": 0}, {"components": 1, "resamples": 0}])
def test_bootstrap_needs_a_component_and_a_resample(options):
    x, y, _ = made()
    with pytest.raises(ValueError, match="right is at least 1"):
        composite.bootstrap_weights(x, y, seed=0, **options)


# --- against simpler scores ----------------------------------------------------------------------


@pytest.mark.parametrize("name", mini.DOMAINS)
def test_on_the_mini_world_it_ranks_better_than_one_attribute_and_than_equal_weights(name):
    train, test = world(name, 0, 300), world(name, 1, 200)
    table = composite.compare(train, test, seed=0, dataset=name, resamples=100)
    for metric, rows in table.groupby("metric"):
        found = rows[rows["model"] != "single"].set_index("model")
        assert found.loc["composite", "low"] > 0.9, metric
        assert found.loc["composite - best single", "low"] > 0.2
        assert found.loc["composite - equal weights", "low"] > 0.02


def test_compare_agrees_with_the_statistics_of_each_score():
    train, test = world("mini-koniq", 0, 300), world("mini-koniq", 1, 200)
    table = composite.compare(train, test, seed=2, dataset="mini-koniq", resamples=50)
    x, own_x = composite.codes(train), composite.codes(test)
    own = composite.fit(x, train["mos"], seed=2).score(own_x)
    equal = ((own_x - x.mean(axis=0)) / x.std(axis=0)).sum(axis=1)  # unit and mean do not matter
    for metric in ("srcc", "plcc"):
        measure = statistics.METRICS[metric]
        trained = [measure(train["mos"], column) for column in x.T]
        best = int(np.argmax(trained))
        expected = {
            ("composite", ""): measure(test["mos"], own),
            ("equal weights", ""): measure(test["mos"], equal),
            ("composite - best single", taxonomy.SCORED[best]): measure(test["mos"], own)
            - measure(test["mos"], own_x[:, best]),
            ("composite - equal weights", ""): measure(test["mos"], own)
            - measure(test["mos"], equal),
        }
        for name, column in zip(taxonomy.SCORED, own_x.T, strict=True):
            expected["single", name] = measure(test["mos"], column)
        rows = table[table["metric"] == metric].set_index(["model", "attribute"])
        assert rows["estimate"].to_dict() == pytest.approx(expected)
        assert (rows["low"] < rows["estimate"]).all() and (rows["estimate"] < rows["high"]).all()
    assert set(table["n"]) == {200} and set(table["seeds"]) == {(2,)}


def test_the_best_single_attribute_is_chosen_on_the_training_photos():
    train, test = world("mini-koniq", 0, 300), world("mini-koniq", 1, 200)
    swapped = test.assign(mos=composite.codes(test)[:, 8])  # here saturation would be best
    table = composite.compare(train, swapped, seed=0, resamples=2)
    chosen = table.loc[table["model"] == "composite - best single", "attribute"]
    assert "saturation" not in set(chosen)


def test_compare_refuses_or_imputes_missing_labels_on_both_sides():
    train, test = world("mini-koniq", 0, 300), world("mini-koniq", 1, 200)
    holes = test.assign(exposure=test["exposure"].where(test.index != 5))
    with pytest.raises(ValueError, match="row 6: the code of exposure is nan"):
        composite.compare(train, holes, seed=0, resamples=2)
    full, patched = (
        composite.compare(train, each, seed=0, resamples=2, impute=True) for each in (test, holes)
    )
    kept = full["attribute"] != "exposure"
    assert (full["n"] == patched["n"]).all()
    np.testing.assert_allclose(full["estimate"][kept], patched["estimate"][kept], atol=0.01)
    with pytest.raises(ValueError, match="no column 'feedback'"):
        composite.compare(train, test, "feedback", seed=0)
