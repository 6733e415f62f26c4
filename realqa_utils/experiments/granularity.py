"""The experiment of Table 2 (notebook 03): train on attributes singly, by level, or all at once.

Every row has the same photographs and seeds, and the same optimisation steps or, at the paper's
size, epochs. A model is asked in the form that it was trained on; the one trained on all 13 sets is
asked in each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from realqa_utils import datasets
from realqa_utils.claims import paper
from realqa_utils.datasets.table import Split
from realqa_utils.experiments import attribute_scores, trials
from realqa_utils.experiments.attribute_scores import AVERAGE
from realqa_utils.experiments.trials import Trial
from realqa_utils.forms.conversations import STAGE_1
from realqa_utils.profiles import Profile, get_profile
from realqa_utils.records import results
from realqa_utils.scoring import labelling
from realqa_utils.training.recipes import Recipe

CLAIM = "T2-mixed-granularity-best"
NOTEBOOK = "03_training_granularity"
SET = "mini-koniq"
#: In what the model of Table 1 is asked, which also labels for chains.
TOLD = "mix"
#: What is trained on -> what it is asked in.
ASKED: dict[str, tuple[str, ...]] = {
    "attributes": ("attributes",),
    "levels": ("levels",),
    "mix": ("mix",),
    "mix_low_first": ("mix_low_first",),
    "all": ("mix", "levels", "attributes"),
}
#: The rows of Table 2, in the paper's words.
TITLES = {
    "attributes": "Attributes",
    "levels": "Levels",
    "mix": "Mix (high-middle-low)",
    "mix_low_first": "Mix (low-middle-high)",
    "all": "Mix+Levels+Attributes (high-middle-low)",
}
Readings = Mapping[tuple[str, str], Sequence[pd.DataFrame]]  # (trained on, asked in) -> seeds


def split(profile: Profile) -> Split:
    """The labelled photographs to learn from and to be judged on.

    Of real sets RealQA alone has labels of attributes: profiles without it take generated ones.
    """
    return datasets.open_labelled(_labelled(profile), SET)


def seeds(profile: Profile) -> tuple[int, ...]:
    """Training seeds of stage 1."""
    return _labelled(profile).seeds


def _labelled(profile: Profile) -> Profile:
    is_mine = profile.data == "mini" or profile.labels == "realqa"
    return profile if is_mine else get_profile("mini")


def recipe(profile: Profile, trained_on: str) -> Recipe:
    """Of a row of Table 2: as the profile's own, of equal steps or, with `equal_epochs`, epochs."""
    own, share = profile.stage_1, 1.0
    if profile.equal_epochs:
        share = len(STAGE_1[trained_on]) / len(STAGE_1[own.form])
    return replace(own, form=trained_on, steps=max(1, round(own.steps * share)))


def trial(profile: Profile, data: Split, trained_on: str, seed: int) -> Trial:
    """One training of stage 1; of the profile's own the weights are kept, to label with."""
    view, asked = _labelled(profile).view, ASKED[trained_on]
    keep = trained_on == profile.stage_1.form
    taught = replace(recipe(profile, trained_on), seed=seed)
    return Trial(data, taught, view, profile.model, asked, keep=keep)


def teacher(profile: Profile, data: Split, seed: int) -> Trial:
    """The training behind Table 1: at few steps the mixed question teaches most, at the paper's
    size it is all sets together."""
    return trial(profile, data, profile.stage_1.form, seed)


def readings(profile: Profile, data: Split, trained_on: Sequence[str] = tuple(ASKED)) -> Readings:
    """Train and ask every row and seed; trials run side by side and are kept on disk."""
    keys = [(name, seed) for name in trained_on for seed in seeds(profile)]
    todo = [trial(profile, data, name, seed) for name, seed in keys]
    frames = trials.run_all(todo, results.run_dir(profile, "trials"), profile.workers)
    found: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for (name, _), frame in zip(keys, frames, strict=True):
        for asked in ASKED[name]:
            found.setdefault((name, asked), []).append(frame[frame["asked"] == asked])
    return found


def table(profile: Profile, data: Split, found: Readings, seed: int) -> pd.DataFrame:
    """Per attribute and on average, SRCC and PLCC of every row, tidy."""
    truth = labelling.true_codes(data.test.frame)
    parts = []
    for (name, asked), runs in found.items():
        facts = {"dataset": data.name, "model": TITLES[name], "seeds": seeds(profile)}
        part = attribute_scores.table(runs, truth, seed, profile.resamples, **facts)
        parts.append(part.assign(asked=asked))
    return pd.concat(parts, ignore_index=True)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of Table 2: averages, beside the paper's as printed (RealQA, 7B: not comparable)."""
    averages = table[table["attribute"] == AVERAGE]
    wide = averages.pivot(index=["model", "asked"], columns="metric", values="estimate")
    interval = averages[averages["metric"] == "srcc"].set_index(["model", "asked"])
    wide["srcc interval"] = [
        f"{interval.loc[key, 'low']:.3f} .. {interval.loc[key, 'high']:.3f}" for key in wide.index
    ]
    order = [(TITLES[name], asked) for name in ASKED for asked in ASKED[name]]
    wide = wide.loc[[key for key in order if key in wide.index]]
    printed = paper.printed(2).pivot(index="row", columns="metric", values="value")
    for metric in ("srcc", "plcc"):
        wide[f"paper's {metric}"] = [printed[metric].get(model) for model, _ in wide.index]
    return wide.rename_axis(columns=None).round(3)


def verdicts(profile: Profile, data: Split, found: Readings, seed: int) -> pd.DataFrame:
    """Average of the model trained on all sets, asked at once, minus that of every other row.

    Then the same of the mixed question, which the paper has next to the top.
    """
    truth = labelling.true_codes(data.test.frame)
    names = [name for name, _ in found if name != "all"]
    pairs = [("all", name) for name in names]
    pairs += [("mix", name) for name in names if not name.startswith("mix")]
    rows = []
    for name, other in pairs:
        interval = attribute_scores.difference(
            found[name, "mix"], found[other, other], truth, seed, profile.resamples
        )
        rows.append(
            {"dataset": data.name, "model": f"{TITLES[name]} minus {TITLES[other]}",
             "metric": "average srcc", "estimate": interval.estimate, "low": interval.low,
             "high": interval.high, "n": interval.n, "seeds": seeds(profile),
             "verdict": paper.verdict(interval.low, interval.high)}
        )  # fmt: skip
    return pd.DataFrame(rows)


def summary(judged: pd.DataFrame) -> str:
    """The verdicts in sentences."""
    word = {"holds": "better than", "fails": "worse than", "undecided": "not told apart from"}
    said = []
    for row in judged.itertuples():
        name, other = row.model.split(" minus ")
        interval = f"{row.estimate:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
        said.append(f"{name} is {word[row.verdict]} {other}: {interval}.")
    return "\n".join(said)


def save(
    profile: Profile,
    data: Split,
    result: pd.DataFrame,
    judged: pd.DataFrame,
    figure: Figure,
    watch: results.Stopwatch,
) -> str:
    """Write the tables, the figure, and the claim: against the best of the other rows."""
    facts = attribute_scores.facts(profile, data, seeds(profile), watch)
    results.save(NOTEBOOK, profile, result, figures={"": figure}, **facts)
    path = results.save(f"{NOTEBOOK}_verdicts", profile, judged, **facts)
    against = judged[judged["model"].str.startswith(TITLES["all"])]
    hardest = against.loc[against["estimate"].idxmin()]
    results.record_claim(
        profile,
        CLAIM,
        notebook="03",
        measured=hardest["model"],
        **hardest[results.FOUND],
        seeds=seeds(profile),
    )
    return path.parent.name
