"""What sorting says of scoring (notebook 04): Table 3, the claim, and the rank correlation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from realqa_utils.claims import paper
from realqa_utils.datasets.table import Split
from realqa_utils.experiments import scorers
from realqa_utils.measures import evaluation, statistics
from realqa_utils.measures.resampling import draw_counts
from realqa_utils.measures.statistics import Interval
from realqa_utils.number_sorting import number_text, sorting
from realqa_utils.profiles import Profile
from realqa_utils.records import results

CLAIM = "T3-sorting-separates-models"
NOTEBOOK = "04_number_sorting"
READINGS = ("greedy", "expected")
#: By what the sorters are ranked: of the paper's lists, the finest of the measures of order.
RANKED_BY = "position"
#: Measures that may foresee the SRCC; less hallucination is better.
SIGNS = {"position": 1, "recall": 1, "hallucination": -1}
Answers = Mapping[str, pd.DataFrame]  # model -> frame of `sorting.probe`
Scores = Mapping[str, Sequence[pd.DataFrame]]  # model -> readings, one a seed


# --- Table 3 -------------------------------------------------------------------------------------


def table(
    answers: Mapping[int, Answers], list_seed: int, seed: int, resamples: int
) -> pd.DataFrame:
    """Every measure of every sorter on every kind of lists, tidy."""
    parts = [sorting.table(found, list_seed, seed, resamples) for found in answers.values()]
    return pd.concat(parts, ignore_index=True)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Ours with intervals on the paper's lists, and below them the paper's Table 3 as printed."""
    ours = table[table["dataset"] == table["dataset"].iloc[0]]
    cells = [f"{r.estimate:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in ours.itertuples()]
    wide = ours.assign(cell=cells).pivot(index="model", columns="metric", values="cell")
    wide = wide.loc[ours["model"].unique(), list(sorting.MEASURES)]
    rows = paper.printed(3)
    printed = rows.pivot(index="row", columns="metric", values="value").loc[rows["row"].unique()]
    printed = printed.map("{:.3f}".format).reindex(columns=wide.columns, fill_value="")
    parts = {"ours": wide, "the paper's, not comparable": printed}
    return pd.concat(parts, names=["", "model"]).rename_axis(columns=None)


# --- sorting against scoring ---------------------------------------------------------------------


def scores_table(
    profile: Profile, data: Sequence[Split], scores: Scores, seed: int
) -> pd.DataFrame:
    """SRCC of every fine-tuned model, read greedily and as expected score, tidy."""
    rows = []
    for model, frames in scores.items():
        for reading in READINGS:
            interval = evaluation.estimate("srcc", frames, reading, seed, profile.resamples)
            row = evaluation.row(interval, data[0].name, model, "srcc", number_text.seeds(profile))
            rows.append(row | {"reading": reading})
    return pd.DataFrame(rows)


def points(answers: Answers, scores: Scores) -> pd.DataFrame:
    """One row a fine-tuning: what its model sorted before, and the SRCC of its scores."""
    rows = []
    for model, frames in scores.items():
        for run, frame in zip(sorting.runs(answers[model]), frames, strict=True):
            sorted_by = {m: sorting.estimate(run, m, 0, 1).estimate for m in sorting.MEASURES}
            srcc = {name: _srcc(frame, name) for name in READINGS}
            rows.append({"model": model, **sorted_by, **srcc})
    return pd.DataFrame(rows)


def _srcc(frame: pd.DataFrame, reading: str) -> float:
    return statistics.srcc(frame["target"], frame[reading].fillna(evaluation.MIDDLE))


def foresight(
    profile: Profile, data: Sequence[Split], found: pd.DataFrame, seed: int
) -> pd.DataFrame:
    """Rank correlation of what a model sorts with the SRCC that it scores with later; tidy.

    `found` is that of `points`. 95 % bootstrap over models, each drawn with all its fine-tunings.
    """
    rows = []
    for measure, sign in SIGNS.items():
        for reading in READINGS:
            interval = _correlation(found, measure, sign, reading, seed, profile.resamples)
            name = f"srcc with {reading}"
            row = evaluation.row(interval, data[0].name, measure, name, number_text.seeds(profile))
            rows.append(row)
    return pd.DataFrame(rows)


def _correlation(
    found: pd.DataFrame, measure: str, sign: int, reading: str, seed: int, resamples: int
) -> Interval:
    """Of the models with both; without two of them there is nothing to rank."""
    part = found.dropna(subset=[measure, reading])
    if part["model"].nunique() < 2:
        return Interval(np.nan, np.nan, np.nan, len(part))
    rng = np.random.default_rng([seed, 4])
    return statistics.bootstrap(
        "srcc", part[reading], sign * part[measure], rng, resamples, clusters=list(part["model"])
    )


# --- the claim -----------------------------------------------------------------------------------


def ends(answers: Answers, models: Sequence[str]) -> tuple[str, str]:
    """The best and the worst sorter among `models`; of equals the first and the last.

    Sorting is all that is looked at: the choice cannot lean on the scores.
    """
    place = {model: float(answers[model][RANKED_BY].mean()) for model in models}
    return max(place, key=place.get), min(reversed(place), key=place.get)


def verdicts(
    profile: Profile,
    data: Sequence[Split],
    answers: Answers,
    scores: Scores,
    seed: int,
    comparable: Sequence[str] = (),
) -> pd.DataFrame:
    """Best sorter minus worst: what they sort, then the SRCC that they score with, paired.

    Both are `comparable`, else `number_text.comparable`. Then the best minus every other model.
    """
    best, worst = ends(answers, comparable or number_text.comparable(profile))
    if best == worst:  # one model is compared with nothing
        return pd.DataFrame(columns=[*results.TABLE_COLUMNS, "verdict"])
    others = [worst, *(model for model in scores if model not in (best, worst))]
    rows = []
    for other in others:
        facts = {"model": f"{best} minus {other}", "metric": RANKED_BY, "seeds": []}
        gap = sorting_gap(answers[best], answers[other], seed, profile.resamples)
        rows.append(_row(gap, facts | {"dataset": sorting.lists_name(answers[best])}))
        for reading in READINGS:
            facts |= {"metric": f"srcc, {reading}", "seeds": number_text.seeds(profile)}
            interval = evaluation.difference(
                "srcc", scores[best], scores[other], reading, seed, profile.resamples
            )
            rows.append(_row(interval, facts | {"dataset": data[0].name}))
    return pd.DataFrame(rows)


def sorting_gap(a: pd.DataFrame, b: pd.DataFrame, seed: int, resamples: int) -> Interval:
    """Difference of two sorters in the places that are right, paired by list, pooled over runs."""
    sides = [np.stack([run[RANKED_BY] for run in sorting.runs(side)]) for side in (a, b)]
    gaps = sides[0] - sides[1]  # (runs, lists)
    rng, count = np.random.default_rng(seed), gaps.shape[1]
    drawn = np.concatenate([c @ gaps.T for c in draw_counts(rng, resamples, np.arange(count))])
    low, high = np.quantile(drawn / count, (0.025, 0.975))
    return Interval(float(gaps.mean()), float(low), float(high), count)


def _row(interval: Interval, facts: dict) -> dict:
    row = evaluation.row(interval, **facts)
    return row | {"verdict": paper.verdict(interval.low, interval.high)}


def decide(judged: pd.DataFrame) -> str:
    """The claim's verdict: that of the SRCC, if the sorters themselves can be told apart."""
    if not len(judged):
        return "undecided"
    gap, greedy = judged.iloc[0], judged.iloc[1]
    return greedy["verdict"] if gap["verdict"] == "holds" else "undecided"


def facts_of(
    profile: Profile, data: Sequence[Split], table: pd.DataFrame, watch: results.Stopwatch
) -> dict[str, object]:
    """For the record: of a `table` whose first rows are about the paper's kind of lists."""
    return scorers.facts(profile, [s.test for s in data], profile.recipe, watch) | {
        "seeds": number_text.seeds(profile),
        "n": int(table["n"].iloc[0]),
        "interval": "95 % percentile bootstrap: of sorting over lists, of SRCC over test images, "
        "both pooled over seeds or splits, of foresight over models",
    }


def save(
    profile: Profile, data: Sequence[Split], tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Figure], watch: results.Stopwatch,
) -> str:  # fmt: skip
    """Write the tables by their suffix ("" and "verdicts" among them), the figures, the claim.

    Of the first, only the paper's kind of lists stays in it; others go to the suffix "short".
    """
    judged, whole = tables["verdicts"], tables[""]
    is_first = whole["dataset"] == whole["dataset"].iloc[0]
    parts = {"": whole[is_first], "short": whole[~is_first]}
    tables = {**tables, **{name: part for name, part in parts.items() if len(part)}}
    names = list(tables["scores"]["model"].unique())
    facts = facts_of(profile, data, tables[""], watch) | {"notes": f"{names}; {profile.recipe}"}
    folder = results.save_parts(NOTEBOOK, profile, tables, figures, **facts)
    if not len(judged):
        return folder
    first = judged.iloc[1]
    results.record_claim(
        profile,
        CLAIM,
        notebook="04",
        measured=f"SRCC on {first['dataset']}, {first['model']}, greedy",
        verdict=decide(judged),
        **first[results.FOUND],
        seeds=facts["seeds"],
    )
    return folder


def summary(table: pd.DataFrame, judged: pd.DataFrame, foreseen: pd.DataFrame) -> str:
    """The result in sentences."""
    said = []
    for dataset, part in table[table["model"].isin(_sorters(table))].groupby("dataset", sort=False):
        best = part[part["metric"] == RANKED_BY].sort_values("estimate").iloc[-1]
        whole = part[(part["metric"] == "accuracy") & (part["model"] == best["model"])].iloc[0]
        said.append(
            f"{dataset}: the best sorter ({best['model']}) has {best['estimate']:.1%} of the "
            f"places right and {whole['estimate']:.1%} of the lists."
        )
    for row in judged.itertuples():
        interval = f"{row.estimate:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
        said.append(f"{row.metric}, {row.model}: {interval} ({row.verdict}).")
    said.append(f"The claim: {decide(judged)}.")
    for row in foreseen[foreseen["model"] == RANKED_BY].dropna(subset="estimate").itertuples():
        said.append(
            f"Rank correlation of {row.model} and {row.metric}: {row.estimate:+.2f} "
            f"[{row.low:+.2f}, {row.high:+.2f}]."
        )
    return "\n".join(said)


def _sorters(table: pd.DataFrame) -> list[str]:
    return [m for m in table["model"].unique() if m not in number_text.BASELINES]
