"""Windows of photographs whose pixels know their place: red is the column, green the row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from realqa_utils.images.views import PRESETS, View

WINDOW = View(size=32, short=40, random=True)
SIDES = st.integers(40, 120)


def ruler(width: int, height: int) -> Image.Image:
    """A photograph of at most 256 pixels a side."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack((columns, rows, 0 * rows), -1).astype(np.uint8))


def place(window: Image.Image) -> tuple[int, int, bool]:
    """Left, top, mirrored: where a window lies; fails unless its pixels are an unscaled cut."""
    columns, rows, _ = np.moveaxis(np.asarray(window).astype(int), -1, 0)
    mirrored = bool(columns[0, 0] > columns[0, -1])
    columns = columns[:, ::-1] if mirrored else columns
    left, top = int(columns[0, 0]), int(rows[0, 0])
    np.testing.assert_array_equal(columns, np.tile(left + np.arange(window.width), (len(rows), 1)))
    np.testing.assert_array_equal(
        rows.T, np.tile(top + np.arange(window.height), (rows.shape[1], 1))
    )
    return left, top, mirrored


# --- the window --------------------------------------------------------------------------------


@given(SIDES, SIDES, st.integers(0, 2**32))
def test_random_windows_lie_inside(width, height, seed):
    window = WINDOW.training(ruler(width, height), np.random.default_rng(seed))
    assert window.size == (32, 32)
    left, top, _ = place(window)  # beyond the border, Pillow would give black
    assert 0 <= left <= width - 32 and 0 <= top <= height - 32


def test_random_windows_reach_every_place_and_half_are_mirrored():
    rng = np.random.default_rng(0)
    places = [place(WINDOW.training(ruler(35, 34), rng)) for _ in range(400)]
    assert {(left, top) for left, top, _ in places} == set(np.ndindex(4, 3))
    assert sum(mirrored for *_, mirrored in places) == pytest.approx(200, abs=40)  # 4 sd


def test_windows_follow_from_the_generator():
    def draw(seed):
        rng = np.random.default_rng(seed)
        return [place(WINDOW.training(ruler(90, 70), rng)) for _ in range(5)]

    assert draw(1) == draw(1) != draw(2)
    assert len(set(draw(1))) > 1


@pytest.mark.parametrize("view", [WINDOW, View(size=32, short=40)])
def test_without_chance_the_middle_window_is_taken(view):
    assert place(view.training(ruler(52, 40), None)) == (10, 4, False)
    assert [place(w) for w in view.testing(ruler(52, 40))] == [(10, 4, False)]


def test_a_view_that_is_not_random_leaves_the_generator_alone():
    rng, twin = np.random.default_rng(0), np.random.default_rng(0)
    assert place(View(size=32, short=40).training(ruler(52, 40), rng)) == (10, 4, False)
    assert rng.integers(1000) == twin.integers(1000)


# --- the grid of windows -----------------------------------------------------------------------


def test_grid_by_hand():
    windows = View(size=32, short=40, grid=3).testing(ruler(53, 40))
    steps = [(x, y, False) for y in (0, 4, 8) for x in (0, 10, 21)]  # 10.5 rounds to even
    assert [place(w) for w in windows] == steps


@given(SIDES, SIDES, st.integers(2, 4))
def test_grid_windows_are_equal_and_cover_the_corners(width, height, grid):
    windows = View(size=32, short=40, grid=grid).testing(ruler(width, height))
    assert [w.size for w in windows] == [(32, 32)] * grid**2
    places = {place(w)[:2] for w in windows}
    assert {(0, 0), (width - 32, 0), (0, height - 32), (width - 32, height - 32)} <= places


def test_overlapping_windows_leave_no_gap():
    seen = np.zeros((70, 90), bool)
    for window in View(size=32, short=40, grid=3).testing(ruler(90, 70)):
        left, top, _ = place(window)
        seen[top : top + 32, left : left + 32] = True
    assert seen.all()


# --- fitting -----------------------------------------------------------------------------------


@given(st.integers(8, 200), st.integers(8, 200))
def test_fit_brings_the_short_side_to_its_length_and_keeps_the_shape(width, height):
    fitted = View(size=32, short=40).fit(Image.new("RGB", (width, height)))
    assert min(fitted.size) == 40
    scale = 40 / min(width, height)
    assert fitted.size == pytest.approx((width * scale, height * scale), abs=0.5)


def test_fit_is_a_smooth_reduction_of_the_whole_photograph():
    fitted = np.asarray(View(size=32, short=40).fit(ruler(240, 160)), float)
    assert fitted.shape == (40, 60, 3)
    # pixel i averages the columns 4 i .. 4 i + 3, and away from the border a ramp stays one
    np.testing.assert_allclose(fitted[20, 5:-5, 0], 4 * np.arange(5, 55) + 1.5, atol=0.6)


def test_without_sizes_the_photograph_passes_unchanged():
    photograph = ruler(90, 70)
    assert View().fit(photograph) is photograph
    assert View().training(photograph, np.random.default_rng(0)) is photograph
    assert [w is photograph for w in View().testing(photograph)] == [True]


@pytest.mark.parametrize("short", [0, 31])
def test_a_window_larger_than_the_short_side_is_refused(short):
    with pytest.raises(ValueError, match=f"short side {short} is less than the window 32"):
        View(size=32, short=short)


# --- whole photographs -------------------------------------------------------------------------


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_size_is_that_of_the_fitted_photograph(width, height):
    for view in (PRESETS["repo"], PRESETS["clean"], View(), WINDOW):
        assert view.fit(Image.new("1", (width, height))).size == view.fitted_size(width, height)


def test_the_authors_loader_takes_single_pixels():
    image = ruler(256, 64).resize((1024, 256), Image.Resampling.NEAREST)  # 4 x 4 of each pixel
    found = np.asarray(PRESETS["repo"].fit(image))
    assert found.shape == (128, 512, 3)
    assert {tuple(p) for p in found.reshape(-1, 3)} <= {tuple(p) for p in _pixels(image)}
    assert PRESETS["repo"].fit(ruler(250, 60)).size == (250, 60)  # small ones stay


def _pixels(image):
    return np.asarray(image).reshape(-1, 3)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="leave size at 0"):
        View(size=32, short=40, longest=512)
    with pytest.raises(ValueError, match="least comes first"):
        View(pixels=(9, 3))
