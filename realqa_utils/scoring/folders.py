"""Score the photographs of any files and folders: tables, a page, and nothing done twice.

Photographs are taken in batches, in the order of their paths, and every batch is on the disk before
the next begins; a run that was cut off goes on behind it. Several processes, as `torchrun` and
`accelerate launch` start them, share the batches out: batch k is for process k modulo their number,
so a batch holds the same photographs however many there are, and the tables are the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from tqdm import tqdm

from realqa_utils.forms import scores, taxonomy
from realqa_utils.forms.conversations import DIRECT
from realqa_utils.images.photos import list_photos
from realqa_utils.images.views import View
from realqa_utils.measures.composite import Composite
from realqa_utils.model.backbone import Backbone
from realqa_utils.records import hashes, parts, provenance, results, sharing
from realqa_utils.records.parts import Photo
from realqa_utils.scoring import folder_rows, folder_tables
from realqa_utils.scoring.folder_rows import Asking

if TYPE_CHECKING:
    from realqa_utils.scoring.calibration import Calibration

#: Modules whose code decides what is read from a photograph; an edit of another changes nothing.
DECISIVE = (
    "forms.answers", "forms.chains", "forms.conversations", "forms.scores", "forms.taxonomy",
    "images.photos", "images.views", "model.backbone", "model.decoder", "model.encoding",
    "model.language", "model.lean", "model.packed", "model.products", "model.vision",
    "scoring.digit_tree",
    "scoring.folder_rows", "scoring.form_filling", "scoring.form_steps",
)  # fmt: skip
WHOLE = View()


@dataclass(frozen=True)
class Summary:
    """What a run did: the folder with the tables, and how many photographs are in them."""

    out: Path
    photographs: int
    scored_now: int  # by this process; the others were there before, or another process's
    unparsed: int  # of which the model, left to itself, would have written no score
    off_form: int  # of which it would have written the attributes in another way
    problems: tuple[tuple[str, str], ...]  # path and reason


def score(
    backbone: Backbone,
    photos: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    digits: int = 3,
    view: View = WHOLE,
    attributes: str = "",
    composite: Composite | None = None,
    calibration: Calibration | None = None,
    batch_size: int = 64,
    page: bool = True,
    progress: bool = True,
) -> Summary | None:
    """Score photographs (`photos.list_photos`) and write `scores.csv`, `.parquet`, `index.html`.

    `digits` and `view` are those that the model was trained with. `attributes` names the form of
    `folder_rows.ATTRIBUTE_FORMS` in which it was taught to tell all ten; a `composite` weighs them
    and needs it. Scores and intervals are those of `calibration`, or else mean, 5 % and 95 %
    quantiles of the digits. `batch_size` is memory against speed, and changes scores by no more
    than float rounding. What was scored into `out` before is not scored again, unless the file has
    changed since. Of several processes, the first returns the summary.

    Raises FileNotFoundError and ValueError, before anything is scored, for a path that does not
    exist, no photograph at all, a form that does not ask for all ten, a composite without one, or
    an `out` that holds the scores of another run.
    """
    asking = Asking(digits, view, attributes, batch_size, thumbnails=page)
    _check(asking, composite, calibration)
    chosen, out = select(photos), Path(out)
    backbone = folder_rows.seeing(backbone, view)
    with sharing.processes(chosen) as (rank, world), sharing.alone(out, rank):
        watch, model = results.Stopwatch(), hashes.of_weights(backbone.model)
        if rank == 0:
            sharing.same_run(out / "manifest.json", _manifest(backbone, model, asking))
        sharing.wait(world)
        done = _score_share(backbone, chosen, out / "parts", asking, rank, world, progress)
        sharing.wait(world)
        if rank:
            return None
        rows = _merged(chosen, out / "parts")
        summary = _write(out, rows, asking, composite, calibration, page)
        facts = {"model": backbone.name, "model_hash": model, "digits": digits}
        facts |= {"view": asdict(view), "attributes": attributes, "batch_size": batch_size}
        facts |= {"composite": asdict(composite) if composite else None}
        facts |= {"calibration": asdict(calibration) if calibration else None}
        facts |= {"photographs": len(chosen), "problems": len(summary.problems)}
        facts |= {"processes": world, "wall_seconds": round(watch.seconds, 2)}
        results.write_json(out / "scores.json", facts | provenance.provenance())
        return replace(summary, scored_now=done)


def _check(asking: Asking, composite: Composite | None, calibration: Calibration | None) -> None:
    """What would otherwise come to light after all is scored."""
    scores.largest(asking.digits)
    if asking.batch_size < 1:
        raise ValueError(f"batch_size={asking.batch_size}: at least 1")
    if asking.attributes and asking.attributes not in folder_rows.ATTRIBUTE_FORMS:
        known = ", ".join(folder_rows.ATTRIBUTE_FORMS)
        raise ValueError(f"attributes={asking.attributes!r} is no form of all ten; one of {known}")
    if composite and not asking.attributes:
        raise ValueError("a composite weighs attributes: name the form that asks for them")
    if composite and (strange := set(composite.names) - set(taxonomy.SCORED)):
        raise ValueError(f"the composite weighs {min(strange)!r}, which is no attribute")
    if calibration:
        calibration.apply(pd.DataFrame({"expected": [5.0]}))


def select(photos: str | Path | Iterable[str | Path]) -> list[Photo]:
    """The photographs of files and folders, each once, in the order of their paths."""
    found: dict[str, Path] = {}
    for path in list_photos(photos):
        found.setdefault(os.path.abspath(path), path)
    return [_photo(path) for path in found.values()]


def _photo(path: Path) -> Photo:
    try:
        facts = path.stat()
    except OSError:  # went away meanwhile: opening it will say so
        return Photo(str(path), -1, -1)
    return Photo(str(path), facts.st_size, facts.st_mtime_ns)


# --- the run -------------------------------------------------------------------------------------


def _score_share(
    backbone: Backbone,
    chosen: list[Photo],
    folder: Path,
    asking: Asking,
    rank: int,
    world: int,
    progress: bool,
) -> int:
    """Score what is missing in the batches of this process, and count it."""
    done, size = parts.index(folder), asking.batch_size
    mine = [chosen[at : at + size] for at in range(rank * size, len(chosen), world * size)]
    missing = [[photo for photo in batch if photo not in done] for batch in mine]
    missing = [batch for batch in missing if batch]
    total, left = sum(map(len, mine)), sum(map(len, missing))
    if not left:
        return 0
    name = folder / f"{rank}-of-{world}.jsonl"
    show = {"desc": "scoring", "total": total, "initial": total - left, "unit": "photo"}
    with parts.appending(name) as append, tqdm(**show, disable=not progress or rank) as bar:
        for rows in folder_rows.batch_rows(backbone, missing, asking):
            append(rows)
            bar.update(len(rows))
    return left


def _merged(chosen: list[Photo], folder: Path) -> Callable[[], Iterator[dict]]:
    """The rows of all photographs in their order, whichever process made them, time and again."""
    done = parts.index(folder)
    missing = [photo.path for photo in chosen if photo not in done]
    if missing:  # a disk that the processes do not share
        raise ValueError(
            f"{folder} lacks {len(missing)} of {len(chosen)} photographs, such as {missing[0]}; "
            "right is a folder that all processes see"
        )
    places = [done[photo] for photo in chosen]
    return lambda: parts.rows(places)


def _write(
    out: Path,
    rows: Callable[[], Iterator[dict]],
    asking: Asking,
    composite: Composite | None,
    calibration: Calibration | None,
    page: bool,
) -> Summary:
    wanted = folder_tables.columns(bool(asking.attributes), composite is not None)
    problems, counts = [], {"all": 0, "unparsed": 0, "off_form": 0}

    def counted() -> Iterator:
        for chunk, frame in folder_tables.frames(rows(), wanted, composite, calibration):
            bad = frame[frame["problem"] != ""]
            problems.extend(zip(bad["path"], bad["problem"], strict=True))
            counts["all"] += len(frame)
            counts["unparsed"] += int((~frame["parsed"].dropna().astype(bool)).sum())
            if asking.attributes:
                counts["off_form"] += int((frame[folder_tables.LEFT].fillna("") != "").sum())
            yield chunk, frame

    folder_tables.write_tables(out, wanted, counted())
    if page:
        chunks = folder_tables.frames(rows(), wanted, composite, calibration)
        folder_tables.write_page(out / "index.html", asking.digits, wanted, chunks)
    else:
        (out / "index.html").unlink(missing_ok=True)  # of an earlier run, with other photographs
    return Summary(out, counts["all"], 0, counts["unparsed"], counts["off_form"], tuple(problems))


# --- what the scores are of ----------------------------------------------------------------------


def _manifest(backbone: Backbone, model: str, asking: Asking) -> dict:
    return {
        "model": model,
        "pixels": dict(backbone.image_processor.size),
        "digits": asking.digits,
        "form": DIRECT.name,
        "attributes": asking.attributes or None,
        "view": asdict(replace(asking.view, random=False)),  # of training only
        "code": hashes.of_code(DECISIVE),
    }
