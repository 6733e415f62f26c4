from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from scipy.io import loadmat
from scipy.ndimage import gaussian_filter
from scipy.stats import gennorm, spearmanr

from realqa_utils.experiments import baselines

SCENE_STATISTICS = slice(0, 36)


def feature(image: Image.Image, name: str) -> float:
    return float(baselines.hand_features(image)[baselines.FEATURE_NAMES.index(name)])


@cache
def texture(seed: int = 0, width: int = 120, height: int = 96) -> Image.Image:
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    smooth = sum(gaussian_filter(noise, (sd, sd, 0)) * sd for sd in (1, 3, 8))
    return Image.fromarray(np.clip(128 + 60 * smooth, 0, 255).astype(np.uint8))


def asymmetric(shape: float, left_sd: float, right_sd: float, n: int = 200_000) -> np.ndarray:
    """Two halves of generalised normals, each side drawn with the mass that joins them at 0."""
    rng = np.random.default_rng(0)
    magnitude = np.abs(gennorm.rvs(shape, size=n, random_state=rng)) / gennorm.std(shape)
    is_left = rng.random(n) < left_sd / (left_sd + right_sd)
    return np.where(is_left, -left_sd, right_sd) * magnitude


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("scale", [0.01, 3.0])
def test_ggd_fit_recovers_shape_and_variance(shape, scale):
    x = gennorm.rvs(shape, scale=scale, size=200_000, random_state=1)
    fitted_shape, fitted_variance = baselines.fit_ggd(x)
    assert fitted_shape == pytest.approx(shape, rel=0.05)
    assert fitted_variance == pytest.approx(gennorm.var(shape, scale=scale), rel=0.05)


@pytest.mark.parametrize("shape", [0.6, 1.0, 2.0])
@pytest.mark.parametrize("left_sd, right_sd", [(1.0, 1.0), (0.3, 1.2), (2.0, 0.5)])
def test_aggd_fit_recovers_shape_mean_and_side_variances(shape, left_sd, right_sd):
    x = asymmetric(shape, left_sd, right_sd)
    fitted_shape, mean, left, right = baselines.fit_aggd(x)
    assert fitted_shape == pytest.approx(shape, rel=0.05)
    assert mean == pytest.approx(x.mean(), abs=0.02)
    assert (left, right) == pytest.approx((left_sd**2, right_sd**2), rel=0.05)


def test_aggd_of_mirrored_values_swaps_the_sides():
    x = asymmetric(0.8, 0.4, 1.0, n=5_000)
    shape, mean, left, right = baselines.fit_aggd(x)
    assert baselines.fit_aggd(-x) == pytest.approx((shape, -mean, right, left))


def test_mscn_follows_its_definition():
    luma = np.random.default_rng(2).uniform(0, 255, (9, 11))
    offsets = np.arange(-3, 4)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    patch = luma[1:8, 2:9]  # the 7 x 7 pixels around (4, 5)
    mean = (window * patch).sum()
    sd = np.sqrt((window * (patch - mean) ** 2).sum())
    assert baselines.mscn(luma)[4, 5] == pytest.approx((luma[4, 5] - mean) / (sd + 1))


@pytest.mark.parametrize(
    "direction, step",
    [
        ("horizontal", (0, 1)),
        ("vertical", (1, 0)),
        ("diagonal", (1, 1)),
        ("antidiagonal", (1, -1)),
    ],
)
def test_stripes_show_in_the_products_along_them(direction, step):
    down, right = step
    row, column = np.mgrid[:64, :80]
    stripe = right * row - down * column  # the same number one step further along the stripe
    luma = np.random.default_rng(4).integers(60, 200, 200)[stripe - stripe.min()]
    photo = Image.fromarray(luma.astype(np.uint8)).convert("RGB")
    names = ("horizontal", "vertical", "diagonal", "antidiagonal")
    means = {name: feature(photo, f"full_{name}_mean") for name in names}
    assert max(means, key=means.get) == direction
    # along the stripe a product is a square, so the side of the negative ones is nearly empty
    left, right = (f"full_{direction}_log_{side}_variance" for side in ("left", "right"))
    assert feature(photo, left) < feature(photo, right) - 1


def test_names_are_unique_and_match_the_features():
    assert len(set(baselines.FEATURE_NAMES)) == len(baselines.FEATURE_NAMES) == 46
    features = baselines.hand_features(texture())
    assert features.shape == (46,) and features.dtype == np.float32


def test_features_are_deterministic_and_leave_the_photo_alone():
    photo = texture(width=700, height=20)
    before = photo.tobytes()
    first = baselines.hand_features(photo)
    np.testing.assert_array_equal(first, baselines.hand_features(photo))
    assert photo.size == (700, 20) and photo.tobytes() == before


def test_large_photos_are_reduced_to_the_working_size():
    photo = texture(width=1024, height=640)
    reduced = photo.resize((512, 320), Image.Resampling.LANCZOS)
    # PIL may reduce in two steps, so single grey levels differ
    np.testing.assert_allclose(
        baselines.hand_features(photo), baselines.hand_features(reduced), rtol=0.02, atol=0.02
    )


def test_blur_lowers_sharpness_and_jpeg_raises_blockiness(tmp_path):
    photo = texture()
    blurred = [photo.filter(ImageFilter.GaussianBlur(radius)) for radius in (0, 1, 2, 4)]
    sharpness = [feature(image, "log_laplacian_variance") for image in blurred]
    assert sharpness == sorted(sharpness, reverse=True) and sharpness[0] > sharpness[-1] + 1
    photo.save(tmp_path / "low.jpg", quality=5)
    blocky = feature(Image.open(tmp_path / "low.jpg"), "blockiness")
    assert blocky > feature(photo, "blockiness") + 0.2


def test_plain_measures_of_a_worked_example():
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, 8:] = (255, 0, 0)  # half black, half red of luma 0.299 * 255 = 76.245
    photo = Image.fromarray(pixels)
    assert feature(photo, "luma_mean") == pytest.approx(76.245 / 2, rel=1e-5)
    assert feature(photo, "luma_sd") == pytest.approx(76.245 / 2, rel=1e-5)
    assert feature(photo, "contrast") == pytest.approx(76.245, rel=1e-5)
    assert feature(photo, "saturation_mean") == pytest.approx(0.5)
    assert feature(photo, "dark_share") == 0.5 and feature(photo, "bright_share") == 0
    assert feature(photo, "entropy") == pytest.approx(1)
    # rg and yb are 0 | 255 and 0 | 127.5: means and SDs are both half of that
    half = np.hypot(127.5, 63.75)
    assert feature(photo, "colourfulness") == pytest.approx(1.3 * half, rel=1e-5)
    # across: the one step on the border is 76.245, mean 0 of 14 others; down: no steps
    assert feature(photo, "blockiness") == pytest.approx(np.log(77.245), rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(*[st.integers(0, 255)] * 3),
)
def test_flat_photos_have_finite_features_and_no_scene_statistics(size, colour):
    features = baselines.hand_features(Image.new("RGB", size, colour))
    black = baselines.hand_features(Image.new("RGB", (16, 16)))
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(features[SCENE_STATISTICS], black[SCENE_STATISTICS])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**16), st.booleans())
def test_features_of_any_pixels_are_finite(height, width, seed, two_valued):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    pixels = np.where(pixels > 127, 255, 0) if two_valued else pixels
    photo = Image.fromarray(pixels.astype(np.uint8))
    assert np.isfinite(baselines.hand_features(photo)).all()


@pytest.mark.parametrize("workers", [None, 2])
def test_feature_table_keeps_the_order(tmp_path, workers):
    photos = [texture(seed) for seed in range(3)]
    paths = [tmp_path / f"{name}.png" for name in "cab"]
    for photo, path in zip(photos, paths, strict=True):
        photo.save(path)
    table = baselines.feature_table(paths, workers)
    np.testing.assert_array_equal(table, [baselines.hand_features(photo) for photo in photos])


def test_feature_table_of_nothing_has_the_columns():
    assert baselines.feature_table([]).shape == (0, 46)


def synthetic(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Features on wildly different scales, a curved target on the scale of KonIQ's 1..5 means."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(n, 4))
    y = 3 + 0.3 * np.sin(2 * x[:, 0]) + 0.2 * x[:, 1] + rng.normal(scale=0.05, size=n)
    return x * (1e3, 1, 1e-3, 1), y


def test_svr_beats_the_mean_and_is_deterministic():
    x, y = synthetic(120)
    svr = baselines.svr_predictions(x[:80], y[:80], x[80:])
    mean = baselines.mean_predictions(y[:80], 40)
    assert np.square(svr - y[80:]).mean() < 0.3 * np.square(mean - y[80:]).mean()
    np.testing.assert_array_equal(svr, baselines.svr_predictions(x[:80], y[:80], x[80:]))


def test_svr_does_not_depend_on_the_scale_of_the_targets():
    x, y = synthetic(60)
    mos = baselines.svr_predictions(x[:50], y[:50], x[50:])
    scaled = baselines.svr_predictions(x[:50], 25 * y[:50] - 10, x[50:])
    # libsvm stops at 1e-3 SD of the targets, here 25 * 0.3
    np.testing.assert_allclose(scaled, 25 * mos - 10, atol=0.02)


def test_mean_predictions_repeat_the_mean():
    np.testing.assert_array_equal(baselines.mean_predictions([1, 2, 6], 2), [3, 3])


@pytest.mark.parametrize(
    "x, y, message",
    [
        (np.zeros((6, 2)), np.zeros(5), r"\(6, 2\) and targets \(5,\)"),
        (np.zeros((3, 2)), np.zeros(3), "3 rows"),
        (np.where(np.eye(6) == 0, 0, (0, 0, np.nan, 0, 0, 0)), np.zeros(6), "row 2"),
        (np.zeros((6, 2)), [0, 0, 0, 0, np.inf, 0], "row 4"),
    ],
)
def test_svr_refuses_rows_it_cannot_fit(x, y, message):
    with pytest.raises(ValueError, match=message):
        baselines.fit_svr(x, y, seed=0)


@pytest.mark.realdata
def test_sharpness_follows_the_mos_of_real_photos(real_file):
    root = real_file("livec/ChallengeDB_release")
    names = loadmat(root / "Data/AllImages_release.mat")["AllImages_release"].ravel()[7:]
    mos = loadmat(root / "Data/AllMOS_release.mat")["AllMOS_release"].ravel()[7:]
    every_tenth = slice(None, None, 10)
    paths = [root / "Images" / name[0] for name in names[every_tenth]]
    table = baselines.feature_table(paths)
    sharpness = table[:, baselines.FEATURE_NAMES.index("log_laplacian_variance")]
    assert spearmanr(sharpness, mos[every_tenth]).statistic > 0.3  # 0.45 on all 1162
