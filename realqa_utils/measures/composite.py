"""The composite score of Sec. 3.1: attribute codes weighted by partial least squares.

The paper fits the weights of the attributes to online feedback and does not publish them, so they
are fitted here to whatever target is given. Attributes go together (what is cut off is composed
badly too); partial least squares weighs a few directions that they share instead of each alone.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.cross_decomposition import PLSRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold

from realqa_utils.forms import taxonomy
from realqa_utils.measures import evaluation, statistics
from realqa_utils.measures.resampling import draw_counts
from realqa_utils.records import results


@dataclass(frozen=True)
class Composite:
    """Weights of the attributes, in units of the target; `score` applies them.

    `weights` are per standard deviation of a code, so they can be compared with each other and
    with `target_sd`; `raw_weights` are per step of a code: score = intercept + codes . raw_weights.
    """

    names: tuple[str, ...]  # of the attributes, in the order of the columns
    components: int
    means: tuple[float, ...]  # of the codes of the training photos
    sds: tuple[float, ...]  # of the same; 0 for an attribute that did not vary
    weights: tuple[float, ...]
    raw_weights: tuple[float, ...]
    intercept: float
    target_mean: float  # also the score of a photo whose codes are all at their means
    target_sd: float
    cross_validated: tuple[float, ...]  # R2 on held-out folds with 1, 2, ... components
    n: int
    folds: int
    seed: int

    def __post_init__(self) -> None:
        columns = (self.means, self.sds, self.weights, self.raw_weights)
        sizes = [len(column) for column in (self.names, *columns)]
        if len(set(sizes)) != 1 or not np.isfinite(np.array(columns, dtype=float)).all():
            raise ValueError(f"{sizes} names and numbers; right is one finite number for each name")

    def score(self, codes: ArrayLike, impute: bool = False) -> np.ndarray:
        """Composite scores (n,) of codes (n, attributes), in the units of the target.

        Raises ValueError for another shape, infinity, and for NaN unless `impute`, which puts the
        mean of the training photos in its place.
        """
        means = self.means if impute else None
        return self.intercept + _checked(codes, self.names, means) @ np.array(self.raw_weights)

    def save(self, path: str | Path) -> Path:
        """Write the composite as JSON; `load` gives it back exactly."""
        return results.write_json(path, asdict(self))


def load(path: str | Path) -> Composite:
    """The composite that `Composite.save` wrote.

    Raises FileNotFoundError, and ValueError where the file holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; right is one written by Composite.save")
    try:
        content = json.loads(path.read_bytes()).items()
        return Composite(**{k: tuple(v) if isinstance(v, list) else v for k, v in content})
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a composite as Composite.save writes it; {error}") from error


# --- codes ---------------------------------------------------------------------------------------


def codes(frame: pd.DataFrame) -> np.ndarray:
    """Codes (n, 9) of label columns: scores 1..10 and tier indices; NaN where a label is missing.

    Raises ValueError for a missing column, and for a value that is no label of its attribute.

    >>> labels = dict.fromkeys(taxonomy.SCORED, [0, 1]) | {"exposure": [4, None]}
    >>> codes(pd.DataFrame(labels | {"eye_catching": [7, 10], "composition": [1, 2]})).tolist()
    [[7.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0], [10.0, 2.0, 2.0, 2.0, 2.0, 1.0, 2.0, nan, 2.0]]
    """
    absent = [name for name in taxonomy.SCORED if name not in frame]
    if absent:
        raise ValueError(f"no column {absent[0]!r}; right are {', '.join(taxonomy.SCORED)}")
    return np.column_stack([_codes_of(frame, name) for name in taxonomy.SCORED])


def _codes_of(frame: pd.DataFrame, name: str) -> np.ndarray:
    attribute, labels = taxonomy.BY_NAME[name], frame[name].astype(object)
    allowed = attribute.codes if attribute.kind == "score" else range(len(attribute.tiers))
    found = labels.map({label: float(taxonomy.code(name, label)) for label in allowed})
    bad = (labels.notna() & found.isna()).to_numpy()
    if bad.any():
        at = int(bad.argmax())
        raise ValueError(
            f"row {at + 1}: {name} is {labels.iloc[at]!r}; right is a whole number from "
            f"{allowed[0]} to {allowed[-1]} (rows like this: {bad.sum()} of {len(bad)})"
        )
    return found.to_numpy(float)


def _checked(values: ArrayLike, names: Sequence[str], means: ArrayLike | None) -> np.ndarray:
    """Codes (n, attributes), all finite; means stand in for NaN, if there are any to stand in."""
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or values.shape[1] != len(names):
        raise ValueError(f"codes have shape {values.shape}; right is (n, {len(names)})")
    if means is not None:
        values = np.where(np.isnan(values), means, values)
    bad = ~np.isfinite(values)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        remedy = "" if means is not None else ", or impute=True for the training mean"
        raise ValueError(
            f"row {row + 1}: the code of {names[column]} is {values[row, column]}; right is a "
            f"finite number{remedy} (rows like this: {bad.any(axis=1).sum()} of {len(bad)})"
        )
    return values


# --- weights -------------------------------------------------------------------------------------


def fit(
    codes: ArrayLike, target: ArrayLike, seed: int, folds: int = 10, impute: bool = False
) -> Composite:
    """Fit the weights of codes (n, 9) to a target (n,), such as MOS or online feedback.

    The number of components is the one with the highest cross-validated R2, the fewest of equals;
    the folds follow from `seed`. An attribute that does not vary has the weight 0. With `impute`,
    the mean of an attribute's other codes stands for a missing one (NaN), before the folds are cut.

    Raises ValueError for fewer photos than folds, shapes that do not fit, missing codes (unless
    `impute`), a target that is not finite or does not vary, and codes of which none varies.
    """
    x, y = _pair(codes, target, impute)
    if not 2 <= folds <= len(x):
        raise ValueError(f"{folds} folds for {len(x)} photos; right is from 2 to {len(x)} folds")
    curve = _cross_validate(x, y, folds, seed)
    components = int(np.argmax(curve)) + 1
    raw, sds = _raw_weights(x, y, components), _sds(x)
    return Composite(
        taxonomy.SCORED, components, _floats(x.mean(axis=0)), _floats(sds), _floats(raw * sds),
        _floats(raw), float(y.mean() - x.mean(axis=0) @ raw), float(y.mean()),
        float(y.std(ddof=1)), _floats(curve), len(x), folds, seed,
    )  # fmt: skip


def _pair(values: ArrayLike, target: ArrayLike, impute: bool) -> tuple[np.ndarray, np.ndarray]:
    means = pd.DataFrame(values, dtype=float).mean() if impute else None
    x, y = _checked(values, taxonomy.SCORED, means), np.asarray(target, dtype=float)
    if y.shape != (len(x),):
        raise ValueError(f"target has shape {y.shape} for {len(x)} photos; right is ({len(x)},)")
    if not np.isfinite(y).all():
        at = int(np.isfinite(y).argmin())
        raise ValueError(f"row {at + 1}: the target is {y[at]}; right is a finite number")
    for what, values in (("target", y[:, None]), ("codes", x)):
        if len(x) < 2 or not _sds(values).any():
            raise ValueError(f"the {what} of {len(x)} photos do not vary; right is some spread")
    return x, y


def _sds(x: np.ndarray) -> np.ndarray:
    """Standard deviations (attributes,), exactly 0 for a constant, which rounding would hide."""
    return np.where(np.ptp(x, axis=0) > 0, x.std(axis=0, ddof=min(1, len(x) - 1)), 0.0)


def _standardised(x: np.ndarray, means: np.ndarray, sds: np.ndarray) -> np.ndarray:
    return (x - means) / np.where(sds > 0, sds, np.inf)


def _cross_validate(x: np.ndarray, y: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """R2 of the held-out predictions of all folds together, with 1, 2, ... components."""
    cuts = list(KFold(folds, shuffle=True, random_state=seed).split(x))
    most = max(1, min(_rank(x[train]) for train, _ in cuts))
    held_out = np.empty((most, len(x)))
    for train, test in cuts:
        for k in range(most):
            raw = _raw_weights(x[train], y[train], k + 1)
            held_out[k, test] = y[train].mean() + (x[test] - x[train].mean(axis=0)) @ raw
    return np.array([r2_score(y, prediction) for prediction in held_out])


def _rank(x: np.ndarray) -> int:
    return int(np.linalg.matrix_rank(_standardised(x, x.mean(axis=0), _sds(x))))


def _raw_weights(x: np.ndarray, y: np.ndarray, components: int) -> np.ndarray:
    """Weights per step of a code, (attributes,), with `components` at most.

    Fewer are taken where the codes have no more directions, or none that go with the target: from
    there on, sklearn divides rounding errors by each other, or raises over 0 divided by 0.
    """
    for k in range(min(components, _rank(x)), 0, -1):
        with warnings.catch_warnings(), np.errstate(invalid="ignore"), suppress(ValueError):
            warnings.filterwarnings("ignore", "y residual is constant")  # all is explained
            raw = PLSRegression(k).fit(x, y).coef_[0]
            return np.where(np.ptp(x, axis=0) > 0, raw, 0.0)  # exactly 0 for a constant
    return np.zeros(x.shape[1])


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(values.tolist())


def bootstrap_weights(
    codes: ArrayLike,
    target: ArrayLike,
    components: int,
    seed: int,
    resamples: int = 1000,
    impute: bool = False,
) -> pd.DataFrame:
    """Weights per standard deviation of a code, with 95 % percentile intervals over photos.

    One row an attribute: attribute, estimate, low, high. Each resample draws n photos with
    replacement, standardises them afresh and fits the same number of components. Arguments and
    errors as in `fit`; ValueError also for `components` or `resamples` below 1.
    """
    x, y = _pair(codes, target, impute)
    if components < 1 or resamples < 1:
        raise ValueError(f"components={components}, resamples={resamples}; right is at least 1")
    drawn = draw_counts(np.random.default_rng(seed), resamples, np.arange(len(x)))
    chunks = itertools.chain([np.ones((1, len(x)))], drawn)  # the photos themselves come first
    rows = (np.repeat(np.arange(len(x)), c.astype(int)) for counts in chunks for c in counts)
    values = np.stack([_raw_weights(x[row], y[row], components) * _sds(x[row]) for row in rows])
    low, high = np.quantile(values[1:], [0.025, 0.975], axis=0)
    rows = zip(taxonomy.SCORED, values[0], low, high, strict=True)
    return pd.DataFrame(rows, columns=["attribute", "estimate", "low", "high"])


# --- against simpler scores ----------------------------------------------------------------------


def compare(
    train: pd.DataFrame,
    test: pd.DataFrame,
    target: str = "mos",
    *,
    seed: int,
    dataset: str = "",
    resamples: int = 1000,
    impute: bool = False,
) -> pd.DataFrame:
    """Judge the composite on held-out photos beside simpler scores from the same attributes.

    Both frames have the label columns (`codes`) and a column `target`. Everything is fitted and
    chosen on `train`; SRCC and PLCC, with bootstrap intervals, are of `test`. The models are
    "composite"; "equal weights", the mean of the standardised codes; "single", one code alone,
    named in the column `attribute`; and the paired differences "composite - best single", the
    best on the training photos by the same metric, and "composite - equal weights".

    Returns a tidy table: dataset, model, metric, estimate, low, high, n, seeds, attribute.
    Raises ValueError as `codes` and `fit`, and for a frame without the target.
    """
    (x, y), (held_out, truth) = _columns(train, target), _columns(test, target)
    composite = fit(x, y, seed, impute=impute)
    means = composite.means if impute else None
    x, held_out = (_checked(part, composite.names, means) for part in (x, held_out))
    rows = []
    for metric in ("srcc", "plcc"):
        best = int(np.nanargmax([statistics.METRICS[metric](y, column) for column in x.T]))
        for model, attribute, *scores in _models(composite, held_out, best):
            interval = statistics.bootstrap if len(scores) == 1 else statistics.paired_difference
            found = interval(metric, truth, *scores, np.random.default_rng(seed), resamples)
            rows.append(evaluation.row(found, dataset, model, metric, (seed,), attribute=attribute))
    return pd.DataFrame(rows)


def _columns(frame: pd.DataFrame, target: str) -> tuple[np.ndarray, np.ndarray]:
    if target not in frame:
        raise ValueError(f"no column {target!r}; right is one of {', '.join(map(str, frame))}")
    return codes(frame), frame[target].to_numpy(float)


def _models(composite: Composite, x: np.ndarray, best: int) -> Iterator[tuple]:
    """Model, attribute and its scores (n,) of codes x; of a difference, those of both."""
    own, names = composite.score(x), composite.names
    equal = _standardised(x, np.array(composite.means), np.array(composite.sds)).mean(axis=1)
    yield "composite", "", own
    yield "equal weights", "", equal
    yield from (("single", name, column) for name, column in zip(names, x.T, strict=True))
    yield "composite - best single", names[best], own, x[:, best]
    yield "composite - equal weights", "", own, equal
