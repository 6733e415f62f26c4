"""The training losses against brute force, plain loops and finite differences."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ntloss import NTLoss
from scipy.special import log_softmax, softmax
from scipy.stats import norm

from realqa_utils.forms.conversations import DIRECT
from realqa_utils.forms.scores import digits_of, grid, quantise
from realqa_utils.model.encoding import IGNORED
from realqa_utils.ncm import NCM
from realqa_utils.ncm.score_places import ScorePlaces
from realqa_utils.training import losses

torch.set_num_threads(1)
TARGETS = st.floats(0, 10, allow_nan=False)
SPREADS = st.floats(0.05, 5)


def cell_masses(target: float, spread: float, digits: int) -> np.ndarray:
    """P(rounded opinion = each grid value), shape (10,) * M; the end cells hold the tails."""
    values, half = grid(digits), 0.5 * 10.0 ** (1 - digits)
    edges = np.concatenate(([-np.inf], values[1:] - half, [np.inf]))
    lower, upper = edges[:-1], edges[1:]
    # on the far side of the mean the survival function keeps its digits
    mass = np.where(
        lower > target,
        norm.sf(lower, target, spread) - norm.sf(upper, target, spread),
        norm.cdf(upper, target, spread) - norm.cdf(lower, target, spread),
    )
    return mass.reshape((10,) * digits)


@pytest.mark.parametrize("digits", [1, 2, 3])
@given(target=TARGETS, spread=SPREADS)
def test_opinion_digits_by_marginal_sums(digits, target, spread):
    """Sum the masses of all 10^M grid values that begin with the target's digits and one more."""
    result = losses.opinion_digits([target], spread, digits)
    assert result.shape == (1, digits, 10) and result.dtype == torch.float32
    mass = cell_masses(target, spread, digits)
    for level, known in enumerate(digits_of(target, digits)):
        ways = mass.reshape(10, -1).sum(1)
        np.testing.assert_allclose(result[0, level], ways / ways.sum(), atol=1e-6)
        mass = mass[known]


def test_opinion_digits_by_sampling():
    rng = np.random.default_rng(0)
    for target, spread in ((3.96, 0.4), (9.98, 0.7), (0.02, 1.0)):
        opinions = digits_of(quantise(rng.normal(target, spread, 30_000), 2), 2)
        first, second = losses.opinion_digits([target], spread, 2)[0].numpy()
        counts = np.bincount(opinions[:, 0], minlength=10) / len(opinions)
        np.testing.assert_allclose(first, counts, atol=0.01)
        inside = opinions[opinions[:, 0] == digits_of(target, 2)[0], 1]
        counts = np.bincount(inside, minlength=10) / len(inside)
        np.testing.assert_allclose(second, counts, atol=0.02)


@given(st.lists(TARGETS, min_size=1, max_size=5), SPREADS, st.integers(1, 4))
def test_opinion_digits_are_distributions(targets, spread, digits):
    result = losses.opinion_digits(targets, spread, digits)
    assert (result >= 0).all()
    torch.testing.assert_close(result.sum(-1), torch.ones(len(targets), digits))


@given(st.integers(0, 9999), st.floats(-0.4, 0.4), st.integers(1, 4))
def test_no_spread_is_one_hot(k, offset, digits):
    """Targets within their cell, away from its edges, where a half could go either way."""
    unit = 10.0 ** (1 - digits)
    target = float(np.clip((k % 10**digits + offset) * unit, 0, 10))
    result = losses.opinion_digits([target], 1e-6 * unit, digits)
    known = torch.as_tensor(digits_of(quantise(target, digits), digits))
    torch.testing.assert_close(result[0], torch.nn.functional.one_hot(known, 10).float())


def test_a_spread_of_its_own_for_every_target():
    together = losses.opinion_digits([2.2, 7.7], [0.3, 1.1], 3)
    for row, (target, spread) in enumerate(((2.2, 0.3), (7.7, 1.1))):
        torch.testing.assert_close(together[row], losses.opinion_digits([target], spread, 3)[0])


def test_the_end_of_the_scale():
    """A target of 10 is written 9.99: opinions above it count for the last cell."""
    result = losses.opinion_digits([10.0], 0.5, 3)[0]
    np.testing.assert_allclose(result[0, 9], norm.sf(8.995, 10, 0.5), atol=1e-6)
    np.testing.assert_allclose(
        result[2, 9], norm.sf(9.985, 10, 0.5) / norm.sf(9.895, 10, 0.5), atol=1e-6
    )


# --- readings of the digit logits --------------------------------------------------------------


@pytest.fixture
def batch():
    """Random logits (2, 7, 23), columns of the digits (2, 3) and ten scattered token ids."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7, 23, generator=generator, dtype=torch.float64) * 3
    places = torch.tensor([[1, 3, 4], [3, 5, 7]])
    return logits, places, [11, 2, 3, 19, 22, 0, 7, 8, 15, 10]


def test_digit_logits(batch):
    logits, places, ids = batch
    result = losses.digit_logits(logits, places, ids)
    for row, level, digit in itertools.product(range(2), range(3), range(10)):
        expected = logits[row, places[row, level] - 1, ids[digit]]
        assert result[row, level, digit] == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("digits", [1, 2, 3, 4])
def test_expectation_by_a_loop(digits):
    logits = np.random.default_rng(0).normal(0, 2, (5, digits, 10))
    expected = [
        sum(
            10.0**-level * sum(d * softmax(row[level])[d] for d in range(10))
            for level in range(digits)
        )
        for row in logits
    ]
    exact = losses.expectation(torch.tensor(logits))
    np.testing.assert_allclose(exact, expected, rtol=1e-12)
    single = losses.expectation(torch.tensor(logits, dtype=torch.float32))
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, expected, rtol=1e-5)


def test_expectation_of_certain_digits():
    certain = torch.nn.functional.one_hot(torch.tensor([[3, 4, 7]]), 10) * 1000.0
    assert losses.expectation(certain).item() == pytest.approx(3.47)


def test_soft_cross_entropy_by_a_loop(batch):
    logits, places, ids = batch
    soft = torch.rand(2, 3, 10, generator=torch.Generator().manual_seed(1))
    soft = soft / soft.sum(-1, keepdim=True)
    expected = 0.0
    for row, level in itertools.product(range(2), range(3)):
        chances = log_softmax(logits[row, places[row, level] - 1].numpy())
        expected -= sum(float(soft[row, level, d]) * chances[ids[d]] for d in range(10))
    result = losses.soft_cross_entropy(logits, places, ids, soft)
    assert result.item() == pytest.approx(expected, rel=1e-6)


def test_soft_cross_entropy_of_hard_digits_is_cross_entropy(batch):
    logits, places, ids = batch
    digits = torch.tensor([[3, 9, 9], [0, 5, 1]])
    labels = torch.full((2, 7), IGNORED)
    labels[torch.arange(2)[:, None], places - 1] = torch.tensor(ids)[digits]
    soft = torch.nn.functional.one_hot(digits, 10)
    total = torch.tensor(1.0)
    torch.testing.assert_close(
        losses.soft_cross_entropy(logits, places, ids, soft),
        losses.answer_loss(logits, labels, total),
    )


# --- cross entropy of the answer ---------------------------------------------------------------


def test_answer_loss_is_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 11, generator=generator)
    labels = torch.randint(11, (3, 5), generator=generator)
    labels[0, :2] = labels[2, 4] = IGNORED
    chances = log_softmax(logits.double().numpy(), -1)
    each = [
        -chances[row, column, labels[row, column]]
        for row, column in itertools.product(range(3), range(5))
        if labels[row, column] != IGNORED
    ]
    assert len(each) == 12
    assert losses.answer_loss(logits, labels).item() == pytest.approx(np.mean(each), rel=1e-6)
    # parts of one accumulated step: their losses add up to that of the whole
    parts = [losses.answer_loss(logits[r], labels[r], torch.tensor(12)) for r in ([0, 2], [1])]
    assert sum(parts).item() == pytest.approx(np.mean(each), rel=1e-6)


def test_answer_loss_of_half_precision_is_taken_in_float32():
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.tensor([[1, 2, IGNORED], [0, IGNORED, 6]])
    result = losses.answer_loss(logits, labels)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, losses.answer_loss(logits.double(), labels).float())


# --- gradients ---------------------------------------------------------------------------------


def _cross(logits, places, ids, soft):
    labels = torch.full(logits.shape[:2], IGNORED)
    labels[torch.arange(2)[:, None], places - 1] = torch.tensor(ids)[:3]
    return losses.answer_loss(logits, labels)


def _soft(logits, places, ids, soft):
    return losses.soft_cross_entropy(logits, places, ids, soft)


def _squared(logits, places, ids, soft):
    error = losses.expectation(losses.digit_logits(logits, places, ids)) - torch.tensor([3.2, 8.1])
    return error.square().mean()


@pytest.mark.parametrize("loss", [_cross, _soft, _squared])
def test_gradients_match_finite_differences(batch, loss):
    """The losses work in float32, so central differences with wide steps, to three digits."""
    logits, places, ids = batch
    soft = losses.opinion_digits([3.2, 8.1], 0.8, 3)
    logits = logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, places, ids, soft), logits)
    step, scale = 0.05, gradient.abs().max()
    assert scale > 1e-3
    seen = [(row, column) for row in range(2) for column in places[row] - 1]
    for row, column in seen:
        for token in (ids[0], ids[4], ids[9], 1):
            moved = []
            for sign in (1, -1):
                shifted = logits.detach().clone()
                shifted[row, column, token] += sign * step
                moved.append(loss(shifted, places, ids, soft).double())
            slope = (moved[0] - moved[1]) / (2 * step)
            assert abs(slope - gradient[row, column, token]) < 2e-3 * scale
    elsewhere = torch.ones(2, 7, dtype=torch.bool)
    elsewhere[torch.arange(2)[:, None], places - 1] = False
    assert (gradient[elsewhere] == 0).all()


# --- NCM and the number token loss -------------------------------------------------------------


@pytest.fixture(params=[1, 2, 3, 4])
def scored(request):
    """Logits (4, 8, 23), places (4, M) with none in the third row, ids and true digits (4, M)."""
    generator = torch.Generator().manual_seed(request.param)
    digits = request.param
    logits = torch.randn(4, 8, 23, generator=generator, dtype=torch.float64) * 2
    places = torch.tensor([1, 3, 4, 5])[:digits] + torch.arange(4)[:, None] % 3
    truth = torch.randint(10, (4, digits), generator=generator)
    places[2] = truth[2] = -1
    return logits, places, [11, 2, 3, 19, 22, 0, 7, 8, 15, 10], truth


def chances_by_row(scored) -> list[tuple[np.ndarray, list[int]]]:
    """Of every row with a score: probabilities of the ten digits (M, 10) and the true digits."""
    logits, places, ids, truth = scored
    return [
        (np.array([softmax(logits[r, c - 1].numpy()[ids]) for c in places[r]]), truth[r].tolist())
        for r in (0, 1, 3)
    ]


def test_ncm_loss_by_a_loop(scored):
    errors = []
    for p, truth in chances_by_row(scored):
        means = [sum(d * row[d] for d in range(10)) for row in p]
        errors.append(sum(10.0**-i * (means[i] - digit) for i, digit in enumerate(truth)))
    result = losses.ncm_loss(*scored)
    assert result.item() == pytest.approx(np.mean(np.square(errors)), rel=1e-12)


def test_number_token_loss_by_a_loop(scored):
    total = weights = 0.0
    for p, truth in chances_by_row(scored):
        for level, digit in enumerate(truth):
            total += 10.0**-level * sum(p[level, d] * abs(d - digit) for d in range(10))
            weights += 10.0**-level
    result = losses.number_token_loss(*scored)
    assert result.item() == pytest.approx(total / weights, rel=1e-6)


def test_ncm_loss_is_what_the_metric_says(scored):
    logits, places, ids, truth = scored
    labels = torch.full((4, 8), 5)
    rows = [0, 1, 3]
    labels[torch.tensor(rows)[:, None], places[rows]] = torch.tensor(ids)[truth[rows]]
    metric = NCM(None, ids, places.shape[1])
    metric.update(logits, labels, places)
    assert losses.ncm_loss(*scored).item() == pytest.approx(metric.compute()["ncm"].item())


@pytest.mark.parametrize("loss", [losses.ncm_loss, losses.number_token_loss])
def test_gradients_of_number_losses_match_finite_differences(scored, loss):
    logits, places, ids, truth = scored
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, places, ids, truth), logits)
    (gradient,) = torch.autograd.grad(loss(*scored), logits)
    read = torch.zeros(4, 8, 23, dtype=torch.bool)
    for row, level in itertools.product((0, 1, 3), range(places.shape[1])):
        read[row, places[row, level] - 1, ids] = True
    assert (gradient[read] != 0).all() and (gradient[~read] == 0).all()


@pytest.mark.parametrize("loss", [losses.ncm_loss, losses.number_token_loss])
def test_number_losses_take_scores_or_digits(scored, loss):
    logits, places, ids, truth = scored
    scores = (truth.double() / 10.0 ** torch.arange(truth.shape[1])).sum(1)
    scores[2] = torch.nan  # of the row that has none
    by_score = loss(logits, places, ids, scores)
    torch.testing.assert_close(by_score, loss(logits, places, ids, truth))
    half = loss(logits.bfloat16(), places, ids, scores)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, by_score.float(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("loss", [losses.ncm_loss, losses.number_token_loss])
def test_number_losses_of_rows_without_a_score(scored, loss):
    logits, places, ids, truth = scored
    logits[2] = torch.nan  # is not looked at
    some = loss(logits.requires_grad_(), places, ids, truth)
    some.backward()
    assert some.isfinite() and logits.grad.isfinite().all()
    none = loss(logits, places * 0 - 1, ids, truth)
    (gradient,) = torch.autograd.grad(none, logits)
    assert none == 0 and (gradient == 0).all()


def test_the_number_token_loss_after_a_use_in_inference(scored):
    """Its tables, once made, must serve a training."""
    losses._number_tokens.cache_clear()
    logits, *rest = scored
    with torch.inference_mode():
        first = losses.number_token_loss(logits.clone(), *rest)
    later = losses.number_token_loss(logits.requires_grad_(), *rest)
    later.backward()
    assert later.item() == first.item()


def test_the_number_token_loss_is_that_of_the_package(tiny_tokenizer):
    """Called as its documentation says: with a tokenizer, shifted labels and weights."""
    answers = [DIRECT.answer(score, 3) for score in (3.47, 0.0, 9.99)]
    labels = torch.tensor(tiny_tokenizer(answers).input_ids)
    logits = torch.randn(*labels.shape, 640, generator=torch.Generator().manual_seed(0))
    places = ScorePlaces.of_form(tiny_tokenizer, DIRECT, 3)
    columns = places(labels)
    weights = torch.zeros(labels.shape).scatter(1, columns, torch.tensor([[1, 0.1, 0.01]] * 3))
    package = NTLoss(copy.deepcopy(tiny_tokenizer), vocab_size=640, reweigh=False)
    expected = package(logits[:, :-1], labels[:, 1:], loss_weights=weights[:, 1:])
    targets = torch.tensor([3.47, 0.0, 9.99])
    result = losses.number_token_loss(logits, columns, places.digit_ids, targets)
    torch.testing.assert_close(result, expected)
