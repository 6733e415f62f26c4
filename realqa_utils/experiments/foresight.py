"""What NCM says (notebook 06): Fig. 4 for every answer, and whether curves foresee the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy import stats

from realqa_utils.claims import paper
from realqa_utils.datasets.table import Split
from realqa_utils.experiments.monitoring import PLAIN, RANDOM
from realqa_utils.forms import scores
from realqa_utils.measures import evaluation, statistics
from realqa_utils.ncm import metric as ncm
from realqa_utils.ncm.callback import HELD_OUT
from realqa_utils.profiles import Profile
from realqa_utils.records import hashes, results
from realqa_utils.training import fine_tuning

NOTEBOOK = "06_ncm_curves"
CLAIMS = {"F5-ncm-falls": "ncm", "F5-ncmstar-falls": "ncm_star"}
SRCC = ("srcc_greedy", "srcc_expected")
#: What may foresee the SRCC: all are better when lower.
PREDICTORS = ("ncm_star", "ncm", "digit_ce", "ncm_star_as_published")

# --- Fig. 4: one number, every answer ------------------------------------------------------------


def sweep(truth: float, digits: int = 3, sure: float = 0.9) -> pd.DataFrame:
    """Every answer of M digits to one true score: error, cross entropy, NCM and NCM*.

    The model gives its own digits the probability `sure` at every place and shares the rest among
    the other nine. Cross entropy is the mean over the digits, in nats.
    """
    values = scores.grid(digits)
    own = torch.as_tensor(scores.digits_of(values, digits))
    chances = torch.full((len(values), digits, 10), (1 - sure) / 9, dtype=torch.float64)
    z = chances.scatter(-1, own[..., None], sure).log()
    true = torch.as_tensor(scores.digits_of(truth, digits)).expand(len(values), -1)
    entropy = -z.gather(-1, true[..., None])[..., 0].mean(-1)
    published = ncm.squared_errors_without_truth(z, true, "as_published")
    columns = {
        "answer": values,
        "error": np.abs(values - scores.quantise(truth, digits)),
        "cross entropy": entropy,
        "NCM": ncm.squared_errors(z, true),
        "NCM*": ncm.squared_errors_without_truth(z, true),
        "NCM* as published": published,
    }
    return pd.DataFrame(columns)


def disagreement(table: pd.DataFrame, measure: str) -> float:
    """Share of pairs of answers of which the farther one is called the better, or as good.

    Pairs are those with different errors; `measure` is a column of `sweep`.
    """
    error, value = (table[name].to_numpy() for name in ("error", measure))
    farther = error[:, None] > error + 1e-9
    return float((farther & (value[:, None] <= value + 1e-9)).sum() / farther.sum())


# --- what curves say -----------------------------------------------------------------------------


def checkpoints(found: Mapping[str, Sequence[pd.DataFrame]]) -> pd.DataFrame:
    """One row per condition, run and step: every held-out metric as a column."""
    parts = []
    for name, frames in found.items():
        for run, frame in enumerate(frames):
            held_out = frame[frame["split"] == HELD_OUT]
            wide = held_out.pivot(index="step", columns="metric", values="value")
            parts.append(wide.reset_index().assign(condition=name, run=f"{name}, run {run}"))
    return pd.concat(parts, ignore_index=True).rename_axis(columns=None)


def table(profile: Profile, data: Split, points: pd.DataFrame) -> pd.DataFrame:
    """Every held-out metric at the first and the last checkpoint, tidy; intervals over seeds."""
    first, last = points["step"].min(), points["step"].max()
    rows = []
    for name in dict.fromkeys(points["condition"]):
        for step in (first, last):
            part = points[(points["condition"] == name) & (points["step"] == step)]
            for metric in (*PREDICTORS, *SRCC, "parsed"):
                interval = _over_runs(part[metric], len(data.test))
                row = evaluation.row(interval, data.name, name, metric, profile.seeds)
                rows.append(row | {"step": step})
    return pd.DataFrame(rows)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Last checkpoint of every condition, each value with its interval."""
    rows = table[table["step"] == table["step"].max()]
    cells = [f"{r.estimate:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in rows.itertuples()]
    wide = rows.assign(cell=cells).pivot(index="model", columns="metric", values="cell")
    names = [name for name in (*PREDICTORS[:3], *SRCC, "parsed") if name in wide]
    return wide.loc[list(dict.fromkeys(rows["model"])), names].rename_axis(columns=None)


def _over_runs(values: pd.Series, n: int) -> statistics.Interval:
    """Mean and 95 % t interval over independent trainings; no ends where there is only one."""
    mean, runs = float(values.mean()), len(values)
    if runs < 2:
        return statistics.Interval(mean, np.nan, np.nan, n, runs)
    half = stats.t.ppf(0.975, runs - 1) * values.std(ddof=1) / np.sqrt(runs)
    return statistics.Interval(mean, float(mean - half), float(mean + half), n, runs)


def verdicts(profile: Profile, data: Split, points: pd.DataFrame) -> pd.DataFrame:
    """How far NCM and NCM* fall from the first to the last checkpoint, cross entropy alone."""
    part = points[points["condition"] == PLAIN].sort_values("step").groupby("run", sort=False)
    rows = []
    for claim, metric in CLAIMS.items():
        fall = part[metric].first() - part[metric].last()
        interval = _over_runs(fall, len(data.test))
        row = evaluation.row(interval, data.name, PLAIN, f"fall of {metric}", profile.seeds)
        verdict = paper.verdict(interval.low, interval.high)
        rows.append(row | {"claim": claim, "verdict": verdict})
    return pd.DataFrame(rows)


def foresight(
    profile: Profile, data: Split, points: pd.DataFrame, seed: int, target: str = "srcc_expected"
) -> pd.DataFrame:
    """Rank correlation of a falling predictor with the SRCC of the free-running answers; tidy.

    `scope` is over all checkpoints but the first of each training, over those of the second half,
    or over the last ones, and these without the random start, which is far from the rest.
    Intervals: bootstrap over trainings, each drawn with all of its
    checkpoints.
    """
    last = points["step"].max()
    scopes = {
        "all checkpoints": points["step"] > 0,
        "second half": points["step"] > last / 2,
        "last checkpoint": points["step"] == last,
        "last, pretrained only": (points["step"] == last) & (points["condition"] != RANDOM),
    }
    rows = []
    for scope, chosen in scopes.items():
        part = points[chosen]
        for metric in PREDICTORS:
            interval = _correlation(part, metric, target, seed, profile.resamples)
            row = evaluation.row(interval, data.name, metric, f"srcc with {target}", profile.seeds)
            rows.append(row | {"scope": scope})
    return pd.DataFrame(rows)


def _correlation(
    part: pd.DataFrame, metric: str, target: str, seed: int, resamples: int
) -> statistics.Interval:
    """Of the checkpoints with an SRCC: a model that answers all alike has none."""
    part = part.dropna(subset=[target])
    runs = list(part["run"])
    if len(set(runs)) < 2:
        return statistics.Interval(np.nan, np.nan, np.nan, len(part))
    rng = np.random.default_rng([seed, 6])
    return statistics.bootstrap("srcc", part[target], -part[metric], rng, resamples, clusters=runs)


def shown_foresight(table: pd.DataFrame) -> pd.DataFrame:
    """Predictors by scope, each with its interval."""
    cells = [f"{r.estimate:+.2f} [{r.low:+.2f}, {r.high:+.2f}]" for r in table.itertuples()]
    wide = table.assign(cell=cells).pivot(index="model", columns="scope", values="cell")
    scopes = list(dict.fromkeys(table["scope"]))
    return wide.loc[list(dict.fromkeys(table["model"])), scopes].rename_axis(columns=None)


def save(
    profile: Profile,
    data: Split,
    result: pd.DataFrame,
    judged: pd.DataFrame,
    foreseen: pd.DataFrame,
    figures: Mapping[str, Figure],
    watch: results.Stopwatch,
) -> str:
    """Write the tables, the figures and the two claims."""
    facts = {
        "seeds": profile.seeds,
        "n": len(data.test),
        "n_parsed": None,  # a metric of the table: parsed
        "interval": "95 % t interval over trainings; of foresight: bootstrap over trainings",
        "data_hashes": {
            f"{side.name}, {part}": side.ids_hash
            for part, side in (("train", data.train), ("test", data.test))
        },
        "model_hash": hashes.of_model(profile.model),
        "started": watch,
        "notes": str(fine_tuning.recipe_record(profile.recipe, profile.view)),
    }
    results.save(NOTEBOOK, profile, result, figures=dict(figures), **facts)
    results.save(f"{NOTEBOOK}_foresight", profile, foreseen, **facts)
    tidy = judged.drop(columns="claim")
    path = results.save(f"{NOTEBOOK}_verdicts", profile, tidy, **facts)
    for row in judged.to_dict("records"):
        results.record_claim(
            profile,
            row["claim"],
            notebook="06",
            measured=f"{row['dataset']}, {PLAIN}",
            **{key: row[key] for key in results.FOUND},
            seeds=profile.seeds,
        )
    return path.parent.name


def summary(judged: pd.DataFrame, foreseen: pd.DataFrame) -> str:
    """The verdicts and the answer to the paper's question in sentences."""
    said = [
        f"{row.metric[0].upper()}{row.metric[1:]}: {row.estimate:.2f} squared points "
        f"[{row.low:.2f}, {row.high:.2f}] ({row.verdict})."
        for row in judged.itertuples()
    ]
    for scope, part in foreseen.dropna(subset="estimate").groupby("scope", sort=False):
        best = part.loc[part["estimate"].idxmax(), "model"]
        star = part.set_index("model").reindex(PREDICTORS).loc["ncm_star"]
        said.append(
            f"Does a lower NCM* go with a higher free-running SRCC? {scope[0].upper()}{scope[1:]}: "
            f"rank correlation {star['estimate']:+.2f} [{star['low']:+.2f}, {star['high']:+.2f}]; "
            f"the best predictor is {best} ({part['estimate'].max():+.2f})."
        )
    return "\n".join(said)
