"""The experiment of Table 4 (notebook 05): one backbone, M = 1..4 digits, several spreads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from realqa_utils import datasets
from realqa_utils.claims import paper
from realqa_utils.datasets.table import Split
from realqa_utils.experiments import baselines, scorers, trials
from realqa_utils.forms import scores
from realqa_utils.forms.scores import Scale
from realqa_utils.measures import evaluation, statistics
from realqa_utils.profiles import Profile
from realqa_utils.records import hashes, results

CLAIM = "T4-two-extra-digits"
METRICS = ("srcc", "plcc", "rmse")
NOTEBOOK = "05_digit_count"
Sets = Mapping[str, Sequence[Split]]
Readings = Mapping[tuple[str, int], Sequence[pd.DataFrame]]  # (set, M) -> one frame per seed


def conditions(profile: Profile) -> dict[str, list[Split]]:
    """Sets by name, the narrow one first: one split for every seed of the profile.

    On `mini`: KonIQ's stand-in with its MOS written as they are, 1 to 5 (narrow), and that of LIVE
    Challenge stretched over 0 to 10 (wide). On real photographs: the home set, 0 to 10.
    """
    if profile.data == "real":
        choices = [(datasets.title(profile), Scale(0, 10))]
    else:
        choices = [("mini-koniq", Scale(1, 5)), ("mini-livec", Scale(0, 10))]
    sets = {}
    for source, scale in choices:
        name = f"{source}, written {scale.low:g} to {scale.high:g}"
        splits = datasets.open_splits(profile, source)
        sets[name] = [datasets.written_on(split, scale, name) for split in splits]
    return sets


def describe(sets: Sets) -> pd.DataFrame:
    """Size and spread of every set; `unit` is the sd of the MOS in steps of the integer digit."""
    rows = {}
    for name, splits in sets.items():
        targets = np.concatenate([splits[0].train.targets, splits[0].test.targets])
        rows[name] = {
            "train": len(splits[0].train),
            "test": len(splits[0].test),
            "splits": len({split.test.ids_hash for split in splits}),
            "mean": targets.mean().round(2),
            "unit": targets.std().round(2),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def ceilings(sets: Sets, digits: Iterable[int]) -> pd.DataFrame:
    """Metrics of the true MOS against themselves rounded to M digits, mean over the splits."""
    rows = []
    for name, splits in sets.items():
        for count in digits:
            for metric in METRICS:
                found = [_ceiling(metric, split, count) for split in splits]
                interval = statistics.Interval(np.mean(found), np.nan, np.nan, len(splits[0].test))
                row = evaluation.row(interval, name, "rounding alone", metric, [], digits=count)
                rows.append(row)
    return pd.DataFrame(rows)


def _ceiling(metric: str, split: Split, digits: int) -> float:
    targets = split.test.targets
    return statistics.METRICS[metric](targets, scores.quantise(targets, digits))


def readings(profile: Profile, sets: Sets, digits: Iterable[int]) -> dict:
    """Train and read every set, M and seed; trials run side by side and are kept on disk."""
    digits = list(digits)
    first = sorted(digits, key=lambda count: (count not in (1, 3), count))  # what the claim needs
    keys, todo = [], []
    for count in first:
        for name, splits in sets.items():
            for seed, split in zip(profile.seeds, splits, strict=True):
                keys.append((name, count))
                todo.append(scorers.trial(profile, split, profile.recipe, seed, digits=count))
    frames = trials.run_all(todo, results.run_dir(profile, "trials"), profile.workers)
    out: dict = {(name, count): [] for name in sets for count in digits}
    for key, frame in zip(keys, frames, strict=True):
        out[key].append(frame)
    return out


def parsed(found: Readings) -> pd.DataFrame:
    """How many free answers could be read, out of how many, over all seeds."""
    rows = [
        {"dataset": name, "digits": count, "parsed": sum(f["parsed"].sum() for f in frames),
         "answers": sum(f["answers"].sum() for f in frames)}
        for (name, count), frames in found.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def table(profile: Profile, sets: Sets, found: Readings, seed: int) -> pd.DataFrame:
    """The whole result, tidy: greedy, expected, the rounding ceiling, and on photos baselines."""
    rows = []
    for (name, count), frames in found.items():
        for model in ("greedy", "expected"):
            for metric in METRICS:
                interval = evaluation.estimate(metric, frames, model, seed, profile.resamples)
                rows.append(
                    evaluation.row(interval, name, model, metric, profile.seeds, digits=count)
                )
    digits = sorted({count for _, count in found})
    parts = [pd.DataFrame(rows), ceilings(sets, digits)]
    if profile.data == "real":
        parts.append(_baselines(profile, sets, seed))
    return pd.concat(parts, ignore_index=True)


def _baselines(profile: Profile, sets: Sets, seed: int) -> pd.DataFrame:
    """What needs no network, on the same splits: an SVR on hand-made features, and the mean."""
    rows = []
    for name, splits in sets.items():
        models = {
            "hand-made features, SVR": (svr_readings(splits), METRICS),
            "mean of the training scores": (mean_readings(splits), ("rmse",)),
        }
        for model, (frames, metrics) in models.items():
            for metric in metrics:  # a constant has no correlation
                interval = evaluation.estimate(metric, frames, "expected", seed, profile.resamples)
                rows.append(evaluation.row(interval, name, model, metric, profile.seeds))
    return pd.DataFrame(rows)


def mean_readings(splits: Sequence[Split]) -> list[pd.DataFrame]:
    """Readings of the predictor that answers the mean of its training scores."""
    frames = []
    for split in splits:
        answer = baselines.mean_predictions(split.train.targets, len(split.test))
        columns = {"id": split.test.frame["id"], "target": split.test.targets, "expected": answer}
        frames.append(pd.DataFrame(columns))
    return frames


def svr_readings(splits: Sequence[Split]) -> list[pd.DataFrame]:
    """Readings of the SVR on hand-made features, in the form of a trial's."""
    everything = pd.concat([splits[0].train.frame, splits[0].test.frame])
    features = dict(
        zip(everything["id"], baselines.feature_table(everything["path"].tolist()), strict=True)
    )

    def of(table) -> np.ndarray:
        return np.stack([features[i] for i in table.frame["id"]])

    frames = []
    for split in splits:
        train, test = split.train, split.test
        answer = baselines.svr_predictions(of(train), train.targets, of(test))
        columns = {"id": test.frame["id"], "target": test.targets, "expected": answer}
        frames.append(pd.DataFrame(columns))
    return frames


def verdicts(profile: Profile, found: Readings, seed: int) -> pd.DataFrame:
    """Paired difference SRCC(M = 3) - SRCC(M = 1) for every set and way of reading."""
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        for model in ("greedy", "expected"):
            interval = evaluation.difference(
                "srcc", found[name, 3], found[name, 1], model, seed, profile.resamples
            )
            row = evaluation.row(interval, name, model, "srcc M=3 - M=1", profile.seeds)
            rows.append(row | {"verdict": paper.verdict(interval.low, interval.high)})
    return pd.DataFrame(rows)


def kept_digits(profile: Profile, found: Readings) -> pd.DataFrame:
    """SRCC of the greedy answers cut after 1, 2, .. digits, mean over the trainings; tidy.

    What a further digit adds: where it does not raise the SRCC, it was not learnt.
    """
    rows = []
    for (name, count), frames in found.items():
        for kept in range(1, count + 1):
            mean = np.mean([_srcc_of_cut(frame, kept) for frame in frames])
            interval = statistics.Interval(mean, np.nan, np.nan, len(frames[0]))
            row = evaluation.row(interval, name, "greedy", "srcc", profile.seeds, digits=count)
            rows.append(row | {"kept": kept})
    return pd.DataFrame(rows)


def _srcc_of_cut(frame: pd.DataFrame, kept: int) -> float:
    answers = frame["greedy"].fillna(evaluation.MIDDLE)
    unit = 10.0 ** (1 - kept)
    return statistics.srcc(frame["target"], np.floor(answers / unit + 1e-6) * unit)


def save(
    profile: Profile,
    sets: Sets,
    result: pd.DataFrame,
    judged: pd.DataFrame,
    kept: pd.DataFrame,
    found: Readings,
    alone: pd.DataFrame,
    figures: Mapping[str, Figure],
    watch: results.Stopwatch,
) -> str:
    """Write the tables, the figures and the claim, which is judged on the first (narrow) set."""
    counts = parsed(found)
    tables = [split.test for splits in sets.values() for split in splits]
    facts = {
        "seeds": profile.seeds,
        "n": int(counts["answers"].sum()),
        "n_parsed": int(counts["parsed"].sum()),
        "interval": "95 % percentile bootstrap over test images, pooled over "
        + ("training seeds" if profile.data == "mini" else "train/test splits"),
        "data_hashes": {table.name: table.ids_hash for table in tables},
        "model_hash": hashes.of_model(profile.model),
        "started": watch,
        "notes": str(trials.fine_tuning.recipe_record(profile.recipe, profile.view)),
    }
    parts = {"": result, "kept_digits": kept, "verdicts": judged, "ceilings": alone}
    folder = results.save_parts(NOTEBOOK, profile, parts, figures, **facts)
    first = judged.iloc[0]
    results.record_claim(
        profile,
        CLAIM,
        notebook="05",
        measured=f"{first['dataset']}, greedy",
        **first[results.FOUND],
        seeds=profile.seeds,
    )
    return folder


def summary(profile: Profile, judged: pd.DataFrame, limits: pd.DataFrame) -> str:
    """The verdicts in words, with the share of each that rounding alone explains."""
    lines = []
    for row in judged.itertuples():
        part = limits[(limits["dataset"] == row.dataset) & (limits["metric"] == "srcc")]
        limit = part.set_index("digits")["estimate"]
        lines.append(
            f"{row.dataset}, {row.model}: the claim {_words(row.verdict)} "
            f"(SRCC {row.estimate:+.3f}, 95 % interval {row.low:+.3f} to {row.high:+.3f}; "
            f"rounding alone would give {limit[3] - limit[1]:+.3f})."
        )
    return "\n".join(lines)


def _words(verdict: str) -> str:
    return {"undecided": "is undecided"}.get(verdict, verdict)
