"""The experiment of chain of thought (notebook 08): one model labels, another reasons.

The labels of `tracking` become the chains that a scorer is trained on, beside direct answers. It
starts from the backbone, not from the model that labelled. It is compared with two trainings on
direct answers alone: one of as many steps, and one that sees as many direct answers, as the paper
has it (662 steps on three forms, 221 on one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import pandas as pd
from matplotlib.figure import Figure

from realqa_utils.claims import paper
from realqa_utils.datasets.table import Split
from realqa_utils.experiments import scorers, tracking, trials
from realqa_utils.experiments.tracking import TO_TRAIN_ON
from realqa_utils.forms.chains import CHAINS
from realqa_utils.forms.conversations import DIRECT as DIRECT_FORM
from realqa_utils.measures import evaluation, statistics
from realqa_utils.plotting import comparison_plots
from realqa_utils.profiles import Profile
from realqa_utils.records import results
from realqa_utils.training import labels
from realqa_utils.training.recipes import Recipe

NOTEBOOK = "08_chain_of_thought"
TRACKS, BEATS = "F2-attributes-track-mos", "S47-cot-beats-direct"
DIRECT, REASONED = "direct only", "direct + chain of thought"
BRIEF = "direct only, a third of the steps"
FORMS = ("direct", "cot_natural", "cot_regular")
NOISE = (0.0, 0.25, 0.5, 1.0)  # shares of wrong labels
Readings = Mapping[tuple[str, str], Sequence[pd.DataFrame]]  # (trained on, asked in) -> seeds

# --- chains --------------------------------------------------------------------------------------


def chained(profile: Profile, splits: Sequence[Split], said: pd.DataFrame) -> list[Split]:
    """The splits with self-labels in place of any true ones, on the training side.

    A photograph of which a label is missing is asked about directly only. On `smoke` the labelling
    model has learnt nothing, and the true labels stay.
    """
    if profile.name == "smoke":
        return list(splits)
    return [replace(s, train=labels.joined(s.train, said)) for s in splits]


def reasoners(profile: Profile, splits: Sequence[Split]) -> list[trials.Trial]:
    """Trainings on direct answers and both chains, one a seed."""
    return scorers.all_trials(profile, splits, profile.chains)


def plain(profile: Profile, splits: Sequence[Split], forms: int = 1) -> list[trials.Trial]:
    """Trainings by `direct_recipe`, one a seed."""
    return scorers.all_trials(profile, splits, direct_recipe(profile, forms))


def direct_recipe(profile: Profile, forms: int = 1) -> Recipe:
    """That of `reasoners` on direct answers only; of so many `forms`, the steps of one."""
    return replace(profile.chains, form="direct", steps=max(1, round(profile.chains.steps / forms)))


def show_conversations(split: Split) -> None:
    """The first training photograph with all labels in the three forms: questions and answers."""
    row = int(split.train.frame[list(labels.SLOTS)].notna().all(axis=1).argmax())
    frame, target = split.train.frame.iloc[row], split.train.targets[row]
    print(f"> {DIRECT_FORM.question}\n{DIRECT_FORM.answer(target, 3)}\n")
    for form in CHAINS.values():
        print(f"> {form.question}\n{form.answer(frame, target, 3)}\n")


def readings(profile: Profile, splits: Sequence[Split], said: pd.DataFrame) -> Readings:
    """The models trained on direct answers, asked directly, and the other in all three forms."""
    todo = plain(profile, splits), plain(profile, splits, len(FORMS))
    direct, brief = (scorers.readings(profile, trainings)["", "direct"] for trainings in todo)
    reasoned = scorers.readings(profile, reasoners(profile, chained(profile, splits, said)), FORMS)
    found = {(REASONED, form): reasoned["", form] for form in FORMS}
    return {(DIRECT, "direct"): direct, (BRIEF, "direct"): brief} | found


def noisy(
    profile: Profile, splits: Sequence[Split], shares: Sequence[float] = NOISE
) -> dict[float, list[pd.DataFrame]]:
    """Readings in the regular form after training on it alone, with a share of labels wrong.

    Half as many steps as with all three forms: it is still seen more often. One training a share,
    with the first seed: three would double the notebook.
    """
    seed = profile.seeds[0]
    todo = [
        scorers.trial(
            profile,
            replace(splits[0], train=labels.with_noise(splits[0].train, share, seed)),
            profile.chains,
            seed,
            form="cot_regular",
            steps=max(1, profile.chains.steps // 2),
        )
        for share in shares
    ]
    frames = scorers.readings(profile, todo, ["cot_regular"])["", "cot_regular"]
    return {share: [frame] for share, frame in zip(shares, frames, strict=True)}


# --- results -------------------------------------------------------------------------------------


def table(profile: Profile, dataset: str, found: Readings, seed: int) -> pd.DataFrame:
    """Every training, form of asking and way of reading, tidy."""
    rows = []
    for (model, form), frames in found.items():
        for read in ("greedy", "expected"):
            for metric in ("srcc", "plcc"):
                interval = evaluation.estimate(metric, frames, read, seed, profile.resamples)
                row = evaluation.row(interval, dataset, model, metric, profile.seeds)
                parsed = sum(f["parsed"].sum() for f in frames)
                share = parsed / sum(f["answers"].sum() for f in frames)
                rows.append(row | {"form": form, "read": read, "parsed": share})
    return pd.DataFrame(rows)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """SRCC with its interval, a training and form a row, a way of reading a column."""
    part = table[table["metric"] == "srcc"]
    cells = [f"{r.estimate:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in part.itertuples()]
    wide = part.assign(cell=cells).pivot(
        index=["model", "form", "parsed"], columns="read", values="cell"
    )
    return wide[["greedy", "expected"]].sort_index(level=[0, 1]).rename_axis(columns=None)


def noise_table(
    profile: Profile, dataset: str, found: Mapping[float, Sequence[pd.DataFrame]], seed: int
) -> pd.DataFrame:
    """SRCC against the share of wrong labels, tidy."""
    rows = []
    for share, frames in found.items():
        for read in ("greedy", "expected"):
            interval = evaluation.estimate("srcc", frames, read, seed, profile.resamples)
            row = evaluation.row(interval, dataset, "regular form", "srcc", profile.seeds[:1])
            rows.append(row | {"share_wrong": share, "read": read})
    return pd.DataFrame(rows, columns=[*results.TABLE_COLUMNS, "share_wrong", "read"])


def noise_figure(noise: pd.DataFrame, checked: pd.DataFrame, table: pd.DataFrame) -> Figure | None:
    """The curve of `noise_table`, with the errors of the self-labels marked; None without it."""
    if noise.empty:
        return None
    wrong = 1 - float(checked.loc["right", TO_TRAIN_ON])
    direct = table.query(f"model == '{DIRECT}' and read == 'expected' and metric == 'srcc'")
    marks = {"errors of the self-labels": wrong}
    return comparison_plots.noise(noise, marks, float(direct["estimate"].iloc[0]))


def verdicts(profile: Profile, dataset: str, found: Readings, seed: int) -> pd.DataFrame:
    """Paired difference of SRCC: with chains, asked in each form, minus each way without."""
    rows, others = [], [name for name in (DIRECT, BRIEF) if (name, "direct") in found]
    for against, form, read in product(others, FORMS, ("greedy", "expected")):
        interval = evaluation.difference(
            "srcc", found[REASONED, form], found[against, "direct"], read, seed, profile.resamples
        )
        row = evaluation.row(interval, dataset, REASONED, f"srcc - {against}", profile.seeds)
        verdict = paper.verdict(interval.low, interval.high)
        facts = {"form": form, "read": read, "against": against, "verdict": verdict}
        rows.append(row | facts)
    return pd.DataFrame(rows)


def save(
    profile: Profile,
    splits: Sequence[Split],
    parts: Mapping[str, pd.DataFrame],
    mean: statistics.Interval,
    figures: Mapping[str, Figure],
    watch: results.Stopwatch,
) -> str:
    """Write the tables ("", "tracking", "verdicts", "noise"), the figures and both claims.

    An empty table is left out. The claim about chains is judged at equal steps.
    """
    facts = scorers.facts(profile, [s.test for s in splits], profile.chains, watch)
    found = {name: part for name, part in parts.items() if len(part)}
    folder = results.save_parts(NOTEBOOK, profile, found, figures, **facts)
    results.record_claim(
        profile,
        TRACKS,
        notebook="08",
        measured="mean SRCC over sets and attributes, self-labels",
        **{key: getattr(mean, key) for key in results.FOUND},
        seeds=tracking.teachers(profile),
    )
    judged = parts["verdicts"]
    mine = (judged["form"] == "cot_regular") & (judged["against"] == DIRECT)
    row = judged[mine & (judged["read"] == "greedy")].iloc[0]
    results.record_claim(
        profile,
        BEATS,
        notebook="08",
        measured=f"{row['dataset']}, regular form, greedy, {profile.chains.steps} steps",
        **row[results.FOUND],
        seeds=profile.seeds,
    )
    return folder


def summary(judged: pd.DataFrame, mean: statistics.Interval, tracked: pd.DataFrame) -> str:
    """The verdicts in words."""
    positive = int((tracked["low"] > 0).sum())
    said = [
        f"Self-labelled attributes and MOS: mean SRCC {mean.estimate:+.2f} "
        f"[{mean.low:+.2f}, {mean.high:+.2f}] over sets and attributes; {positive} of "
        f"{len(tracked)} correlations are above 0 with their whole interval."
    ]
    words = {"holds": "is better than", "fails": "is worse than"}
    for row in judged.itertuples():
        verb = words.get(row.verdict, "cannot be told apart from")
        said.append(
            f"Trained on chains too, asked {row.form}, {row.read}: {verb} {row.against} "
            f"({row.estimate:+.3f}, {row.low:+.3f} to {row.high:+.3f})."
        )
    return "\n".join(said)
