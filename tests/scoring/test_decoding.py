"""Sampling against a plain reference, by frequency, and for repeatability."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from realqa_utils.scoring.decoding import TOP_K, Drawn, chances, draws, fall, generate

torch.set_num_threads(1)
QUESTION = "How good is it?"


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(56, 56), (28, 84), (84, 56), (28, 28), (56, 56)]
    return [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in sizes
    ]


def reference(logits: np.ndarray) -> np.ndarray:
    """Softmax at 0.95; the 50 likeliest; of these, as few as reach 0.7; token by token."""
    order = sorted(range(len(logits)), key=lambda token: -logits[token])[:50]
    weights = {token: np.exp((logits[token] - logits[order[0]]) / 0.95) for token in order}
    total, reached, kept = sum(weights.values()), 0.0, []
    for token in order:
        if reached >= 0.7:
            break
        kept.append(token)
        reached += weights[token] / total
    out = np.zeros(len(logits))
    out[kept] = [weights[token] for token in kept]
    return out / out.sum()


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 120), st.sampled_from([0.1, 1.0, 5.0]), st.integers(0, 10**6))
def test_chances_are_those_of_the_reference(size, spread, seed):
    logits = np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)
    found = chances(torch.tensor(logits)[None])[0].numpy()
    np.testing.assert_allclose(found, reference(logits), atol=1e-6)


def test_chances_by_hand():
    """Of 0.5, 0.3 and 0.2 (at temperature 1), the first two reach 0.7."""
    logits = 0.95 * torch.tensor([0.2, 0.5, 0.3]).log()
    assert chances(logits[None])[0].tolist() == pytest.approx([0, 5 / 8, 3 / 8], abs=1e-6)


def test_not_more_than_so_many_tokens():
    """Of two hundred tokens of nearly one probability, 0.7 of the mass of fifty."""
    logits = torch.linspace(0, 1e-3, 200)
    assert (chances(logits[None]) > 0).sum() == round(0.7 * TOP_K)


@settings(max_examples=100, deadline=None)
@given(arrays(float, st.integers(1, 30), elements=st.sampled_from([0, 0.1, 1, 3])), st.data())
def test_a_draw_falls_on_a_token_that_can_be(weights, data):
    weights[data.draw(st.integers(0, len(weights) - 1))] = 1.0
    uniform = data.draw(st.one_of(st.floats(0, 1, exclude_max=True), st.just(1 - 2**-53)))
    probabilities = torch.from_numpy(weights / weights.sum())[None]
    token = int(fall(probabilities, torch.tensor([[uniform]], dtype=torch.float64)))
    assert weights[token] > 0
    before = weights[:token].sum() / weights.sum()
    assert before - 1e-12 <= uniform <= before + weights[token] / weights.sum() + 1e-12


def test_tokens_come_as_often_as_they_should():
    """Through the processor, at its second step; within four standard errors."""
    logits = torch.tensor([1.0, 0.5, 0.0, 2.0, 1.5]).expand(4000, -1)
    drawn = Drawn(draws(3, range(4000), 2), width=7)
    tokens = drawn(torch.zeros(4000, 8, dtype=torch.long), logits)
    assert torch.isfinite(tokens).sum(1).tolist() == [1] * 4000
    found = np.bincount(tokens.argmax(1), minlength=5) / 4000
    expected = reference(logits[0].numpy())
    assert (np.abs(found - expected) <= 4 * np.sqrt(expected * (1 - expected) / 4000)).all()


def test_a_photograph_has_draws_of_its_own():
    both = draws(5, [0, 1], 4)
    assert torch.equal(draws(5, [1], 4)[0], both[1])
    assert torch.equal(draws(5, [0, 1], 2), both[:, :2])
    assert len(torch.cat((both, draws(6, [0, 1], 4))).unique()) == 16


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_seed_fixes_the_answers_whatever_the_batch(tiny_backbone, photographs, batch_size):
    questions = [QUESTION] * 5
    once = generate(tiny_backbone, questions, photographs, 12, "sampled", 1)
    again = generate(tiny_backbone, questions, photographs, 12, "sampled", 1, batch_size)
    assert once == again
    assert len(set(once)) == 5
    assert generate(tiny_backbone, questions, photographs, 12, "sampled", 2) != once
    assert generate(tiny_backbone, questions, photographs, 12) != once


def test_the_answer_is_the_tokens_drawn(tiny_backbone, photographs):
    """Token by token with whole passes of the model."""
    tokenizer, image = tiny_backbone.tokenizer, photographs[3]
    seen = tiny_backbone.image_processor([image], return_tensors="pt")
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    pads = "<|image_pad|>" * int(seen["image_grid_thw"].prod() // 4)
    ids = tokenizer(text.replace("<|image_pad|>", pads), return_tensors="pt").input_ids
    width = ids.shape[1]
    for uniform in draws(4, [0], 8)[0].tolist():
        kinds = (ids == tiny_backbone.model.config.image_token_id).long()
        with torch.no_grad():
            logits = tiny_backbone.model(input_ids=ids, mm_token_type_ids=kinds, **seen).logits
        cumulated = reference(logits[0, -1].numpy()).cumsum()
        token = next(t for t, edge in enumerate(cumulated) if edge > uniform)
        ids = torch.cat((ids, torch.tensor([[token]])), 1)
    said = tokenizer.decode(ids[0, width:], skip_special_tokens=True)
    assert generate(tiny_backbone, [QUESTION], [image], 8, "sampled", 4) == [said]


def test_greedy_is_the_backbones_own(tiny_backbone, photographs):
    opened = []
    lazy = [lambda image=image: opened.append(1) or image for image in photographs]
    questions = [f"{QUESTION} {number}" for number in range(5)]
    said = generate(tiny_backbone, questions, lazy, 6, batch_size=2)
    assert len(opened) == 5
    assert said == tiny_backbone.generate(questions, photographs, 6)


def test_another_mode_is_refused(tiny_backbone, photographs):
    with pytest.raises(ValueError, match="mode='beam': one of greedy, sampled"):
        generate(tiny_backbone, [QUESTION], photographs[:1], 4, "beam")
