"""Single clips read frame by frame: the score over time, with how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from realqa_utils.datasets import clips as generated
from realqa_utils.datasets.table import Table
from realqa_utils.experiments import clip_scores, scorers, trials
from realqa_utils.images.views import View
from realqa_utils.model.backbone import Backbone
from realqa_utils.profiles import Profile
from realqa_utils.scoring import video

MOMENTS = 24  # that are read of a clip
DIGITS = 3  # M of the models of `scorers`
STILLS = 8  # that are shown of it


@dataclass(frozen=True)
class Timeline:
    """One clip over time; scores are on the 0..10 scale."""

    title: str
    target: float  # the raters' mean
    scores: pd.DataFrame  # of the moments: time in seconds, greedy, expected, sd
    stills: Sequence[tuple[float, Image.Image]]  # time and picture
    truth: pd.Series | None  # hidden quality by time, where it is known


def timelines(profile: Profile, clips: Table | None, frames: Sequence[pd.DataFrame]) -> list:
    """Timelines of some clips that can be decoded (`chosen`), read by the model of the first seed.

    `frames` are the readings of all clips; without clips there are no timelines.
    """
    if clips is None:
        return []
    whole = clips.subset(~clips.frame["id"].isin(clip_scores.problems(frames[0])["id"]))
    model = scorers.trained(profile, clip_scores.scoring_trials(profile)[0])
    rows = chosen(whole).iterrows()
    return [timeline(model, row, whole, profile) for _, row in rows]


def chosen(clips: Table) -> pd.DataFrame:
    """Three rows of the table: of generated clips the best steady one, and for every event the one
    in which the quality falls furthest; of others a good, a middling and a bad one by their MOS."""
    frame = clips.frame
    if "event" not in frame:
        ranks = np.unique(np.round(np.array([0.1, 0.5, 0.9]) * (len(frame) - 1)).astype(int))
        return frame.sort_values("mos").iloc[ranks[::-1]]
    fall = frame["id"].map(lambda id_: np.ptp(generated.true_curve(id_)))
    worth = fall.where(frame["event"] != "steady", frame["mos"])
    best = worth.groupby(frame["event"]).idxmax()
    return frame.loc[best.reindex(generated.EVENTS).dropna().astype(int)]


def timeline(model: Backbone, row: pd.Series, clips: Table, profile: Profile) -> Timeline:
    """One clip of the table by its row, read at `MOMENTS`."""
    times, images = zip(*video.timed_frames(row["path"], MOMENTS), strict=True)
    view: View = profile.view
    scores = trials.read_windows(model, [view.windows(image) for image in images], DIGITS)
    stills = video.timed_frames(row["path"], STILLS)
    known = "event" in row
    return Timeline(
        title=f"{row['event']}, {row['id']}" if known else row["id"],
        target=float(clips.scale.to_ten(row["mos"])),
        scores=scores.assign(time=times),
        stills=stills,
        truth=generated.true_curve(row["id"]) if known else None,
    )
