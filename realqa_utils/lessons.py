"""What a batch teaches: scores (stage 2) or attributes (stage 1), as questions and answers.

A lesson turns rows of a labelled table into conversations. Which stage-1 forms a batch is asked in
follows from the seed and its rows, so an interrupted training goes on with the same questions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from realqa_utils.backbone import Backbone
from realqa_utils.conversations import FORMS, STAGE_1, AttributeForm, Form
from realqa_utils.datasets.table import Table
from realqa_utils.encoding import Grid, digit_tokens, encode_prompt
from realqa_utils.recipes import Recipe


class ScoreLesson:
    """One form for every row: the question for a score and the MOS as its answer."""

    def __init__(self, table: Table, form: Form, digits: int):
        self.targets, self.form, self.digits = table.targets, form, digits

    def conversations(self, rows: Sequence[int]) -> tuple[list[str], list[str]]:
        """Questions and answers of the rows."""
        answers = [self.form.answer(self.targets[row], self.digits) for row in rows]
        return [self.form.question] * len(rows), answers

    def extras(
        self, backbone: Backbone, rows: Sequence[int], answers: Sequence[str], grids: Sequence[Grid]
    ) -> dict[str, torch.Tensor]:
        """`digit_places` (batch, M), columns found by their place in the form, and `targets`."""
        places = []
        for answer, grid in zip(answers, grids, strict=True):
            start = len(encode_prompt(backbone, self.form.question, grid).ids)
            inside = digit_tokens(backbone.tokenizer, answer, self.form.score_span(answer))
            places.append([start + i for i in inside])
        targets = torch.as_tensor(self.targets[list(rows)])  # float32 could round to other digits
        return {"digit_places": torch.tensor(places), "targets": targets}


class AttributeLesson:
    """Stage 1: every row is asked in one of the forms, drawn evenly.

    Raises ValueError for a table that lacks a column of labels, and for a label that cannot be,
    naming the column and the photograph.
    """

    def __init__(self, table: Table, forms: Sequence[AttributeForm], seed: int):
        self.forms, self.seed = tuple(forms), seed
        slots = {slot.key: slot for form in forms for slot in form.slots}
        lacking = [key for key in slots if key not in table.frame]
        if lacking:
            raise ValueError(
                f"{table.name} has no labels for stage 1: columns {lacking} are missing"
            )
        self.labels = table.frame[list(slots)].to_dict("records")
        for identity, labels in zip(table.frame["id"], self.labels, strict=True):
            try:
                for key, slot in slots.items():
                    slot.say(labels[key])
            except ValueError as problem:
                raise ValueError(f"{table.name}, photograph {identity!r}: {problem}") from None

    def conversations(self, rows: Sequence[int]) -> tuple[list[str], list[str]]:
        """Questions and answers of the rows."""
        drawn = np.random.default_rng([self.seed, 1, *rows]).integers(
            len(self.forms), size=len(rows)
        )
        forms = [self.forms[which] for which in drawn]
        answers = [f.answer(self.labels[row]) for f, row in zip(forms, rows, strict=True)]
        return [form.question for form in forms], answers

    def extras(self, *_) -> dict[str, torch.Tensor]:
        """Nothing: plain cross entropy needs the answers only."""
        return {}


def of(recipe: Recipe, table: Table) -> ScoreLesson | AttributeLesson:
    """The lesson that a recipe's form names, on a table."""
    if recipe.form in FORMS:
        return ScoreLesson(table, FORMS[recipe.form], recipe.digits)
    return AttributeLesson(table, STAGE_1[recipe.form], recipe.seed)
