"""NCM and NCM*: the distance of the teacher-forced expected score from the truth, in training.

Cross entropy does not know that 4.01 is closer to 3.99 than 4.99 is; NCM does (method Sec. 4.5).
`NCM` is a `torchmetrics.Metric` for the logits and labels of any causal or vision-language model.
It reads the digit positions only, so it may be asked at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torchmetrics import Metric

from realqa_utils.forms.conversations import Form
from realqa_utils.forms.scores import place_values
from realqa_utils.ncm.score_places import ScorePlaces
from realqa_utils.training import losses

READINGS = ("renormalised", "as_published")  # of NCM*

# z: digit logits (rows, M, 10) at the true digits before each; digits: the true ones (rows, M).


def expected_score(z: torch.Tensor) -> torch.Tensor:
    """E[S] (rows,): the sum over digits of place value x mean digit."""
    return losses.expectation(z)


def squared_errors(z: torch.Tensor, digits: torch.Tensor) -> torch.Tensor:
    """(E[S] - S)^2 (rows,); NCM is their mean."""
    return _errors(z.softmax(-1), digits).sum(-1).square()


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
    return _errors(_without_truth(z, digits, reading, z.softmax(-1)), digits).sum(-1).square()


def digit_contributions(z: torch.Tensor, digits: torch.Tensor) -> torch.Tensor:
    """What every digit adds to the squared error (rows, M); the sum over digits is exact.

    Digit i gives (E[S] - S) w_i (E_i - d_i). A digit that makes up for another's error counts
    below zero.
    """
    errors = _errors(z.softmax(-1), digits)
    return errors.sum(-1, keepdim=True) * errors


def _without_truth(z, digits, reading: str, chances: torch.Tensor) -> torch.Tensor:
    """What NCM* takes for the `chances` of the ten digits: (rows, M, 10), 0 at the true one."""
    if reading == "renormalised":
        return z.scatter(-1, digits[..., None], -torch.inf).softmax(-1)
    if reading == "as_published":
        return chances.scatter(-1, digits[..., None], 0.0)
    raise ValueError(f"reading is {reading!r}; must be one of {READINGS}")


def _errors(chances: torch.Tensor, digits: torch.Tensor) -> torch.Tensor:
    """w_i (sum_v v p_i(v) - d_i): (..., rows, M), without a table to be brought to the device."""
    values = torch.arange(10, dtype=chances.dtype, device=chances.device)
    places = torch.arange(digits.shape[-1], dtype=chances.dtype, device=chances.device)
    return (chances @ values - digits) / 10**places


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
    sums: torch.Tensor

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
        self.places, self.digits, self.largest_id = places, digits, max(digit_ids)
        self.means = (
            *("ncm", "ncm_star", "ncm_star_as_published", "digit_ce"),
            *(f"ncm_digit_{i}" for i in numbers),
            *(f"digit_ce_{i}" for i in numbers),
        )
        self.register_buffer("ids", torch.tensor(list(digit_ids)), persistent=False)
        digit_of = torch.full((self.largest_id + 2,), -1)  # of a token; the last are all others
        digit_of[self.ids] = torch.arange(10)
        self.register_buffer("digit_of", digit_of, persistent=False)
        size = len(self.means) + 3
        self.add_state("sums", torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")
        self.last_labels: torch.Tensor | None = None

    @classmethod
    def of(cls, tokenizer, form: Form | str, digits: int, **kwargs: Any) -> NCM:
        """For answers of a form, or of a template such as 'The final score is <{}>.'.

        Raises ValueError for a tokenizer that merges digits, as `ScorePlaces` does.
        """
        places = ScorePlaces.of_form(tokenizer, form, digits)
        return cls(places, places.digit_ids, digits, **kwargs)

    @torch.no_grad()
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
        self._check(logits, labels)
        self.last_labels = labels
        if self.ids.device != logits.device:
            self.to(logits.device)
        places = self._find(labels) if places is None else places
        if places.shape != (len(labels), self.digits):
            raise ValueError(
                f"places are {tuple(places.shape)}; must be {(len(labels), self.digits)}: one "
                "column of labels for each digit"
            )
        places, labels = places.to(logits.device), labels.to(logits.device)
        within = places.clamp(1, labels.shape[1] - 1)
        tokens = labels.gather(1, within).clamp(-1, self.largest_id + 1)
        digits = self.digit_of[tokens]  # (batch, M), -1 for a token that is no digit
        known = ((places == within) & (places > 0) & (digits >= 0)).all(1)
        rows = torch.arange(len(labels), device=labels.device)[:, None]
        heard = logits[rows, within - 1]  # (batch, M, vocabulary), a copy
        z = heard[..., self.ids].double()
        terms = _terms(z, digits.clamp(min=0), _log_sum_exp(heard))
        finite = torch.cat((z.flatten(1), terms), 1).isfinite().all(1)
        scored = known & finite
        counts = torch.stack((scored, ~known, known ^ scored), 1)
        terms = torch.cat((terms.where(scored[:, None], 0.0), counts), 1)
        self.sums = self.sums + terms.sum(0)

    def compute(self) -> dict[str, torch.Tensor]:
        """Means over the rows with a score, NaN where there is none, and the counts of rows.

        `ncm`, `ncm_star` (renormalised), `ncm_star_as_published`; `digit_ce`, the cross entropy
        over the whole vocabulary per digit token; `ncm_digit_1` .. `ncm_digit_M`, which sum to
        `ncm`, and `digit_ce_1` ..; `scored`, `skipped` (no score) and `not_finite`.
        """
        counts = self.sums[-3:]
        values = torch.cat((self.sums[:-3] / counts[0], counts))
        names = (*self.means, "scored", "skipped", "not_finite")
        return dict(zip(names, values, strict=True))

    def numbers(self) -> dict[str, float]:
        """`compute` as plain numbers, added up over processes: one look at the device.

        For who asks at every step: the ways of `torchmetrics` cost as much as the update.
        """
        sums = self.sums
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            sums = sums.clone()
            torch.distributed.all_reduce(sums)
        *terms, scored, skipped, not_finite = sums.tolist()
        means = (term / scored if scored else float("nan") for term in terms)
        counts = {"scored": scored, "skipped": skipped, "not_finite": not_finite}
        return dict(zip(self.means, means, strict=True)) | counts

    def explain(self) -> str:
        """Why nothing was scored in this process; empty where something was. Asks the device."""
        scored, skipped, not_finite = map(int, self.sums[-3:].tolist())
        if scored:
            return ""
        if not self.update_called or not skipped + not_finite:
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
            raise ValueError(
                "places must be given: the metric was built without a way to find them"
            )
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


def _terms(z: torch.Tensor, digits: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """What every row adds to the sums: (rows, 4 + 2M). `mass` is log sum exp over all tokens."""
    chances = z.softmax(-1)
    readings = (chances, *(_without_truth(z, digits, reading, chances) for reading in READINGS))
    parts = _errors(torch.stack(readings), digits)  # (3, rows, M)
    whole = parts.sum(-1)
    entropy = mass - z.gather(-1, digits[..., None])[..., 0]
    means = torch.cat((whole.square(), entropy.mean(1)[None])).T
    return torch.cat((means, whole[0, :, None] * parts[0], entropy), 1)


def _log_sum_exp(heard: torch.Tensor) -> torch.Tensor:
    """(..., vocabulary) -> (...) in float64; overwrites what it reads."""
    heard = heard.to(torch.promote_types(heard.dtype, torch.float32))
    top = heard.amax(-1, keepdim=True)
    return heard.sub_(top).exp_().sum(-1).double().log() + top[..., 0]
