"""Read scores out of a model: greedy digits and the exact distribution over the digit tree.

The fixed words of the answer are prefilled; then only digits are decoded, with the key-value cache
expanded over the digits that matter. For M digits d1 d2 ..:
E = sum_d1 p(d1) [d1 + 0.1 sum_d2 p(d2|d1) (d2 + ...)], exact but for branches below `FLOOR`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

from realqa_utils import language
from realqa_utils.backbone import Backbone
from realqa_utils.conversations import DIRECT, Form
from realqa_utils.encoding import encode
from realqa_utils.scores import place_values

FLOOR = 1e-3  # probability below which a branch is not expanded further


@dataclass
class _State:
    """A batch of half-written answers: cache, attention mask, next positions, next logits."""

    cache: object
    mask: torch.Tensor  # (rows, n)
    position: torch.Tensor  # (3, rows)
    logits: torch.Tensor  # (rows, vocabulary)

    def probabilities(self) -> torch.Tensor:
        return self.logits.float().softmax(-1)


def _prefill(backbone: Backbone, images: Sequence[Image.Image], form: Form) -> _State:
    pixels, grids = backbone.pixels(images)
    rows = len(images)
    batch = encode(backbone, [form.question] * rows, [form.before] * rows, grids, end=False)
    del batch["labels"]
    batch["pixel_values"] = pixels.to(backbone.model.dtype)
    last = torch.tensor([batch["input_ids"].shape[1] - 1])
    out = language.forward(backbone.model, batch, last, use_cache=True)
    position = batch["position_ids"][:, :, -1] + 1
    return _State(out.past_key_values, batch["attention_mask"], position, out.logits[:, -1])


def _advance(backbone: Backbone, state: _State, rows: torch.Tensor, tokens: torch.Tensor) -> _State:
    """Continue the answers `rows` (a row may occur often) by one token each; consumes `state`."""
    state.cache.batch_select_indices(rows)
    ones = torch.ones(len(rows), 1, dtype=state.mask.dtype)
    mask, position = torch.cat((state.mask[rows], ones), 1), state.position[:, rows]
    out = backbone.model(
        input_ids=tokens[:, None],
        attention_mask=mask,
        position_ids=position[..., None],
        past_key_values=state.cache,
        use_cache=True,
    )
    return _State(out.past_key_values, mask, position + 1, out.logits[:, -1])


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


@torch.no_grad()
def read_batch(
    backbone: Backbone, images: Sequence[Image.Image], digits: int = 3, form: Form = DIRECT
) -> list[Reading]:
    """Readings of a batch of photographs, M = `digits`."""
    backbone.model.eval()
    state = _prefill(backbone, images, form)
    tree = _Tree(backbone, len(images), digits)
    for level in range(digits):
        state = tree.grow(state, level)
    return tree.readings(state, form)


class _Tree:
    """The digit trees of a batch, grown level by level; a node is one row of the state."""

    def __init__(self, backbone: Backbone, photographs: int, digits: int):
        self.backbone, self.digits = backbone, digits
        self.places = place_values(digits)
        self.ids = torch.tensor(backbone.digit_ids)
        (self.point,) = backbone.tokenizer(".", add_special_tokens=False).input_ids
        self.photo = torch.arange(photographs)  # of each node
        self.value = torch.zeros(photographs, dtype=torch.float64)
        self.mass = torch.ones(photographs, dtype=torch.float64)
        self.on_path = torch.ones(photographs, dtype=torch.bool)  # the greedy answer so far
        self.free = torch.ones(photographs, dtype=torch.bool)  # .. of the unrestricted model too
        self.path: list[torch.Tensor] = []  # greedy digits, one (photographs,) per level
        self.leaves: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def grow(self, state: _State, level: int) -> _State:
        """Add one digit to every node; branches below FLOOR end here with a middle value."""
        chances = state.probabilities()
        mass = self.mass[:, None] * chances[:, self.ids].double()  # (nodes, 10)
        value = self.value[:, None] + self.places[level] * torch.arange(10, dtype=torch.float64)
        best = mass.argmax(1)
        greedy = torch.zeros_like(mass, dtype=torch.bool)
        greedy[torch.arange(len(mass)), best] = self.on_path
        paths = self.on_path.nonzero().flatten()
        self.path.append(best[paths])
        self.free &= chances[paths].argmax(1) == self.ids[best[paths]]
        last = level == self.digits - 1
        keep = greedy if last else greedy | (mass >= FLOOR)
        ended = ~keep if not last else torch.ones_like(keep)
        remainder = 0.0 if last else 4.5 * float(self.places[level + 1 :].sum())
        node, digit = ended.nonzero(as_tuple=True)
        self.leaves.append((self.photo[node], value[node, digit] + remainder, mass[node, digit]))
        node, digit = keep.nonzero(as_tuple=True)
        self.photo, self.value, self.mass = self.photo[node], value[node, digit], mass[node, digit]
        self.on_path = greedy[node, digit]
        state = _advance(self.backbone, state, node, self.ids[digit])
        return self._write_point(state) if level == 0 and not last else state

    def _write_point(self, state: _State) -> _State:
        chances = state.probabilities()
        self.mass = self.mass * chances[:, self.point].double()
        self.free &= chances[self.on_path].argmax(1) == self.point
        rows = torch.arange(len(self.mass))
        return _advance(self.backbone, state, rows, torch.full((len(rows),), self.point))

    def _close(self, state: _State, form: Form) -> None:
        """Would the model, left to itself, end the greedy answers here? (Not if it wrote 3.99.)"""
        tokenizer, rows = self.backbone.tokenizer, torch.arange(len(self.free))
        for token in tokenizer(form.after, add_special_tokens=False).input_ids:
            self.free &= state.logits.argmax(1) == token
            state = _advance(self.backbone, state, rows, torch.full((len(rows),), token))
        self.free &= state.logits.argmax(1) == tokenizer.eos_token_id

    def readings(self, state: _State, form: Form) -> list[Reading]:
        """Collect the leaves; `state` stands behind the last greedy digit of each photograph."""
        self._close(state, form)
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


def read(
    backbone: Backbone,
    images: Sequence[Image.Image] | Sequence[Callable[[], Image.Image]],
    digits: int = 3,
    form: Form = DIRECT,
    batch_size: int = 64,
    progress: bool = False,
) -> list[Reading]:
    """Readings of any number of photographs, in their order; functions are called to open them.

    Results do not depend on `batch_size` beyond float rounding.
    """
    steps = -(-len(images) // batch_size)
    parts = _batches(images, batch_size)
    parts = tqdm(parts, "scoring", steps, disable=not progress, leave=False)
    return [r for part in parts for r in read_batch(backbone, part, digits, form)]


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
