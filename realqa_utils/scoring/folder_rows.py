"""What is kept of one photograph: its reading, its attributes, a thumbnail, or why there is none.

A row is plain JSON, so that it can be appended to a file at once; tables and the page are made
from rows later. Photographs are opened by threads, one batch ahead of the model, and only what the
model looks at stays in memory.
"""

from __future__ import annotations

import base64
import copy
import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)

from realqa_utils import parallel
from realqa_utils.forms.chains import CHAINS
from realqa_utils.forms.conversations import MIX
from realqa_utils.images.photos import open_photo
from realqa_utils.images.views import View
from realqa_utils.model.backbone import Backbone
from realqa_utils.records.parts import Photo
from realqa_utils.scoring import digit_tree, form_filling
from realqa_utils.scoring.digit_tree import Reading
from realqa_utils.scoring.form_filling import Filled

THUMBNAIL = 128  # pixels, of the longer side
QUANTILES = (0.05, 0.95)  # of the digit tree: low and high, where nothing is calibrated
BARS = 100  # of the distribution over 0..10, at most
ATTRIBUTE_FORMS = {MIX.name: MIX} | CHAINS  # those that ask for all ten


@dataclass(frozen=True)
class Asking:
    """How every photograph of a run is looked at and asked about."""

    digits: int = 3
    view: View = View()
    attributes: str = ""  # a name of `ATTRIBUTE_FORMS`: they are asked for in this form
    batch_size: int = 64  # photographs that are opened, scored and written together
    thumbnails: bool = True


@dataclass(frozen=True)
class Opened:
    """What the model looks at of a photograph; nothing where there is a problem."""

    windows: Sequence[Image.Image] = ()  # the score is averaged over them
    middle: Image.Image | None = None  # the attributes are asked about it
    thumbnail: str | None = None  # JPEG, base64
    problem: str = ""


def batch_rows(
    backbone: Backbone, batches: Sequence[Sequence[Photo]], asking: Asking
) -> Iterator[list[dict]]:
    """The rows of one batch after another; the next one is opened while the model is busy.

    The backbone is one of `seeing`.
    """
    started = time.perf_counter()
    for photos, opened in _opened(backbone, batches, asking):
        rows = _rows(backbone, opened, asking)
        seconds = (time.perf_counter() - started) / len(photos)
        known = [{"photo": list(photo), "seconds": round(seconds, 6)} for photo in photos]
        started = time.perf_counter()
        yield [a | b for a, b in zip(known, rows, strict=True)]


def seeing(backbone: Backbone, view: View) -> Backbone:
    """The backbone as it looks at windows of a view that are in their final size already."""
    processor = copy.copy(backbone.image_processor)
    processor.do_resize = False  # a size once found would often be changed again
    ours = replace(backbone, image_processor=processor)
    if any(view.limits):
        ours.look_at(*view.limits)
    return ours


# --- opening -------------------------------------------------------------------------------------


def _opened(
    backbone: Backbone, batches: Sequence[Sequence[Photo]], asking: Asking
) -> Iterator[tuple[Sequence[Photo], list[Opened]]]:
    processor = backbone.image_processor
    return parallel.opened_ahead(lambda photo: _open(photo.path, processor, asking), batches)


def _open(path: str, processor: Qwen2VLImageProcessorPil, asking: Asking) -> Opened:
    try:
        image = open_photo(path)
        fitted = asking.view.fit(image)
        windows = [_processed(window, processor) for window in asking.view.testing(fitted)]
        middle = _processed(asking.view.training(fitted, None), processor)
    except (OSError, ValueError, MemoryError) as error:
        return Opened(problem=str(error).removeprefix(f"{path}: ") or type(error).__name__)
    return Opened(windows, middle, thumbnail(image) if asking.thumbnails else None)


def _processed(image: Image.Image, processor: Qwen2VLImageProcessorPil) -> Image.Image:
    """A photograph in the size that the processor would give it, by the same filter.

    A batch of photographs as they come from a camera would take gigabytes. Raises ValueError for
    one that is more than 200 times as long as it is wide, which the processor refuses.
    """
    unit = processor.patch_size * processor.merge_size
    limits = processor.size["shortest_edge"], processor.size["longest_edge"]
    height, width = smart_resize(image.height, image.width, unit, *limits)
    return image.resize((width, height), processor.resample)


def thumbnail(image: Image.Image) -> str:
    """A JPEG of at most 128 pixels a side, as base64."""
    scale, buffer = min(1, THUMBNAIL / max(image.size)), io.BytesIO()
    size = [max(1, round(side * scale)) for side in image.size]
    image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0).save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()


def thumbnail_of(path: str) -> str | None:
    """The thumbnail of a file; None where it cannot be opened."""
    try:
        return thumbnail(open_photo(path))
    except (OSError, ValueError, MemoryError):
        return None


# --- asking --------------------------------------------------------------------------------------


def _rows(backbone: Backbone, opened: Sequence[Opened], asking: Asking) -> list[dict]:
    good = [one for one in opened if not one.problem]
    windows = [window for one in good for window in one.windows]
    size = asking.batch_size
    readings = iter(digit_tree.read(backbone, windows, asking.digits, batch_size=size))
    said = iter([None] * len(good))
    if asking.attributes and good:
        middles = [one.middle for one in good]
        form = ATTRIBUTE_FORMS[asking.attributes]
        said = iter(
            form_filling.fill(
                backbone, middles, form, batch_size=size, digits=asking.digits, tree=False
            )
        )
    return [
        {"problem": one.problem}
        if one.problem
        else {"problem": "", "thumbnail": one.thumbnail}
        | reading_row([next(readings) for _ in one.windows], asking.digits)
        | attributes_row(next(said))
        for one in opened
    ]


def reading_row(readings: Sequence[Reading], digits: int) -> dict:
    """The readings of the windows of one photograph as one: means, and their mean distribution.

    `low` and `high` are the 5 % and 95 % quantiles of it, `bars` the number of its first bar that
    is not empty and how much is in each from there on, in 1/10,000, of 10 or 100 bars over 0..10.
    """
    values = np.concatenate([reading.values for reading in readings])
    chances = np.concatenate([reading.probabilities for reading in readings]) / len(readings)
    order = np.argsort(values, kind="stable")
    values, chances = values[order], chances[order]
    expected, parsed = float(values @ chances), [r.greedy for r in readings if r.parsed]
    at = np.searchsorted(np.cumsum(chances), QUANTILES).clip(max=len(values) - 1)
    low, high = values[at].tolist()
    return {
        "expected": expected,
        "low": min(low, expected),  # of a lopsided distribution, the mean may lie outside
        "high": max(high, expected),
        "greedy": float(np.mean(parsed)) if parsed else None,
        "sd": float(np.mean([reading.sd for reading in readings])),  # as in `trials.read_table`
        "parsed": len(parsed) == len(readings),
        "off_format": float(np.mean([reading.off_format for reading in readings])),
        "bars": _bars(values, chances, min(10**digits, BARS)),
    }


def _bars(values: np.ndarray, chances: np.ndarray, count: int) -> list:
    at = np.floor(values * count / 10 + 1e-6).astype(int)  # 0.3 is held as 0.29999..
    parts = np.rint(1e4 * np.bincount(at, chances, count)).astype(int)
    filled = np.flatnonzero(parts)
    first, last = (filled[0], filled[-1]) if len(filled) else (0, 0)
    return [int(first), parts[first : last + 1].tolist()]


def attributes_row(said: Filled | None) -> dict:
    """What a model said of the attributes: values, reasons, the chance of every tier, and where it
    would have left the form (`Filled.left`)."""
    if said is None:
        return {}
    chances = {name: np.round(p, 4).tolist() for name, p in said.probabilities.items()}
    parsed = said.parsed
    facts = {"values": parsed.values, "reasons": parsed.reasons, "chances": chances}
    return facts | {"left": said.left}
