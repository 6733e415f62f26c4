"""Read scores out of a model: greedy digits and the exact distribution over the digit tree.

The fixed words of the answer are prefilled; then only digits are decoded: one pass runs all the
branches that matter behind what they share. For M digits d1 d2 ..:
E = sum_d1 p(d1) [d1 + 0.1 sum_d2 p(d2|d1) (d2 + ...)], exact but for a mass of at most `FLOOR`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

from realqa_utils.forms.chains import ChainForm
from realqa_utils.forms.conversations import DIRECT, Form
from realqa_utils.forms.scores import place_values
from realqa_utils.model import decoder
from realqa_utils.model.backbone import Backbone
from realqa_utils.model.decoder import Lean, Plain, chances, likeliest

FLOOR = 1e-3  # mass of the answers to one photograph that need not be expanded


@dataclass(frozen=True)
class Reading:
    """What a model says of one photograph's score, on the 0..10 scale.

    `values` and `probabilities` (leaves,) are the distribution over answers of the right format,
    summing to 1; `off_format` is the probability of any other answer. `text` holds the greedy
    digits and `parsed` tells whether the model, left to itself, would have written just those.
    """

    text: str
    parsed: bool
    values: np.ndarray
    probabilities: np.ndarray
    off_format: float

    @property
    def greedy(self) -> float:
        """The score of the greedy digits; NaN where the free answer would not parse."""
        return float(self.text) if self.parsed else float("nan")

    @property
    def expected(self) -> float:
        return float(self.values @ self.probabilities)

    @property
    def sd(self) -> float:
        return float(np.sqrt(self.probabilities @ (self.values - self.expected) ** 2))

    @property
    def mode(self) -> float:
        """The likeliest score, which need not be the greedy one."""
        return float(self.values[self.probabilities.argmax()])

    def quantile(self, q: float) -> float:
        """The least score that is not exceeded with a probability of q, in 0..1, or more.

        Raises ValueError for a q outside of it.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"q={q!r}: a probability, 0 to 1")
        reached = np.cumsum(self.probabilities) >= q - 1e-12  # sums are rounded
        return float(self.values[reached.argmax() if reached.any() else -1])


@torch.no_grad()
def read_batch(
    backbone: Backbone,
    images: Sequence[Image.Image],
    digits: int = 3,
    form: Form = DIRECT,
    tree: bool = True,
    floor: float | None = None,
) -> list[Reading]:
    """Readings of a batch of photographs, M = `digits`.

    Branches are left unexpanded, the least likely first, as long as their mass together is at most
    `floor` (`FLOOR` if None) for each photograph; each then stands as one leaf in the middle of its
    range. So with M = 3 and 0.001 the mean is exact to 0.005. Without `tree`, only the greedy
    digits are followed, and all other branches stand so: `values` are rough.
    """
    backbone.model.eval()
    rows = len(images)
    state, logits = decoder.begin(backbone, images, [form.question] * rows, [form.before] * rows)
    return read_tree(backbone, state, logits[:, -1], form, digits, tree, floor)


@torch.no_grad()
def read_tree(
    backbone: Backbone,
    state: Lean | Plain,
    logits: torch.Tensor,
    form: Form | ChainForm,
    digits: int = 3,
    tree: bool = True,
    floor: float | None = None,
) -> list[Reading]:
    """Readings of a batch of answers that have come to where the score begins; uses up `state`.

    `logits` (rows, vocabulary) are those of the first digit; for the rest see `read_batch`.
    """
    floor = FLOOR if floor is None else floor
    grown = _Tree(backbone, state, logits, digits, floor if tree else np.inf)
    for level in range(digits):
        grown.grow(level)
    return grown.readings(form)


class _Tree:
    """The digit trees of a batch, grown level by level; a node is a column of its photograph.

    They are padded to (photographs, nodes); what is not `real` is not run.
    """

    def __init__(self, backbone: Backbone, state, logits: torch.Tensor, digits: int, floor: float):
        self.tokenizer, self.state, self.digits = backbone.tokenizer, state, digits
        self.places, self.floor = place_values(digits), floor / max(1, digits - 1)
        self.ids = torch.tensor(backbone.digit_ids)
        (self.point,) = self.tokenizer(".", add_special_tokens=False).input_ids
        self.heard = torch.arange(len(logits))[:, None]  # (photographs, nodes): rows of ..
        self._hear(logits)
        self.value = torch.zeros(len(logits), 1, dtype=torch.float64)  # (photographs, nodes)
        self.mass = torch.ones(len(logits), 1, dtype=torch.float64)
        self.real = torch.ones(len(logits), 1, dtype=torch.bool)
        self.free = torch.ones(len(logits), dtype=torch.bool)  # greedy digits are the model's own
        self.greedy = torch.zeros(len(logits), dtype=torch.long)  # the node of the greedy answer
        self.way = torch.zeros(len(logits), 1, 0, dtype=torch.bool)  # open columns of each node
        self.path: list[torch.Tensor] = []  # greedy digits, one (photographs,) per level
        self.leaves: list[tuple[torch.Tensor, ...]] = []  # photographs, values, masses

    def _hear(self, logits: torch.Tensor) -> None:
        """Take in the logits (tokens, vocabulary) of what follows; of a point too, at first."""
        self.logits = logits
        self.chances = chances(logits, torch.cat((self.ids, torch.tensor([self.point]))))

    def grow(self, level: int) -> None:
        """Add one digit to every node; branches that are not expanded end with a middle value."""
        rows, last = torch.arange(len(self.free)), level == self.digits - 1
        mass = self.mass[..., None] * self.chances[self.heard, :10]
        value = self.value[..., None] + self.places[level] * torch.arange(10, dtype=torch.float64)
        own = self.logits[self.heard[rows, self.greedy]]
        best = likeliest(own[:, self.ids])
        self.free &= likeliest(own) == self.ids[best]
        self.path.append(best)
        child = (self.greedy * 10 + best)[:, None]  # the greedy one
        mass, value = mass.flatten(1), value.flatten(1)  # (photographs, nodes x 10)
        real = self.real.repeat_interleave(10, 1)
        if last:
            self._end(real, value, mass)
            return
        keep = real & _matters(mass * real, self.floor).scatter(1, child, True)
        self._end(real & ~keep, value + 4.5 * float(self.places[level + 1 :].sum()), mass)
        # kept ones first, in their order
        order = keep.int().argsort(dim=1, descending=True, stable=True)
        node = order[:, : int(keep.sum(1).max())]
        self.real = keep.gather(1, node)
        self.greedy = (node == child).int().argmax(1)
        self.mass, self.value = mass.gather(1, node), value.gather(1, node)
        self._run(node, level)

    def _end(self, ended: torch.Tensor, value: torch.Tensor, mass: torch.Tensor) -> None:
        photo, _ = ended.nonzero(as_tuple=True)
        self.leaves.append((photo, value[ended], mass[ended]))

    def _run(self, node: torch.Tensor, level: int) -> None:
        """Run the digits of new nodes (parent x 10 + digit), the point behind the first too."""
        (rows, n), real = node.shape, self.real
        columns, depth = [self.ids[node % 10]], [1 + level if level else 0] * n
        before = self.way.gather(1, (node // 10)[..., None].expand(-1, -1, self.way.shape[2]))
        own = torch.eye(n, dtype=torch.bool).expand(rows, n, n)
        if level == 0:
            columns.append(torch.full((rows, n), self.point))
            depth, own = [0] * n + [1] * n, own.repeat(1, 2, 2).tril()
            before, real = before.repeat(1, 2, 1), real.repeat(1, 2)
        sees = torch.cat((before, own), 2)
        tokens = torch.cat(columns, 1)
        self._hear(self.state.step(tokens, torch.tensor(depth), sees, real))
        # of a node that is not real, those of another: it counts for nothing
        heard = (real.flatten().cumsum(0) - 1).clamp(min=0).view(real.shape)
        if level == 0:
            digit, heard = heard[:, :n], heard[:, n:]
            self.mass = self.mass * self.chances[digit, 10]
            own = self.logits[digit[torch.arange(rows), self.greedy]]
            self.free &= likeliest(own) == self.point
        self.way, self.heard = sees[:, -n:], heard

    def _close(self, form: Form | ChainForm) -> None:
        """Would the model, left to itself, end the greedy answers here? (Not if it wrote 3.99.)"""
        rows = torch.arange(len(self.free))
        if self.digits > 1:
            way = self.way[rows, self.greedy].int()
            order = way.argsort(dim=1, descending=True, stable=True)
            self.state.take(way.sum(1), order[:, : self.digits])
        after = self.tokenizer(form.after, add_special_tokens=False).input_ids
        tokens = torch.tensor([[0, *after]]).repeat(len(rows), 1)
        tokens[:, 0] = self.ids[self.path[-1]]
        said = likeliest(self.state.step(tokens))
        self.free &= (said == torch.tensor([*after, self.tokenizer.eos_token_id])).all(1)

    def readings(self, form: Form | ChainForm) -> list[Reading]:
        """Collect the leaves."""
        self._close(form)
        photo, value, mass = (torch.cat(part).numpy() for part in zip(*self.leaves, strict=True))
        order = np.lexsort((value, photo))
        photo, value, mass = photo[order], value[order], mass[order]
        ends = np.searchsorted(photo, np.arange(len(self.free) + 1))
        digits = torch.stack(self.path, 1).numpy()
        out = []
        for row, (a, b) in enumerate(zip(ends[:-1], ends[1:], strict=True)):
            text = "".join(map(str, digits[row]))
            text = text if self.digits == 1 else f"{text[0]}.{text[1:]}"
            total = mass[a:b].sum()
            out.append(
                Reading(text, bool(self.free[row]), value[a:b], mass[a:b] / total, 1 - total)
            )
        return out


def _matters(mass: torch.Tensor, floor: float) -> torch.Tensor:
    """Which branches (photographs, branches) to expand: without the least, below `floor` in sum."""
    order = mass.argsort(dim=1)
    return mass.gather(1, order).cumsum(1).ge(floor).gather(1, order.argsort(dim=1))


def read(
    backbone: Backbone,
    images: Sequence[Image.Image] | Sequence[Callable[[], Image.Image]],
    digits: int = 3,
    form: Form = DIRECT,
    batch_size: int | None = None,
    progress: bool = False,
    tree: bool = True,
    floor: float | None = None,
) -> list[Reading]:
    """Readings of any number of photographs, in their order; functions are called to open them.

    Results do not depend on `batch_size` (None: what memory allows) beyond float rounding. For
    `tree` and `floor` see `read_batch`.
    """
    batch_size = batch_size or decoder.rows_at_once(
        backbone.model.config, backbone.model.device.type
    )
    steps = -(-len(images) // batch_size)
    parts = _batches(images, batch_size)
    parts = tqdm(parts, "scoring", steps, disable=not progress, leave=False)
    return [r for part in parts for r in read_batch(backbone, part, digits, form, tree, floor)]


def _batches(images: Sequence, size: int) -> Iterator[list[Image.Image]]:
    for start in range(0, len(images), size):
        part = images[start : start + size]
        yield [image() if callable(image) else image for image in part]


def as_frame(readings: Sequence[Reading], ids: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per photograph: greedy, expected, sd, parsed, text, off_format."""
    rows = [
        {
            "greedy": r.greedy,
            "expected": r.expected,
            "sd": r.sd,
            "parsed": r.parsed,
            "text": r.text,
            "off_format": r.off_format,
        }
        for r in readings
    ]
    return pd.DataFrame(rows, index=None if ids is None else pd.Index(ids, name="id"))
