"""What a batch teaches: scores (stage 2) or attributes (stage 1), as questions and answers.

A lesson turns rows of a labelled table into conversations. Which forms a batch is asked in follows
from the seed and its rows, so an interrupted training goes on with the same questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from realqa_utils.datasets.table import Table
from realqa_utils.forms.chains import STAGE_2, ChainForm
from realqa_utils.forms.conversations import DIRECT, STAGE_1, AttributeForm, Form, Slot
from realqa_utils.model.backbone import Backbone
from realqa_utils.model.encoding import Grid, digit_tokens, encode_prompt
from realqa_utils.training.level_words import LevelLesson
from realqa_utils.training.recipes import Recipe
from realqa_utils.training.regression_head import RegressionLesson
from realqa_utils.training.tree_mean import TreeLesson


class ScoreLesson:
    """Stage 2: every row is asked for its score in one of the forms, drawn evenly.

    A chain of thought tells the labels of the row, true or self-labelled. A photograph of which
    one is missing (None, NaN) has no chain to learn: it is asked directly, whatever the forms.
    With `one_by_one` the form of a row does not depend on the others of its batch.

    Raises ValueError for chains of a table that lacks a column of labels or has no photograph with
    all of them, and for a label that cannot be, naming the column and the photograph.
    """

    def __init__(
        self, table: Table, forms: Sequence[Form | ChainForm], digits: int, seed: int = 0,
        one_by_one: bool = False,
    ):  # fmt: skip
        self.targets, self.forms = table.targets, tuple(forms)
        self.digits, self.seed, self.one_by_one = digits, seed, one_by_one
        slots = [slot for form in forms if isinstance(form, ChainForm) for slot in form.slots]
        self.labels: list[dict | None] = [None] * len(table)
        if slots:
            self.labels = _labels(table, slots, "a chain of thought", or_none=True)

    def conversations(self, rows: Sequence[int]) -> tuple[list[str], list[str]]:
        """Questions and answers of the rows."""
        forms = self._asked(rows)
        answers = [self._answer(form, row) for form, row in zip(forms, rows, strict=True)]
        return [form.question for form in forms], answers

    def extras(
        self, backbone: Backbone, rows: Sequence[int], answers: Sequence[str], grids: Sequence[Grid]
    ) -> dict[str, torch.Tensor]:
        """`digit_places` (batch, M), columns found by their place in the form, and `targets`."""
        places = []
        for form, answer, grid in zip(self._asked(rows), answers, grids, strict=True):
            start = len(encode_prompt(backbone, form.question, grid).ids)
            inside = digit_tokens(backbone.tokenizer, answer, form.score_span(answer))
            places.append([start + i for i in inside])
        targets = torch.as_tensor(self.targets[list(rows)])  # float32 could round to other digits
        return {"digit_places": torch.tensor(places), "targets": targets}

    def _asked(self, rows: Sequence[int]) -> list[Form | ChainForm]:
        drawn = zip(_drawn(self.forms, self.seed, rows, self.one_by_one), rows, strict=True)
        return [
            DIRECT if isinstance(form, ChainForm) and self.labels[row] is None else form
            for form, row in drawn
        ]

    def _answer(self, form: Form | ChainForm, row: int) -> str:
        score = self.targets[row], self.digits
        said = (self.labels[row],) if isinstance(form, ChainForm) else ()
        return form.answer(*said, *score)


class AttributeLesson:
    """Stage 1: every row is asked in one of the forms, drawn evenly; `one_by_one` as above.

    Raises ValueError for a table that lacks a column of labels, and for a label that cannot be,
    naming the column and the photograph.
    """

    def __init__(
        self, table: Table, forms: Sequence[AttributeForm], seed: int, one_by_one: bool = False
    ):
        self.forms, self.seed, self.one_by_one = tuple(forms), seed, one_by_one
        slots = [slot for form in forms for slot in form.slots]
        self.labels = _labels(table, slots, "stage 1")

    def conversations(self, rows: Sequence[int]) -> tuple[list[str], list[str]]:
        """Questions and answers of the rows."""
        forms = _drawn(self.forms, self.seed, rows, self.one_by_one)
        answers = [f.answer(self.labels[row]) for f, row in zip(forms, rows, strict=True)]
        return [form.question for form in forms], answers

    def extras(self, *_) -> dict[str, torch.Tensor]:
        """Nothing: plain cross entropy needs the answers only."""
        return {}


def _drawn(forms: Sequence, seed: int, rows: Sequence[int], one_by_one: bool) -> list:
    """A form for every row, drawn evenly."""
    if one_by_one:
        return [form for row in rows for form in _drawn(forms, seed, [row], False)]
    drawn = np.random.default_rng([seed, 1, *rows]).integers(len(forms), size=len(rows))
    return [forms[which] for which in drawn]


def _labels(table: Table, slots: Iterable[Slot], purpose: str, or_none: bool = False) -> list:
    """The labels of every row, checked; with `or_none`, None for a row in which one is missing."""
    slots = {slot.key: slot for slot in slots}
    lacking = [key for key in slots if key not in table.frame]
    if lacking:
        raise ValueError(f"{table.name} has no labels for {purpose}: columns {lacking} are missing")
    frame = table.frame[list(slots)]
    whole = frame.notna().all(axis=1) | (not or_none)
    if not whole.any():
        raise ValueError(f"{table.name}: no photograph has all labels for {purpose}: {list(slots)}")
    rows = [
        row if full else None for row, full in zip(frame.to_dict("records"), whole, strict=True)
    ]
    for identity, row in zip(table.frame["id"], rows, strict=True):
        try:
            for key in row or ():
                slots[key].say(row[key])
        except ValueError as problem:
            raise ValueError(f"{table.name}, photograph {identity!r}: {problem}") from None
    return rows


def of(recipe: Recipe, table: Table, one_by_one: bool = False):
    """The lesson that a recipe's objective and form name, on a table."""
    if recipe.objective == "level_words":
        return LevelLesson(table, is_soft=recipe.opinion_spread > 0)
    if recipe.objective == "regression":
        return RegressionLesson(table)
    if recipe.objective == "tree_mean":
        return TreeLesson(table, recipe.digits)
    if recipe.form in STAGE_2:
        forms = STAGE_2[recipe.form]
        return ScoreLesson(table, forms, recipe.digits, recipe.seed, one_by_one)
    return AttributeLesson(table, STAGE_1[recipe.form], recipe.seed, one_by_one)
