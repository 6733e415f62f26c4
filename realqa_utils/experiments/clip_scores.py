"""Scores of clips by models that saw photographs only: sampled frames, read one by one, pooled.

The models are those of `scorers`. Of every clip eight frames are read, from the middles of eight
equal parts of its time, and fewer are a choice among these. Readings are kept on disk, a file for
each model and part of the clips, so that a run that was cut off goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from realqa_utils import parallel
from realqa_utils.datasets.table import Table
from realqa_utils.experiments import scorers, trials
from realqa_utils.experiments.baselines import MAX_SIDE, log_laplacian_variance
from realqa_utils.experiments.trials import Trial
from realqa_utils.images.views import View
from realqa_utils.model.backbone import Backbone
from realqa_utils.profiles import Profile
from realqa_utils.records import hashes, results
from realqa_utils.scoring import video

FRAMES = 8
COUNTS = (1, 2, 4, 8)  # of frames that are pooled
POOLINGS = ("mean", "harmonic", "percentile")
POOLED = ("greedy", "expected", "sharpness")
PART = 40  # clips that are read in one go by all models
TOGETHER = 8  # .. and of which the pictures are held at once: a model is slow on few
CODE = ("experiments.clip_scores", "scoring.video")
COLUMNS = (
    "id", "target", "frame", "time", "greedy", "expected", "sd", "parsed", "answers", "sharpness",
    "problem",
)  # fmt: skip

# --- models and readings -------------------------------------------------------------------------


def scoring_trials(profile: Profile) -> list[Trial]:
    """The trainings of the models, one for every seed: photographs of one set, M = 3."""
    return scorers.all_trials(profile, scorers.splits(profile))


def photographs(profile: Profile) -> list[pd.DataFrame]:
    """Train what is not on disk; what is read of the held-out photographs of the set that was
    trained on, one table a seed: the models at home."""
    return scorers.readings(profile, scoring_trials(profile))["", "direct"]


def readings(profile: Profile, clips: Table) -> list[pd.DataFrame]:
    """What `score` finds, one table for every seed of the profile; kept on disk."""
    job = partial(_read, todo=scoring_trials(profile), cache=results.run_dir(profile, "trials"))
    ids = list(clips.frame["id"])
    parts = [clips.subset(ids[start : start + PART]) for start in range(0, len(ids), PART)]
    found = parallel.run_all(job, parts, profile.workers, "scoring clips")
    return [pd.concat(tables, ignore_index=True) for tables in zip(*found, strict=True)]


def _read(clips: Table, todo: Sequence[Trial], cache: Path) -> list[pd.DataFrame]:
    """The readings of some clips, one table a training; each clip is decoded once for all."""
    paths = [Path(cache) / f"clips-{_key(trial, clips)}.csv" for trial in todo]
    missing = [(path, trial) for path, trial in zip(paths, todo, strict=True) if not path.exists()]
    if missing:
        models = [trials.trained(trial, cache) for _, trial in missing]
        found = score(models, clips, todo[0].view, todo[0].recipe.digits)
        for (path, _), table in zip(missing, found, strict=True):
            results.write_table(path, table)
    texts = {"id": str, "problem": str}
    return [pd.read_csv(path, dtype=texts).fillna({"problem": ""}) for path in paths]


def _key(trial: Trial, clips: Table) -> str:
    reading = trials.key_of_reading(trial, clips, "clips")
    return hashes.of_facts({"reading": reading, "code": hashes.of_code(CODE)})


def score(
    models: Sequence[Backbone], clips: Table, view: View, digits: int = 3
) -> list[pd.DataFrame]:
    """One table a model, with a row for each of eight frames of each clip, in the clips' order.

    Columns: id, target (the clip's MOS on 0..10), frame (0..7), time (seconds), greedy, expected,
    sd, parsed and answers (windows of the frame, see `views`), sharpness, problem. A clip that
    cannot be decoded has one row, frame -1, that says why in `problem`.
    """
    parts: list[list[pd.DataFrame]] = [[] for _ in models]
    for facts, windows in _sampled(clips, view):
        whole = facts.index[facts["problem"] == ""]
        for tables, model in zip(parts, models, strict=True):
            found = trials.read_windows(model, windows, digits) if windows else pd.DataFrame()
            tables.append(facts.join(found.set_axis(whole)))
    return [pd.concat(tables, ignore_index=True).reindex(columns=COLUMNS) for tables in parts]


def _sampled(clips: Table, view: View) -> Iterator[tuple[pd.DataFrame, list]]:
    """What is known of frames before a model reads them, and the windows of each; in parts."""
    rows, windows = [], []
    listed = zip(clips.frame["id"], clips.frame["path"], clips.targets, strict=True)
    for number, (id_, path, target) in enumerate(listed, 1):
        clip = {"id": id_, "target": target, "problem": ""}
        try:
            for frame, (time, image) in enumerate(video.timed_frames(path, FRAMES)):
                seen = {"frame": frame, "time": time, "sharpness": sharpness(image)}
                rows.append(clip | seen)
                windows.append(view.windows(image))
        except (video.VideoError, FileNotFoundError) as error:
            rows.append(clip | {"frame": -1, "problem": str(error)})
        if number % TOGETHER == 0 or number == len(clips):
            yield pd.DataFrame(rows), windows
            rows, windows = [], []


def sharpness(image: Image.Image) -> float:
    """Log variance of the Laplacian of the luma: a baseline that knows nothing but focus.

    Flat pictures have 0. Pictures whose longer side exceeds `baselines.MAX_SIDE` are reduced to it.
    """
    grey = image.convert("L")
    grey.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    return log_laplacian_variance(np.asarray(grey, np.float32))


# --- from frames to clips ------------------------------------------------------------------------


def positions(count: int) -> list[int]:
    """Which of the eight frames stand for `count`: those nearest to the middles of equal parts.

    Of two that are equally near, the later one.

    >>> [positions(count) for count in COUNTS]
    [[4], [2, 6], [1, 3, 5, 7], [0, 1, 2, 3, 4, 5, 6, 7]]
    """
    return [(2 * k + 1) * FRAMES // (2 * count) for k in range(count)]


def pooled(frames: pd.DataFrame, count: int = FRAMES, how: str = "mean") -> pd.DataFrame:
    """One row per clip: id, target, and greedy, expected and sharpness over `count` frames.

    `how` is a pooling of `video.pool`. A frame without a greedy score is left out of the clip's; a
    clip without any has NaN, which `evaluation` counts as the middle of the scale.
    """
    clips = frames.drop_duplicates("id").set_index("id")[["target"]]
    for name in POOLED:
        wide = frames.pivot(index="id", columns="frame", values=name)
        values = wide.reindex(index=clips.index, columns=positions(count)).to_numpy()
        clips[name] = [_pool(row[~np.isnan(row)], how) for row in values]
    return clips.reset_index()


def _pool(values: np.ndarray, how: str) -> float:
    return video.pool(values, how) if len(values) else np.nan


def problems(frames: pd.DataFrame) -> pd.DataFrame:
    """The clips that could not be decoded: id and why."""
    return frames.loc[frames["problem"] != "", ["id", "problem"]].reset_index(drop=True)


def counted(frames: Sequence[pd.DataFrame]) -> dict[str, int]:
    """Clips, how many could be decoded, and greedy answers: how many, how many of them parsed.

    Answers are counted over all seeds.
    """
    clips = frames[0]["id"].nunique() if frames else 0
    return {
        "clips": clips,
        "decoded": clips - sum(len(problems(table)) for table in frames[:1]),
        "answers": int(sum(table["answers"].sum() for table in frames)),
        "parsed": int(sum(table["parsed"].sum() for table in frames)),
    }
