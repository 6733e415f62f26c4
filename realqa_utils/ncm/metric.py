"""NCM and NCM*: the distance of the teacher-forced expected score from the truth, in training.

Cross entropy does not know that 4.01 is closer to 3.99 than 4.99 is; NCM does (method Sec. 4.5).
`NCM` is a `torchmetrics.Metric` for the logits and labels of any causal or vision-language model.
It reads the digit positions only, so it may be asked at every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F  # noqa: N812
from torchmetrics import Metric

from realqa_utils.forms.conversations import Form
from realqa_utils.forms.scores import place_values
from realqa_utils.ncm.score_places import ScorePlaces
from realqa_utils.training import losses

READINGS = ("renormalised", "as_published")  # of NCM*
COUNTS = ("scored", "skipped", "not_finite")
_arange = lru_cache(maxsize=8)(torch.arange)

# z: digit logits (rows, M, 10) at the true digits before each; digits: the true ones (rows, M).


def expected_score(z: torch.Tensor) -> torch.Tensor:
    """E[S] (rows,): the sum over digits of place value x mean digit."""
    return losses.expectation(z)


def squared_errors(z: torch.Tensor, digits: torch.Tensor) -> torch.Tensor:
    """(E[S] - S)^2 (rows,); NCM is their mean."""
    return _errors_of(z, digits)[-1].sum(-1).square()


def squared_errors_without_truth(
    z: torch.Tensor, digits: torch.Tensor, reading: str = "renormalised"
) -> torch.Tensor:
    """The same with the true digit left out at every place (rows,); NCM* is their mean.

    `renormalised`: the other nine digits share the whole probability, so a model that knows what a
    number is stays near the truth. `as_published`, the printed formula: they keep what the softmax
    over all ten gave them, so a confident, correct model tends to S^2.

    >>> sure = 1000 * torch.nn.functional.one_hot(torch.tensor([[3, 4, 7]]), 10).double()
    >>> squared_errors_without_truth(sure, torch.tensor([[3, 4, 7]]), "as_published")
    tensor([12.0409], dtype=torch.float64)
    """
    if reading not in READINGS:
        raise ValueError(f"reading is {reading!r}; must be one of {READINGS}")
    return _errors_of(z, digits)[READINGS.index(reading)].sum(-1).square()


def digit_contributions(z: torch.Tensor, digits: torch.Tensor) -> torch.Tensor:
    """What every digit adds to the squared error (rows, M); the sum over digits is exact.

    Digit i gives (E[S] - S) w_i (E_i - d_i). A digit that makes up for another's error counts
    below zero.
    """
    errors = _errors_of(z, digits)[-1]
    return errors.sum(-1, keepdim=True) * errors


def _errors_of(z: torch.Tensor, digits: torch.Tensor) -> torch.Tensor:
    """`_errors` without a table to be brought to the device."""
    values = torch.arange(10, dtype=z.dtype, device=z.device)[:, None, None]
    weights = 10 ** -torch.arange(digits.shape[-1], dtype=z.dtype, device=z.device)
    return _errors(z.movedim(-1, 0), digits, values, weights)


def _errors(z, digits, values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """w_i (sum_v v p_i(v) - d_i) with the p of the `READINGS` and of NCM itself: (3, rows, M).

    z is (10, rows, M), since a softmax over digits in front takes a third of the time. `values`
    (10, 1, 1) give the precision.
    """
    true = digits.expand(2, 1, -1, -1)
    kept = z.expand(3, -1, -1, -1).scatter(1, true[:1], -torch.inf)  # renormalised
    parts = kept.softmax(1, values.dtype) * values
    return (parts.scatter_(1, true, 0.0).sum(1) - digits) * weights  # and as published


class Heard(NamedTuple):
    """All that NCM needs of a batch: what predicts its digits, and the labels there."""

    logits: torch.Tensor  # (rows, M, vocabulary), a copy
    tokens: torch.Tensor  # (rows, M)
    is_there: torch.Tensor  # (rows, M), whether a digit has a place


class NCM(Metric):
    """NCM, NCM* in two readings, contributions and cross entropy of the digits, over all batches.

    `places` maps labels (batch, n) to the columns of the digits (batch, M), -1 in rows without a
    score: a `ScorePlaces`, or a function such as a partial `by_pattern`. It may be None where
    every update brings its own. `NCM.of` builds it from the form of the answer.

    Sums are kept in float64 and added up over processes. The metric goes to the device of the
    logits by itself.

    >>> metric = NCM(lambda labels: torch.tensor([[1], [-1]]), range(10), digits=1)
    >>> labels = torch.tensor([[11, 7, 10], [11, 10, 10]])  # the second row has no score
    >>> metric.update(torch.zeros(2, 3, 12), labels)
    >>> values = metric.compute()  # every digit is equally likely, so E[S] is 4.5
    >>> values["ncm"].item(), values["scored"].item(), values["skipped"].item()
    (6.25, 1.0, 1.0)
    """

    full_state_update = False
    is_differentiable = False  # `losses.ncm_loss` is
    higher_is_better = False
    sums: torch.Tensor  # what each digit adds to NCM* in the `READINGS`, NCM, cross entropy (4, M)
    counts: torch.Tensor  # of rows: `COUNTS`

    def __init__(
        self,
        places: Callable[[torch.Tensor], torch.Tensor] | None,
        digit_ids: Sequence[int],
        digits: int,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        numbers = range(1, len(place_values(digits)) + 1)
        if len(set(digit_ids)) != 10:
            raise ValueError(f"digit_ids must be ten different token ids, not {list(digit_ids)}")
        self.places, self.digits, self.digit_ids = places, digits, tuple(digit_ids)
        self.largest_id = max(digit_ids)
        self.means = (
            *("ncm", "ncm_star", "ncm_star_as_published", "digit_ce"),
            *(f"ncm_digit_{i}" for i in numbers),
            *(f"digit_ce_{i}" for i in numbers),
        )
        for name, shape in (("sums", (4, digits)), ("counts", (3,))):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.last_labels: torch.Tensor | None = None

    @property
    def ids(self) -> torch.Tensor:
        """Token ids of the ten digits."""
        return _tables(self.digit_ids, self.digits, self.sums.device)[0]

    @classmethod
    def of(cls, tokenizer, form: Form | str, digits: int, **kwargs: Any) -> NCM:
        """For answers of a form, or of a template such as 'The final score is <{}>.'.

        Raises ValueError for a tokenizer that merges digits, as `ScorePlaces` does.
        """
        places = ScorePlaces.of_form(tokenizer, form, digits)
        return cls(places, places.digit_ids, digits, **kwargs)

    def update(
        self, logits: torch.Tensor, labels: torch.Tensor, places: torch.Tensor | None = None
    ) -> None:
        """Add a batch: logits (batch, n, vocabulary) as the model returns them, labels (batch, n).

        Not shifted: column c of the labels is predicted by column c - 1 of the logits, whose last
        column may be left out. `places` (batch, M) are given by who knows the columns of the
        digits. Rows that have no score, or no digits at their places, are counted as skipped; rows
        with a NaN or an infinity among their logits at the digits as not finite.

        Raises ValueError for shapes that do not fit.
        """
        sums, counts = self.sums_of([self.hear(logits, labels, places)])
        self.sums.add_(sums[0])
        self.counts.add_(counts[0])

    @torch.no_grad()
    def hear(self, logits, labels, places: torch.Tensor | None = None) -> Heard:
        """What `update` reads of a batch, to be worked out later by `sums_of`."""
        self._check(logits, labels)
        object.__setattr__(self, "last_labels", labels)  # as slow as three ops otherwise
        if self.sums.device != logits.device:
            self.to(logits.device)
        places = self._find(labels) if places is None else places
        if places.shape != (len(labels), self.digits):
            raise ValueError(
                f"places are {tuple(places.shape)}; must be {(len(labels), self.digits)}: one "
                "column of labels for each digit"
            )
        places, labels = places.to(logits.device), labels.to(logits.device)
        if labels.shape[1] == 1:  # which nothing predicts
            labels = F.pad(labels, (0, 1), value=-1)
        within = places.clamp(1, labels.shape[1] - 1)
        return Heard(_heard(logits, within), labels.gather(1, within), places == within)

    @torch.no_grad()
    def sums_of(self, batches: Sequence[Heard]) -> tuple[torch.Tensor, torch.Tensor]:
        """What each batch adds to `sums` (batches, 4, M) and to `counts` (batches, 3).

        Many batches take hardly longer than one. Overwrites the logits of a single one.
        """
        sizes = [len(batch.tokens) for batch in batches]
        parts = zip(*batches, strict=True)
        logits, tokens, is_there = (x[0] if len(x) == 1 else torch.cat(x) for x in parts)
        ids, digit_of, *scale = _tables(self.digit_ids, self.digits, logits.device)
        digits = digit_of[tokens.clamp(-1, self.largest_id + 1)]  # -1: a token that is no digit
        known = (is_there & (digits >= 0)).all(1, keepdim=True)
        terms, finite = _terms(logits, digits.clamp(min=0), ids, *scale)
        scored = known & finite
        rows = torch.cat((scored, ~known, known ^ scored), 1)
        sums = [part.sum(1) for part in terms.where(scored, 0.0).split(sizes, 1)]
        return torch.stack(sums), torch.stack([part.sum(0) for part in rows.split(sizes)])

    def compute(self) -> dict[str, torch.Tensor]:
        """Means over the rows with a score, NaN where there is none, and the counts of rows.

        `ncm`, `ncm_star` (renormalised), `ncm_star_as_published`; `digit_ce`, the cross entropy
        over the whole vocabulary per digit token; `ncm_digit_1` .. `ncm_digit_M`, which sum to
        `ncm`, and `digit_ce_1` ..; `scored`, `skipped` (no score) and `not_finite`.
        """
        return self._named(self.sums / self.counts[0], self.counts.clone())

    def numbers(self) -> dict[str, float]:
        """`compute` as plain numbers, added up over processes: one look at the device."""
        return self.numbers_of(self.sums[None], self.counts[None])[0]

    def numbers_of(self, sums: torch.Tensor, counts: torch.Tensor) -> list[dict[str, float]]:
        """The same for several sums (n, 4, M) and counts (n, 3), such as those of n steps."""
        counts = counts.to(sums.dtype)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            sums, counts = sums.clone(), counts.clone()
            torch.distributed.all_reduce(sums)
            torch.distributed.all_reduce(counts)
        found = []
        for lines, rows in zip(sums.tolist(), counts.tolist(), strict=True):
            count = rows[0] or math.nan
            found.append(self._named([[s / count for s in line] for line in lines], rows))
        return found

    def _named(self, means, counts) -> dict:
        """Names for means (4, M) and counts (3,), be they tensors or lists."""
        star, published, ncm, entropy = means
        whole = (sum(ncm), sum(star), sum(published), sum(entropy) / self.digits)
        names = (*self.means, *COUNTS)
        return dict(zip(names, (*whole, *ncm, *entropy, *counts), strict=True))

    def explain(self, counts: torch.Tensor | None = None) -> str:
        """Why nothing was scored in this process; empty where something was. Asks the device.

        By the metric's own counts, or others such as `sums_of` gives.
        """
        counts = self.counts if counts is None else counts
        scored, skipped, not_finite = map(int, counts.tolist())
        if scored:
            return ""
        if not skipped + not_finite:
            return "no row was given"
        said = [f"none of {skipped + not_finite} rows could be scored"]
        if not_finite:
            said.append(f"in {not_finite} the logits at the digits are NaN or infinite")
        if skipped:
            said.append(f"{skipped} have no score of {self.digits} digits in their labels")
        if skipped and isinstance(self.places, ScorePlaces):
            said.append(f"rows of the last batch: {self.places.explain(self.last_labels)}")
        return "; ".join(said)

    def _find(self, labels: torch.Tensor) -> torch.Tensor:
        if self.places is None:
            raise ValueError("places must be given: the metric has no way to find them")
        return self.places(labels)

    def _check(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        if logits.ndim != 3 or labels.ndim != 2:
            raise ValueError(
                f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} must be "
                "(batch, n, vocabulary) and (batch, n)"
            )
        (batch, n, vocabulary), (rows, columns) = logits.shape, labels.shape
        if rows != batch or columns not in (n, n + 1):
            raise ValueError(
                f"labels are {rows} x {columns} where logits are {batch} x {n}: pass both as the "
                "model takes and returns them, not shifted"
            )
        if vocabulary <= self.largest_id:
            raise ValueError(
                f"logits are over {vocabulary} tokens, but a digit has the id {self.largest_id}"
            )


@lru_cache(maxsize=8)
def _tables(ids: tuple[int, ...], digits: int, device: torch.device) -> list[torch.Tensor]:
    """The ten ids; the digit of a token, -1 for none, the last of all others; values; weights."""
    digit_of = torch.full((max(ids) + 2,), -1)
    digit_of[list(ids)] = values = torch.arange(10)
    weights = torch.from_numpy(place_values(digits))
    tables = (torch.tensor(ids), digit_of, values.double()[:, None, None], weights)
    return [table.to(device) for table in tables]


def _heard(logits: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The logits that predict the columns `places` (rows, M): (rows, M, vocabulary), a copy."""
    batch, n, vocabulary = logits.shape
    before = _arange(-1, batch * n - 1, n, device=places.device)
    chosen = (before[:, None] + places).flatten()
    if logits.is_contiguous():  # takes a third of the time
        heard = logits.view(-1, vocabulary).index_select(0, chosen)
    else:
        heard = logits[chosen // n, chosen % n]
    return heard.view(*places.shape, vocabulary)


def _terms(heard, digits, ids, values, weights) -> tuple[torch.Tensor, torch.Tensor]:
    """What rows add to the sums (4, rows, M), and whether their logits are finite (rows, 1)."""
    z = heard.index_select(2, ids).permute(2, 0, 1)
    mass = _log_sum_exp(heard)
    finite = (z.sum(0, dtype=mass.dtype) + mass).sum(1, keepdim=True).isfinite()
    errors = _errors(z, digits, values, weights)
    entropy = mass - z.gather(0, digits[None])
    return torch.cat((errors * errors.sum(-1, keepdim=True), entropy)), finite


def _log_sum_exp(heard: torch.Tensor) -> torch.Tensor:
    """(..., vocabulary) -> (...) in float64; overwrites what it reads."""
    heard = heard.float() if heard.dtype.itemsize < 4 else heard
    top = heard.amax(-1, keepdim=True)
    return (heard.sub_(top).exp_().sum(-1, keepdim=True).double().log() + top)[..., 0]
