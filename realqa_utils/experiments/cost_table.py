"""The result of notebook 12: speeds and ratios, what sampling does, how far a score is trusted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from realqa_utils.benchmarks import gpu_benchmark
from realqa_utils.datasets.table import Table
from realqa_utils.experiments import cost, cross_domain, granularity, scorers, trials
from realqa_utils.experiments.chain_of_thought import DIRECT as DIRECT_ONLY
from realqa_utils.experiments.chain_of_thought import REASONED
from realqa_utils.experiments.cost import (
    ANSWER_TOKENS,
    BATCH,
    BATCHED,
    CHAIN,
    DIGITS,
    FILLED,
    ONE,
    PREFILL,
    SIZES,
    TREE,
    attribute_ways,
    chain_ways,
    larger,
    ratio,
    timed,
    ways,
)
from realqa_utils.forms import scores
from realqa_utils.forms.chains import MAX_TOKENS, REGULAR
from realqa_utils.forms.conversations import DIRECT
from realqa_utils.images.photos import open_photo
from realqa_utils.measures import evaluation, statistics
from realqa_utils.model import backbone as backbones
from realqa_utils.model import quantised
from realqa_utils.model.backbone import Backbone
from realqa_utils.profiles import PROFILES, Profile, is_dry_run
from realqa_utils.records import provenance, results
from realqa_utils.scoring import calibration, decoding, digit_tree, form_filling

NOTEBOOK, MINI = "12_cost_and_speed", "mini, 2 M parameters"
#: What is aimed at on four cores: the slower way over the faster one, and the least ratio; for the
#: last two the most that ours may cost of a plain forward pass.
BARS: tuple[tuple[str, str, float], ...] = (
    (ONE, DIGITS, 25.0), (BATCHED, DIGITS, 1.5), (CHAIN, FILLED, 5.0),
)  # fmt: skip
FLOORS: tuple[tuple[str, str, float], ...] = ((DIGITS, PREFILL, 1.2), (TREE, PREFILL, 1.6))
FEW = 500  # photographs: more of them should cost no more each


def subjects(
    profile: Profile,
) -> tuple[dict[str, Backbone], Table, list[Image.Image], pd.DataFrame]:
    """Trained models ("direct", "chain", "attributes"), test photographs, opened, and how the
    first reads them. Trained here, where notebooks 02, 05 and 08 have not."""
    splits = scorers.splits(profile)
    found, test = cross_domain.models(profile, splits), splits[0].test
    cache = results.run_dir(profile, "trials")
    data = granularity.split(profile)
    told = granularity.teacher(profile, data, granularity.seeds(profile)[0])
    models = {
        "direct": trials.trained(found[DIRECT_ONLY][0], cache),
        "chain": trials.trained(found[REASONED][0], cache),
        "attributes": trials.trained(told, cache),
    }
    windows = [profile.view.windows(open_photo(path)) for path in test.frame["path"]]
    images = [part[len(part) // 2] for part in windows]
    readings = scorers.readings(profile, found[DIRECT_ONLY][:1])["", "direct"][0]
    return models, test, images, readings


def timings(
    profile: Profile, models: Mapping[str, Backbone], images: Sequence, rounds: int, seed: int
) -> dict[str, pd.DataFrame]:
    """Timings by model: the profile's in every way; beside the mini one, larger ones of random
    weights in the direct ways."""
    few, many = (4, 8) if _is_small(profile) else (16, 2 * BATCH)
    direct = ways(models["direct"], few, many) | chain_ways(models["chain"], many // 2)
    found = {subject(profile): timed(direct, images, rounds, seed)}
    for size in SIZES if profile.recipe.weights == "float32" else ():
        some = ways(larger(models["direct"], size), few // 4, many // 4, with_tree=False)
        found[size] = timed(some, images, 2, seed)
    return found


def subject(profile: Profile) -> str:
    """What the profile's model is called in the table."""
    return MINI if profile.model == "mini" else profile.model


def _is_small(profile: Profile) -> bool:
    return profile.name == "smoke" or is_dry_run()


def grown(
    profile: Profile, backbone: Backbone, images: Sequence, counts: Sequence[int]
) -> pd.DataFrame:
    """`cost.growth`; where nothing is claimed with no more than a hundred photographs."""
    most = 100 if _is_small(profile) else max(counts)
    return cost.growth(backbone, images, [count for count in counts if count <= most])


def growth(
    profile: Profile, models: Mapping[str, Backbone], images: Sequence, rounds: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Timings by number of digits, of the models of notebook 05, and of attributes."""
    cache, split = results.run_dir(profile, "trials"), scorers.splits(profile)[0]
    many, by_digits = 8 if _is_small(profile) else BATCH, {}
    for digits in (1, 2, 3, 4):
        trial = scorers.trial(profile, split, profile.recipe, profile.seeds[0], digits=digits)
        read = partial(digit_tree.read, trials.trained(trial, cache), digits=digits)
        by_digits[str(digits)] = (read, many)
    by_attributes = attribute_ways(models["attributes"], (1, 2, 5, 7, 10), many)
    return timed(by_digits, images, rounds, seed), timed(by_attributes, images, rounds, seed)


def same_answers(backbone: Backbone, images: Sequence) -> pd.DataFrame:
    """Chains as filled in beside those that `generate` writes: how many are the same."""
    filled = form_filling.fill(backbone, images, REGULAR)
    free = decoding.generate(backbone, [REGULAR.question] * len(images), images, MAX_TOKENS)
    read = [REGULAR.parse(text) for text in free]
    same = [f.parsed.values == said.values for f, (said, _) in zip(filled, read, strict=True)]
    scores_ = [f.reading.text == score.text for f, (_, score) in zip(filled, read, strict=True)]
    columns = {
        "photographs": len(images),
        "same attributes": sum(same),
        "same score": sum(scores_),
        "the model follows the form": sum(f.follows for f in filled),
    }
    return pd.DataFrame([columns])


def on_gpus() -> pd.DataFrame | str:
    """What `realqa benchmark-gpu` has measured: a column for each profile whose result is there,
    medians with the least and the most, and for memory what was planned."""
    columns = {}
    for profile in PROFILES:
        path = provenance.home() / "figures" / profile / f"{gpu_benchmark.STEM}.csv"
        if path.exists():
            card = json.loads(path.with_suffix(".json").read_text())["gpu"]
            rows = pd.read_csv(path).to_dict("records")
            columns[profile, card.removeprefix("NVIDIA ")] = {
                _measure(row): _measured(row) for row in rows
            }
    if not columns:
        return "nothing has been measured on a GPU yet: realqa benchmark-gpu"
    return pd.DataFrame(columns).fillna("")


def _measure(row: Mapping[str, object]) -> str:
    """In few words: the layout of a training is the profile's."""
    what = re.sub(r"^(training):.*?(, not checkpointed)?$", r"\1\2", row["model"])
    said = f"{what}: {row['metric']}".replace("times as fast as", "speed over")
    return said.replace("digit tree, every branch", "whole digit tree")


def _measured(row: Mapping[str, float]) -> str:
    middle, low, high, planned = (
        f"{row[key]:,.0f}" if row[key] >= 1000 else f"{row[key]:.3g}"
        for key in ("estimate", "low", "high", "planned")
    )
    is_planned = not np.isnan(row["planned"])
    return f"{middle}, planned {planned}" if is_planned else f"{middle} [{low}, {high}]"


def table(dataset: str, timings: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Photographs per second of every way and model, tidy: median, least and most of the rounds."""
    rows = []
    for model, frame in timings.items():
        for way, part in frame.groupby("way", sort=False):
            rates = 1 / part["seconds"].to_numpy()
            interval = statistics.Interval(
                float(np.median(rates)), rates.min(), rates.max(), len(rates)
            )
            row = evaluation.row(interval, dataset, way, "photographs/s", [])
            rows.append(row | {"size": model, "threads": cost.threads()})
    return pd.DataFrame(rows)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Photographs per second, a way a row, a model a column."""
    wide = table.pivot(index="model", columns="size", values="estimate")
    order = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["size"]))
    return wide.loc[order[0], order[1]].round(1).rename_axis(columns=None)


def ratios(dataset: str, frame: pd.DataFrame) -> pd.DataFrame:
    """How the ways compare on one model, each with what is aimed at and whether it is reached."""
    rows = []
    for slow, fast, bar in BARS + FLOORS:
        if {slow, fast} <= set(frame["way"]):
            middle, low, high = ratio(frame, slow, fast)
            interval = statistics.Interval(middle, low, high, int(frame["round"].nunique()))
            row = evaluation.row(interval, dataset, slow, f"time over that of {fast}", [])
            reached = middle <= bar if (slow, fast, bar) in FLOORS else middle >= bar
            words = "at most" if (slow, fast, bar) in FLOORS else "at least"
            facts = {"threads": cost.threads(), "aim": f"{words} {bar:g}", "reached": reached}
            rows.append(row | facts)
    return pd.DataFrame(rows)


def constancy(dataset: str, grown: pd.DataFrame) -> pd.DataFrame:
    """The most photographs of `cost.growth` against `FEW`, or the fewest where those are not in it:
    speed and peak memory, which are to get worse by no more than a tenth. As rows of `ratios`."""
    by_count = grown.set_index("photographs")
    many, few = by_count.index.max(), FEW if FEW in by_count.index else by_count.index.min()
    share, rows = by_count.loc[many] / by_count.loc[few], []
    for metric, value, aim, reached in (
        ("speed", share["per second"], "at least 0.9", share["per second"] >= 0.9),
        ("peak memory", share["peak MiB"], "at most 1.1", share["peak MiB"] <= 1.1),
    ):
        interval = statistics.Interval(float(value), np.nan, np.nan, int(many))
        words = f"{metric} over that of {few:,} photographs"
        row = evaluation.row(interval, dataset, f"{many:,} photographs", words, [])
        rows.append(row | {"aim": aim, "reached": bool(reached)})
    return pd.DataFrame(rows)


def sampled(
    backbone: Backbone, test: Table, images: Sequence, draws: int, seed: int, digits: int = 3
) -> pd.DataFrame:
    """Greedy answers, single sampled ones, and the mean of several: SRCC, and how they vary.

    `draws` answers a photograph as the authors decode (temperature 0.95, top-p 0.7, top-k 50).
    """
    questions = [DIRECT.question] * len(images)

    def ask(mode: str, number: int = 0) -> np.ndarray:
        said = decoding.generate(backbone, questions, images, ANSWER_TOKENS, mode, [seed, number])
        read = [scores.parse_score(text, digits).score for text in said]
        return np.array([np.nan if score is None else score for score in read])

    greedy = ask("greedy")
    drawn = np.stack([ask("sampled", number) for number in range(draws)])
    filled = np.where(np.isnan(drawn), evaluation.MIDDLE, drawn)
    single = [statistics.srcc(test.targets, row) for row in filled]
    rows = {
        "greedy": [statistics.srcc(test.targets, np.nan_to_num(greedy, nan=evaluation.MIDDLE))],
        f"sampled, each of {draws}": single,
        f"sampled, mean of {draws}": [statistics.srcc(test.targets, filled.mean(0))],
    }
    parsed = {0: np.isfinite(greedy).mean()}
    found = pd.DataFrame(
        {
            "SRCC": [np.mean(values) for values in rows.values()],
            "lowest": [np.min(values) for values in rows.values()],
            "highest": [np.max(values) for values in rows.values()],
        },
        index=list(rows),
    )
    found["parsed"] = [parsed[0], np.isfinite(drawn).mean(), np.isfinite(drawn).mean()]
    found["sd of one photograph"] = [0.0, filled.std(0, ddof=1).mean(), np.nan]
    return found


def four_bits(
    profile: Profile, backbone: Backbone, test: Table, images: Sequence, count: int = 200
) -> pd.DataFrame:
    """What 4-bit weights change (`quantised.agreement`), tidy: `model` says how weights are kept.

    Of the trained model; where an adapter was trained, of the backbone below it.
    """
    is_whole = profile.recipe.language == "full"
    given = backbone if is_whole else backbones.load(profile.model)
    found = quantised.agreement(given, images[:count], test.targets[:count])
    rows = []
    for weights, part in found.set_index("weights").drop(columns="n").iterrows():
        for metric, value in part.items():
            interval = statistics.Interval(value, np.nan, np.nan, len(images[:count]))
            rows.append(evaluation.row(interval, test.name, weights, metric, profile.seeds[:1]))
    return pd.DataFrame(rows)


def shown_bits(table: pd.DataFrame) -> pd.DataFrame:
    """Ways of keeping the weights by measure."""
    wide = table.pivot(index="model", columns="metric", values="estimate")
    order = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["metric"]))
    return wide.loc[order[0], order[1]].round(3).rename_axis(columns=None)


def trust(frame: pd.DataFrame, seed: int) -> tuple[calibration.Calibration, pd.DataFrame]:
    """A calibration from half of the readings, and the other half with intervals from it."""
    order = np.random.default_rng([seed, 12]).permutation(len(frame))
    half = len(order) // 2
    # of few photographs, as on `smoke`, no high level can be promised
    levels = [x for x in calibration.LEVELS if half >= max(2 * calibration.least_rows(x) - 1, 2)]
    fitted = calibration.fit(frame.iloc[order[:half]].reset_index(drop=True), levels, seed=seed)
    return fitted, frame.iloc[order[half:]].reset_index(drop=True)


def save(
    profile: Profile,
    test: Table,
    parts: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Figure],
    watch: results.Stopwatch,
) -> str:
    """Write the tables ("", "ratios", "four_bits") and the figures. Times differ between runs."""
    facts = scorers.facts(profile, [test], profile.recipe, watch) | {
        "seeds": profile.seeds[:1],
        "interval": "minimum and maximum of alternating rounds; median between",
        "notes": "times of this machine; they differ from run to run",
    }
    return results.save_parts(NOTEBOOK, profile, parts, figures, **facts)


def summary(compared: pd.DataFrame) -> str:
    """The ratios in words."""
    return "\n".join(
        f"{row.model}: {row.estimate:.2f} [{row.low:.2f}, {row.high:.2f}] times the time of "
        f"{row.metric.removeprefix('time over that of ')} (aim: {row.aim}; "
        f"{'reached' if row.reached else 'not reached'})."
        for row in compared.itertuples()
    )
