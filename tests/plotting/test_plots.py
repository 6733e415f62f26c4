"""Figures are drawn from what the package computes, and say what they show."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from realqa_utils.experiments import first_look
from realqa_utils.forms import taxonomy
from realqa_utils.plotting import plots
from realqa_utils.scoring.digit_tree import Reading

READING = Reading("3.9", True, np.array([3.9, 4.0]), np.array([0.75, 0.25]), 0.01)


def test_photo_with_scores_draws_the_whole_distribution():
    figure = plots.photo_with_scores(Image.new("RGB", (8, 8)), READING, truth=5.0)
    axis = figure.axes[1]
    heights = {round(bar.get_x(), 1): bar.get_height() for bar in axis.patches}
    assert heights[3.9] == pytest.approx(0.75) and heights[4.0] == pytest.approx(0.25)
    words = " ".join(text.get_text() for text in axis.get_legend().get_texts())
    assert "3.9" in words and "3.92" in words and "5.00" in words


def test_first_digits_sum_to_one():
    figure = plots.first_digits(READING)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights[3] == pytest.approx(0.75) and heights[4] == pytest.approx(0.25)
    assert sum(heights) == pytest.approx(1)


def test_digit_count_has_a_panel_a_set_and_a_curve_a_model():
    rows = [
        (name, model, digits, "srcc", 0.5, 0.4, 0.6)
        for name in ("a", "b")
        for model in ("greedy", "expected", "rounding alone")
        for digits in (1, 3)
    ]
    rows.append(("a", "an SVR", np.nan, "srcc", 0.6, 0.5, 0.7))
    columns = ["dataset", "model", "digits", "metric", "estimate", "low", "high"]
    figure = plots.digit_count(pd.DataFrame(rows, columns=columns))
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["a", "b"]
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert labels == {"greedy", "expected", "rounding alone", "an SVR"}


def test_sheets_show_every_photograph():
    images, words = first_look.photographs(0, per_domain=1)
    sheet = plots.contact_sheet(images, words, columns=4)
    assert sum(bool(axis.images) for axis in sheet.axes) == len(images) == 6
    tiers = first_look.tiers(0)
    sheet = plots.tier_sheet(tiers)
    assert sum(bool(axis.images) for axis in sheet.axes) == sum(map(len, tiers.values()))


def test_agreement_has_one_point_a_photograph():
    frame = pd.DataFrame({"target": [1.0, 2.0], "expected": [1.5, 2.5]})
    figure = plots.agreement({"set": frame})
    assert len(figure.axes[0].collections[0].get_offsets()) == 2


def test_a_sheet_is_shown_as_a_jpeg_much_smaller_than_its_png():
    noise = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    sheet = plots.contact_sheet([Image.fromarray(noise)], ["noise"], columns=1)
    png = io.BytesIO()
    sheet.savefig(png, format="png")
    shown = plots.as_photograph(sheet)
    assert Image.open(io.BytesIO(shown.data)).format == "JPEG"
    assert len(shown.data) < len(png.getvalue()) / 2


# --- attributes --------------------------------------------------------------------------------

TITLES = [taxonomy.BY_NAME[name].title for name in taxonomy.SCORED]


def texts(axis) -> list[str]:
    return [text.get_text() for text in axis.texts]


def assert_nothing_overlaps(figure, found) -> None:
    """No two texts cover each other, and all are within the figure."""
    figure.canvas.draw()
    boxes = [(t.get_text(), t.get_window_extent()) for t in found if t.get_text().strip()]
    assert len(boxes) > 1
    for index, (words, box) in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, words
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, words
        for other, another in boxes[index + 1 :]:
            assert not box.overlaps(another), f"{words!r} and {other!r}"


def table_1(models: int) -> pd.DataFrame:
    rows = [
        (name, f"a model with the number {k}", metric, 0.1 * k, 0.1 * k - 0.02, 0.1 * k + 0.05)
        for k in range(models)
        for metric in ("srcc", "plcc")
        for name in (*taxonomy.SCORED, "average")
    ]
    return pd.DataFrame(rows, columns=["attribute", "model", "metric", "estimate", "low", "high"])


@pytest.mark.parametrize("models", [1, 4, 5])
def test_the_profile_has_a_row_an_attribute_and_a_colour_a_model(models):
    figure = plots.attribute_profile(table_1(models))
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == [*TITLES, "Average"]
    bottom, top = axis.get_ylim()
    assert bottom > top  # the first attribute is on top
    assert axis.get_xlabel().startswith("SRCC")
    assert len(axis.containers) == models
    colours = set()
    for k, (points, _, (bars,)) in enumerate(axis.containers):
        colours.add(points.get_color())
        assert points.get_xdata() == pytest.approx([0.1 * k] * 10)
        assert np.abs(points.get_ydata() - np.arange(10)).max() < 0.5
        for segment in bars.get_segments():
            assert segment[:, 0] == pytest.approx([0.1 * k - 0.02, 0.1 * k + 0.05])
    assert len(colours) == models
    (legend,) = figure.legends
    assert len(legend.get_texts()) == models
    labels = [axis.xaxis.label, *axis.get_yticklabels()]
    assert_nothing_overlaps(figure, [*labels, *legend.get_texts()])


def test_the_profile_leaves_out_what_is_not_available():
    table = table_1(2).query("metric == 'srcc'")
    table.loc[table["attribute"] == "exposure", ["estimate", "low", "high"]] = np.nan
    points = plots.attribute_profile(table).axes[0].containers[0][0]
    assert np.isnan(points.get_xdata(orig=False)).sum() == 1


def test_confusions_have_a_panel_an_attribute_with_the_shares_in_it():
    shares = {
        "exposure": pd.DataFrame([[0.75, 0.25], [0, 1]], index=[1.0, 3.0], columns=[1.0, 3.0]),
        "composition": pd.DataFrame([[1.0]], index=[4.0], columns=[5.0]),
    }
    figure = plots.confusions(shares)
    axes = {axis.get_title(loc="left"): axis for axis in figure.axes}
    assert list(axes) == TITLES
    exposure = axes["Exposure"]
    assert texts(exposure) == ["0.75", "0.00", "0.25", "0.00", "0.00", "1.00"]  # no row of twos
    assert [t.get_text() for t in exposure.get_xticklabels()] == ["1", "2", "3"]
    cells = axes["Composition"].collections[0].get_array()
    assert cells.shape == (10, 10) and cells[3, 4] == 1 and cells[3].sum() == 1
    assert cells.mask.sum() == 90 and texts(axes["Composition"]) == []
    assert texts(axes["Saturation"]) == ["no answers"]
    assert (exposure.get_xlabel(), exposure.get_ylabel()) == ("answered", "true")


CARD = [
    ("Eye-Catching", "10"),
    ("", "it stands out, in moderate colours, and is of medium size, as far as one can see"),
    ("Subject and Background", "a bowl of soup, behind it a checked tablecloth"),
    *((title, "moderately cluttered †") for title in TITLES[1:]),
]


@pytest.mark.parametrize("count", [1, 3, 4])
def test_cards_show_photographs_beside_their_lines(count):
    images = [Image.new("RGB", size) for size in [(8, 8), (16, 8), (8, 16), (8, 8)][:count]]
    figure = plots.cards(images, [CARD] * count)
    with_photo = [axis for axis in figure.axes if axis.images]
    assert [a.images[0].get_array().shape[1::-1] for a in with_photo] == [i.size for i in images]
    written = [axis for axis in figure.axes if axis.texts]
    assert len(written) == count
    for axis in written:
        said = [text for text in texts(axis) if text]
        assert said[:2] == ["Eye-Catching", "10"]
        assert " ".join(said[2:4]) == CARD[1][1]  # on two lines
        assert said[4:6] == list(CARD[2])
        assert said[6:] == [word for line in CARD[3:] for word in line]
        photo = with_photo[written.index(axis)].get_position()
        assert photo.x1 < axis.get_position().x0 and photo.y1 > axis.get_position().y0
    assert_nothing_overlaps(figure, [text for axis in written for text in axis.texts])


def test_cards_need_a_text_a_photograph():
    with pytest.raises(ValueError, match="zip"):
        plots.cards([Image.new("RGB", (8, 8))] * 2, [CARD])


def test_shares_of_labels_are_bars_under_every_label():
    rng = np.random.default_rng(0)
    shares = {}
    for name in taxonomy.SCORED:
        count = len(taxonomy.BY_NAME[name].tiers) or 10
        share = pd.Series(rng.dirichlet(np.ones(count)), np.arange(count) + (count == 10))
        shares[name] = share
    shares["composition"] = shares["composition"].drop(2)
    figure = plots.label_shares(shares)
    assert [axis.get_title(loc="left") for axis in figure.axes] == TITLES
    axes = dict(zip(taxonomy.SCORED, figure.axes, strict=True))
    for name, axis in axes.items():
        assert [bar.get_height() for bar in axis.patches] == pytest.approx(shares[name].tolist())
    assert [t.get_text() for t in axes["composition"].get_xticklabels()] == [
        str(score) for score in range(1, 11)
    ]
    words = [t.get_text() for t in axes["subject_integrity"].get_xticklabels()]
    assert words == ["incomplete", "partially\ncomplete", "complete"]
    assert all("%" in t.get_text() for t in axes["exposure"].get_yticklabels())
    for axis in figure.axes:
        assert_nothing_overlaps(figure, axis.get_xticklabels())


def test_a_forest_has_a_line_a_row_and_its_interval():
    table = pd.DataFrame(
        {"name": ["one", "two", "none"], "estimate": [0.5, -0.1, np.nan],
         "low": [0.4, -0.3, np.nan], "high": [0.7, 0.0, np.nan]}
    )  # fmt: skip
    figure = plots.rows_with_intervals(table, "name", "difference", "A title")
    (axis,) = figure.axes
    assert [t.get_text() for t in axis.get_yticklabels()] == ["one", "two", "none"]
    assert axis.get_xlabel() == "difference" and axis.get_title(loc="left") == "A title"
    points, _, (bars,) = axis.containers[0]
    assert points.get_xdata()[:2] == pytest.approx([0.5, -0.1])
    ends = [segment[:, 0].tolist() for segment in bars.get_segments()[:2]]
    assert ends == [pytest.approx([0.4, 0.7]), pytest.approx([-0.3, 0.0])]
    bottom, top = axis.get_ylim()
    assert top < -0.3 and bottom > 2.3  # points stay clear of the frame


def test_granularity_tells_apart_how_one_model_was_asked():
    rows = [
        ("average", "srcc", "Attributes", "attributes", 0.5),
        ("average", "srcc", "All together", "mix", 0.7),
        ("average", "srcc", "All together", "levels", 0.6),
        ("exposure", "srcc", "Attributes", "attributes", 0.9),
        ("average", "plcc", "Attributes", "attributes", 0.9),
    ]
    table = pd.DataFrame(rows, columns=["attribute", "metric", "model", "asked", "estimate"])
    table = table.assign(low=table["estimate"] - 0.1, high=table["estimate"] + 0.1)
    figure = plots.granularity(table)
    (axis,) = figure.axes
    labels = axis.get_yticklabels()
    assert [label.get_text() for label in labels] == [
        "Attributes", "All together\nasked: mix", "All together\nasked: levels",
    ]  # fmt: skip
    assert axis.containers[0][0].get_xdata() == pytest.approx([0.5, 0.7, 0.6])
    assert "SRCC" in axis.get_xlabel()
    assert_nothing_overlaps(figure, labels)
