"""Correlations against scipy, bootstrap intervals against loops and hand-worked cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from realqa_utils.measures import resampling, statistics
from realqa_utils.measures.statistics import (
    METRICS,
    bootstrap,
    logistic_fit,
    paired_difference,
    pool_splits,
)

pytestmark = pytest.mark.filterwarnings("error")


def rng(seed=0):
    return np.random.default_rng(seed)


def correlated(n, rho=0.7, seeds=None, seed=0):
    """truth (n,) and predictions (n,) or (seeds, n) with correlation rho."""
    draw = rng(seed)
    truth = draw.normal(size=n)
    noise = draw.normal(size=n if seeds is None else (seeds, n))
    return truth, rho * truth + math.sqrt(1 - rho**2) * noise


# --- metrics -----------------------------------------------------------------------------------


def test_metrics_by_hand():
    assert statistics.srcc([1, 2, 3], [10, 30, 20]) == pytest.approx(0.5)
    assert statistics.srcc([1, 1, 2], [1, 2, 3]) == pytest.approx(math.sqrt(3) / 2)  # a tie
    assert statistics.plcc([1, 2, 3], [1, 2, 4]) == pytest.approx(3 / math.sqrt(2 * 42 / 9))
    assert statistics.krcc([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx((5 - 1) / 6)
    assert statistics.krcc([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(3 * 2))  # tau-b
    assert statistics.rmse([1, 2], [2, 4]) == pytest.approx(math.sqrt(2.5))


@pytest.mark.parametrize("metric", ["srcc", "plcc", "krcc"])
def test_constants_have_no_correlation(metric):
    assert math.isnan(METRICS[metric]([1, 2, 3], [5, 5, 5]))
    assert math.isnan(METRICS[metric]([0.1, 0.1, 0.1], [1, 2, 3]))
    assert math.isnan(statistics.plcc([1, 2, 3, 4], [5, 5, 5, 5], fit="logistic4"))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "truth, prediction, message",
    [
        ([1, 2, 3], [1, 2], "truth has shape"),
        ([[1, 2], [3, 4]], [[1, 2], [3, 4]], "truth has shape"),
        ([1], [1], "1 images; needs at least 2"),
        ([], [], "0 images"),
        ([1, math.nan, 3], [1, 2, 3], "truth at index 1 is nan"),
        ([1, 2, 3], [1, 2, math.inf], "prediction at index 2 is inf"),
    ],
)
def test_bad_input(metric, truth, prediction, message):
    with pytest.raises(ValueError, match=message):
        METRICS[metric](truth, prediction)


LEVELS = st.integers(-3, 3)  # few values, so that ties and constants are common
ROWS = st.lists(st.tuples(LEVELS, LEVELS, st.lists(st.integers(0, 3), min_size=4, max_size=4)))


@pytest.mark.parametrize("metric", METRICS)
@given(rows=ROWS.filter(len), scale=st.sampled_from([1.0, 0.1, 1e6]))
def test_kernels_agree_with_scipy_on_repeated_scores(metric, rows, scale):
    x, y = (scale * np.array([row[i] for row in rows], dtype=float) for i in (0, 1))
    counts = np.array([row[2] for row in rows], dtype=float).T  # 4 resamples
    counts = counts[counts.sum(axis=1) >= 2]
    found = resampling.KERNELS[metric](x, y, counts)
    repeats = counts.astype(int)
    expected = [METRICS[metric](np.repeat(x, row), np.repeat(y, row)) for row in repeats]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)  # NaN equals NaN


@pytest.mark.parametrize("metric", METRICS)
def test_kernels_agree_with_scipy_on_continuous_scores(metric):
    x, y = correlated(500)
    (counts,) = resampling.draw_counts(rng(), 3, np.arange(500))
    found = resampling.KERNELS[metric](x, y + 1e3, counts)
    for value, row in zip(found, counts.astype(int), strict=True):
        assert value == pytest.approx(METRICS[metric](np.repeat(x, row), np.repeat(y + 1e3, row)))


def test_rounding_does_not_hide_a_constant():
    assert sum([0.1] * 3) / 3 != 0.1  # so deviations from the mean are not 0
    constant, x = np.full(3, 0.1), np.array([1.0, 2.0, 4.0])
    for pair in ((constant, x), (x, constant)):
        assert math.isnan(resampling.plcc(*pair, np.ones((1, 3)))[0])


def test_kendall_in_blocks(monkeypatch):
    x, y = correlated(50)
    monkeypatch.setattr(resampling, "CHUNK", 300)
    found = resampling.krcc(x, y, np.ones((1, 50)))
    assert found == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)


# --- logistic fit ------------------------------------------------------------------------------


def vqeg(x, b1, b2, b3, b4):
    return b2 + (b1 - b2) / (1 + np.exp(-(x - b3) / abs(b4)))


def test_logistic_fit_recovers_a_logistic():
    x = rng().uniform(-2, 6, size=200)
    truth = vqeg(x, 90, 10, 2.5, 0.8)
    np.testing.assert_allclose(logistic_fit(truth, x), truth, atol=1e-5)
    assert statistics.plcc(truth, x) < 0.99
    assert statistics.plcc(truth, x, fit="logistic4") == pytest.approx(1)


def test_logistic_fit_is_the_least_squares_curve_of_scipy():
    x = rng(1).uniform(0, 10, size=150)
    truth = vqeg(x, 80, 20, 6, 1.2) + rng(2).normal(scale=5, size=150)
    start = [truth.max(), truth.min(), x.mean(), x.std() / 4]
    best, _ = optimize.curve_fit(vqeg, x, truth, p0=start)
    np.testing.assert_allclose(logistic_fit(truth, x), vqeg(x, *best), atol=1e-3)


def test_logistic_fit_does_not_mind_units():
    truth, x = correlated(100)
    expected = logistic_fit(truth, x)
    np.testing.assert_allclose(logistic_fit(truth, 1000 * x - 7), expected, atol=1e-4)


def test_logistic_fit_at_its_limits():
    np.testing.assert_array_equal(logistic_fit([1, 2, 3, 6], [5, 5, 5, 5]), [3, 3, 3, 3])
    with pytest.raises(ValueError, match="at least 4"):
        logistic_fit([1, 2, 3], [1, 2, 3])
    with pytest.raises(ValueError, match="unknown fit 'logistic5'"):
        statistics.plcc([1, 2], [1, 2], fit="logistic5")


# --- bootstrap ---------------------------------------------------------------------------------


def by_loop(metric, truth, runs, draw, resamples):
    """The documented resampling, one resample at a time with scipy."""
    seeds = draw.integers(len(runs), size=(resamples, len(runs)))
    images = draw.integers(len(truth), size=(resamples, len(truth)))
    return np.array(
        [
            np.mean([METRICS[metric](truth[i], runs[k][i]) for k in ks])
            for ks, i in zip(seeds, images, strict=True)
        ]
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("chunk", [100, resampling.CHUNK])
def test_bootstrap_agrees_with_a_loop(metric, chunk, monkeypatch):
    monkeypatch.setattr(resampling, "CHUNK", chunk)
    truth, runs = correlated(30, seeds=3)
    values = by_loop(metric, truth, runs, rng(5), 50)
    found = bootstrap(metric, truth, runs, rng(5), resamples=50, level=0.9)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])))
    assert found.estimate == pytest.approx(np.mean([METRICS[metric](truth, r) for r in runs]))
    assert (found.n, found.seeds, found.dropped) == (30, 3, 0)


def test_paired_difference_agrees_with_a_loop():
    truth, a = correlated(30, seeds=2)
    b = a + rng(9).normal(scale=0.5, size=a.shape)
    values = [by_loop("srcc", truth, runs, rng(5), 50) for runs in (a, b)]  # the same draws
    found = paired_difference("srcc", truth, a, b, rng(5), resamples=50)
    expected = np.quantile(values[0] - values[1], [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_bootstrap_by_hand():
    # Errors 0 and 2: the RMSE of a resample is 0, sqrt(2) or 2 with probability 1/4, 1/2, 1/4.
    found = bootstrap("rmse", [0, 0], [0, 2], rng())
    assert (found.low, found.high) == (0, 2)
    narrow = bootstrap("rmse", [0, 0], [0, 2], rng(), level=0.4)
    assert (narrow.low, narrow.high) == pytest.approx((math.sqrt(2), math.sqrt(2)))


def test_same_seed_same_interval():
    truth, runs = correlated(40, seeds=2)
    first, again, other = (bootstrap("srcc", truth, runs, rng(s), 100) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_seeds_widen_the_interval():
    # Every image is off by k in run k, so images add nothing, and the mean over three drawn runs
    # is 1 or 3 with probability 1/27 > 2.5 % each.
    truth = np.arange(20.0)
    found = bootstrap("rmse", truth, truth + np.array([[1], [2], [3]]), rng())
    assert (found.estimate, found.low, found.high) == pytest.approx((2, 1, 3))
    single = bootstrap("rmse", truth, truth + 2, rng())
    assert (single.low, single.high) == pytest.approx((2, 2))


def test_clusters_are_drawn_whole():
    truth, prediction = correlated(25)
    plain = bootstrap("srcc", truth, prediction, rng(3), 200)
    twice = np.repeat(truth, 2), np.repeat(prediction, 2)
    labels = np.repeat([f"scene{i:02d}" for i in range(25)], 2)
    clustered = bootstrap("srcc", *twice, rng(3), 200, clusters=labels)
    naive = bootstrap("srcc", *twice, rng(3), 200)
    # Copying every image tells nothing new, and only the clustered interval knows it.
    assert (clustered.low, clustered.high) == pytest.approx((plain.low, plain.high))
    assert naive.high - naive.low < 0.85 * (plain.high - plain.low)


def test_undefined_resamples_are_dropped_and_counted():
    truth, prediction = [0, 0, 0, 0, 1], [0, 1, 2, 3, 4]
    found = bootstrap("srcc", truth, prediction, rng(), 2000)
    assert found.dropped / 2000 == pytest.approx(0.8**5 + 0.2**5, abs=0.03)
    assert 0 < found.low < found.high <= 1
    # Two outliers: both are in 41 % of the resamples only.
    truth, prediction = np.eye(10)[:2]
    found = bootstrap("plcc", truth, prediction, rng(), 2000)
    assert found.estimate == pytest.approx(-1 / 9)
    assert found.dropped / 2000 == pytest.approx(2 * 0.9**10 - 0.8**10, abs=0.04)
    assert math.isnan(found.low) and math.isnan(found.high)


def test_an_undefined_run_makes_the_interval_undefined():
    truth, runs = correlated(20, seeds=2)
    runs[1] = 4.0
    found = bootstrap("srcc", truth, runs, rng(), 100)
    assert all(map(math.isnan, (found.estimate, found.low, found.high)))
    assert found.dropped > 50


@pytest.mark.parametrize("metric", ["srcc", "plcc"])
def test_intervals_cover_the_true_correlation(metric):
    rho = 0.6
    true = {"plcc": rho, "srcc": 6 / math.pi * math.asin(rho / 2)}[metric]
    intervals = [
        bootstrap(metric, *correlated(100, rho, seed=s), rng(s), resamples=200) for s in range(200)
    ]
    covered = np.mean([i.low <= true <= i.high for i in intervals])
    assert 0.88 <= covered <= 0.99


def test_pairing_narrows_the_interval():
    truth, a = correlated(100)
    b = a + rng(9).normal(scale=0.2, size=100)
    paired = paired_difference("srcc", truth, a, b, rng(1))
    alone = [bootstrap("srcc", truth, x, rng(s)) for s, x in enumerate((a, b))]
    independent = math.hypot(*(i.high - i.low for i in alone))
    assert paired.high - paired.low < 0.6 * independent
    same = paired_difference("srcc", truth, a, a, rng(1))
    assert (same.estimate, same.low, same.high) == (0, 0, 0)


# --- splits ------------------------------------------------------------------------------------


def test_one_split_is_a_plain_bootstrap():
    pair = correlated(30)
    assert pool_splits("plcc", [pair], rng(4), 100) == bootstrap("plcc", *pair, rng(4), 100)


def test_splits_by_hand():
    splits = [(np.zeros(5 + k), np.full(5 + k, float(k))) for k in (1, 2, 3)]
    found = pool_splits("rmse", splits, rng())
    assert (found.estimate, found.low, found.high) == (2, 1, 3)  # as in the test of seeds
    assert (found.n, found.seeds) == (6 + 7 + 8, 3)


def test_splits_cover_their_images_too():
    splits = [correlated(40, seed=s) for s in range(4)]
    pooled = pool_splits("srcc", splits, rng())
    single = bootstrap("srcc", *splits[0], rng())
    means = [METRICS["srcc"](*pair) for pair in splits]
    assert pooled.estimate == pytest.approx(np.mean(means))
    assert pooled.high - pooled.low < single.high - single.low
    drawn = np.array(means)[rng(1).integers(4, size=(1000, 4))].mean(axis=1)
    assert pooled.high - pooled.low > np.ptp(np.quantile(drawn, [0.025, 0.975]))


# --- errors ------------------------------------------------------------------------------------

GOOD = ([1, 2, 3], [1, 3, 2])


@pytest.mark.parametrize("not_a_generator", [None, 0, np.random.RandomState(0)])
def test_the_generator_is_explicit(not_a_generator):
    for call in (
        lambda g: bootstrap("srcc", *GOOD, g),
        lambda g: paired_difference("srcc", *GOOD, GOOD[1], g),
        lambda g: pool_splits("srcc", [GOOD], g),
    ):
        with pytest.raises(TypeError, match="default_rng"):
            call(not_a_generator)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"metric": "SRCC"}, "unknown metric 'SRCC'; one of srcc, plcc"),
        ({"resamples": 0}, "resamples=0"),
        ({"level": 95}, "level=95"),
        ({"clusters": [1, 2]}, "2 labels for 3 images"),
        ({"clusters": [1, 1, 1]}, "one label only"),
        ({"predictions": [[1, 2, 3], [1, math.nan, 3]]}, r"predictions at index \(1, 1\) is nan"),
        ({"predictions": [[1, 2]]}, r"prediction \(2,\)"),
        ({"predictions": np.zeros((1, 2, 3))}, r"\(n,\) or \(seeds, n\)"),
        ({"truth": []}, "truth has shape"),
    ],
)
def test_bad_options(options, message):
    good = {"metric": "srcc", "truth": GOOD[0], "predictions": GOOD[1], "rng": rng()}
    with pytest.raises(ValueError, match=message):
        bootstrap(**(good | options))


def test_bad_pairs_and_splits():
    with pytest.raises(ValueError, match=r"a has shape \(2, 3\), b \(3,\)"):
        paired_difference("srcc", [1, 2, 3], [[1, 2, 3]] * 2, [1, 2, 3], rng())
    with pytest.raises(ValueError, match="no splits"):
        pool_splits("srcc", [], rng())
    with pytest.raises(ValueError, match="prediction of split 1 at index 0 is nan"):
        pool_splits("srcc", [GOOD, ([1, 2], [math.nan, 2])], rng())


def test_splits_of_triples_give_the_difference_of_two_models():
    rng = np.random.default_rng(5)
    truth = rng.normal(size=(3, 40))
    good, bad = truth + 0.3 * rng.normal(size=(3, 40)), truth + 2 * rng.normal(size=(3, 40))
    triples = list(zip(truth, good, bad, strict=True))
    found = pool_splits("srcc", triples, np.random.default_rng(0), 200)
    by_hand = [stats.spearmanr(t, a)[0] - stats.spearmanr(t, b)[0] for t, a, b in triples]
    assert found.estimate == pytest.approx(np.mean(by_hand), abs=1e-12)
    assert 0 < found.low < found.estimate < found.high
    same = pool_splits("srcc", [(t, a, a) for t, a, _ in triples], np.random.default_rng(0), 50)
    assert (same.low, same.estimate, same.high) == (0, 0, 0)


def test_runs_are_pooled_over_splits_as_over_one():
    """One split of three runs is as with `bootstrap`; more have the mean of all runs."""
    draw = rng(3)
    truth = draw.normal(size=80)
    runs = truth + draw.normal(size=(3, 80)) * [[0.2], [1.0], [3.0]]
    one = pool_splits("srcc", [(truth, runs)], rng(0), 2000)
    other = bootstrap("srcc", truth, runs, rng(1), 2000)
    assert one.estimate == pytest.approx(other.estimate)
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.04)
    two = pool_splits("srcc", [(truth, runs), (truth, runs)], rng(0), 2000)
    assert two.estimate == pytest.approx(one.estimate)
    assert two.n == 160
    # the images' part averages out over splits; that of the runs, drawn once for all, does not
    width = one.high - one.low
    assert width > two.high - two.low > width / np.sqrt(2)


def test_one_run_may_be_a_row():
    pairs = [(GOOD[0], np.asarray(GOOD[1], float)), GOOD]
    rows = [(truth, np.asarray(run)[None]) for truth, run in pairs]
    assert pool_splits("srcc", rows, rng(0), 200) == pool_splits("srcc", pairs, rng(0), 200)
    with pytest.raises(ValueError, match=r"predictions of \[1, 2\] runs"):
        pool_splits("srcc", [GOOD, (GOOD[0], [GOOD[1], GOOD[1]])], rng(0))
