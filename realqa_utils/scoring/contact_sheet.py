"""One HTML file that shows scored photographs: sorted, filtered, each with why on a click.

The file needs no network and no other file. It is written as photographs come, so its size is no
matter of memory here. Names of files and words of a model are data in it, never markup: they stand
in blocks of JSON without a `<`, and the page's policy allows no script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from realqa_utils.forms.conversations import MIX
from realqa_utils.records import results

TEMPLATE = Path(__file__).with_name("contact_sheet.html")
SCRIPT = Path(__file__).with_name("contact_sheet.js")
BLOCK = 256  # photographs in one block of JSON
BARS = 100  # of the chart, at most
#: What can be sorted by: key, title, and a word to stand before the value on a card.
COLUMNS = (
    ("score", "Score", ""),
    ("name", "Name", ""),
    ("low", "Low end of the interval", "from"),
    ("high", "High end of the interval", "to"),
    ("width", "Width of the interval", "width"),
    ("greedy", "Digits as written", "written"),
    ("expected", "Mean of the digits", "mean"),
    ("sd", "Standard deviation", "sd"),
    ("off_format", "Off the format", "off"),
    ("problem", "Problem", ""),
)
COMPOSITE = ("composite", "Composite", "composite")


def write(
    path: str | Path,
    photographs: Iterable[dict],
    title: str,
    digits: int = 3,
    attributes: bool = False,
    composite: bool = False,
) -> Path:
    """Write the page, atomically; `photographs` is read once, a block at a time.

    Each is a dict with `name` (the path), `problem` ("" where there is none) and `thumbnail` (JPEG,
    base64, or None). Without a problem also `score`, `low`, `high`, `interval` (where it comes
    from), `greedy`, `expected`, `sd`, `parsed`, `off_format` and `bars` (first, [parts of 10,000,
    ...]: of 10 bars over 0..10 for one digit, else 100). With attributes, `values`, `reasons` and
    `chances` by name: tier indices or scores or texts, words, and lists of probabilities; and
    `left`, the slot at which the model would have left the form ("" where it would not).
    """
    script = SCRIPT.read_text("utf-8")
    known = {
        "title": html.escape(title),
        "policy": html.escape(_policy(script)),
        "meta": _json(_meta(digits, attributes, composite)),
        "script": script,
    }

    def fill(temporary: Path) -> None:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            for text, name in _pieces(TEMPLATE.read_text("utf-8")):
                file.write(text)
                if name == "photographs":
                    _write_blocks(file, photographs)
                else:
                    file.write(known.get(name, ""))

    return results.write_atomically(path, fill)


def _pieces(template: str) -> Iterator[tuple[str, str]]:
    """The template as (text, name of the place behind it); the last has no place, only text."""
    parts = re.split(r"\{\{(\w+)\}\}", template)
    return itertools.zip_longest(parts[::2], parts[1::2], fillvalue="")


def _policy(script: str) -> str:
    """Nothing is loaded from anywhere, and no script runs but the one with this hash."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    loaded = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return f"{loaded}; script-src 'sha256-{digest}'"


def _meta(digits: int, attributes: bool, composite: bool) -> dict:
    asked = MIX.attributes if attributes else ()
    columns = [*COLUMNS[:-1], *([COMPOSITE] if composite else [])]
    columns += [(a.name, a.title, a.title.lower()) for a in asked] + [COLUMNS[-1]]
    return {
        "digits": digits,
        "bars": min(10**digits, BARS),
        "columns": [dict(zip(("key", "title", "short"), c, strict=True)) for c in columns],
        "attributes": [
            {
                "name": a.name,
                "title": a.title,
                "kind": a.kind,
                "tiers": [tier.words for tier in a.tiers],
            }
            for a in asked
        ],
    }


def _write_blocks(file: TextIO, photographs: Iterable[dict]) -> None:
    photographs = iter(photographs)
    while block := list(itertools.islice(photographs, BLOCK)):
        file.write(f'<script type="application/json" class="photographs">{_json(block)}</script>\n')


def _json(content: object) -> str:
    """JSON that is safe inside a script element: without `<`, no tag and no comment can begin."""
    text = json.dumps(_plain(content), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _plain(content: object) -> object:
    """Without NaN, which JSON does not have; floats with 5 decimals are enough to look at."""
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    if isinstance(content, float):
        return round(content, 5) if math.isfinite(content) else None
    return content
