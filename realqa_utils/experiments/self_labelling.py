"""Self-labelling: a model of stage 1 labels a whole set, in parts that survive a kill (Sec. 3.2).

Each part is a file of JSON Lines, written in one step when its photographs are done; a manifest
says what the parts are of. A run that was cut off goes on at the first part that is missing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from realqa_utils.datasets.table import Table
from realqa_utils.forms.conversations import STAGE_1, Parsed
from realqa_utils.images.photos import open_photo
from realqa_utils.images.views import View
from realqa_utils.model.backbone import Backbone
from realqa_utils.records import results
from realqa_utils.scoring import labelling

PART = 64  # photographs
WHOLE = View()


def label_set(
    backbone: Backbone,
    table: Table,
    out: str | Path,
    model_hash: str,
    granularity: str = "mix",
    view: View = WHOLE,
    progress: bool = True,
) -> pd.DataFrame:
    """Label every photograph of a table; returns what `read` gives.

    `out` is a folder for one set, model and way of asking; `model_hash` tells the weights. A
    photograph that cannot be opened is a row with its problem. Raises ValueError where `out` holds
    labels of something else, naming what differs.
    """
    out = Path(out)
    manifest = {
        "dataset": table.name,
        "photographs": len(table),
        "ids_hash": table.ids_hash,
        "model_hash": model_hash,
        "granularity": granularity,
        "view": asdict(view),
        "part": PART,
    }
    _same(out / "manifest.json", manifest)
    rows = table.frame[["id", "path"]].to_dict("records")
    parts = [rows[start : start + PART] for start in range(0, len(rows), PART)]
    paths = [out / f"part-{number:05d}.jsonl" for number in range(len(parts))]
    missing = [(path, part) for path, part in zip(paths, parts, strict=True) if not path.exists()]
    for path, part in tqdm(missing, "labelling", disable=not progress):
        said = _label(backbone, part, granularity, view)
        lines = [json.dumps(line, ensure_ascii=False) for line in said]
        results.write_text(path, "\n".join(lines) + "\n")
    return read(out)


def read(out: str | Path) -> pd.DataFrame:
    """The labels so far: id, problem, and a column per attribute and reason; None where missing.

    Raises FileNotFoundError for a folder without a manifest.
    """
    out = Path(out)
    if not (out / "manifest.json").exists():
        raise FileNotFoundError(f"{out} holds no manifest.json: no labels were written here")
    files = sorted(out.glob("part-*.jsonl"))
    lines = [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]
    flat = [_flat(line) for line in lines]
    return pd.DataFrame(flat, columns=list(_flat({"id": "", "problem": ""})), dtype=object)


def _same(path: Path, manifest: dict) -> None:
    if not path.exists():
        results.write_json(path, manifest)
        return
    found = json.loads(path.read_text("utf-8"))
    manifest = json.loads(json.dumps(manifest))  # as it comes back: tuples are lists
    differs = [key for key in manifest if found.get(key) != manifest[key]]
    if differs:
        key = differs[0]
        raise ValueError(
            f"{path}: these labels are of another run ({key} is {found.get(key)!r}, not "
            f"{manifest[key]!r}); give an empty folder"
        )


def _label(backbone: Backbone, rows: Sequence[dict], granularity: str, view: View) -> list[dict]:
    opened, problems = {}, {}
    for row in rows:
        try:
            opened[row["id"]] = view.training(view.fit(open_photo(row["path"])), None)
        except (OSError, ValueError) as error:
            problems[row["id"]] = str(error)
    images = list(opened.values())
    said = labelling.label(backbone, images, granularity) if images else []
    parsed = dict(zip(opened, said, strict=True))
    return [_line(row["id"], parsed.get(row["id"]), problems.get(row["id"], "")) for row in rows]


def _line(identity: str, parsed: Parsed | None, problem: str) -> dict:
    return {"id": identity, "problem": problem, **(asdict(parsed) if parsed else {})}


def _flat(line: dict) -> dict:
    row = {"id": line["id"], "problem": line["problem"]}
    for form in STAGE_1["mix"]:
        for slot in form.slots:
            side = line.get("reasons" if slot.is_reason else "values", {})
            row[slot.key] = side.get(slot.attribute.name)
    return row
