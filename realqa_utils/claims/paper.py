"""What the paper claims, and how a measurement decides about a claim.

A profile other than `paper` cannot reproduce a *number* of the paper, only the direction of a
claim: each claim is stated so that a positive difference supports it. How a number of ours is set
against a printed one is in `comparison`.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

CLAIMS: dict[str, str] = {
    "T1-stage1-beats-zero-shot": (
        "Fine-tuning on attributes (stage 1) raises the mean attribute SRCC over zero-shot"
    ),
    "T2-mixed-granularity-best": (
        "Training on questions of all granularities beats the best single granularity"
    ),
    "T3-sorting-separates-models": (
        "Models of similar size differ in sorting numbers, and the better sorter scores better"
    ),
    "T4-two-extra-digits": "Two extra significant digits (M = 3) beat the integer (M = 1)",
    "F5-ncm-falls": "NCM falls during training",
    "F5-ncmstar-falls": "NCM*, which leaves the true digit out, falls during training as well",
    "S46-next-token-vs-regression": (
        "Scores written as digit tokens are better than those of a regression head"
    ),
    "F2-attributes-track-mos": "The mean MOS rises with the fine-grained attributes",
    "S47-cot-beats-direct": (
        "Chain of thought over self-labelled attributes beats asking for the score directly"
    ),
    "S47-cross-domain": "With chain of thought the model is better on sets that it never saw",
    "S47-video-zero-shot": "Trained on images only, the model orders videos by quality",
}

TABLES = Path(__file__).with_name("paper_tables.csv")
PUBLISHED = Path(__file__).with_name("published_rows.csv")
#: The tables of which cells can be read, and why there are no others.
READABLE = (1, 2, 3)
NOT_AVAILABLE = "not available: the public text breaks off at the caption of Table 4"


def printed(table: int) -> pd.DataFrame:
    """Table 1, 2 or 3 as printed, tidy: row, dataset, column, metric, value, source, grade, note.

    `grade` says how sure a cell is: the public text lost some of its column borders. `value` is
    NaN where the paper has N.A. Raises ValueError for a table that cannot be read.

    >>> printed(4)
    Traceback (most recent call last):
    ValueError: Table 4: not available: the public text breaks off at the caption of Table 4
    """
    if table not in READABLE:
        raise ValueError(f"Table {table}: {NOT_AVAILABLE}")
    rows = _of(str(table))
    return rows.assign(value=pd.to_numeric(rows["value"].replace("N.A.", None)))


def stated() -> pd.DataFrame:
    """The gains that the text states of tables which cannot be read, as `printed`.

    `value` is text as it stands there ("+1.8%"), and `note` says what it leaves open.
    """
    return _of("text")


def _of(table: str) -> pd.DataFrame:
    every = pd.read_csv(TABLES, dtype=str)
    return every[every["table"] == table].drop(columns="table").reset_index(drop=True)


def published() -> pd.DataFrame:
    """What others have published of their models: method, dataset, srcc, plcc, protocol, source.

    These are theirs, measured by them. A row may stand beside a number of ours only with its
    `protocol`; `comparison.compare` says whether the two can be compared.
    """
    return pd.read_csv(PUBLISHED)


VERDICTS = ("holds", "fails", "undecided")


def verdict(low: float, high: float) -> str:
    """What the interval [`low`, `high`] of the difference that a claim is about says of it.

    >>> verdict(0.02, 0.11), verdict(-0.2, -0.1), verdict(-0.01, 0.05)
    ('holds', 'fails', 'undecided')

    An interval that could not be computed (NaN) decides nothing.

    >>> verdict(float("nan"), float("nan"))
    'undecided'
    """
    if low > 0:
        return "holds"
    return "fails" if high < 0 else "undecided"
