"""`realqa evaluate ...`: what a model makes of the test side of a public set.

Every photograph is asked about once, in batches that are on the disk before the next begins, so a
run that was cut off goes on behind them (DIR/parts). The numbers in DIR/results.csv follow from
those in DIR/scores.csv alone; DIR/record.json says what both are of.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from peft import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save
from tqdm import tqdm

from realqa_utils import parallel
from realqa_utils.commands.score import SHOWN
from realqa_utils.datasets import archives, registry
from realqa_utils.datasets.table import Split, Table
from realqa_utils.forms.chains import CHAINS
from realqa_utils.forms.conversations import FORMS
from realqa_utils.forms.scores import MAX_DIGITS
from realqa_utils.images.photos import open_photo
from realqa_utils.images.views import PRESETS, View
from realqa_utils.measures import evaluation
from realqa_utils.model import released, taught
from realqa_utils.model.backbone import Backbone
from realqa_utils.records import hashes, parts, provenance, results, sharing
from realqa_utils.scoring import digit_tree, folders, form_filling
from realqa_utils.training.recipes import WEIGHTS

#: What the model sees of a photograph; `as-is` leaves it to the checkpoint's own processor.
PIXELS = {**PRESETS, "as-is": View()}
#: What a rerun into the same folder must share, beside hashes of weights and code.
SETTINGS = ("set", "protocol", "model", "adapter", "weights", "form", "digits", "pixels")
Sides = list[tuple[Split, Table]]  # each split with the photographs of its test side to ask about
COLUMNS = ("id", "target", "greedy", "expected", "sd", "parsed", "problem", "split")
METRICS = ("srcc", "plcc", "rmse")
RESAMPLES = 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate, write the three files and print the numbers.

    Raises ValueError and FileNotFoundError for bad input, and where fewer than two photographs of
    a split could be opened: then scores.csv says why.
    """
    options = _options(arguments)
    sides, out = tests(options), Path(options.out)
    title = _title(options, sides)
    print(title, flush=True)
    with sharing.alone(out, 0):
        watch, manifest = results.Stopwatch(), out / "manifest.json"
        asked = {key: getattr(options, key) for key in SETTINGS}
        if manifest.exists():
            sharing.same_run(manifest, asked)  # refused before minutes go by
        backbone, its_hashes = load(options)
        asked |= its_hashes | {"code": hashes.of_code((*folders.DECISIVE, "commands.evaluate"))}
        sharing.same_run(manifest, asked)
        frame = joined(sides, read(backbone, sides, out / "parts", options))
        results.write_table(out / "scores.csv", frame)
        print(*_problems(frame), sep="\n", end="")
        model = " + ".join(filter(None, (options.model, options.adapter)))
        measured = measure(frame, title, model, options.seed)
        results.write_table(out / "results.csv", measured)
        record = asked | _record(options, backbone, sides, frame) | provenance.provenance()
        results.write_json(out / "record.json", record | {"wall_seconds": round(watch.seconds, 2)})
    print(report(measured, title, out))
    return 0


# --- what is asked about, and who ----------------------------------------------------------------


def tests(options: argparse.Namespace) -> Sides:
    """The test side of every split. Raises as `registry.splits`; photographs to train on need not
    be there."""
    if options.set == "konvid":
        raise ValueError("konvid is a set of videos: notebook 10 scores them")
    name, protocol, where = options.set, options.protocol, registry.get(options.set).where
    found = []
    for split in registry.splits(name, protocol, options.data, photos=False):
        try:
            there = archives.present(split.test, where, options.present_only)
        except FileNotFoundError as problem:
            said = str(problem).replace("present_only=True", "--present-only")
            raise FileNotFoundError(said) from None
        first = np.arange(len(there)) < (options.limit or len(there))
        found.append((split, there.subset(first)))
    return found


def _title(options: argparse.Namespace, sides: Sides) -> str:
    """Set and protocol, and how much of it where not all: the data set of the results."""
    title = f"{registry.get(options.set).title}, {options.protocol}"
    asked, whole = sum(len(t) for _, t in sides), sum(len(split.test) for split, _ in sides)
    if asked == whole:
        return title
    first = "first " if options.limit else ""
    return f"{title}: {first}{asked} of {whole} photographs, not the set's result"


def load(options: argparse.Namespace) -> tuple[Backbone, dict]:
    """The model with its adapter, as it sees photographs, and the hashes of both in memory.

    Raises FileNotFoundError and ValueError for what cannot be loaded.
    """
    if options.adapter:
        released.find(options.adapter)  # before a model is loaded, which takes minutes
    backbone = taught.base(options.model, options.weights)
    facts = {"model_hash": hashes.of_weights(backbone.model), "adapter_hash": None}
    if options.adapter:
        backbone = released.load(backbone, options.adapter)
        tensors = get_peft_model_state_dict(backbone.model, save_embedding_layers=False)
        facts["adapter_hash"] = hashlib.sha256(save(tensors)).hexdigest()[:16]
    if any(PIXELS[options.pixels].pixels):
        backbone.look_at(*PIXELS[options.pixels].pixels)
    return backbone, facts


# --- asking --------------------------------------------------------------------------------------


def read(backbone: Backbone, sides: Sides, folder: Path, options: argparse.Namespace) -> list[dict]:
    """The rows of all photographs in turn, as `parts` keeps them; asks about those without one.

    Splits share photographs, each of which is asked about once.
    """
    wanted = [folders.select(path)[0] for _, table in sides for path in table.frame["path"]]
    photos, done = list(dict.fromkeys(wanted)), parts.index(folder)
    missing = [photo for photo in photos if photo not in done]
    before = len(photos) - len(missing)
    show = {"desc": "evaluating", "total": len(photos), "initial": before, "unit": "photo"}
    size, view = options.batch_size, PIXELS[options.pixels]
    batches = [missing[start : start + size] for start in range(0, len(missing), size)]
    ahead = parallel.opened_ahead(lambda photo: _open(photo.path, backbone, view), batches)
    with parts.appending(folder / "rows.jsonl") as append, tqdm(**show) as bar:
        for batch, opened in ahead:
            append(list(_rows(backbone, batch, opened, options)))
            bar.update(len(batch))
    places = parts.index(folder)
    return list(parts.rows(places[photo] for photo in wanted))


def _rows(
    backbone: Backbone, batch: Sequence[parts.Photo], opened: Sequence, options
) -> Iterator[dict]:
    images = [image for image in opened if not isinstance(image, str)]
    said = _answers(backbone, images, options.form, options.digits)
    for photo, image in zip(batch, opened, strict=True):
        row = {"problem": image} if isinstance(image, str) else {"problem": "", **next(said)}
        yield {"photo": list(photo), **row}


def _open(path: str, backbone: Backbone, view: View) -> Image.Image | str:
    """A photograph as a view fits it, or why there is none: too long for its width, perhaps."""
    try:
        image = view.fit(open_photo(path))
        backbone.image_processor.get_number_of_image_patches(image.height, image.width)
    except (OSError, ValueError, MemoryError) as error:
        return str(error).removeprefix(f"{path}: ") or type(error).__name__
    return image


def _answers(
    backbone: Backbone, images: Sequence[Image.Image], form: str, digits: int
) -> Iterator[dict]:
    """Scores of a batch, and whether the model, left to itself, writes such an answer."""
    if form in CHAINS:
        filled = form_filling.fill(backbone, images, CHAINS[form], digits=digits)
        said = [(one.reading, one.reading.parsed and one.follows) for one in filled]
    else:
        readings = digit_tree.read(backbone, images, digits, FORMS[form])
        said = [(reading, reading.parsed) for reading in readings]
    for reading, parsed in said:
        greedy = reading.greedy if reading.parsed else None
        yield {"greedy": greedy, "expected": reading.expected, "sd": reading.sd, "parsed": parsed}


# --- what comes of it ----------------------------------------------------------------------------


def joined(sides: Sides, rows: Sequence[dict]) -> pd.DataFrame:
    """One row per split and photograph: `COLUMNS`, scores on 0..10, rounded as they are written."""
    said = pd.DataFrame(rows, columns=["greedy", "expected", "sd", "parsed", "problem"])
    asked = [
        pd.DataFrame({"id": table.frame["id"], "target": table.targets, "split": split.name})
        for split, table in sides
    ]
    frame = pd.concat([pd.concat(asked, ignore_index=True), said], axis=1)[list(COLUMNS)]
    numbers = frame[["target", "greedy", "expected", "sd"]].astype(float)
    return frame.assign(**numbers.map(lambda value: float(f"{value:.6g}")))


def measure(frame: pd.DataFrame, dataset: str, model: str, seed: int) -> pd.DataFrame:
    """The metrics of greedy and expected scores with their intervals, tidy; splits are pooled.

    An answer that could not be read counts as the middle of the scale; `parsed` of the n could.
    `seeds` has the seed of the intervals: those of a released training are not known. Raises
    ValueError for a split with fewer than two photographs.
    """
    opened, rows = [], []
    for name, part in frame.groupby("split", sort=False):
        opened.append(part[part["problem"] == ""].reset_index(drop=True))
        if len(opened[-1]) < 2:
            few = f"{len(opened[-1])} of {len(part)} photographs could be opened"
            raise ValueError(f"split {name}: {few}; a correlation needs 2 or more")
    parsed = sum(int(part["parsed"].sum()) for part in opened)
    for column in ("greedy", "expected"):
        for metric in METRICS:
            interval = evaluation.estimate(metric, opened, column, seed, RESAMPLES)
            row = evaluation.row(interval, dataset, model, metric, [seed])
            rows.append(row | {"read": column, "parsed": parsed})
    return pd.DataFrame(rows).assign(seeds=str(seed))


def _record(options, backbone: Backbone, sides: Sides, frame: pd.DataFrame) -> dict:
    """What is told beside settings and hashes."""
    over = "test images" if len(sides) == 1 else "splits and test images"
    return {
        "test": [{"split": split.name, "photographs": len(table), "of": len(split.test),
                  "ids_hash": table.ids_hash} for split, table in sides],
        "view": asdict(PIXELS[options.pixels]),
        "processor": dict(backbone.image_processor.size),  # least and most pixels
        "batch_size": options.batch_size,
        "n": len(frame),
        "n_parsed": int(frame["parsed"].eq(True).sum()),
        "problems": int(frame["problem"].ne("").sum()),
        "interval": f"95 % percentile bootstrap over {over}, {RESAMPLES} resamples",
        "seed": options.seed,
    }  # fmt: skip


def _problems(frame: pd.DataFrame) -> list[str]:
    bad = frame[frame["problem"] != ""].drop_duplicates("id")
    head = f"{len(bad)} photographs could not be opened and do not count (column problem):"
    lines = [f"  {row.id!r}: {row.problem}" for row in bad.itertuples()]
    return [head, *lines[:SHOWN], ""] if lines else []


def report(measured: pd.DataFrame, title: str, out: Path) -> str:
    """What is told on the terminal at the end."""
    lines, (n, parsed) = [title], measured.loc[0, ["n", "parsed"]]
    for read_as, part in measured.groupby("read", sort=False):
        cells = [f"{r.metric.upper()} {r.estimate:.3f} [{r.low:.3f}, {r.high:.3f}]"
                 for r in part.itertuples()]  # fmt: skip
        lines.append(f"  {read_as:<9} {'  '.join(cells)}")
    others = f"; the others count as {evaluation.MIDDLE:g} in greedy" if parsed < n else ""
    lines.append(f"{parsed} of {n} free-running answers could be read{others}")
    return "\n".join([*lines, *(f"  {out / f}" for f in ("scores.csv", "results.csv"))])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "realqa evaluate",
        description="What a model makes of the test side of a public set: SRCC, PLCC and RMSE "
        "(points of 0..10) of greedy and expected scores. A run that was cut off goes on.",
    )
    add = parser.add_argument
    add("--set", required=True, metavar="S", help="of photographs; `realqa data` lists them")
    add("--protocol", required=True, metavar="P", help="of its splits; listed there too")
    add("--model", required=True, help="a folder of Backbone.save, or a hub name")
    add("--adapter", help="LoRA for it: a folder, or owner/name/folder on the hub")
    add("--out", required=True, metavar="DIR", help="folder for the results")
    add("--data", metavar="FOLDER", help="the folder that the sets lie in (default: REALQA_DATA)")
    default = "bfloat16" if torch.cuda.is_available() else "float32"
    add("--weights", choices=WEIGHTS, default=default, help=f"precision (here: {default})")
    add("--form", choices=[*FORMS, *CHAINS], default="direct", help="of the answer, as trained")
    add("--digits", type=int, choices=range(1, MAX_DIGITS + 1), default=3, help="as trained")
    add("--pixels", choices=PIXELS, default="repo", help="what is seen of a photograph: as by the "
        "authors' code (default), as in their README, as the checkpoint says")  # fmt: skip
    add("--limit", type=int, metavar="N", help="the first N photographs of a split only")
    add("--seed", type=int, default=0, help="of the intervals (default: 0)")
    add("--batch-size", type=int, default=8, metavar="N", help="photographs at a time")
    add("--present-only", action="store_true", help="do without photographs that are missing")
    options = parser.parse_args(arguments)
    for key, least in {"limit": 2, "seed": 0, "batch_size": 1}.items():
        if (value := getattr(options, key)) is not None and value < least:
            parser.error(f"--{key.replace('_', '-')} {value}: at least {least}")
    return options
