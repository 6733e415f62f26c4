"""The reliability figure: what it draws is what calibration measures, and nothing overlaps."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from realqa_utils.plotting.calibration_plots import binned, reliability
from realqa_utils.records import results
from realqa_utils.scoring import calibration


def photos(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    expected, sd = rng.uniform(3, 7, n), rng.uniform(0.1, 0.9, n)
    target = np.clip(5 + 1.8 * (expected - 5) + rng.normal(0, sd), 0, 10)
    return pd.DataFrame({"target": target, "expected": expected, "sd": sd})


@pytest.fixture
def fitted():
    return calibration.fit(photos(200, 0), seed=0)


def dots(axis) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Of every set of dots with error bars: label, points (n, 2), ends (n, 2)."""
    found = []
    for container in axis.containers:
        if hasattr(container, "has_yerr"):
            points, _, (bars,) = container
            ends = np.array([segment[:, 1] for segment in bars.get_segments()])
            found.append((container.get_label(), points.get_xydata(), ends))
    return found


def labels(axis) -> list[str]:
    return [text.get_text() for text in axis.get_legend().get_texts()]


def test_bins_by_hand():
    table = binned([3, 1, 2, 4, 5], [30, 10, 30, 40, 60], 2)
    assert table["x"].tolist() == [2, 4.5] and table["y"].tolist() == [70 / 3, 50]
    assert table["n"].tolist() == [3, 2]
    wanted = stats.ttest_1samp([10, 30, 30], 0).confidence_interval(0.95)
    assert (table["low"][0], table["high"][0]) == (
        pytest.approx(wanted.low),
        pytest.approx(wanted.high),
    )


def test_few_rows_are_a_bin_each_without_an_interval():
    table = binned([2, 1], [5, 6], 10)
    assert table[["x", "y", "n"]].to_numpy().tolist() == [[1, 6, 1], [2, 5, 1]]
    assert table[["low", "high"]].isna().all(axis=None)


def test_scores_are_the_means_of_bins_and_the_curve_is_the_fitted_one(fitted):
    test = photos(150, 1)
    axis = reliability(test, fitted, bins=5).axes[0]
    table = binned(test["expected"], test["target"], 5)
    ((_, points, ends),) = dots(axis)
    np.testing.assert_allclose(points, table[["x", "y"]])
    np.testing.assert_allclose(ends, table[["low", "high"]])
    (curve,) = [line for line in axis.lines if str(line.get_label()).startswith("isotonic")]
    wanted = fitted.apply(pd.DataFrame({"expected": curve.get_xdata()}))["score"]
    np.testing.assert_allclose(curve.get_ydata(), wanted)
    low, high = axis.get_xlim()
    assert axis.get_ylim() == (low, high)
    assert low < ends.min() and ends.max() < high
    assert "isotonic curve, 100 other photos" in labels(axis)


def test_intervals_are_the_measured_coverage_of_both_kinds(fitted):
    test = photos(150, 1)
    axis = reliability(test, fitted).axes[1]
    for (label, points, ends), kind in zip(dots(axis), calibration.KINDS, strict=True):
        found = [calibration.coverage(fitted.apply(test, each, kind)) for each in fitted.levels]
        np.testing.assert_allclose(points[:, 1], [each.estimate for each in found])
        np.testing.assert_allclose(ends, [[each.low, each.high] for each in found])
        assert label.endswith(f": {found[-1].width:.2f} points at 95%")
    assert [text.get_text() for text in axis.get_xticklabels()] == ["50%", "80%", "90%", "95%"]


def test_the_grey_bars_hold_what_chance_gives(fitted):
    axis = reliability(photos(150, 1), fitted).axes[1]
    bars = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in axis.patches]
    rng, n = np.random.default_rng(0), fitted.interval_rows
    for level, (low, high) in zip(fitted.levels, bars, strict=True):
        rank = math.ceil((n + 1) * level)
        shares = rng.binomial(150, np.sort(rng.random((4000, n)), axis=1)[:, rank - 1]) / 150
        assert np.quantile(shares, [0.025, 0.975]) == pytest.approx([low, high], abs=0.015)


def test_doubt_shows_every_photo_and_the_correlation_with_its_interval(fitted):
    test = photos(150, 1)
    axis = reliability(test, fitted, seed=3, bins=6).axes[2]
    scored = fitted.apply(test)
    error = (scored["target"] - scored["score"]).abs()
    cloud = axis.collections[0].get_offsets()
    np.testing.assert_allclose(cloud, np.column_stack([test["sd"], error]))
    ((_, points, _),) = dots(axis)
    np.testing.assert_allclose(points, binned(test["sd"], error, 6)[["x", "y"]])
    found = calibration.sd_predicts_error(scored, np.random.default_rng(3), column="score")
    words = f"photos, SRCC {found.estimate:.2f} [{found.low:.2f}, {found.high:.2f}]"
    assert labels(axis)[0] == words


@pytest.mark.parametrize(("rows", "tests"), [(37, 12), (200, 150)])
def test_legends_lie_below_the_panels_and_apart(rows, tests):
    figure = reliability(photos(tests, 1), calibration.fit(photos(rows, 0), seed=0))
    figure.canvas.draw()
    boxes = [axis.get_legend().get_window_extent() for axis in figure.axes]
    for axis, box in zip(figure.axes, boxes, strict=True):
        assert box.y1 <= axis.xaxis.label.get_window_extent().y0
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and figure.bbox.y0 <= box.y0
    assert not any(a.overlaps(b) for a, b in zip(boxes, boxes[1:], strict=False))
    assert not any(a.overlaps(axis.bbox) for a in boxes for axis in figure.axes)


def test_the_same_seed_gives_the_same_picture(fitted, tmp_path):
    first, second = (
        results.save_figure(reliability(photos(60, 1), fitted), tmp_path / name).read_bytes()
        for name in ("a.png", "b.png")
    )
    assert first == second


def test_a_frame_without_standard_deviations_is_an_error(fitted):
    with pytest.raises(ValueError, match="no column 'sd'"):
        reliability(photos(60, 1).drop(columns="sd"), fitted)
