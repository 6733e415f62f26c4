"""Clips: evenly spaced frames of a video, scored one by one like photos and pooled.

A model that has only seen photos scores a clip zero-shot this way, as the paper does. A clip is
read twice: its packets, undecoded, say when it begins, ends, and whether it is whole (what a file
says of itself is often missing); then it is decoded from the start and each frame is dropped unless
it is wanted. Seeking would be faster in a long clip, but lands on other frames in some containers.
Either way the memory is that of `count` frames and the decoder, however long the clip.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from realqa_utils.forms.conversations import DIRECT, Form
from realqa_utils.images.photos import MAX_PIXELS
from realqa_utils.profiles import unknown
from realqa_utils.scoring import digit_tree

if TYPE_CHECKING:
    from realqa_utils.model.backbone import Backbone

# Demuxers that are let near a file: no playlists, which name other files, and no text or photos.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,asf,flv,ogg"
RIGHT = "right is a whole MP4, MOV, MKV, WebM, AVI, MPEG, WMV, FLV or OGG file"
CUT_OFF = 0.95  # of its stated length; a sound track may outlast the pictures by a little
# Of a display matrix: the signs of a, b, c, d in (x, y) -> (a x + c y, b x + d y), y downwards.
UPRIGHT = {
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


class VideoError(ValueError):
    """A file that is no usable clip: the file, the reason and what would be right, in one line."""

    def __init__(self, path: str | Path, problem: str, remedy: str = RIGHT) -> None:
        super().__init__(" ".join(f"{path}: {problem}; {remedy}".split()))


# --- frames --------------------------------------------------------------------------------------


def frames(path: str | Path, count: int) -> list[Image.Image]:
    """`count` frames of a clip in the order of time, RGB, 8 bits per channel, upright.

    The clip is cut into `count` parts of equal time, and each gives the picture that is on the
    screen in its middle; where the clip has fewer pictures than that, some come more than once.
    Rotation and mirroring in the container are applied; pixels that are not square stay as they
    are, and interlaced fields are not separated.

    Raises:
        FileNotFoundError: no such file.
        VideoError: empty, cut off, damaged, without pictures, too large, or no video at all. That a
            file was cut off shows only where it says how long it is, which MPEG-TS does not.
        ValueError: a `count` below 1.
    """
    return [image for _, image in timed_frames(path, count)]


def timed_frames(path: str | Path, count: int) -> list[tuple[float, Image.Image]]:
    """As `frames`, each with its time: the middle of its part, in seconds from the beginning."""
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"count is {count!r}; right is a whole number from 1 on")
    with _opened(path) as stream:
        start, end = _span(stream, path)
    middles = [(end - start) * Fraction(2 * k + 1, 2 * count) for k in range(count)]
    with _opened(path) as stream:
        decoded = stream.container.decode(stream)
        stamped = ((f.pts * f.time_base, f) for f in decoded if f.pts is not None)
        picked = [_upright(frame) for frame in _shown_at(stamped, [start + t for t in middles])]
    if not picked:
        raise VideoError(path, "none of its pictures can be decoded")
    return [(float(t), image) for t, image in zip(middles, picked, strict=True)]


@contextmanager
def _opened(path: str | Path) -> Iterator[av.VideoStream]:
    """The video stream of a file; whatever the decoder raises names the file."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file; right is the path of a clip")
    if os.path.getsize(path) == 0:
        raise VideoError(path, "the file is empty", "copy or download it again")
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        with av.open(f"file:{os.fspath(path)}", options=options) as container:
            yield _stream(container, path)
    except av.FFmpegError as error:
        problem = f"not a video that can be read, or cut off or damaged ({error.strerror})"
        raise VideoError(path, problem) from error


def _stream(container: av.container.InputContainer, path: str | Path) -> av.VideoStream:
    cover = av.stream.Disposition.attached_pic  # the picture of a song is no video
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        raise VideoError(path, "there is no video stream in it")
    stream = streams[0]
    if stream.codec_context is None:
        raise VideoError(path, "its codec is unknown")
    if stream.width * stream.height > MAX_PIXELS:
        size = f"too large, {stream.width} x {stream.height} pixels a frame"
        raise VideoError(path, size, f"right is at most {MAX_PIXELS:,}: make it smaller")
    stream.thread_type = "AUTO"
    return stream


def _span(stream: av.VideoStream, path: str | Path) -> tuple[Fraction, Fraction]:
    """When the first picture appears and the last one goes, in seconds; exact, as ticks are."""
    start, end, broken = np.inf, -np.inf, False
    for packet in stream.container.demux(stream):
        at = packet.dts if packet.pts is None else packet.pts
        if at is not None and packet.size and not packet.is_discard:  # cut away by an editor
            start, end = min(start, at), max(end, at + (packet.duration or 0))
            broken = packet.is_corrupt
    if end < start:
        raise VideoError(path, "there are no pictures in its video stream")
    start, end = start * stream.time_base, end * stream.time_base
    length = float(end) - (stream.container.start_time or 0) / av.time_base
    stated = _stated_seconds(stream)
    if broken or length < CUT_OFF * stated:
        of = f" of {stated:.2f} s" if stated else ""
        raise VideoError(path, f"cut off after {length:.2f} s{of}", "copy or download it again")
    return start, end


def _stated_seconds(stream: av.VideoStream) -> float:
    """How long the clip is by its own account; 0 where it does not say."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    matroska = re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))
    if matroska:
        hours, minutes, seconds = matroska.groups()
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    return (stream.container.duration or 0) / av.time_base


def _shown_at(stamped: Iterable[tuple], times: Sequence) -> Iterator:
    """For each of ascending `times`, the last frame of pairs (time, frame) that appears by then.

    The first frame stands for times before it. At most two frames are held at once.
    """
    shown, waiting = None, list(times)
    for at, frame in stamped:
        while waiting and shown is not None and at > waiting[0]:
            waiting.pop(0)
            yield shown
        if not waiting:
            return
        shown = frame
    yield from (shown for _ in waiting if shown is not None)


def _upright(frame: av.VideoFrame) -> Image.Image:
    image, data = frame.to_image(), frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return image
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5].tolist()
    scale = max(abs(a), abs(b), abs(c), abs(d), 1)
    turn = UPRIGHT.get(tuple(round(value / scale) for value in (a, b, c, d)))
    return image if turn is None else image.transpose(turn)  # nobody films at other angles


# --- scores --------------------------------------------------------------------------------------


def pool(values: ArrayLike, how: str = "mean", percent: float = 10.0) -> float:
    """One score of a clip from those of its frames, (n,) on the 0..10 scale.

    "mean" is the arithmetic mean. The others weigh bad moments more, as viewers do: "harmonic" is
    n / sum(1 / (1 + x)) - 1, VMAF's harmonic mean, whose shift by one lets a frame score 0;
    "percentile" is the `percent`-th percentile, between frames by linear interpolation.

    >>> [round(pool([2, 8, 5], how), 3) for how in ("mean", "harmonic", "percentile")]
    [5.0, 3.909, 2.6]

    Raises ValueError for no values, NaN or infinity (named by frame), an unknown `how`, a negative
    value for "harmonic", and a `percent` outside 0..100.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"scores of frames have shape {values.shape}; right is (n,), n at least 1")
    wrong = ~np.isfinite(values) | ((values < 0) & (how == "harmonic"))
    if wrong.any():
        at, least = int(wrong.argmax()), "from 0 on" if how == "harmonic" else "that is finite"
        raise ValueError(f"the score of frame {at + 1} is {values[at]}; right is a number {least}")
    if how == "mean":
        return float(values.mean())
    if how == "harmonic":
        return float(1 / np.mean(1 / (1 + values)) - 1)
    if how == "percentile":
        return float(np.percentile(values, percent))
    raise ValueError(unknown("pooling", how, ("mean", "harmonic", "percentile")))


@dataclass(frozen=True)
class ClipReading:
    """What a model says of a clip: the readings of its frames, in time, and how they are pooled."""

    times: tuple[float, ...]  # seconds from the beginning
    readings: tuple[digit_tree.Reading, ...]
    how: str = "mean"

    @property
    def expected(self) -> float:
        return pool([reading.expected for reading in self.readings], self.how)

    @property
    def greedy(self) -> float:
        """Over the frames whose free answer would parse; NaN where none would."""
        values = [reading.greedy for reading in self.readings if reading.parsed]
        return pool(values, self.how) if values else float("nan")

    @property
    def parsed(self) -> int:
        return sum(reading.parsed for reading in self.readings)


def score(
    backbone: Backbone,
    path: str | Path,
    digits: int = 3,
    count: int = 8,
    how: str = "mean",
    form: Form = DIRECT,
) -> ClipReading:
    """Score `count` frames of a clip with M = `digits`. Errors as `frames` and `pool`."""
    pool([0.0], how)  # a misspelt word is better found before the clip is read
    times, images = zip(*timed_frames(path, count), strict=True)
    return ClipReading(times, tuple(digit_tree.read(backbone, images, digits, form)), how)
