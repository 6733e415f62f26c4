"""Training on the exact mean of the digit tree: the squared error of what is read out (RAFT-like).

NCM takes the digits as independent of each other; here every first digit is followed by the second
digits that the model would write behind it, as in reading. So the tree of M digits needs the sum of
10^m further columns, m < M, in every forward pass: M is 1 or 2. Source: regression-aware
fine-tuning, which minimises the squared error of the mean over sampled or listed numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from realqa_utils.datasets.table import Table
from realqa_utils.forms.conversations import DIRECT
from realqa_utils.model import language
from realqa_utils.model.backbone import Backbone

DIGITS = (1, 2)


class TreeLesson:
    """The direct question and the fixed words of its answer; the digits are the tree's."""

    is_open = True  # the answer goes on

    def __init__(self, table: Table, digits: int):
        if digits not in DIGITS:
            raise ValueError(f"tree_mean has digits={digits}: right is 1 or 2")
        self.targets, self.digits = table.targets, digits

    def conversations(self, rows: Sequence[int]) -> tuple[list[str], list[str]]:
        """Questions and the beginnings of answers."""
        return [DIRECT.question] * len(rows), [DIRECT.before] * len(rows)

    def extras(self, backbone: Backbone, rows: Sequence[int], *_) -> dict[str, torch.Tensor]:
        """`targets` (batch,) on the 0..10 scale, and `point`, the token of the full stop."""
        (point,) = backbone.tokenizer(".", add_special_tokens=False).input_ids
        targets = torch.as_tensor(self.targets[list(rows)], dtype=torch.float32)
        return {"targets": targets, "point": torch.tensor(point)}


def mean(
    model, inputs: dict, ids: Sequence[int], point: int, digits: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean (batch,) of the answers of the right format, and their mass (batch,).

    Both have a gradient. `inputs` end where the first digit comes; `ids` are the digits' tokens.
    """
    last = inputs["input_ids"].shape[1] - 1
    out = language.forward(model, inputs, torch.tensor([last]), use_cache=digits > 1)
    tens = torch.arange(10, dtype=torch.float32, device=out.logits.device)
    first = out.logits[:, -1].float().softmax(-1)[:, list(ids)]  # (batch, 10)
    if digits == 1:
        return (first * tens).sum(1) / first.sum(1), first.sum(1)
    stop, second = _behind_each(model, inputs, out.past_key_values, list(ids), point)
    mass = first[:, :, None] * stop[:, :, None] * second  # (batch, 10, 10)
    total = mass.sum((1, 2))
    return (mass * (tens[:, None] + tens / 10)).sum((1, 2)) / total, total


def _behind_each(model, inputs: dict, cache, ids: list[int], point: int):
    """P(full stop | digit) (batch, 10) and P(second digit | digit, full stop) (batch, 10, 10)."""
    rows, width = inputs["input_ids"].shape
    device = inputs["input_ids"].device
    nodes = torch.tensor([*ids, *[point] * 10], device=device)  # a full stop behind each digit
    own = torch.eye(20, dtype=torch.bool, device=device)
    own[10:, :10] = own[:10, :10]
    seen = inputs["attention_mask"].bool()[:, None].expand(-1, 20, -1)
    hidden = ~torch.cat((seen, own.expand(rows, -1, -1)), 2)[:, None]
    mask = torch.zeros(hidden.shape, dtype=model.dtype, device=device)
    mask = mask.masked_fill(hidden, torch.finfo(model.dtype).min)
    depth = torch.tensor([1] * 10 + [2] * 10, device=device)
    position = inputs["position_ids"][:, :, -1:] + depth
    logits = model(
        input_ids=nodes.expand(rows, -1), attention_mask=mask, position_ids=position,
        past_key_values=cache, use_cache=True,
    ).logits.float().softmax(-1)  # fmt: skip
    return logits[:, :10, point], logits[:, 10:, ids]


def loss(model, inputs: dict, targets: torch.Tensor, ids, point: int, digits: int) -> torch.Tensor:
    """The mean squared error of `mean` on the 0..10 scale, and the price of leaving the format.

    The second, -log of the mass of the format, keeps the model writing scores at all.
    """
    said, mass = mean(model, inputs, ids, point, digits)
    return (said - targets).square().mean() - mass.log().mean()
