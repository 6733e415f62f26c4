"""Scores as one of five words, the way of Q-Align, and with soft labels, that of DeQA-Score.

The range of the training scores is cut into five equal parts, `bad` to `excellent`; the model is
taught to say the word. A score is read as the mean of the parts' middles under the softmax over the
words' first tokens. A soft label spreads a photograph over the words as its raters were spread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.special import ndtr

from realqa_utils.datasets.table import Table
from realqa_utils.model.backbone import Backbone
from realqa_utils.model.encoding import Grid, encode_prompt
from realqa_utils.model.prompting import last_logits

WORDS = ("bad", "poor", "fair", "good", "excellent")
QUESTION = "Rate the quality and aesthetics of this image."
BEFORE, AFTER = "The quality of this image is", "."


@dataclass(frozen=True)
class Levels:
    """Five equal parts of the scores from `low` to `high`, on the 0..10 scale.

    Raises ValueError unless low < high.

    >>> Levels(0, 10).values.tolist(), Levels(0, 10).index(np.array([0, 3.9, 10])).tolist()
    ([1.0, 3.0, 5.0, 7.0, 9.0], [0, 1, 4])
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"Levels({self.low}, {self.high}): needs low < high")

    @classmethod
    def of(cls, table: Table) -> Levels:
        """The parts of a table's own range, as in the published files of Q-Align."""
        return cls(float(table.targets.min()), float(table.targets.max()))

    @property
    def edges(self) -> np.ndarray:
        """Where the parts meet, and the ends: (6,)."""
        return np.linspace(self.low, self.high, len(WORDS) + 1)

    @property
    def values(self) -> np.ndarray:
        """The middle of each part, (5,)."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    def index(self, targets: np.ndarray) -> np.ndarray:
        """0 (bad) to 4 (excellent) for scores (n,); those out of range get the nearest part."""
        return np.digitize(targets, self.edges[1:-1])

    def soft(self, targets: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """Probability of each word (n, 5) where opinions are Normal(target, spread).

        The mass of each part, then moved linearly, p' = a p + b, so that it sums to 1 and its mean
        is the score (DeQA-Score, Sec. 3.2); where that would make a probability negative, or for a
        score beyond the outer middles, the plain masses stand.
        """
        edges = (self.edges - targets[:, None]) / spread[:, None]
        plain = np.diff(ndtr(np.concatenate([-np.inf + 0 * edges[:, :1], edges[:, 1:-1],
                                             np.inf + 0 * edges[:, :1]], 1)), axis=1)  # fmt: skip
        mean, count, middle = plain @ self.values, len(WORDS), self.values.sum()
        # a + 5 b = 1 and a mean + b sum(values) = target
        with np.errstate(divide="ignore", invalid="ignore"):
            b = (targets - mean) / (middle - count * mean)
        moved = plain * (1 - count * b)[:, None] + b[:, None]
        good = (np.isfinite(moved) & (moved >= 0)).all(1)
        return np.where(good[:, None], moved, plain)


def first_tokens(tokenizer) -> list[int]:
    """Ids of the first token of each word behind `BEFORE`. Raises ValueError if two share one."""
    start = len(tokenizer(BEFORE, add_special_tokens=False).input_ids)
    ids = [
        tokenizer(f"{BEFORE} {word}{AFTER}", add_special_tokens=False).input_ids[start]
        for word in WORDS
    ]
    if len(set(ids)) < len(ids):
        raise ValueError(f"the tokenizer begins two of {', '.join(WORDS)} with the same token")
    return ids


class LevelLesson:
    """The question for a level and the word of each row's MOS as its answer."""

    def __init__(self, table: Table, is_soft: bool):
        self.levels, self.targets = Levels.of(table), table.targets
        self.index = self.levels.index(self.targets)
        spread = table.spread
        if is_soft and not np.isfinite(spread).all():
            raise ValueError(f"{table.name}: soft levels need the raters' spread, column 'std'")
        self.masses = self.levels.soft(self.targets, np.maximum(spread, 1e-3)) if is_soft else None

    def conversations(self, rows: Sequence[int]) -> tuple[list[str], list[str]]:
        """Questions and answers of the rows."""
        answers = [f"{BEFORE} {WORDS[self.index[row]]}{AFTER}" for row in rows]
        return [QUESTION] * len(rows), answers

    def extras(
        self, backbone: Backbone, rows: Sequence[int], answers: Sequence[str], grids: Sequence[Grid]
    ) -> dict[str, torch.Tensor]:
        """With soft labels: `soft_places` (batch, 1), `soft_ids` (5,) and `soft` (batch, 1, 5)."""
        if self.masses is None:
            return {}
        tokenizer = backbone.tokenizer
        start = len(tokenizer(BEFORE, add_special_tokens=False).input_ids)
        places = [len(encode_prompt(backbone, QUESTION, grid).ids) + start for grid in grids]
        return {
            "soft_places": torch.tensor(places)[:, None],
            "soft_ids": torch.tensor(first_tokens(tokenizer)),
            "soft": torch.as_tensor(self.masses[list(rows)], dtype=torch.float32)[:, None],
        }


def read(backbone: Backbone, images: Sequence[Image.Image], levels: Levels) -> pd.DataFrame:
    """One row per photograph: greedy (of the likeliest word), expected, sd, parsed.

    `parsed` tells whether the model, left to itself, would have begun one of the words.
    """
    ids = torch.tensor(first_tokens(backbone.tokenizer))
    logits = last_logits(backbone, images, QUESTION, BEFORE)
    chances = logits[:, ids].double().softmax(1).numpy()
    expected = chances @ levels.values
    variance = (chances * (levels.values - expected[:, None]) ** 2).sum(1)
    return pd.DataFrame(
        {
            "greedy": levels.values[chances.argmax(1)],
            "expected": expected,
            "sd": np.sqrt(variance),
            "parsed": torch.isin(logits.argmax(1), ids).numpy(),
        }
    )
