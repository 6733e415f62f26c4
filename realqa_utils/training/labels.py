"""Labels for chains of thought: those that a model gave, in place of the true ones, or with errors.

The paper's chains tell what the model of stage 1 says of a photograph (Sec. 3.2). How much its
errors cost is asked by putting errors in.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from realqa_utils.datasets.table import Table
from realqa_utils.forms.chains import NATURAL
from realqa_utils.forms.conversations import Slot
from realqa_utils.scoring.form_steps import legal_labels

#: The columns that a chain of thought tells.
SLOTS: dict[str, Slot] = {slot.key: slot for slot in NATURAL.slots}


def joined(table: Table, found: pd.DataFrame) -> Table:
    """The table with the labels in `found`, which replace its own; None where one is missing.

    `found` has the column `id` and one per slot, as `self_labelling.read` gives; it may hold more
    photographs than the table. Raises ValueError for a column that lacks, for a photograph of the
    table that is not in `found`, and for one that is there twice.
    """
    _check(found, f"the labels of {table.name}", ["id", *SLOTS])
    twice = found["id"][found["id"].duplicated()]
    if len(twice):
        raise ValueError(f"photograph {twice.iloc[0]!r} has several rows of labels; right is one")
    absent = table.frame["id"][~table.frame["id"].isin(found["id"])]
    if len(absent):
        raise ValueError(
            f"{table.name}: {len(absent)} of {len(table)} photographs have no row of labels, the "
            f"first is {absent.iloc[0]!r}; right is one row each, such as `label_set` gives"
        )
    said = found.set_index("id").loc[table.frame["id"], list(SLOTS)].reset_index(drop=True)
    said = said.astype(object).where(said.notna(), None)
    return replace(table, frame=table.frame.assign(**said))


def with_noise(table: Table, share: float, seed: int) -> Table:
    """The table with a share of the labels of every column replaced by other ones.

    Another tier or score of 1..10 is drawn evenly, another text from those of other photographs.
    What is wrong for one share is wrong in the same way for a larger one with the same seed.
    Missing labels stay missing and do not count. Raises ValueError for a share outside 0..1, for a
    column that lacks, and for texts that are all the same.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share}: must be from 0 to 1")
    _check(table.frame, table.name, list(SLOTS))
    noisy = {
        key: _noisy(table.frame[key], slot, share, np.random.default_rng([seed, 4, number]))
        for number, (key, slot) in enumerate(SLOTS.items())
    }
    return replace(table, frame=table.frame.assign(**noisy))


def completed(found: pd.DataFrame) -> pd.DataFrame:
    """With made-up labels where one is missing: for a dry run, whose model has learnt nothing."""
    out = found.copy()
    for key, slot in SLOTS.items():
        choices = legal_labels(slot) or ["a thing, behind it a place", "it is there"]
        drawn = [choices[row % len(choices)] for row in range(len(found))]
        out[key] = found[key].where(found[key].notna(), pd.Series(drawn, found.index, object))
    return out


def _noisy(column: pd.Series, slot: Slot, share: float, rng: np.random.Generator) -> pd.Series:
    labels, known = column.tolist(), np.flatnonzero(column.notna())
    choices = legal_labels(slot) or sorted({labels[row] for row in known})
    place = {label: number for number, label in enumerate(choices)}
    order, steps = rng.permutation(known), rng.integers(1, max(len(choices), 2), len(known))
    for row, step in zip(order[: round(share * len(known))], steps, strict=False):
        slot.say(labels[row])  # raises for what is no label
        if len(choices) < 2:
            raise ValueError(f"{slot.key}: all photographs have the same text, {choices[0]!r}")
        labels[row] = choices[(place[labels[row]] + step) % len(choices)]
    return pd.Series(labels, column.index, column.dtype)


def _check(frame: pd.DataFrame, source: str, columns: list[str]) -> None:
    lacking = [column for column in columns if column not in frame]
    if lacking:
        raise ValueError(f"{source}: columns {lacking} are missing")
