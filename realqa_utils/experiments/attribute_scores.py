"""How well attributes are told (Table 1): SRCC and PLCC of their codes, and the mean over nine.

An answer that cannot be parsed counts as the middle code and its share is reported; a model that
follows the instruction less than half of the time gets N.A. (NaN), as in the paper. Answers that
are all the same rank nothing: their correlation is undefined, and enters the mean as 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from realqa_utils.datasets.table import Split
from realqa_utils.experiments import trials
from realqa_utils.forms import taxonomy
from realqa_utils.measures import evaluation, statistics
from realqa_utils.measures.resampling import KERNELS, draw_counts
from realqa_utils.measures.statistics import Interval
from realqa_utils.profiles import Profile
from realqa_utils.records import hashes, results

METRICS = ("srcc", "plcc")
AVERAGE = "average"
FOLLOWS = 0.5  # least share of answers that can be parsed; below it an attribute is N.A.


def table(
    runs: Sequence[pd.DataFrame], truth: pd.DataFrame, seed: int, resamples: int, **facts
) -> pd.DataFrame:
    """One row per attribute and metric, and the average; columns `attribute` and `unparsed`.

    `runs` are frames of `labelling.as_frame` about the photographs of `truth` (n, 9), one a seed.
    `facts` are further columns: dataset, model, seeds, ...
    """
    said, unparsed = _answers(runs, truth.index)
    names = [*taxonomy.SCORED, AVERAGE]
    shares = dict(zip(names, [*unparsed, unparsed.mean()], strict=True))
    rows = []
    for metric in METRICS:
        for name, interval in zip(
            names, _intervals(metric, truth.to_numpy().T, said, seed, resamples), strict=True
        ):
            follows = shares[name] <= 1 - FOLLOWS
            row = evaluation.row(
                interval if follows else _not_available(interval), **facts, metric=metric
            )
            rows.append(row | {"attribute": name, "unparsed": shares[name]})
    return pd.DataFrame(rows)


def difference(
    a: Sequence[pd.DataFrame], b: Sequence[pd.DataFrame], truth: pd.DataFrame, seed: int,
    resamples: int, metric: str = "srcc",
) -> Interval:  # fmt: skip
    """Paired difference of the averages of two models on the same photographs and seeds.

    Raises ValueError where one has more training runs than the other.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} training runs; a pair needs equally many")
    codes = truth.to_numpy().T
    first, second = (_answers(runs, truth.index)[0] for runs in (a, b))
    values = _replicates(metric, codes, [first, second], seed, resamples)
    exact = [np.nan_to_num(_exact(metric, codes, said)).mean() for said in (first, second)]
    low, high = np.quantile(values[0] - values[1], (0.025, 0.975))
    return Interval(exact[0] - exact[1], float(low), float(high), codes.shape[1], len(first))


def majority(train: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """The most frequent code of the training photographs as the answer for every photograph."""
    said = [{"attribute": n, "said": train[n].mode()[0], "why": ""} for n in taxonomy.SCORED]
    return pd.DataFrame([{"id": i} | row for i in truth.index for row in said])


def _answers(runs: Sequence[pd.DataFrame], ids: pd.Index) -> tuple[np.ndarray, np.ndarray]:
    """Codes (seeds, 9, n), the middle code for what was not parsed, and the share of that (9,)."""
    wide = [run.pivot(index="id", columns="attribute", values="said").loc[ids] for run in runs]
    said = np.stack([frame[list(taxonomy.SCORED)].to_numpy().T for frame in wide])
    middle = np.array([np.median(taxonomy.BY_NAME[n].codes) for n in taxonomy.SCORED])
    unparsed = np.isnan(said).mean((0, 2))
    return np.where(np.isnan(said), middle[:, None], said), unparsed


def _intervals(metric, truth, said, seed: int, resamples: int) -> list[Interval]:
    """Of every attribute, and of the average last; truth (9, n), said (seeds, 9, n)."""
    n, seeds = truth.shape[1], len(said)
    rng = np.random.default_rng(seed)
    single = [
        statistics.bootstrap(metric, truth[i], said[:, i], rng, resamples)
        for i in range(len(truth))
    ]
    values = _replicates(metric, truth, [said], seed, resamples)[0]
    low, high = np.quantile(values, (0.025, 0.975))
    estimate = float(np.nan_to_num(_exact(metric, truth, said)).mean())
    return [*single, Interval(estimate, float(low), float(high), n, seeds)]


def _exact(metric: str, truth: np.ndarray, said: np.ndarray) -> np.ndarray:
    """The metric of every seed and attribute, (seeds, 9)."""
    return np.array(
        [
            [statistics.METRICS[metric](t, s) for t, s in zip(truth, run, strict=True)]
            for run in said
        ]
    )


def _replicates(metric, truth, models, seed: int, resamples: int) -> np.ndarray:
    """Averages over the attributes of every resample, (models, resamples): the same draws for all.

    Each resample draws photographs, and training seeds, with replacement.
    """
    rng = np.random.default_rng([seed, 9])
    seeds = len(models[0])
    drawn = rng.integers(seeds, size=(resamples, seeds))
    parts = []
    for counts in draw_counts(rng, resamples, np.arange(truth.shape[1])):
        part = [
            [
                np.mean(
                    [
                        np.nan_to_num(KERNELS[metric](t, s, counts))
                        for t, s in zip(truth, run, strict=True)
                    ],
                    0,
                )
                for run in said
            ]
            for said in models
        ]
        parts.append(part)
    values = np.concatenate(parts, axis=-1)  # (models, seeds, resamples)
    return np.take_along_axis(values, drawn.T[None], axis=1).mean(axis=1)


def _not_available(interval: Interval) -> Interval:
    return Interval(np.nan, np.nan, np.nan, interval.n, interval.seeds)


def facts(profile: Profile, data: Split, seeds: Sequence[int], watch: results.Stopwatch) -> dict:
    """What the record of every result about attributes says."""
    return {
        "seeds": seeds,
        "n": len(data.test),
        "n_parsed": None,  # a column of the tables: unparsed
        "interval": "95 % percentile bootstrap over test images, pooled over training seeds",
        "data_hashes": {
            f"{side.name}, {part}": side.ids_hash
            for part, side in (("train", data.train), ("test", data.test))
        },
        "model_hash": hashes.of_model(profile.model),
        "started": watch,
        "notes": str(trials.fine_tuning.recipe_record(profile.stage_1, profile.view)),
    }
