"""The generated part of README.md: every number in it is read from `figures/`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from realqa_utils.claims import paper, scoreboard
from realqa_utils.records import results
from realqa_utils.reproduction.readme_parts import NOTEBOOKS, SPEEDS, captions, lines, paragraphs

BEGIN, END = "<!-- generated: realqa readme -->", "<!-- end of generated part -->"
#: The profiles of which results are in the repository.
PROFILES = ("mini", "photos")


def render() -> str:
    """Markdown of the claims, the tables and the speeds that have been recorded."""
    figures = results.home() / "figures"
    parts = [*_told(figures, NOTEBOOKS), captions(), *_told(figures, SPEEDS)]
    return paragraphs(_claims(figures), *map(_folded, parts))


def _folded(part: str) -> str:
    """A part whose first paragraph is seen, and the rest on a click."""
    head, rest = part.split("\n\n", 1)
    return paragraphs(head, "<details><summary>numbers</summary>", rest, "</details>")


def _told(figures: Path, parts: Sequence[tuple]) -> Iterator[str]:
    """The Markdown of the parts whose results are there."""
    for profile, stem, part in parts:
        path = figures / profile / f"{stem}.csv"
        if path.exists():
            yield part(pd.read_csv(path), path)


def _claims(figures: Path) -> str:
    board = scoreboard.board(PROFILES, figures)
    found_rows = []
    for claim, part in board.groupby("claim", sort=False):
        found = part[part["verdict"] != scoreboard.NOT_RUN].to_dict("records")
        found_rows += [
            f"`{claim}` | {_plain(row['statement'])} | `{row['profile']}` | **{row['verdict']}** | "
            f"{scoreboard.measured(row)} | {row['unit']} | {row['n']} | {row['seeds']} | "
            f"{row['notebook']}"
            for row in found
        ]
        if not found:
            notebook = part["notebook"].iloc[0]
            found_rows.append(
                f"`{claim}` | {_plain(paper.CLAIMS[claim])} | | not run | | | | | {notebook}"
            )
    head = (
        "**Claims** of the paper, each stated so that a positive estimate supports it, with what "
        "was measured in brackets: `holds` where the 95 % interval lies above zero, `fails` where "
        "it lies below. A profile without a row was not run; *longer*: with the trainings of "
        "`realqa lengths`."
    )
    header = "claim | statement | profile | verdict | estimate | unit | n | seeds | notebook"
    return paragraphs(head, lines(header, *found_rows))


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is, in the cell of a table."""
    return text.replace("*", r"\*").replace("|", r"\|")


def updated(text: str) -> str:
    """README text with its generated part made anew. Raises ValueError without the two marks."""
    if BEGIN not in text or END not in text:
        raise ValueError(f"README.md: the marks {BEGIN!r} and {END!r} are missing")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n\n{render()}\n\n{END}{rest.split(END, 1)[1]}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("realqa readme", description=__doc__)
    parser.parse_args(arguments)
    path = results.home() / "README.md"
    results.write_text(path, updated(path.read_text()))
