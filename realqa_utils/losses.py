"""Training losses on the answer tokens: cross entropy, soft digits, squared error of E[S].

Plain cross entropy is the paper's. Soft digits replace the one right digit by what a normal
distribution of opinions around the MOS says of that digit, given the digits before it; the squared
error acts on the teacher-forced expectation of method Sec. 4.5.
"""

from __future__ import annotations

import torch
from scipy.special import ndtr
from torch.nn import functional as F  # noqa: N812

from realqa_utils.encoding import IGNORED
from realqa_utils.scores import digits_of, place_values, quantise


def answer_loss(logits: torch.Tensor, labels: torch.Tensor, total: torch.Tensor | None = None):
    """Cross entropy over the labelled tokens: (batch, n, vocabulary) against (batch, n).

    The mean over them, or their sum over `total` where a step is accumulated from several batches.
    """
    reduction = "mean" if total is None else "sum"
    loss = F.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction=reduction
    )
    return loss if total is None else loss / total


def opinion_digits(targets, spread, digits: int) -> torch.Tensor:
    """P(digit i | the target's digits before i) under Normal(target, spread): (batch, M, 10).

    `targets` and `spread` (batch,) are on the 0..10 scale. Opinions are rounded to the grid and
    clipped into it, so the end cells hold the tails. Source: soft labels as in DeQA-Score, here
    carried to every digit.
    """
    targets = torch.as_tensor(targets, dtype=torch.float64)
    spread = torch.as_tensor(spread, dtype=torch.float64).expand_as(targets)
    places = place_values(digits)
    known = torch.as_tensor(digits_of(quantise(targets.numpy(), digits), digits))
    half = places[-1] / 2  # a grid value stands for half a unit on either side
    base = torch.zeros_like(targets)
    rows = []
    for level, place in enumerate(places):
        edges = base[:, None] + torch.arange(11, dtype=torch.float64) * place - half
        edges[:, 0] = torch.where(edges[:, 0] < 0, -torch.inf, edges[:, 0])
        edges[:, -1] = torch.where(edges[:, -1] > 10 - 2 * half, torch.inf, edges[:, -1])
        scaled = (edges - targets[:, None]) / spread[:, None]
        mass = torch.as_tensor(ndtr(scaled.numpy())).diff(dim=1).clamp(min=1e-12)
        rows.append(mass / mass.sum(1, keepdim=True))
        base = base + known[:, level] * place
    return torch.stack(rows, 1).float()


def digit_logits(logits: torch.Tensor, places: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """The ten digit logits that predict the digits at columns `places` (batch, M): (batch, M, 10).

    `logits` (batch, n, vocabulary) at column i predict column i + 1.
    """
    rows = torch.arange(len(logits), device=logits.device)[:, None]
    return logits[rows, places - 1][..., ids].float()


def expectation(digits: torch.Tensor) -> torch.Tensor:
    """Teacher-forced E[S] (batch,) from digit logits (batch, M, 10): sum of place x mean digit."""
    weights = torch.as_tensor(place_values(digits.shape[1]), dtype=digits.dtype)
    means = digits.softmax(-1) @ torch.arange(10, dtype=digits.dtype, device=digits.device)
    return means @ weights.to(digits.device)


def soft_cross_entropy(
    logits: torch.Tensor, places: torch.Tensor, ids: list[int], soft: torch.Tensor
) -> torch.Tensor:
    """Cross entropy against soft digits (batch, M, 10), summed over all digits of the batch.

    Taken over the whole vocabulary, as that of the hard digits whose place it takes.
    """
    rows = torch.arange(len(logits), device=logits.device)[:, None]
    chances = logits[rows, places - 1].float().log_softmax(-1)[..., ids]  # (batch, M, 10)
    return -(soft.to(chances) * chances).sum()
