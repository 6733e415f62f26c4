"""Figures are drawn from what the package computes, and say what they show."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from realqa_utils import first_look, plots
from realqa_utils.scoring import Reading

READING = Reading("3.9", True, np.array([3.9, 4.0]), np.array([0.75, 0.25]), 0.01)


@pytest.fixture(autouse=True)
def own_style():
    with plots.plt.rc_context():
        plots.use_style()
        yield
    plots.plt.close("all")


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
