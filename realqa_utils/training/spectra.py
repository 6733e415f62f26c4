"""How the patches of a photograph look in frequency: what blur, noise and compression change.

A patch is cut as the vision tower cuts it (14 x 14 pixels) and described by the log energy of its
luminance in 26 bands of the 2-D cosine transform (distance from zero by three directions), the log
energy of two colour differences, and its mean colour. Over a window, the mean, the spread and the
quantiles of these numbers tell quality nearly as well as hand-made natural-scene statistics, and
need no opinions.
"""

from __future__ import annotations

import numpy as np
from scipy.fft import dctn

PATCH = 14  # px
EDGES = (0.5, 1.2, 2, 3, 4, 5.5, 7, 9, 11, 19)  # of the bands: distance from frequency zero
QUANTILES = (0.1, 0.5, 0.9)
FLOOR = 1e-5  # energy that is added before the logarithm: that of 8-bit rounding
LUMINANCE = (0.299, 0.587, 0.114)
OPPONENTS = ((1, -1, 0), (0.5, 0.5, -1))  # red-green, yellow-blue
COLOUR_SIDE = 3  # colour is looked at in its lowest 3 x 3 frequencies, zero among them


def _bands() -> np.ndarray:
    """Weights (196, bands) that average the energies of each band; empty bands are left out."""
    down, right = np.mgrid[:PATCH, :PATCH]
    distance, angle = np.hypot(down, right), np.arctan2(down, right)
    sectors = (angle < np.pi / 6, angle > np.pi / 3, (np.pi / 6 <= angle) & (angle <= np.pi / 3))
    bands = []
    for low, high in zip(EDGES[:-1], EDGES[1:], strict=True):
        ring = (low < distance) & (distance <= high)
        bands += [ring & sector for sector in sectors if (ring & sector).any()]
    return np.stack([(band / band.sum()).ravel() for band in bands], 1).astype(np.float32)


_BANDS = _bands()
FEATURES = _BANDS.shape[1] + 3 + len(OPPONENTS)


def patch_spectra(images: np.ndarray) -> np.ndarray:
    """Equal photographs uint8 (n, height, width, 3) -> (n, rows, columns, 31) float32.

    Rows and columns are those of patches of 14 pixels; the log is natural. Raises ValueError when
    a side is no multiple of 14.
    """
    n, height, width, _ = images.shape
    if height % PATCH or width % PATCH:
        raise ValueError(f"{width} x {height} pixels do not divide into patches of {PATCH}")
    rgb = images.astype(np.float32) / 255
    planes = rgb @ np.array([LUMINANCE, *OPPONENTS], np.float32).T  # (n, h, w, 3)
    shape = (n, height // PATCH, PATCH, width // PATCH, PATCH, len(planes[0, 0, 0]))
    patches = planes.reshape(shape).transpose(5, 0, 1, 3, 2, 4)
    waves = dctn(patches, axes=(-2, -1), norm="ortho")  # (3, n, rows, columns, 14, 14)
    energy = np.square(waves[0]).reshape(*waves.shape[1:4], -1) @ _BANDS
    colours = np.square(waves[1:, ..., :COLOUR_SIDE, :COLOUR_SIDE]).mean((-2, -1))
    log = np.log(np.concatenate([energy, np.moveaxis(colours, 0, -1)], -1) + FLOOR)
    return np.concatenate([log, np.moveaxis(waves[..., 0, 0], 0, -1)], -1)


def token_spectra(spectra: np.ndarray) -> np.ndarray:
    """Mean over the 2 x 2 patches of an image token: (n, rows, columns, f) -> (n, tokens, f).

    Raises ValueError for an odd number of rows or columns.
    """
    n, rows, columns, features = spectra.shape
    if rows % 2 or columns % 2:
        raise ValueError(f"{columns} x {rows} patches do not pair into tokens: both must be even")
    blocks = spectra.reshape(n, rows // 2, 2, columns // 2, 2, features)
    return blocks.mean((2, 4)).reshape(n, -1, features)


def window_spectra(spectra: np.ndarray) -> np.ndarray:
    """Mean, sd and quantiles over the patches: (n, rows, columns, f) -> (n, 5 f)."""
    flat = spectra.reshape(len(spectra), -1, spectra.shape[-1])
    quantiles = np.quantile(flat, QUANTILES, axis=1).astype(np.float32)
    return np.concatenate([flat.mean(1), flat.std(1), *quantiles], -1)
