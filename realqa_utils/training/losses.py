"""Training losses on the answer tokens: cross entropy, soft digits, NCM, number token loss.

Plain cross entropy is the paper's. Soft digits replace the one right digit by what a normal
distribution of opinions around the MOS says of that digit, given the digits before it; the squared
error (NCM) acts on the teacher-forced expectation of method Sec. 4.5, the number token loss on
every digit for itself.
"""

from __future__ import annotations

from functools import cache

import torch
from ntloss import NTLoss
from scipy.special import ndtr
from torch.nn import functional as F  # noqa: N812

from realqa_utils.forms.scores import digits_of, place_values, quantise
from realqa_utils.model.encoding import IGNORED


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
    carried to every digit. The result is on the CPU.
    """
    targets = torch.as_tensor(targets, dtype=torch.float64, device="cpu")
    spread = torch.as_tensor(spread, dtype=torch.float64, device="cpu").expand_as(targets)
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

    `logits` (batch, n, vocabulary) at column i predict column i + 1. At least float32.
    """
    rows = torch.arange(len(logits), device=logits.device)[:, None]
    wanted = torch.promote_types(logits.dtype, torch.float32)
    return logits[rows, places - 1][..., ids].to(wanted)


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


def ncm_loss(
    logits: torch.Tensor, places: torch.Tensor, ids: list[int], targets: torch.Tensor
) -> torch.Tensor:
    """NCM with a gradient: the mean of (E[S] - S)^2 over the rows with a score; 0 for no such row.

    `places` (batch, M) are columns of the digits, -1 in rows without a score (`score_places`).
    `targets` are the true digits (batch, M), or scores (batch,) on the 0..10 scale as they are.
    """
    scored, z = _scored_digits(logits, places, ids)
    targets = targets.to(z)
    if targets.ndim == 2:
        targets = targets @ torch.as_tensor(place_values(targets.shape[1])).to(z)
    errors = (expectation(z) - targets).square()
    return errors.where(scored, 0.0).sum() / scored.sum().clamp(min=1)


def number_token_loss(
    logits: torch.Tensor, places: torch.Tensor, ids: list[int], targets: torch.Tensor
) -> torch.Tensor:
    """The mean of sum_v p_i(v) |v - d_i| over digits, digit i weighing 10^(1-i); 0 for no score.

    Arguments as for `ncm_loss`; scores are rounded to digits. Source: NTL-WAS of `ntloss`, over the
    probabilities of the ten digits alone, as in its paper: it is meant to stand beside cross
    entropy, which keeps other tokens down.
    """
    scored, z = _scored_digits(logits, places, ids)
    digits = places.shape[1]
    if targets.ndim == 1:
        known = targets.where(scored, 0.0).detach().cpu().numpy()
        targets = torch.as_tensor(digits_of(known, digits), device=z.device)
    labels = targets.where(scored[:, None], IGNORED)
    weights = torch.as_tensor(place_values(digits)).to(z).expand(len(z), -1)
    loss = _number_tokens()(F.pad(z, (0, 1)), labels, weights)
    return loss + 0 * z.sum()  # has a gradient, of zero, where no row has a score


def _scored_digits(logits, places, ids) -> tuple[torch.Tensor, torch.Tensor]:
    """Which rows have a score (batch,), and their digit logits (batch, M, 10), 0 in the others."""
    scored = (places > 0).all(1)
    z = digit_logits(logits, places.clamp(min=1), ids)
    return scored, z.where(scored[:, None, None], 0.0)


class _TenDigits(dict):
    """What `NTLoss` asks of a tokenizer: a real one would be given tokens, and so changed."""

    get_vocab = dict.copy

    def add_tokens(self, tokens: list[str]) -> int:
        return 0


@cache
def _number_tokens() -> NTLoss:
    """The loss over the ten digits and one more token: the package wants one without a value."""
    with torch.inference_mode(False):  # else its tables could not be used in a training later
        return NTLoss(_TenDigits({str(d): d for d in range(10)}), vocab_size=11, reweigh=False)
