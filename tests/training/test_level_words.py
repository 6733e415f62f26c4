"""Five words as scores: bins, soft labels, what is taught and how it is read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from realqa_utils.training import level_words
from realqa_utils.training.level_words import WORDS, Levels


def test_bins_are_equal_parts_of_the_range():
    levels = Levels(2.0, 7.0)
    assert levels.edges.tolist() == [2, 3, 4, 5, 6, 7]
    assert levels.values.tolist() == [2.5, 3.5, 4.5, 5.5, 6.5]
    scores = np.array([2.0, 2.99, 3.0, 5.5, 7.0, -1.0, 9.0])
    assert levels.index(scores).tolist() == [0, 0, 1, 3, 4, 0, 4]


def test_a_range_without_width_is_refused():
    with pytest.raises(ValueError, match=r"Levels\(3.0, 3.0\): needs low < high"):
        Levels(3.0, 3.0)


@given(st.floats(1, 9), st.floats(0.2, 2.5))
def test_soft_labels_sum_to_one_and_keep_the_score(target, spread):
    levels = Levels(0.0, 10.0)
    (soft,) = levels.soft(np.array([target]), np.array([spread]))
    edges = np.array([-np.inf, 2, 4, 6, 8, np.inf])
    plain = np.diff(norm.cdf(edges, target, spread))
    assert soft.min() >= 0
    assert soft.sum() == pytest.approx(1)
    if not np.allclose(soft, plain):  # it was moved, and then its mean is exactly the score
        assert soft @ levels.values == pytest.approx(target, abs=1e-9)


def test_wide_opinions_are_moved_to_the_score_and_narrow_ones_are_near_it():
    levels, targets = Levels(0.0, 10.0), np.linspace(4, 6, 50)
    wide = levels.soft(targets, np.full(50, 2.0))
    np.testing.assert_allclose(wide @ levels.values, targets, atol=1e-9)
    narrow = levels.soft(targets, np.full(50, 0.8))
    assert np.abs(narrow @ levels.values - targets).max() < 0.5


def test_a_hard_opinion_is_one_word():
    soft = Levels(0.0, 10.0).soft(np.array([9.0]), np.array([1e-3]))
    np.testing.assert_allclose(soft, [[0, 0, 0, 0, 1]], atol=1e-9)


def test_first_tokens_are_those_of_the_answer(tiny_backbone):
    ids = level_words.first_tokens(tiny_backbone.tokenizer)
    assert len(set(ids)) == 5
    for word, token in zip(WORDS, ids, strict=True):
        whole = tiny_backbone.tokenizer(f"{level_words.BEFORE} {word}.").input_ids
        assert token in whole


def test_reading_is_the_softmax_over_the_words(tiny_backbone, monkeypatch):
    ids = level_words.first_tokens(tiny_backbone.tokenizer)
    logits = torch.full((2, 900), -20.0)
    logits[0, ids] = torch.tensor([0.1, 0.2, 0.3, 0.3, 0.1]).log()
    logits[1, ids[4]], logits[1, 3 if 3 not in ids else 4] = 0.0, 5.0
    monkeypatch.setattr(level_words, "last_logits", lambda *_: logits)
    frame = level_words.read(tiny_backbone, [None, None], Levels(0, 10))
    assert frame["expected"][0] == pytest.approx(0.1 + 0.6 + 1.5 + 2.1 + 0.9, abs=1e-5)
    assert frame["greedy"].tolist()[1] == 9.0
    assert frame["parsed"].tolist() == [True, False]
    spread = 0.1 * 17.64 + 0.2 * 4.84 + 0.3 * 0.04 + 0.3 * 3.24 + 0.1 * 14.44
    assert frame["sd"][0] == pytest.approx(spread**0.5, abs=1e-4)
