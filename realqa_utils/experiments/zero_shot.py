"""The experiment of Sec. 4.7 on video (notebook 10): models of photographs order clips.

Where there are no clips, everything here is empty, and `described` and `summary` say why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from realqa_utils.claims import comparison, paper
from realqa_utils.datasets import clips as generated
from realqa_utils.datasets import konvid, registry
from realqa_utils.datasets.table import Table
from realqa_utils.experiments import clip_scores, scorers
from realqa_utils.experiments.clip_scores import COUNTS, FRAMES, POOLINGS, pooled
from realqa_utils.measures import evaluation
from realqa_utils.measures.statistics import Interval
from realqa_utils.profiles import Profile
from realqa_utils.records import hashes, results
from realqa_utils.training import fine_tuning

NOTEBOOK = "10_video_zero_shot"
CLAIM = "S47-video-zero-shot"
READ, SHARPNESS = ("greedy", "expected"), "sharpness of the frames"
FEWEST = 10  # clips; of fewer, no correlation is told
Frames = Sequence[pd.DataFrame]  # as `clip_scores.readings` gives: one table a seed

# --- the clips -----------------------------------------------------------------------------------


def clips(profile: Profile) -> Table | None:
    """The mini world's clips, half as many as test photographs; on real data those of KoNViD-1k
    that are below REALQA_DATA, and None where there are none."""
    if profile.data == "mini":
        cache = results.root() / "runs" / "world"
        return generated.build(profile.test_images // 2, 1, cache, profile.workers)
    try:
        return konvid.load(registry.data_folder(), present_only=True)
    except FileNotFoundError:
        return None


def described(clips: Table | None) -> str:
    """How many clips of what there are, or how to get some."""
    if clips is None:
        return f"{konvid.TITLE} is left out, as no clip of it is below REALQA_DATA. {konvid.WHERE}"
    mos, scale = clips.frame["mos"], clips.scale
    said = f"{len(clips)} clips of {clips.name}; raters' mean {mos.mean():.2f}, standard deviation "
    said += f"{mos.std():.2f} on {scale.low:g}..{scale.high:g}"
    if "event" in clips.frame:
        counts = clips.frame["event"].value_counts().reindex(generated.EVENTS, fill_value=0)
        said += "; " + ", ".join(f"{count} {event}" for event, count in counts.items())
    if len(clips) < FEWEST:
        said += f"; too few for a correlation, which takes {FEWEST}"
    return said + "."


def readings(profile: Profile, clips: Table | None) -> tuple[Frames, Frames]:
    """What the models read, one table a seed each: held-out photographs of the set that they were
    trained on, and the clips' frames. Trains what is not on disk; without clips, nothing."""
    if clips is None:
        return [], []
    return clip_scores.photographs(profile), clip_scores.readings(profile, clips)


# --- correlations --------------------------------------------------------------------------------


def table(
    profile: Profile, clips: Table | None, frames: Frames, photographs: Frames, seed: int
) -> pd.DataFrame:
    """SRCC and PLCC by number of frames and pooling, of sharpness alone, and of photographs; tidy.

    `photographs` are readings of those that the models were trained for: what they can do at home.
    """
    rows = []
    for count, how in _ways() if frames else ():
        scored = [pooled(part, count, how) for part in frames]
        more = {"frames": count, "pooling": how}
        for model in READ:
            rows += _rows(profile, clips.name, scored, model, model, profile.seeds, seed, more)
        if how == "mean":
            sharp = [_sharp(scored[0])]
            rows += _rows(profile, clips.name, sharp, SHARPNESS, "expected", (), seed, more)
    home = scorers.home(profile)
    for model in READ if photographs else ():
        more = {"pooling": "photographs"}
        rows += _rows(profile, home, photographs, model, model, profile.seeds, seed, more)
    return pd.DataFrame(rows, columns=[*results.TABLE_COLUMNS, "frames", "pooling"])


def _ways() -> list[tuple[int, str]]:
    """Numbers of frames with poolings; of one frame they are all the same."""
    return [(count, how) for count in COUNTS for how in (POOLINGS if count > 1 else ("mean",))]


def _rows(profile, dataset, scored: Frames, model, column, seeds, seed, more) -> list[dict]:
    found = ((m, _estimate(m, scored, column, seed, profile.resamples)) for m in ("srcc", "plcc"))
    return [evaluation.row(i, dataset, model, metric, seeds, **more) for metric, i in found]


def _estimate(metric: str, scored: Frames, column: str, seed: int, resamples: int) -> Interval:
    if len(scored[0]) < FEWEST:
        return Interval(np.nan, np.nan, np.nan, len(scored[0]), len(scored))
    return evaluation.estimate(metric, scored, column, seed, resamples)


def _sharp(scored: pd.DataFrame) -> pd.DataFrame:
    """Sharpness in the place of the scores; a clip without one has the mean of the others."""
    values = scored["sharpness"].fillna(scored["sharpness"].mean())
    return scored.assign(greedy=values, expected=values)


def shown(table: pd.DataFrame, metric: str = "srcc") -> pd.DataFrame:
    """Models and poolings by number of frames, each estimate with its interval."""
    rows = table[(table["metric"] == metric) & table["frames"].notna()]
    rows = rows.assign(cell=[comparison.cell(row) for row in rows.to_dict("records")])
    wide = rows.pivot(index=["model", "pooling"], columns="frames", values="cell")
    order = rows.set_index(["model", "pooling"]).index.unique().sort_values()
    return wide.reindex(order).rename(columns=int).fillna("").rename_axis(columns="frames")


def by_event(clips: Table | None, frames: Frames) -> pd.DataFrame:
    """How far the expected score lies above the raters' mean, by what happens in a clip.

    In points of the 0..10 scale, mean over clips and seeds, by pooling of all eight frames. Empty
    where nothing is known of what happens.
    """
    if not frames or "event" not in clips.frame:
        return pd.DataFrame()
    found = {"clips": clips.frame["event"].value_counts()}
    event = clips.frame.set_index("id")["event"]
    for how in POOLINGS:
        scored = pd.concat([pooled(part, FRAMES, how) for part in frames])
        above = scored["expected"].fillna(evaluation.MIDDLE) - scored["target"]
        found[how] = above.groupby(scored["id"].map(event)).mean()
    return pd.DataFrame(found).reindex(generated.EVENTS).dropna()


# --- the claim -----------------------------------------------------------------------------------


def verdicts(profile: Profile, clips: Table | None, frames: Frames, seed: int) -> pd.DataFrame:
    """The SRCC of the mean of eight frames, and how much it is above that of something simpler.

    First come the greedy scores, whose SRCC is what the claim is judged on.
    """
    rows = []
    for read in READ if frames else ():
        for what, interval in _judged(profile, frames, read, seed).items():
            row = evaluation.row(interval, clips.name, read, what, profile.seeds)
            rows.append(row | {"verdict": paper.verdict(interval.low, interval.high)})
    return pd.DataFrame(rows, columns=[*results.TABLE_COLUMNS, "verdict"])


def _judged(profile: Profile, frames: Frames, read: str, seed: int) -> dict[str, Interval]:
    scored = {how: [pooled(part, FRAMES, how) for part in frames] for how in POOLINGS}
    ours = scored["mean"]
    pairs = {
        f"srcc - {SHARPNESS}": (ours, [_sharp(part) for part in ours]),
        "srcc - one frame": (ours, [pooled(part, 1) for part in frames]),
        "srcc, harmonic - mean": (scored["harmonic"], ours),
        "srcc, percentile - mean": (scored["percentile"], ours),
    }
    found = {"srcc": _estimate("srcc", ours, read, seed, profile.resamples)}
    for what, pair in pairs.items():
        if len(ours[0]) < FEWEST:
            found[what] = found["srcc"]  # undefined, as that is
        else:
            found[what] = evaluation.difference("srcc", *pair, read, seed, profile.resamples)
    return found


def in_print() -> pd.DataFrame:
    """What the paper and others say of KoNViD-1k; nothing of it can be set against ours."""
    ours = paper.stated().query("dataset.str.startswith('KoNViD')")
    theirs = paper.published().query("dataset.str.startswith('KoNViD')")
    rows = [(r.row, f"{r.metric} {r.value}", r.note, r.source) for r in ours.itertuples()]
    rows += [(r.method, f"srcc {r.srcc:.3f}", r.protocol, r.source) for r in theirs.itertuples()]
    return pd.DataFrame(rows, columns=["of", "value", "note", "source"]).set_index("of")


# --- what is kept and said -----------------------------------------------------------------------


def save(
    profile: Profile,
    clips: Table | None,
    frames: Frames,
    result: pd.DataFrame,
    judged: pd.DataFrame,
    figures: Mapping[str, Figure],
    watch: results.Stopwatch,
) -> str:
    """Write the tables and figures, and the claim if clips are enough; without any, nothing."""
    if clips is None:
        return ""
    counts = clip_scores.counted(frames)
    home = scorers.splits(profile)[0].train
    facts = {
        "seeds": profile.seeds,
        "n": counts["answers"],
        "n_parsed": counts["parsed"],
        "interval": "95 % percentile bootstrap over clips, pooled over training seeds",
        "data_hashes": {clips.name: clips.ids_hash, f"{home.name}, train": home.ids_hash},
        "model_hash": hashes.of_model(profile.model),
        "started": watch,
        "notes": f"{counts['decoded']} of {counts['clips']} clips decoded; "
        + str(fine_tuning.recipe_record(profile.recipe, profile.view)),
    }
    results.save(NOTEBOOK, profile, result, figures=dict(figures), **facts)
    path = results.save(f"{NOTEBOOK}_verdicts", profile, judged, **facts)
    if len(clips) >= FEWEST:
        _record(profile, clips, judged.iloc[0])
    return path.parent.name


def _record(profile: Profile, clips: Table, first: pd.Series) -> None:
    results.record_claim(
        profile,
        CLAIM,
        notebook="10",
        measured=f"{clips.name}, {first['model']}, {FRAMES} frames",
        **first[results.FOUND],
        seeds=profile.seeds,
    )


def summary(clips: Table | None, frames: Frames, result: pd.DataFrame, judged: pd.DataFrame) -> str:
    """The verdict, and what it is worth, in sentences."""
    if clips is None:
        return described(None)
    counts = clip_scores.counted(frames)
    lost = counts["clips"] - counts["decoded"]
    said = [
        f"{counts['decoded']} of {counts['clips']} clips were decoded"
        + (f"; the other {lost} count as the middle of the scale." if lost else ".")
    ]
    if len(clips) < FEWEST:
        return f"{said[0]} They are too few to judge the claim."
    reached = result.query("metric == 'srcc'")
    for read in READ:
        of = judged[judged["model"] == read].set_index("metric")
        home = reached[(reached["model"] == read) & (reached["pooling"] == "photographs")].iloc[0]
        said.append(
            f"{read.capitalize()} scores, mean of {FRAMES} frames: SRCC {_cell(of.loc['srcc'])}, "
            f"so that the claim {_said(of.loc['srcc', 'verdict'])}. On photographs of "
            f"{home['dataset']}, the set trained on, the same models reach {_cell(home)}."
        )
        said += [f"  {what}: {_cell(row, '+.3f')}, {_word(row)}" for what, row in of[1:].iterrows()]
    floor = reached[(reached["model"] == SHARPNESS) & (reached["frames"] == FRAMES)].iloc[0]
    said.append(
        "The claim asks for an order better than chance, which is a low bar: the mean sharpness of "
        f"the frames alone reaches {_cell(floor)}."
    )
    return "\n".join(said)


def _cell(row: pd.Series, form: str = ".3f") -> str:
    return comparison.cell(row, form)


def _said(verdict: str) -> str:
    return {"undecided": "is undecided"}.get(verdict, verdict)


def _word(row: pd.Series) -> str:
    return {"holds": "better", "fails": "worse"}.get(row["verdict"], "undecided")
