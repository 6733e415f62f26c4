"""The mini world's clips, which stand for KoNViD-1k: eight seconds of one scene, filmed by hand.

A clip is a sequence of moments. A moment is a `Scene`: the clip's own, or, while the camera hunts
for focus or the light goes, the same one with another tier of clarity or exposure. So the hidden
quality of every moment is that of a photograph of the domain `mini-konvid`, and `overall` says what
raters make of them. The camera drifts and shakes; noise and compression are new in every frame.

`build` writes the clips as video files without loss (FFV1), so that decoding gives the rendered
frames back, bit for bit, on any machine. Everything follows from seed and index.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path

import av
import numpy as np
import pandas as pd
from PIL import Image

from realqa_utils.datasets import mini, scenes
from realqa_utils.datasets.scenes import Scene
from realqa_utils.datasets.table import Table, make_table
from realqa_utils.parallel import run_all
from realqa_utils.records import results

NAME = "mini-konvid"
DOMAIN = mini.DOMAINS[NAME]
SECONDS, RATE = 8, 3  # as long as KoNViD's clips; frames a second
COUNT = SECONDS * RATE  # frames
MARGIN = 6  # pixels that the camera may move to each side
#: What may happen in a clip, with its chance; the tier that it brings, and that of its first and
#: last frame. A scene that is as bad by itself stays steady.
EVENTS = {"steady": 0.3, "focus hunting": 0.35, "exposure dip": 0.35}
BRINGS = {"focus hunting": ("image_clarity", 0, 1), "exposure dip": ("exposure", 0, 1)}
SHORTEST, LONGEST = 3, 12  # frames of an event: 1 to 4 seconds
WORST_SHARE, WORST_WEIGHT = 0.25, 0.4  # see `overall`
CODEC, CONTAINER, PIXELS = "ffv1", ".mkv", "bgr0"  # RGB without loss, every frame by itself


@dataclass(frozen=True)
class Clip:
    """One clip to be: a scene and the window's corner, x and y in pixels, for every frame."""

    moments: tuple[Scene, ...]
    corners: tuple[tuple[int, int], ...]
    event: str  # a key of EVENTS
    noise: int  # seed of the noise

    @property
    def scene(self) -> Scene:
        """What it shows outside of its event, which never fills the clip."""
        return max(self.moments, key=self.moments.count)


# --- what happens --------------------------------------------------------------------------------


def clip_at(seed: int, index: int) -> Clip:
    """The clip number `index`; independent of how many are drawn.

    Its scene is `mini.scene_at(NAME, seed, index)`.
    """
    scene = mini.scene_at(NAME, seed, index)
    rng = np.random.default_rng([seed, index, 10])
    event = str(rng.choice(list(EVENTS), p=list(EVENTS.values())))
    length = int(rng.integers(SHORTEST, LONGEST + 1))
    first = int(rng.integers(1, COUNT - length))
    moments = _moments(scene, event, first, first + length - 1)
    event = event if len(set(moments)) > 1 else "steady"
    return Clip(moments, _corners(rng), event, int(rng.integers(2**31)))


def _moments(scene: Scene, event: str, first: int, last: int) -> tuple[Scene, ...]:
    if event == "steady":
        return (scene,) * COUNT
    name, deep, edge = BRINGS[event]
    own = getattr(scene, name)
    moments = [scene] * COUNT
    for k in range(first, last + 1):
        tier = edge if k in (first, last) else deep
        moments[k] = replace(scene, **{name: min(own, tier)})
    return tuple(moments)


def _corners(rng: np.random.Generator) -> tuple[tuple[int, int], ...]:
    """A slow pan from one point to another, and the shake of a hand: a walk that swings back."""
    pan = np.linspace(*rng.uniform(-4, 4, (2, 2)), COUNT)
    shake, pushes = np.zeros((COUNT, 2)), rng.normal(0, 0.7, (COUNT, 2))
    for k in range(1, COUNT):
        shake[k] = 0.6 * shake[k - 1] + pushes[k]
    corners = np.clip(np.rint(MARGIN + pan + shake), 0, 2 * MARGIN).astype(int)
    return tuple(map(tuple, corners.tolist()))


# --- how good it is ------------------------------------------------------------------------------


def quality(clip: Clip) -> np.ndarray:
    """Hidden quality of every moment, (frames,); see `mini.hidden_quality`."""
    known = {scene: mini.hidden_quality(scene, DOMAIN.taste) for scene in set(clip.moments)}
    return np.array([known[scene] for scene in clip.moments])


def overall(qualities: np.ndarray) -> float:
    """What raters make of the qualities of a clip's moments: 0.6 of their mean and 0.4 of the mean
    of the worst quarter of them, since a bad stretch is remembered beyond its length.

    >>> round(overall(np.array([1.0, 1.0, 1.0, 0.0])), 2)
    0.45
    """
    worst = np.sort(qualities)[: round(WORST_SHARE * len(qualities))]
    return float((1 - WORST_WEIGHT) * qualities.mean() + WORST_WEIGHT * worst.mean())


@lru_cache
def _moments_of_quality() -> tuple[float, float]:
    """Mean and standard deviation of the overall quality, from 1,000 clips."""
    drawn = np.array([overall(quality(clip_at(0, index))) for index in range(1000)])
    return float(drawn.mean()), float(drawn.std())


def on_scale(qualities: float | np.ndarray) -> float | np.ndarray:
    """Hidden quality as a MOS: over all clips it has the mean and spread of KoNViD-1k's."""
    mean, sd = _moments_of_quality()
    return DOMAIN.mean + DOMAIN.spread * (qualities - mean) / sd


def rate(clip: Clip, seed: int, index: int) -> tuple[float, float]:
    """Simulated raters, as of photographs (`mini.rate`): MOS and the ratings' standard deviation.

    They rate the overall quality, on the scale 1..5.
    """
    truth = float(on_scale(overall(quality(clip))))
    return mini.ratings(truth, DOMAIN, seed, index)


def true_curve(id_: str) -> pd.Series:
    """Hidden quality of every moment of a clip by its id, on the scale 0..10, over time in seconds.

    Not what any rater said: raters give one number for the whole clip.
    """
    _, seed, index = id_.split("/")
    values = DOMAIN.scale.to_ten(on_scale(quality(clip_at(int(seed), int(index)))))
    return pd.Series(values, index=np.arange(COUNT) / RATE)


# --- pictures ------------------------------------------------------------------------------------


def render(clip: Clip) -> list[Image.Image]:
    """The frames, RGB of 112 x 112 pixels, with the look of the domain.

    Each moment is painted somewhat larger than a frame, which is a window of it.
    """
    clean = replace(DOMAIN.look, noise=0.0, jpeg=0)
    size = mini.SIZE + 2 * MARGIN
    painted = {s: np.asarray(scenes.render(s, clean, size)) for s in set(clip.moments)}
    rng = np.random.default_rng(clip.noise)
    return [
        _shot(painted[scene][y : y + mini.SIZE, x : x + mini.SIZE], rng)
        for scene, (x, y) in zip(clip.moments, clip.corners, strict=True)
    ]


def _shot(window: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Noise of the sensor, then the camera's compression of one frame by itself."""
    noise = rng.standard_normal(window.shape, np.float32) * (255 * DOMAIN.look.noise)
    image = Image.fromarray((np.clip(window + noise, 0, 255) + 0.5).astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=DOMAIN.look.jpeg)
    return Image.open(buffer).convert("RGB")


def write(path: str | Path, images: list[Image.Image]) -> None:
    """Write frames of one size as a video file without loss; equal frames give equal bytes."""
    # Without bitexact, the container holds a random number and the version of the library.
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(CODEC, rate=Fraction(RATE))
        stream.width, stream.height = images[0].size
        stream.pix_fmt = PIXELS
        stream.codec_context.thread_count = 1
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_image(image)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


# --- files ---------------------------------------------------------------------------------------


@lru_cache
def version() -> str:
    """Hash of four clips, their MOS and how they are written: it changes when they do."""
    digest = hashlib.sha256(repr((CODEC, CONTAINER, PIXELS, RATE)).encode())
    for index in range(4):
        clip = clip_at(0, index)
        for image in render(clip):
            digest.update(image.tobytes())
        digest.update(repr((rate(clip, 0, index), mini.labels(clip.scene))).encode())
    return digest.hexdigest()[:8]


def build(count: int, seed: int, cache: Path, workers: int | None = None) -> Table:
    """Render `count` clips below `cache`, or read them if they are there; `path` is the clip.

    Further columns: `event`, and the attributes of the scene outside of the event.
    Raises ValueError for a count below 1.
    """
    if count < 1:
        raise ValueError(f"{NAME}: count must be at least 1, got {count}")
    folder = Path(cache) / f"{NAME}-clips-{seed}-{count}-{version()}"
    table = folder / "labels.csv"
    if not table.exists():
        results.write_folder(folder, lambda part: _fill(part, count, seed, workers))
    frame = pd.read_csv(table, dtype={"id": str})
    frame["path"] = [str(folder / file) for file in frame["path"]]
    return make_table(NAME, DOMAIN.scale, frame, source=table)


def _fill(folder: Path, count: int, seed: int, workers: int | None) -> None:
    row = partial(_row, seed, folder)
    rows = run_all(row, range(count), 1 if count < 16 else workers, "filming clips", batch=4)
    pd.DataFrame(rows).to_csv(folder / "labels.csv", index=False)


def _row(seed: int, folder: Path, index: int) -> dict[str, object]:
    clip, name = clip_at(seed, index), f"{index:06d}{CONTAINER}"
    write(folder / name, render(clip))
    mos, std = rate(clip, seed, index)
    identity = {"id": f"{NAME}/{seed}/{index:06d}", "path": name, "mos": mos, "std": std}
    return identity | {"event": clip.event} | mini.labels(clip.scene)
