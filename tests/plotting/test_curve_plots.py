"""NCM curves: a panel a metric, a colour a group, lines and bands that are the table's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from realqa_utils.experiments import foresight
from realqa_utils.ncm import curves
from realqa_utils.plotting.curve_plots import plot_foresight, plot_ncm_curves, plot_sweep
from realqa_utils.records import results


def history(seed: int = 0, falls: float = 100.0, splits=("", "eval_")) -> list[dict]:
    """Eleven steps in which NCM falls by a factor, NCM* by 4 and NCM* as published rises."""
    factor = 1 + 0.1 * seed
    return [
        {
            "step": step,
            f"{split}ncm": factor * falls ** (1 - step / 100) * (1.2 if split else 1),
            f"{split}ncm_star": factor * 4 ** (1 - step / 100),
            f"{split}ncm_star_as_published": factor * 100 ** (step / 100),
            f"{split}digit_ce": 2.3 - seed * 0.1,
            f"{split}ncm_digit_2": 1.0 + seed,
        }
        for step in range(0, 101, 10)
        for split in splits
    ]


def legend(figure) -> list[str]:
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


def assert_texts_lie_apart_within_the_figure(figure) -> None:
    figure.canvas.draw()
    axes = [axis for axis in figure.axes if axis.axison]
    found = [text for axis in axes for text in (axis.xaxis.label, axis.yaxis.label)]
    boxes = [
        (t.get_text(), t.get_window_extent()) for t in [*found, *figure.legends[0].get_texts()]
    ]
    for index, (words, box) in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, words
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, words
        assert not any(box.overlaps(another) for _, another in boxes[index + 1 :]), words
        assert not any(box.overlaps(axis.bbox) for axis in axes), words


THREE = {
    "pretrained": [history(0), history(1), history(2)],
    "random start": [history(3), history(5)],
    "pretrained, NCM as a loss": history(4),
}


def test_each_metric_has_a_panel_with_its_name_and_unit():
    figure = plot_ncm_curves(history())
    assert [axis.get_ylabel() for axis in figure.axes] == [
        "NCM, squared points",
        "NCM*, squared points",
        "cross entropy of digits, nats",
    ]
    assert {axis.get_xlabel() for axis in figure.axes} == {"training step"}
    assert legend(figure) == ["run", "held-out set", "training batches"]
    assert_texts_lie_apart_within_the_figure(figure)


def test_lines_are_the_means_and_bands_the_intervals_of_each_group():
    figure = plot_ncm_curves(THREE, metrics=["ncm", "ncm_star"], splits="held-out")
    table = curves.band(curves.read(THREE))
    for axis, metric in zip(figure.axes, ("ncm", "ncm_star"), strict=True):
        assert len(axis.lines) == 3 and len(axis.collections) == 2  # one run has no band
        for line, group in zip(axis.lines, THREE, strict=True):
            chosen = (table["metric"] == metric) & (table["split"] == "held-out")
            rows = table[chosen & (table["group"] == group)]
            np.testing.assert_array_equal(line.get_xdata(), rows["step"])
            np.testing.assert_array_equal(line.get_ydata(), rows["mean"])
            assert line.get_linestyle() == "-"
        for filled, group in zip(axis.collections, list(THREE)[:2], strict=True):
            rows = table[chosen & (table["group"] == group)]
            corners = filled.get_paths()[0].vertices[:, 1]
            assert corners.min() == pytest.approx(rows["low"].min())
            assert corners.max() == pytest.approx(rows["high"].max())


def test_a_group_has_one_colour_everywhere_and_the_legend_counts_its_runs():
    figure = plot_ncm_curves(THREE)
    (found,) = figure.legends
    colours = {
        text.get_text(): to_hex(handle.get_color())
        for text, handle in zip(found.get_texts(), found.get_lines(), strict=False)
    }
    groups = ["pretrained (3 runs)", "random start (2 runs)", "pretrained, NCM as a loss"]
    for axis in figure.axes:
        drawn = list(dict.fromkeys(to_hex(line.get_color()) for line in axis.lines))
        assert drawn == [colours[group] for group in groups]
    assert len(set(drawn)) == 3
    styles = ["held-out set", "training batches", "95 % interval, or range of two runs"]
    rows = [each for column in zip(groups, styles, strict=True) for each in column]
    assert legend(figure) == rows  # filled column by column: groups stand above styles
    assert_texts_lie_apart_within_the_figure(figure)


@pytest.mark.parametrize(
    ("runs", "words"),
    [(1, []), (2, ["range of two runs"]), (3, ["95 % interval of the mean"])],
)
def test_the_legend_says_what_the_band_is(runs, words):
    figure = plot_ncm_curves({"a": [history(k, splits=[""]) for k in range(runs)]})
    assert legend(figure)[1:] == words


def test_training_is_thin_and_dashed_only_beside_held_out():
    both = plot_ncm_curves([history(0)] * 3, metrics="ncm").axes[0]
    solid, dashed = both.lines[:2]
    assert solid.get_linestyle() == "-" and dashed.get_linestyle() == "--"
    assert solid.get_linewidth() > dashed.get_linewidth()
    assert solid.get_ydata()[0] == pytest.approx(120)  # the held-out value
    (alone,) = plot_ncm_curves(history(0), metrics="ncm", splits="train").axes[0].lines
    assert alone.get_linestyle() == "-" and alone.get_ydata()[0] == pytest.approx(100)
    seeds = {"a": [history(0), history(1), history(2)]}
    assert (
        len(plot_ncm_curves(seeds, metrics="ncm").axes[0].collections) == 1
    )  # of the held-out line


@pytest.mark.parametrize(
    ("falls", "metric", "scale"),
    [
        (21.0, "ncm", "log"),
        (19.0, "ncm", "linear"),
        (25.0, "ncm_star", "linear"),
        (25.0, "ncm_star_as_published", "linear"),  # though it spans a factor of 100
    ],
)
def test_the_axis_is_logarithmic_where_values_span_a_factor_of_20(falls, metric, scale):
    axis = plot_ncm_curves(history(falls=falls), metrics=[metric], splits="train").axes[0]
    assert axis.get_yscale() == scale


def test_values_down_to_zero_have_a_linear_axis():
    flat = [{"step": 0, "ncm": 100.0}, {"step": 1, "ncm": 1.0}, {"step": 2, "ncm": 0.0}]
    assert plot_ncm_curves(flat, metrics="ncm").axes[0].get_yscale() == "linear"
    assert plot_ncm_curves(flat[:2], metrics="ncm").axes[0].get_yscale() == "log"


@pytest.mark.parametrize("falls", [30.0, 1e3, 1e7])
def test_a_logarithmic_axis_holds_the_lines_though_a_band_reaches_below_zero(falls):
    runs = [history(seed, falls, [""]) for seed in (0, 0, 30)]  # one run is four times the others
    table = curves.band(curves.read({"a": runs}))
    assert (table["low"] < 0).any()
    axis = plot_ncm_curves({"a": runs}, metrics="ncm").axes[0]
    low, high = axis.get_ylim()
    means = axis.lines[0].get_ydata()
    assert axis.get_yscale() == "log" and 0 < means.min() / 5 < low < means.min()
    assert high > means.max()
    axis.figure.canvas.draw()
    within = [
        label.get_text()
        for label in axis.get_yticklabels()
        if low <= label.get_position()[1] <= high
    ]
    assert len(within) >= 3 and all("^" not in words for words in within)


def test_what_is_not_finite_is_a_gap():
    values = [8.0, np.nan, np.inf, 2.0, 1.0]
    axis = plot_ncm_curves(
        [{"step": k, "ncm": v} for k, v in enumerate(values)], metrics="ncm"
    ).axes[0]
    (line,) = axis.lines
    assert np.isnan(line.get_ydata()).tolist() == [False, True, True, False, False]
    empty = plot_ncm_curves([{"step": 1, "ncm": np.nan}], metrics="ncm").axes[0]
    assert [text.get_text() for text in empty.texts] == ["no values"]


def test_a_single_value_is_a_visible_point():
    (line,) = plot_ncm_curves([{"step": 5, "ncm": 2.0}], metrics="ncm").axes[0].lines
    assert line.get_marker() == "o"
    assert plot_ncm_curves(history(), metrics="ncm").axes[0].lines[0].get_marker() == "None"


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("ncm_digit_2", "NCM of digit 2, squared points"),
        ("digit_ce_1", "cross entropy of digit 1, nats"),
        ("ncm_star_as_published", "NCM* as published,\nsquared points"),
        ("skipped", "answers without a score"),
        ("grad_norm", "grad norm"),
    ],
)
def test_any_metric_is_named_in_words(metric, words):
    assert plot_ncm_curves([{"step": 1, metric: 2.0}], metrics=metric).axes[0].get_ylabel() == words


def test_many_metrics_and_many_groups_have_room():
    many = {f"a setting with the number {k}": history(k) for k in range(7)}
    metrics = ["ncm", "ncm_star", "ncm_star_as_published", "digit_ce", "ncm_digit_2"]
    figure = plot_ncm_curves(many, metrics=metrics)
    assert [axis.axison for axis in figure.axes] == [True] * 5 + [False]
    colours = {to_hex(line.get_color()) for line in figure.axes[0].lines}
    assert len(colours) == 7 and set(many) <= set(legend(figure))
    assert_texts_lie_apart_within_the_figure(figure)
    single = plot_ncm_curves(many, metrics="ncm_star_as_published")
    assert_texts_lie_apart_within_the_figure(single)


def test_a_csv_and_a_folder_and_a_table_draw_the_same_lines(tmp_path):
    table = pd.DataFrame(history(splits=[""]))
    results.write_table(tmp_path / "a.csv", table)
    wanted = plot_ncm_curves(table).axes[0].lines[0].get_xydata()
    for source in (tmp_path, tmp_path / "a.csv"):
        found = plot_ncm_curves(source).axes[0].lines[0].get_xydata()
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_what_was_not_logged_is_named_with_what_was():
    with pytest.raises(ValueError, match=r"unknown metric .*'ncm_stra': did you mean 'ncm_star'"):
        plot_ncm_curves(history(), metrics=["ncm", "ncm_stra"])
    with pytest.raises(ValueError, match=r"metric in the held-out logs 'ncm'.* There are none"):
        plot_ncm_curves(history(splits=[""]), splits="held-out")
    with pytest.raises(ValueError, match=r"unknown split 'eval'.* There are train, held-out"):
        plot_ncm_curves(history(), splits=["train", "eval"])
    with pytest.raises(ValueError, match="no metrics; right is"):
        plot_ncm_curves(history(), metrics=[])


def test_runs_without_a_shared_step_are_an_error_if_nothing_is_left():
    runs = [[{"step": 1, "ncm": 2.0}], [{"step": 2, "ncm": 1.0}]]
    with pytest.warns(UserWarning, match="share no step"), pytest.raises(ValueError, match="right"):
        plot_ncm_curves({"a": runs}, metrics="ncm")


# --- Fig. 4 and foresight ----------------------------------------------------------------------


def test_a_sweep_marks_the_truth_and_the_two_answers_of_the_paper():
    answers = foresight.sweep(3.99)
    figure = plot_sweep(answers, 3.99)
    assert [axis.get_title(loc="left") for axis in figure.axes] == list(answers.columns[2:])
    for axis in figure.axes:
        assert {text.get_text() for text in axis.texts} == {"4.01", "4.99"}
        dots, line = axis.lines[:2]
        assert len(dots.get_xdata()) == 1000 and list(line.get_xdata()) == [3.99, 3.99]


def test_foresight_has_a_point_for_every_checkpoint_but_the_first():
    steps = [0, 10, 20]
    points = pd.DataFrame(
        [
            {"condition": name, "run": name, "step": step, "ncm_star": 9.0 - step / 10 + k,
             "digit_ce": 2.0, "srcc_expected": step / 20}
            for k, name in enumerate(("a", "b"))
            for step in steps
        ]
    )  # fmt: skip
    figure = plot_foresight(points)
    for axis in figure.axes:
        assert [len(dots.get_offsets()) for dots in axis.collections] == [2, 2]
        assert [dots.get_sizes().tolist() for dots in axis.collections] == [[14, 46]] * 2
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["a", "b", "last checkpoint"]
