"""Baselines that need no network: hand-made features with a support vector regressor, and the mean.

The features are natural-scene statistics (Mittal, Moorthy and Bovik, "No-reference image quality
assessment in the spatial domain", 2012) and ten plain measures of colour, light and sharpness.
They see no content, so they are the floor that a language model's score has to clear.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, laplace
from scipy.special import gammaln
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from realqa_utils.images.photos import open_photo

MAX_SIDE = 512  # px, longer side: bounds the cost; larger photos are reduced before measuring
MIN_SIDE = 16  # px: two 8 x 8 blocks, and still 8 px at half size; smaller photos are padded

_NEIGHBOURS = ("horizontal", "vertical", "diagonal", "antidiagonal")
_FITTED = (
    "mscn_shape",
    "mscn_log_variance",
    *(
        f"{neighbour}_{parameter}"
        for neighbour in _NEIGHBOURS
        for parameter in ("shape", "mean", "log_left_variance", "log_right_variance")
    ),
)
_PLAIN = (
    "colourfulness",
    "luma_mean",
    "luma_sd",
    "saturation_mean",
    "log_laplacian_variance",
    "dark_share",
    "bright_share",
    "entropy",
    "contrast",
    "blockiness",
)
FEATURE_NAMES: tuple[str, ...] = (
    *(f"{scale}_{name}" for scale in ("full", "half") for name in _FITTED),
    *_PLAIN,
)

_PHOTOS_A_WORKER = 300  # starting a process costs as much as the features of this many small photos
_TINY = np.finfo(np.float64).tiny
_SHAPES = np.arange(0.2, 10.0005, 0.001)  # the search range of the BRISQUE paper's estimator
# E|x|^2 / E[x^2] of a generalised Gaussian; increases with the shape, so it can be inverted.
_RATIOS = np.exp(2 * gammaln(2 / _SHAPES) - gammaln(1 / _SHAPES) - gammaln(3 / _SHAPES))


def fit_ggd(x: np.ndarray) -> tuple[float, float]:
    """Shape and variance of a zero-mean generalised Gaussian, by moments.

    `x` has any form. The shape lies in 0.2 .. 10 (1 Laplacian, 2 Gaussian); it is 0.2, the
    heaviest tail, where all values are zero. Source: Sharifi and Leon-Garcia (1995).

    >>> shape, variance = fit_ggd(np.array([-1.0, 1.0, -1.0, 1.0]))
    >>> round(shape, 3), variance
    (10.0, 1.0)
    """
    variance = float(np.mean(np.square(x), dtype=np.float64))
    return float(np.interp(_moment_ratio(x), _RATIOS, _SHAPES)), variance


def fit_aggd(x: np.ndarray) -> tuple[float, float, float, float]:
    """Shape, mean, left and right variance of an asymmetric generalised Gaussian, by moments.

    `x` has any form. A side without values has variance 0. Source: Lasmar, Stitou and Berthoumieu
    (2009); the mean is `eta` of Mittal et al. (2012).
    """
    left, right = _side_variance(np.minimum(x, 0)), _side_variance(np.maximum(x, 0))
    left_sd, right_sd = left**0.5, right**0.5
    skew = (left_sd + right_sd) * (left * left_sd + right * right_sd)  # 1 where left = right
    skew /= max((left + right) ** 2, _TINY)
    shape = np.interp(_moment_ratio(x) * skew, _RATIOS, _SHAPES)
    mean = (right_sd - left_sd) * np.interp(shape, _SHAPES, _RATIOS) ** 0.5
    return float(shape), float(mean), left, right


def _moment_ratio(x: np.ndarray) -> float:
    """E|x|^2 / E[x^2], and 0 where all of `x` is 0."""
    square = np.mean(np.square(x), dtype=np.float64)
    return float(np.mean(np.abs(x), dtype=np.float64) ** 2 / max(square, _TINY))


def _side_variance(side: np.ndarray) -> float:
    count = np.count_nonzero(side)
    return float(np.sum(np.square(side), dtype=np.float64)) / max(count, 1)


def mscn(luma: np.ndarray) -> np.ndarray:
    """Mean-subtracted contrast-normalised coefficients, (h, w), of a luma plane in 0 .. 255.

    Window 7 x 7, Gaussian of SD 7/6 px, C = 1 (Mittal et al., eqs. 1-3); edges are mirrored.
    """
    blur = partial(gaussian_filter, sigma=7 / 6, radius=3)
    mean = blur(luma)
    variance = blur(np.square(luma)) - np.square(mean)
    return (luma - mean) / (np.sqrt(np.maximum(variance, 0)) + 1)


def hand_features(image: Image.Image) -> np.ndarray:
    """The features of one RGB photo, (46,) float32, in the order of `FEATURE_NAMES`.

    36 natural-scene statistics (18 each at full and half size) and 10 plain measures. A photo whose
    longer side exceeds `MAX_SIDE` px is reduced to it first; one with a side under `MIN_SIDE` px is
    continued by its edge pixels. All values are finite, for flat and 1 x 1 photos too.

    >>> hand_features(Image.new("RGB", (32, 24), "teal")).shape == (len(FEATURE_NAMES),)
    True
    """
    rgb = _pixels(image)
    luma = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]  # (h, w), Rec. 601
    h, w = luma.shape
    half = np.asarray(Image.fromarray(luma).resize((w // 2, h // 2), Image.Resampling.BICUBIC))
    values = [*_scene_statistics(luma), *_scene_statistics(half), *_plain_measures(rgb, luma)]
    return np.array(values, np.float32)


def _pixels(image: Image.Image) -> np.ndarray:
    """(3, h, w) float32 in 0 .. 255, within the working size."""
    image = image.convert("RGB")
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    rgb = np.moveaxis(np.asarray(image, np.float32), 2, 0)
    missing = [(0, max(0, MIN_SIDE - side)) for side in rgb.shape[1:]]
    # contiguous planes, since reducing over an innermost axis of 3 is slow
    return np.pad(np.ascontiguousarray(rgb), [(0, 0), *missing], mode="edge")


def _log(variance: float) -> float:
    return float(np.log(variance + 1e-4))  # finite for flat photos


def _scene_statistics(luma: np.ndarray) -> list[float]:
    """The 18 fitted parameters of one scale."""
    x = mscn(luma)
    shape, variance = fit_ggd(x)
    values = [shape, _log(variance)]
    for product in _neighbour_products(x):
        shape, mean, left, right = fit_aggd(product)
        values += [shape, mean, _log(left), _log(right)]
    return values


def _neighbour_products(x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Each coefficient times its neighbour, in the order of `_NEIGHBOURS`."""
    return (
        x[:, :-1] * x[:, 1:],
        x[:-1] * x[1:],
        x[:-1, :-1] * x[1:, 1:],
        x[:-1, 1:] * x[1:, :-1],
    )


def _plain_measures(rgb: np.ndarray, luma: np.ndarray) -> list[float]:
    low, high = np.percentile(luma, (5, 95))
    largest = rgb.max(axis=0)
    saturation = (largest - rgb.min(axis=0)) / np.maximum(largest, 1)  # of HSV; 0 for black
    counts = np.bincount(luma.astype(np.uint8).ravel(), minlength=256)
    share = counts[counts > 0] / luma.size
    return [
        _colourfulness(rgb),
        float(luma.mean()),
        float(luma.std()),
        float(saturation.mean()),
        log_laplacian_variance(luma),
        float(np.mean(luma <= 5)),
        float(np.mean(luma >= 250)),
        float(-np.sum(share * np.log2(share))),
        float(high - low),
        _blockiness(luma),
    ]


def log_laplacian_variance(luma: np.ndarray) -> float:
    """Sharpness of a luma plane (h, w) in 0 .. 255; 0 for a flat one."""
    return float(np.log(laplace(luma).var() + 1))


def _colourfulness(rgb: np.ndarray) -> float:
    """Hasler and Suesstrunk (2003): spread and distance from grey of the two opponent colours."""
    red, green, blue = rgb
    opponents = np.stack([red - green, (red + green) / 2 - blue])
    spread, distance = opponents.std(axis=(1, 2)), opponents.mean(axis=(1, 2))
    return float(np.linalg.norm(spread) + 0.3 * np.linalg.norm(distance))


def _blockiness(luma: np.ndarray) -> float:
    """Log ratio of the mean step across the borders of 8 x 8 blocks to the mean of other steps."""
    border = inside = 0.0
    for plane in (luma, luma.T):
        steps = np.abs(np.diff(plane, axis=1)).mean(axis=0)
        is_border = np.arange(steps.size) % 8 == 7
        border += steps[is_border].mean()
        inside += steps[~is_border].mean()
    return float(np.log((border + 1) / (inside + 1)))


def feature_table(paths: Sequence[str | Path], workers: int | None = None) -> np.ndarray:
    """`hand_features` of each photo, (n, 46) float32, in the order of `paths`.

    `workers` is the number of processes; 1 stays in this one, None takes one per `_PHOTOS_A_WORKER`
    photos, up to one per CPU. Processes are spawned, not forked (a fork can hang after threads have
    started), so a script that asks for several needs the usual `if __name__ == "__main__"`.

    Raises: what `photos.open_photo` raises, for a file that is missing or is no photo.
    """
    if workers is None:
        workers = min(os.cpu_count() or 1, 1 + len(paths) // _PHOTOS_A_WORKER)
    if workers <= 1:
        rows = [_photo_features(path) for path in paths]
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            rows = list(pool.map(_photo_features, paths, chunksize=16))
    return np.array(rows, np.float32).reshape(-1, len(FEATURE_NAMES))


def _photo_features(path: str | Path) -> np.ndarray:
    return hand_features(open_photo(path))


def fit_svr(features: np.ndarray, targets: np.ndarray, seed: int) -> TransformedTargetRegressor:
    """Standardised features, then an RBF support vector regressor on standardised targets.

    `features` (n, f), `targets` (n,) on any scale. C, gamma and epsilon are those of least squared
    error in a 5-fold cross-validation of these rows alone (folds drawn from `seed`); the returned
    model is refitted on all rows and has `predict`. Takes about 5 s for 930 rows.

    Raises: ValueError for unequal lengths, fewer than 5 rows or a value that is not finite.
    """
    features, targets = _checked(features, targets)
    model = TransformedTargetRegressor(
        make_pipeline(StandardScaler(), SVR()), transformer=StandardScaler()
    )
    grid = {
        "regressor__svr__C": (1, 4, 16),
        "regressor__svr__gamma": tuple(np.array((0.25, 0.5, 1)) / features.shape[1]),
        "regressor__svr__epsilon": (0.1, 0.3),  # in SDs of the targets
    }
    folds = KFold(5, shuffle=True, random_state=seed)
    search = GridSearchCV(model, grid, scoring="neg_mean_squared_error", cv=folds)
    return search.fit(features, targets).best_estimator_


def _checked(features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features, targets = np.asarray(features, np.float64), np.asarray(targets, np.float64)
    if features.ndim != 2 or targets.shape != features.shape[:1]:
        shapes = f"features {features.shape} and targets {targets.shape}"
        raise ValueError(f"{shapes} must be (n, f) and (n,)")
    if len(targets) < 5:
        raise ValueError(f"{len(targets)} rows: 5-fold cross-validation needs at least 5")
    bad = ~(np.isfinite(features).all(axis=1) & np.isfinite(targets))
    if bad.any():
        raise ValueError(f"row {bad.argmax()} has a feature or target that is not finite")
    return features, targets


def svr_predictions(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, seed: int = 0
) -> np.ndarray:
    """`fit_svr` on the training part, then its predictions (n_test,) on the scale of `train_y`.

    Measured on LIVE Challenge photos of 224 px, ten random 80/20 splits: SRCC 0.654, SD 0.044.
    """
    return fit_svr(train_x, train_y, seed).predict(np.asarray(test_x, np.float64))


def fit_mean(targets: np.ndarray) -> DummyRegressor:
    """A model whose `predict` gives the mean of `targets` (n,), whatever the features."""
    targets = np.asarray(targets, np.float64)
    return DummyRegressor(strategy="mean").fit(np.zeros((len(targets), 1)), targets)


def mean_predictions(train_y: np.ndarray, n_test: int) -> np.ndarray:
    """The mean of the training targets for every test photo, (n_test,): the floor of any error.

    It ranks nothing, so its SRCC and PLCC are undefined.

    >>> mean_predictions(np.array([2.0, 4.0]), 3)
    array([3., 3., 3.])
    """
    return fit_mean(train_y).predict(np.zeros((n_test, 1)))
