"""The experiment of Sec. 4.6 (notebook 07): digits, level words and a regression head, alike.

Every way of teaching a score starts from the same backbone and sees the same photographs in the
same order for the same number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from realqa_utils.claims import paper
from realqa_utils.datasets.table import Split
from realqa_utils.experiments import scorers, trials
from realqa_utils.measures import evaluation
from realqa_utils.profiles import Profile
from realqa_utils.records import results
from realqa_utils.training.recipes import Recipe

NOTEBOOK = "07_regression_and_levels"
CLAIM = "S46-next-token-vs-regression"
METRICS = ("srcc", "plcc", "rmse")
DIGITS, HEAD, TREE = "digits, M = 3", "regression head", "mean of the digit tree, M = 2"
#: What is taught, by name: changes of the recipe.
METHODS: dict[str, dict[str, object]] = {
    DIGITS: {},
    "digits, soft": {"opinion_spread": 0.8},
    "digits + number token loss": {"number_token_weight": 1.0},
    "digits + NCM": {"expectation_weight": 1.0},
    TREE: {"objective": "tree_mean", "digits": 2},
    "level words": {"objective": "level_words"},
    "level words, soft": {"objective": "level_words", "opinion_spread": 1.0},
    HEAD: {"objective": "regression"},
}
#: Where the way comes from.
SOURCES: dict[str, str] = {
    DIGITS: "RealQA, the paper",
    "digits, soft": "DeQA-Score's idea, carried to digits",
    "digits + number token loss": "Zausinger et al. 2025, NTL-WAS",
    "digits + NCM": "RealQA's metric with a gradient",
    TREE: "regression-aware fine-tuning (RAFT)",
    "level words": "Q-Align",
    "level words, soft": "DeQA-Score",
    HEAD: "VideoScore",
}
Readings = Mapping[str, Sequence[pd.DataFrame]]  # by method, one frame per seed


def overview() -> pd.DataFrame:
    """Every method, where it comes from, and what it changes in the recipe."""
    changes = [", ".join(f"{k}={v!r}" for k, v in METHODS[n].items()) or "-" for n in METHODS]
    columns = {"method": list(METHODS), "source": list(SOURCES.values()), "changes": changes}
    return pd.DataFrame(columns).set_index("method")


def readings(
    profile: Profile, splits: Sequence[Split], methods: Sequence[str] = tuple(METHODS)
) -> dict[str, list[pd.DataFrame]]:
    """Train and read every method and seed; kept on disk. On photographs the recipe's own extra
    terms are left out, so that each method has only what its name says."""
    plain = {"opinion_spread": 0.0, "expectation_weight": 0.0}
    todo = {
        name: scorers.all_trials(profile, splits, **(plain | changes(profile.recipe, name)))
        for name in methods
    }
    flat = [trial for trials_ in todo.values() for trial in trials_]
    frames = iter(trials.run_all(flat, results.run_dir(profile, "trials"), profile.workers))
    return {name: [next(frames) for _ in part] for name, part in todo.items()}


def changes(recipe: Recipe, name: str) -> dict[str, object]:
    """What a method changes in a recipe. The mean of a digit tree needs the cache, which goes when
    layers are run again: there one photograph at a time takes the place of checkpointing."""
    given = METHODS[name]
    if name == TREE and recipe.checkpointing:
        return given | {"checkpointing": False, "accumulation": recipe.batch_size}
    return given


def ways(name: str) -> tuple[str, ...]:
    """How a method's answer is read: a head or a mean has one number only."""
    return ("expected",) if name in (HEAD, TREE) else ("greedy", "expected")


def table(profile: Profile, dataset: str, found: Readings, seed: int) -> pd.DataFrame:
    """Every method, way of reading and metric, tidy; `read` says which way."""
    rows = []
    for name, frames in found.items():
        for read in ways(name):
            for metric in METRICS:
                interval = evaluation.estimate(metric, frames, read, seed, profile.resamples)
                row = evaluation.row(interval, dataset, name, metric, profile.seeds)
                rows.append(row | {"read": read})
    return pd.DataFrame(rows)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Methods by metric and way of reading, each with its interval."""
    cells = [f"{r.estimate:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in table.itertuples()]
    wide = table.assign(cell=cells).pivot(index="model", columns=["metric", "read"], values="cell")
    wide = wide.loc[list(dict.fromkeys(table["model"])), list(METRICS)]
    return wide.fillna("").rename_axis(columns=[None, None])


def verdicts(profile: Profile, dataset: str, found: Readings, seed: int) -> pd.DataFrame:
    """Paired difference of SRCC, digits (greedy, then expected) minus every other method.

    The others are read in their best way, as their authors do: by the expected value.
    """
    rows = []
    for read in ("greedy", "expected"):
        ours = [frame.assign(compared=frame[read]) for frame in found[DIGITS]]
        for name in found:
            if name == DIGITS:
                continue
            theirs = [frame.assign(compared=frame["expected"]) for frame in found[name]]
            interval = evaluation.difference(
                "srcc", ours, theirs, "compared", seed, profile.resamples
            )
            row = evaluation.row(interval, dataset, name, "srcc of digits - this", profile.seeds)
            rows.append(row | {"read": read, "verdict": paper.verdict(interval.low, interval.high)})
    return pd.DataFrame(rows)


def parsed(found: Readings) -> tuple[int, int]:
    """Free answers that could be read, and all, over every method that answers in words."""
    frames = [f for name, part in found.items() if name not in (HEAD, TREE) for f in part]
    return int(sum(f["parsed"].sum() for f in frames)), int(sum(f["answers"].sum() for f in frames))


def save(
    profile: Profile,
    splits: Sequence[Split],
    result: pd.DataFrame,
    judged: pd.DataFrame,
    found: Readings,
    figures: Mapping[str, Figure],
    watch: results.Stopwatch,
) -> str:
    """Write the tables, the figures and the claim: greedy digits against the regression head."""
    read, asked = parsed(found)
    facts = scorers.facts(profile, [s.test for s in splits], profile.recipe, watch)
    facts |= {"n": asked, "n_parsed": read}
    parts = {"": result, "verdicts": judged}
    folder = results.save_parts(NOTEBOOK, profile, parts, figures, **facts)
    row = judged[(judged["model"] == HEAD) & (judged["read"] == "greedy")].iloc[0]
    results.record_claim(
        profile,
        CLAIM,
        notebook="07",
        measured=f"{row['dataset']}, greedy digits",
        **row[results.FOUND],
        seeds=profile.seeds,
    )
    return folder


def summary(result: pd.DataFrame, judged: pd.DataFrame) -> str:
    """The verdicts in words, best method first."""
    best = result[result["metric"] == "srcc"].sort_values("estimate", ascending=False).iloc[0]
    said = [
        f"Highest SRCC: {best['model']}, {best['read']}: {best['estimate']:.3f} "
        f"[{best['low']:.3f}, {best['high']:.3f}]."
    ]
    for read, part in judged.groupby("read", sort=False):
        for verdict, rows in part.groupby("verdict", sort=False):
            words = {"holds": "are better than", "fails": "are worse than"}
            names = "; ".join(
                f"{r.model} ({r.estimate:+.3f}, {r.low:+.3f} to {r.high:+.3f})"
                for r in rows.itertuples()
            )
            verb = words.get(verdict, "cannot be told apart from")
            said.append(f"Digits, {read}, {verb}: {names}.")
    return "\n".join(said)
