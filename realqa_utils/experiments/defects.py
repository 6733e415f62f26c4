"""Mini-world photographs with known defects, and how well `curation` finds them.

A collection as a user may have it: photos, copies of some of them, collages, captions and
watermarks, and broken files. What was done to each photo is in the table that comes with it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageEnhance, ImageFont
from scipy.stats import binomtest

from realqa_utils.datasets import mini
from realqa_utils.images.curation import FAILED, NOT_CHECKED, REASONS
from realqa_utils.records.results import write_bytes

QUALITY = 90  # JPEG, of everything but the re-encoded copies
CAPTIONS = (
    "Welcome to the old town", "Open daily from nine", "Best view in the city",
    "Follow us for more", "Where shall we go next?",
)  # fmt: skip
WATERMARKS = ("SAMPLE PHOTO", "photostock", "travelpics.example", "DO NOT COPY")


def with_defects(
    folder: str | Path, seed: int, photos: int = 120, each: int = 30, domain: str = "mini-koniq"
) -> pd.DataFrame:
    """Write `photos` faultless photographs and `each` of every defect as JPEG files.

    Everything follows from the seed. Returns one row per file, in the order of their names:
    `path`, `defect` ("" or a key of `curation.REASONS`), `how` it was made, and `original`, the
    path of what a near-duplicate was made from ("" for all others).

    Raises:
        ValueError: an unknown domain, or more near-duplicates than photos.
    """
    if not 0 <= each <= photos:
        raise ValueError(f"{each} of each defect for {photos} photos; right is 0 to {photos}")
    place = list(mini.DOMAINS).index(mini.get_domain(domain).name)
    rng = np.random.default_rng([seed, 31, place])
    scenes = (mini.photograph(domain, seed, index) for index in count())
    plain = [next(scenes) for _ in range(photos)]
    names = [str(Path(folder) / f"{index:05d}.jpg") for index in range(photos + 4 * each)]
    copied = rng.permutation(photos)[:each]
    rows = [(_jpeg(image), "", "", "") for image in plain]
    changed = [
        *((*near_duplicate(plain[k], rng), "near_duplicate", names[k]) for k in copied),
        *((*stitched(scenes, rng), "stitched", "") for _ in range(each)),
        *((*text_overlay(next(scenes), rng), "text_overlay", "") for _ in range(each)),
        *((*truncated(next(scenes), rng), "unreadable", "") for _ in range(each)),
    ]
    rows += [
        (content, defect, how, original)
        for content, how, defect, original in (changed[k] for k in rng.permutation(len(changed)))
    ]
    for name, (content, *_) in zip(names, rows, strict=True):
        write_bytes(name, content)
    frame = pd.DataFrame([row[1:] for row in rows], columns=["defect", "how", "original"])
    frame.insert(0, "path", names)
    return frame


def _jpeg(image: Image.Image, quality: int = QUALITY) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def near_duplicate(image: Image.Image, rng: np.random.Generator) -> tuple[bytes, str]:
    """The photo again: compressed more, cut by up to 4 % a side, or a little brighter or darker.

    Returns the JPEG file and what was done.
    """
    match rng.integers(3):
        case 0:
            return _jpeg(image, int(rng.integers(30, 76))), "re-encoded"
        case 1:
            left, top, right, bottom = np.rint(rng.uniform(0.01, 0.04, 4) * image.width).astype(int)
            box = (left, top, image.width - right, image.height - bottom)
            return _jpeg(image.crop(tuple(map(int, box)))), "cropped"
    factor = rng.uniform(1.05, 1.15) ** rng.choice((-1, 1))
    return _jpeg(ImageEnhance.Brightness(image).enhance(factor)), "brightness changed"


def stitched(scenes: Iterator[Image.Image], rng: np.random.Generator) -> tuple[bytes, str]:
    """The next two scenes in a row or a column, or four in a square; half of them with a border.

    A border of 2 to 5 pixels, white or black, lies between the pictures and may frame the whole.
    Returns the JPEG file and the layout.
    """
    columns, rows = ((2, 1), (1, 2), (2, 2))[rng.choice(3, p=(0.25, 0.25, 0.5))]
    panels = [next(scenes) for _ in range(columns * rows)]
    border = int(rng.choice((0, rng.integers(2, 6))))
    frame = border * int(rng.integers(2))
    step = panels[0].width + border
    size = [n * step - border + 2 * frame for n in (columns, rows)]
    image = Image.new("RGB", size, ("white", "black")[rng.integers(2)])
    for k, panel in enumerate(panels):
        image.paste(panel, (frame + k % columns * step, frame + k // columns * step))
    edge = " in a frame" if frame else " with a border" if border else ""
    return _jpeg(image), f"{columns} x {rows}{edge}"


def text_overlay(image: Image.Image, rng: np.random.Generator) -> tuple[bytes, str]:
    """A subtitle in white with a dark rim, or a half transparent watermark, in Pillow's own font.

    The photo is enlarged fourfold first, as no one could read letters on its 112 pixels. Returns
    the JPEG file and the kind of text.
    """
    image = image.resize((4 * image.width, 4 * image.height), Image.Resampling.BICUBIC)
    layer = Image.new("RGBA", image.size, (255, 255, 255, 0))
    draw, (width, height) = ImageDraw.Draw(layer), image.size
    if rng.integers(2):
        how, text = "subtitle", str(rng.choice(CAPTIONS))
        place, size, alpha = (width / 2, 0.9 * height), 0.07 * height, 255
    else:
        how, text = "watermark", str(rng.choice(WATERMARKS))
        place, size, alpha = rng.uniform(0.35, 0.65, 2) * image.size, 0.08 * height, 130
    rim = {"stroke_width": 2, "stroke_fill": (0, 0, 0, alpha)}
    font = ImageFont.load_default(size)
    draw.text(tuple(place), text, (255, 255, 255, alpha), font, anchor="mm", **rim)
    image = Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")
    return _jpeg(image), how


def truncated(image: Image.Image, rng: np.random.Generator) -> tuple[bytes, str]:
    """A JPEG file that breaks off after 10 to 80 % of its bytes, as after a failed download."""
    content = _jpeg(image)
    return content[: int(rng.uniform(0.1, 0.8) * len(content))], "truncated"


def accuracy(frame: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Precision and recall of every check of `curate`'s frame, against `with_defects`' table.

    Tidy: `defect, metric, estimate, low, high, n`, where n is the number of photos flagged
    (precision) or with the defect (recall), and low and high are the 95 % Wilson interval. Photos
    not checked count in neither; without any the row has n = 0 and no estimate. A near-duplicate
    counts as found whichever photo it is said to repeat.

    Raises:
        ValueError: the two tables are not about the same files, each once.
    """
    for left, right, where in ((frame, truth, "the truth"), (truth, frame, "the result")):
        others = left["path"][~left["path"].isin(right["path"]) | left["path"].duplicated()]
        if len(others):
            raise ValueError(f"{others.iloc[0]}: not in {where}, or twice; right is once in both")
    both = frame.merge(truth[["path", "defect"]], on="path", validate="1:1")
    return pd.DataFrame([row for defect in REASONS for row in _rates(both, defect)])


def _rates(both: pd.DataFrame, defect: str) -> list[dict]:
    checked = both[both[defect] != NOT_CHECKED]
    found, true = checked[defect] == FAILED, checked["defect"] == defect
    hits = int((found & true).sum())
    return [
        {"defect": defect, "metric": metric} | _share(hits, int(n))
        for metric, n in (("precision", found.sum()), ("recall", true.sum()))
    ]


def _share(hits: int, n: int) -> dict:
    if n == 0:
        return {"estimate": np.nan, "low": np.nan, "high": np.nan, "n": 0}
    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return {"estimate": hits / n, "low": interval.low, "high": interval.high, "n": n}
