"""Spectra of patches against sums written out by hand, and their order against the vision tower."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from realqa_utils.model import vision
from realqa_utils.training import spectra

SIDE = 14
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (2, 28, 56, 3), dtype=np.uint8)
GREY, RED_GREEN, YELLOW_BLUE = slice(-3, None), 26, 27  # places of the features
BAND = spectra._BANDS.reshape(SIDE, SIDE, -1)


def cosines() -> np.ndarray:
    """The orthonormal cosine transform of 14 samples as a matrix: row k is the k-th wave."""
    samples = np.arange(SIDE)
    rows = [np.cos(np.pi * (samples + 0.5) * k / SIDE) for k in range(SIDE)]
    return np.array([row / np.linalg.norm(row) for row in rows])


def sector(down: int, right: int) -> int:
    degrees = np.degrees(np.arctan2(down, right))
    return 0 if degrees < 30 else 1 if degrees > 60 else 2


def features(patch: np.ndarray) -> np.ndarray:
    """The 31 numbers of one patch (14, 14, 3) in 0..1, wave by wave."""
    red, green, blue = np.moveaxis(patch.astype(float), -1, 0)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = [grey, red - green, (red + green) / 2 - blue]
    waves = [cosines() @ plane @ cosines().T for plane in planes]
    edges = (0.5, 1.2, 2, 3, 4, 5.5, 7, 9, 11, 19)
    energies: dict[tuple[int, int], list[float]] = {}
    for down, right in np.ndindex(SIDE, SIDE):
        distance = np.sqrt(down**2 + right**2)
        ring = sum(distance > edge for edge in edges)
        if ring:
            key = (ring, sector(down, right))
            energies.setdefault(key, []).append(waves[0][down, right] ** 2)
    means = [np.mean(energies[key]) for key in sorted(energies)]
    means += [np.mean(wave[:3, :3] ** 2) for wave in waves[1:]]
    return np.array([*np.log(np.array(means) + 1e-5), *(wave[0, 0] for wave in waves)])


def energies(image: np.ndarray) -> np.ndarray:
    """Mean log energy of the 26 bands over a grey photograph (h, w) in 0..255."""
    images = np.repeat(np.clip(image, 0, 255).astype(np.uint8)[None, ..., None], 3, -1)
    return spectra.patch_spectra(images)[0].mean((0, 1))[:26]


# --- bands -------------------------------------------------------------------------------------


def test_bands_cover_every_frequency_but_zero_once():
    covered = BAND > 0
    assert covered.sum(-1)[0, 0] == 0
    assert (covered.sum(-1).ravel()[1:] == 1).all()  # 195 of them
    assert covered.any((0, 1)).all() and BAND.shape[-1] == 26


def test_a_band_is_a_mean():
    np.testing.assert_allclose(BAND.sum((0, 1)), 1, rtol=1e-6)
    assert all(len(set(band[band > 0])) == 1 for band in np.moveaxis(BAND, -1, 0))


def test_bands_turn_into_each_other_with_the_patch():
    """What lies across in a patch lies down in its transpose."""
    turned = NOISE.transpose(0, 2, 1, 3)
    ours = spectra.patch_spectra(NOISE)[0, 0, 0, :26]
    other = spectra.patch_spectra(turned)[0, 0, 0, :26]
    for place, band in enumerate(np.moveaxis(BAND, -1, 0)):
        if {sector(*f) for f in np.argwhere(band)} == {0}:
            twin = next(i for i in range(26) if np.array_equal(BAND[..., i] > 0, band.T > 0))
            assert ours[place] == pytest.approx(other[twin], abs=1e-3)


# --- patches -----------------------------------------------------------------------------------


def test_patches_equal_the_sums_written_out():
    found = spectra.patch_spectra(NOISE)
    assert found.shape == (2, 2, 4, spectra.FEATURES) == (2, 2, 4, 31)
    assert found.dtype == np.float32
    for n, row, column in np.ndindex(2, 2, 4):
        top, left = SIDE * row, SIDE * column
        patch = NOISE[n, top : top + SIDE, left : left + SIDE] / 255
        np.testing.assert_allclose(found[n, row, column], features(patch), atol=2e-4)


def test_a_flat_photograph_has_no_energy_but_its_colour():
    flat = np.full((1, 14, 28, 3), (255, 51, 0), np.uint8)
    (patch, other) = spectra.patch_spectra(flat)[0, 0]
    np.testing.assert_array_equal(patch, other)
    np.testing.assert_allclose(patch[:26], np.log(1e-5), atol=1e-3)
    # The lowest cosine of a patch is 14 times its mean.
    grey, red_green, yellow_blue = 14 * (0.299 + 0.587 * 0.2), 14 * 0.8, 14 * 0.6
    np.testing.assert_allclose(patch[GREY], [grey, red_green, yellow_blue], rtol=1e-5)
    assert patch[RED_GREEN] == pytest.approx(np.log(red_green**2 / 9 + 1e-5), abs=1e-4)
    assert patch[YELLOW_BLUE] == pytest.approx(np.log(yellow_blue**2 / 9 + 1e-5), abs=1e-4)


def test_white_noise_is_as_strong_in_every_band():
    noise = 128 + 20 * np.random.default_rng(1).normal(size=(280, 280))
    images = np.repeat(noise.astype(np.uint8)[None, ..., None], 3, -1)
    mean = np.exp(spectra.patch_spectra(images)[0, ..., :26]).mean((0, 1))
    np.testing.assert_allclose(mean, (20 / 255) ** 2, rtol=0.3)


def test_one_wave_is_seen_in_its_own_band_only():
    for down, right in ((0, 1), (0, 5), (6, 0), (4, 4), (13, 12)):
        wave = np.outer(cosines()[down], cosines()[right])
        seen = energies(128 + 100 * wave / np.abs(wave).max())
        (own,) = np.flatnonzero(BAND[down, right])
        assert seen.argmax() == own
        assert seen[own] > np.delete(seen, own).max() + 2


def test_blur_lowers_the_high_bands_the_more_the_wider_it_is():
    texture = 128 + 40 * np.random.default_rng(2).normal(size=(112, 112))
    high = BAND[np.hypot(*np.mgrid[:SIDE, :SIDE]) > 7].any(0)
    blurred = [ndimage.gaussian_filter(texture, sigma) for sigma in (0, 0.5, 0.8, 1.2)]
    falls = np.diff([energies(image)[high] for image in blurred], axis=0)
    assert high.sum() > 6 and falls.max() < -0.2


def test_noise_and_blocks_raise_the_high_bands():
    smooth = ndimage.gaussian_filter(40 * np.random.default_rng(3).normal(size=(112, 112)), 3) * 4
    high = np.flatnonzero(BAND[np.hypot(*np.mgrid[:SIDE, :SIDE]) > 9].any(0))
    noisy = smooth + 5 * np.random.default_rng(4).normal(size=smooth.shape)
    assert (energies(128 + noisy)[high] > energies(128 + smooth)[high] + 1).all()
    blocks = np.kron(smooth[::8, ::8], np.ones((8, 8)))
    assert (energies(128 + blocks)[high] > energies(128 + smooth)[high]).all()


@pytest.mark.parametrize("shape", [(1, 27, 28, 3), (1, 28, 15, 3)])
def test_sides_that_do_not_divide_are_refused(shape):
    size = f"{shape[2]} x {shape[1]} pixels do not divide into patches of 14"
    with pytest.raises(ValueError, match=size):
        spectra.patch_spectra(np.zeros(shape, np.uint8))


# --- tokens and windows ------------------------------------------------------------------------


def test_tokens_are_those_of_the_vision_tower(tiny_backbone):
    """Token k averages just the four patches that the tower merges into its k-th token."""
    tokens = spectra.token_spectra(spectra.patch_spectra(NOISE))
    assert tokens.shape == (2, 2, 31)
    processor = tiny_backbone.image_processor
    assert (processor.patch_size, processor.merge_size) == (SIDE, 2)
    pixels, _ = vision.patchify(NOISE, processor)
    mean, std = (np.reshape(v, (3, 1, 1)) for v in (processor.image_mean, processor.image_std))
    patches = pixels.view(-1, 3, 2, SIDE, SIDE)[:, :, 0].numpy() * std + mean
    ours = np.array([features(patch.transpose(1, 2, 0)) for patch in patches])
    np.testing.assert_allclose(tokens.reshape(4, 31), ours.reshape(4, 4, 31).mean(1), atol=3e-4)


def test_tokens_by_hand():
    numbers = np.arange(16.0).reshape(1, 2, 8, 1)
    np.testing.assert_array_equal(spectra.token_spectra(numbers)[0, :, 0], [4.5, 6.5, 8.5, 10.5])
    tall = np.arange(8.0).reshape(1, 4, 2, 1)
    np.testing.assert_array_equal(spectra.token_spectra(tall)[0, :, 0], [1.5, 5.5])


@pytest.mark.parametrize("rows, columns", [(1, 2), (2, 3)])
def test_patches_that_do_not_pair_are_refused(rows, columns):
    with pytest.raises(ValueError, match=f"{columns} x {rows} patches do not pair into tokens"):
        spectra.token_spectra(np.zeros((1, rows, columns, 31), np.float32))


def test_a_window_is_its_mean_spread_and_quantiles():
    found = RNG.normal(size=(2, 3, 5, 4)).astype(np.float32)
    window = spectra.window_spectra(found)
    assert window.shape == (2, 20) and window.dtype == np.float32
    for n, feature in np.ndindex(2, 4):
        values = np.sort(found[n, :, :, feature].ravel()).astype(float)  # 15 of them
        assert len(values) == 15
        low, middle, high = (  # at places 1.4, 7 and 12.6
            0.6 * values[1] + 0.4 * values[2],
            values[7],
            0.4 * values[12] + 0.6 * values[13],
        )
        spread = np.sqrt(np.mean((values - values.mean()) ** 2))
        expected = [values.mean(), spread, low, middle, high]
        np.testing.assert_allclose(window[n, feature::4], expected, atol=1e-5)
