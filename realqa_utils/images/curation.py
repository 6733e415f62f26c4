"""Curation as in Sec. 3.1: which photographs of a collection to drop, and why.

RealQA leaves out photos with subtitles or watermarks and stitched images. Nothing is deleted here:
`curate` returns one row per photo with the verdict and what was measured for each check, so that a
person can look at what would go. `defects` draws collections whose defects are known, and says
how many of them are found.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from realqa_utils.images.photos import list_photos, open_photo
from realqa_utils.parallel import run_all

# A photo is dropped for the first of these that it fails. Near-duplicates come last, so that the
# photo which stands for its copies is always one that is kept.
REASONS = {
    "unreadable": "unreadable",
    "stitched": "stitched",
    "text_overlay": "text overlay",
    "near_duplicate": "near-duplicate",
}
PASSED, FAILED, NOT_CHECKED = "passed", "failed", "not checked"

HASH_DISTANCE = 10  # of 64 bits, at most: as far as a copy cut by 4 % a side; other photos: over 12
FLAT_PHOTO = 2.0  # sd of grey levels; below it, noise alone decides the bits of the hash

SEAM_STRENGTH = 1.4  # at least: reached by 1 in 100 mini-world photos, 3 in 1162 of LIVE Challenge
SEGMENTS = 16  # of a seam: long enough to average noise, short enough for a subject to cover two
CALM = 4.0  # grey levels, added to the steps beside a seam: in flat areas noise is no evidence
SEAM_SIDE = 1024  # pixels; longer photos are reduced, seams stay sharp
SMALLEST = 32  # pixels; below it a segment is a pixel or two
FLAT_BAR = 5.0  # sd of grey levels along a bar between pictures, or a frame around them
TOLERANCE, MARGIN = 0.01, 0.08  # of the side: of equal division; where no picture of its own fits

WORDS = 1  # at least: a watermark is often a single word
LETTERS, CONFIDENCE = 3, 70  # per word at least: texture is read as short words of low confidence
OCR_SIDES = (600, 2000)  # pixels, shorter side: Tesseract wants letters of about 20 pixels
LARGEST_ZOOM = 6  # beyond, there is nothing to read
OCR_SECONDS = 30

COLUMNS = (
    "path", "kept", "reason", "unreadable", "stitched", "seam_strength", "text_overlay", "words",
    "near_duplicate", "hash_distance", "note",
)  # fmt: skip


# --- the batch -----------------------------------------------------------------------------------


def curate(source: str | Path | Iterable[str | Path], workers: int | None = None) -> pd.DataFrame:
    """Which photos to keep: one row per photo, with the reason and the result of every check.

    Args:
        source: a folder, taken with its subfolders and sorted, or files in an order of one's own.
        workers: processes; by default as many as there are cores. The result is the same.

    Returns a frame with the columns `COLUMNS`. The four checks hold "passed", "failed" or "not
    checked" (`note` says why); beside them stand `seam_strength` (see there), `words` read, and
    `hash_distance` in bits to the nearest earlier photo that is kept. Of near-duplicates the first
    is kept, and the reason of the others names it. A file that cannot be read is a row, no error.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: no photo at all.
    """
    one = isinstance(source, str | Path)
    paths = [str(path) for path in (list_photos(source) if one else source)]
    if not paths:
        raise ValueError("an empty list of photos; right is a folder, or one photo or more")
    measure = partial(_measure, text_problem())
    rows = run_all(measure, paths, 1 if len(paths) < 32 else workers, "looking at photos", batch=8)
    _mark_duplicates(rows)
    frame = pd.DataFrame([row | _verdict(row) for row in rows])[list(COLUMNS)]
    return frame.astype({"seam_strength": float, "words": "Int64", "hash_distance": "Int64"})


def report(frame: pd.DataFrame) -> pd.DataFrame:
    """How many photos of `curate`'s frame are kept, and how many are dropped for each reason.

    Columns `reason`, `photos`, `share` and `check`: "done", "not checked" (then `photos` is
    missing, as nobody knows), or for how many of the readable photos it was not.
    """
    kept = {"reason": "kept", "photos": int(frame["kept"].sum()), "check": ""}
    table = pd.DataFrame([kept] + [_counted(frame, check) for check in REASONS])
    table["photos"] = table["photos"].astype("Int64")
    table["share"] = (table["photos"] / len(frame)).astype("Float64")
    return table[["reason", "photos", "share", "check"]]


def _counted(frame: pd.DataFrame, check: str) -> dict:
    asked = frame if check == "unreadable" else frame[frame["unreadable"] == PASSED]
    left = int((asked[check] == NOT_CHECKED).sum())
    done = "done" if not left else f"{NOT_CHECKED} for {left} of {len(asked)} photos"
    photos = int(frame["reason"].str.startswith(REASONS[check]).sum())
    if len(asked) and left == len(asked):
        photos, done = None, NOT_CHECKED
    return {"reason": REASONS[check], "photos": photos, "check": done}


def _measure(no_text: str, path: str) -> dict:
    """All that one photo alone can tell; None for what was not measured."""
    row = {"path": path, "problem": "", "note": "", "hash_distance": None, "original": None}
    row |= dict.fromkeys(("bits", "seam_strength", "words"))
    try:
        image = open_photo(path)
    except (OSError, ValueError, MemoryError) as error:
        problem = str(error).removeprefix(f"{path}: ") or type(error).__name__
        return row | {"problem": problem}
    words, problem = (None, no_text) if no_text else count_words(image)
    row |= {"bits": hash_bits(image), "seam_strength": seam_strength(image), "words": words}
    notes = {
        "a flat picture has no hash": row["bits"] is None,
        f"under {SMALLEST} pixels no seam is looked for": row["seam_strength"] is None,
        f"text: {problem}": bool(problem),
    }
    return row | {"note": "; ".join(note for note, holds in notes.items() if holds)}


def _verdict(row: dict) -> dict:
    """Status of every check, and the reason: the first check that failed."""
    status = _alone(row) | {"unreadable": FAILED if row["problem"] else PASSED}
    far = row["original"] is None
    status["near_duplicate"] = NOT_CHECKED if row["bits"] is None else PASSED if far else FAILED
    failed = next((check for check in REASONS if status[check] == FAILED), None)
    more = {"unreadable": f": {row['problem']}", "near_duplicate": f" of {row['original']}"}
    reason = REASONS[failed] + more.get(failed, "") if failed else ""
    return status | {"kept": failed is None, "reason": reason}


def _alone(row: dict) -> dict:
    def status(value: float | None, limit: float) -> str:
        return NOT_CHECKED if value is None else FAILED if value >= limit else PASSED

    stitched = status(row["seam_strength"], SEAM_STRENGTH)
    return {"stitched": stitched, "text_overlay": status(row["words"], WORDS)}


# --- near-duplicates -----------------------------------------------------------------------------


def hash_bits(image: Image.Image) -> np.uint64 | None:
    """The 64 bits of the DCT hash (`imagehash.phash`); None for a picture without contrast."""
    if np.asarray(image.convert("L").resize((32, 32))).std() < FLAT_PHOTO:
        return None
    return np.packbits(imagehash.phash(image).hash).view(np.uint64)[0]


def _mark_duplicates(rows: list[dict]) -> None:
    """Set `hash_distance` and `original`; every photo is compared with the kept ones before it.

    Not with dropped ones: in a burst, or a chain of copies of copies, each dropped photo is near
    to one that is kept.
    """
    bits, kept = np.empty(len(rows), np.uint64), []
    for row in rows:
        if row["bits"] is None:
            continue
        if kept:
            distances = np.bitwise_count(bits[: len(kept)] ^ row["bits"])
            nearest = int(distances.argmin())
            row["hash_distance"] = int(distances[nearest])
            if distances[nearest] <= HASH_DISTANCE:
                row["original"] = kept[nearest]
        if row["original"] is None and FAILED not in _alone(row).values():
            bits[len(kept)] = row["bits"]
            kept.append(row["path"])


# --- stitched images -----------------------------------------------------------------------------


def seam_strength(image: Image.Image) -> float | None:
    """How sharply a straight line divides the picture from edge to edge; None if it is too small.

    The step across a line is compared with the steps beside it, in 16 segments of the line; the
    strength is the second smallest of the 16 ratios, for two pictures differ all along their seam
    (but perhaps for one segment by chance), whereas something usually stands in front of a horizon
    or a door post. A bare level horizon is just like a seam: a horizontal line counts only in the
    middle, as one of a pair at both thirds, or at a uniform bar between the pictures. So two
    pictures of unequal height, one right on top of the other, are not found. A plain frame around
    the whole is cut off first.
    """
    image = image.reduce(-(-max(image.size) // SEAM_SIDE))
    if min(image.size) < SMALLEST:
        return None
    pixels = np.asarray(image, np.float32)
    pixels = _unframed(_unframed(pixels).transpose(1, 0, 2)).transpose(1, 0, 2)
    upright = pixels.transpose(1, 0, 2)
    return float(max(_strongest(pixels, anywhere=False), _strongest(upright, anywhere=True)))


def _strongest(pixels: np.ndarray, anywhere: bool) -> float:
    """The strongest line between two rows of (rows, columns, 3) where a seam may be."""
    strength, rows = _strengths(pixels), len(pixels)
    at = np.arange(1, rows) / rows

    def near(share: float) -> float:
        return strength[np.abs(at - share) <= TOLERANCE + 0.5 / rows].max()

    inside = np.where((at > MARGIN) & (at < 1 - MARGIN), strength, 0)
    elsewhere = inside.max() if anywhere else max(_bars(pixels, inside), default=0)
    return max(near(1 / 2), min(near(1 / 3), near(2 / 3)), elsewhere)


def _bars(pixels: np.ndarray, strength: np.ndarray) -> list[float]:
    """Of each run of two or more flat rows, the weaker of its edges: a real bar has two."""
    turns = np.diff(_flat(pixels).astype(int), prepend=0, append=0)
    runs = zip(np.flatnonzero(turns == 1), np.flatnonzero(turns == -1), strict=True)
    # One line to either side as well: compression leaves the outermost row of a bar uneven.
    return [
        min(strength[first - 2 : first + 1].max(), strength[end - 2 : end + 1].max())
        for first, end in runs
        if end - first >= 2 and first >= 2 and end <= len(pixels) - 2
    ]


def _strengths(pixels: np.ndarray) -> np.ndarray:
    """Of each line between two rows, shape (rows - 1,): the second weakest segment's ratio."""
    steps = np.abs(np.diff(pixels, axis=0)).max(2)
    ends = np.linspace(0, steps.shape[1], SEGMENTS + 1).astype(int)
    steps = np.add.reduceat(steps, ends[:-1], axis=1) / np.diff(ends)
    # Lines 2 to 4 rows off: the nearest one is left out, as resampling spreads a seam over two.
    padded, lines = np.pad(steps, ((4, 4), (0, 0)), mode="edge"), len(steps)
    beside = [padded[4 + off : 4 + off + lines] for off in (-4, -3, -2, 2, 3, 4)]
    ratios = steps / (np.median(beside, axis=0) + CALM)
    return np.partition(ratios, 1, axis=1)[:, 1]


def _flat(pixels: np.ndarray) -> np.ndarray:
    """Which rows have one colour."""
    return pixels.std(1).max(1) < FLAT_BAR


def _unframed(pixels: np.ndarray) -> np.ndarray:
    """Without flat rows at top and bottom, equally many: a white sky alone is no frame."""
    busy = np.flatnonzero(~_flat(pixels))
    if not len(busy):
        return pixels
    frame = min(busy[0], len(pixels) - 1 - busy[-1], (len(pixels) - SMALLEST) // 2)
    return pixels[frame : len(pixels) - frame]


# --- text ----------------------------------------------------------------------------------------


def text_problem() -> str:
    """Why text cannot be looked for on this computer; empty when it can."""
    try:
        from pytesseract import pytesseract
    except ImportError:
        return "the Python package pytesseract is not installed"
    found = shutil.which(pytesseract.tesseract_cmd)
    return "" if found else "the program tesseract is not installed"


def count_words(image: Image.Image) -> tuple[int | None, str]:
    """Words that Tesseract reads with confidence, anywhere in the picture; None with the problem.

    A sign within the scene is read like a subtitle above it: look at what is dropped.
    """
    import pytesseract

    side = min(image.size)
    image = ImageOps.scale(image, min(float(np.clip(side, *OCR_SIDES)) / side, LARGEST_ZOOM))
    try:
        found = pytesseract.image_to_data(
            image,
            config="--psm 11",  # sparse text, in no order
            timeout=OCR_SECONDS,
            output_type=pytesseract.Output.DICT,
        )
    except (RuntimeError, OSError, ValueError) as error:  # fails, or takes too long
        return None, " ".join(str(error).split()) or type(error).__name__
    words = zip(found.get("text", ()), found.get("conf", ()), strict=True)  # no row, no columns
    return sum(
        float(sure) >= CONFIDENCE and len(re.findall(r"\w", word)) >= LETTERS
        for word, sure in words
    ), ""
