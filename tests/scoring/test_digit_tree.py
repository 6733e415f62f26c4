"""The digit tree against scoring every string, and greedy digits against free generation."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from realqa_utils.forms.conversations import DIRECT, Form
from realqa_utils.forms.scores import grid, parse_score
from realqa_utils.model import vision
from realqa_utils.model.backbone import Backbone, mini_config
from realqa_utils.model.encoding import encode
from realqa_utils.scoring import digit_tree
from realqa_utils.scoring.digit_tree import Reading, as_frame, read, read_batch

torch.set_num_threads(1)
SIZES = [(56, 56), (28, 84), (112, 112), (84, 56), (28, 28)]
BEFORE = "The score of this image is "


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in SIZES
    ]


def build(tokenizer) -> Backbone:
    """Random weights, larger than usual, one layer on either side."""
    config = mini_config(tokenizer).to_dict()
    config["text_config"] |= {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    config["vision_config"] |= {"depth": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = vision.batch_vision(Qwen2VLForConditionalGeneration(Qwen2VLConfig(**config)))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 2:
                    parameter.normal_(0, 0.1 if "embed_tokens" in name else 0.05)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    size = {"shortest_edge": 28 * 28, "longest_edge": 112 * 112}
    return Backbone(model.eval(), tokenizer, Qwen2VLImageProcessorPil(size=size))


@pytest.fixture(scope="module")
def untaught(tiny_tokenizer) -> Backbone:
    return build(tiny_tokenizer)


@pytest.fixture(scope="module")
def taught(tiny_tokenizer, photographs) -> Backbone:
    """Taught the form with two decimals, and of each photograph a wide range of scores."""
    backbone, rng = build(tiny_tokenizer), np.random.default_rng(1)
    pixels, grids = backbone.pixels(photographs)
    adam = torch.optim.AdamW(backbone.model.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.05, 80)
    for _ in range(80):
        scores = rng.normal(np.linspace(2, 8, len(grids)), 0.5).clip(0, 9.99)
        answers = [f"{BEFORE}{score:.2f}." for score in scores]
        batch = encode(backbone, [DIRECT.question] * len(grids), answers, grids)
        loss = backbone.model(**batch, pixel_values=pixels).loss
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    backbone.model.eval()
    return backbone


@pytest.fixture(params=["untaught", "taught"])
def either(request) -> Backbone:
    return request.getfixturevalue(request.param)


@pytest.fixture
def whole_tree(monkeypatch):
    monkeypatch.setattr(digit_tree, "FLOOR", 0.0)


def prompt_ids(backbone: Backbone, image: Image.Image) -> tuple[torch.Tensor, dict]:
    """Tokens (1, n) of the conversation up to the digits, and the pixels; without `encoding`."""
    seen = backbone.image_processor([image], return_tensors="pt")
    content = [{"type": "image"}, {"type": "text", "text": DIRECT.question}]
    text = backbone.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    pads = "<|image_pad|>" * int(seen["image_grid_thw"].prod() // 4)
    text = text.replace("<|image_pad|>", pads) + BEFORE
    return backbone.tokenizer(text, return_tensors="pt").input_ids, dict(seen)


@torch.no_grad()
def forced(backbone: Backbone, image: Image.Image, values: np.ndarray, digits: int) -> np.ndarray:
    """P(string) of each value as written, one forced sequence each, without a cache."""
    ids, seen = prompt_ids(backbone, image)
    strings = [f"{value:.{digits - 1}f}" for value in values]
    said = backbone.tokenizer(strings, return_tensors="pt").input_ids
    rows, length = said.shape
    assert length == (digits + 1 if digits > 1 else 1)
    whole = torch.cat((ids.expand(rows, -1), said), 1)
    logits = backbone.model(
        input_ids=whole,
        mm_token_type_ids=(whole == backbone.model.config.image_token_id).long(),
        pixel_values=seen["pixel_values"].repeat(rows, 1),
        image_grid_thw=seen["image_grid_thw"].repeat(rows, 1),
        logits_to_keep=length + 1,
    ).logits[:, :-1]
    chances = logits.double().log_softmax(-1).gather(-1, said[..., None])
    return chances.sum((1, 2)).exp().numpy()


@pytest.mark.parametrize("digits, at", [(1, 0), (1, 2), (2, 0), (2, 2)])
def test_tree_equals_all_strings(either, photographs, whole_tree, digits, at):
    """In one batch with photographs of other sizes, so behind padding as well."""
    reading = read_batch(either, photographs, digits)[at]
    chances = forced(either, photographs[at], grid(digits), digits)
    np.testing.assert_allclose(reading.values, grid(digits), atol=1e-12)
    np.testing.assert_allclose(reading.probabilities, chances / chances.sum(), atol=1e-5)
    assert reading.probabilities.max() > 3 * reading.probabilities.min()  # not all alike
    assert reading.off_format == pytest.approx(1 - chances.sum(), abs=1e-5)
    assert reading.expected == pytest.approx(grid(digits) @ chances / chances.sum(), abs=1e-4)


def test_tree_equals_some_strings(taught, photographs, whole_tree):
    """Of three digits, and with the masses as they are, not scaled to a sum of 1."""
    reading = read_batch(taught, photographs, 3)[3]
    some = np.random.default_rng(0).choice(1000, 60, replace=False)
    some = np.union1d(some, reading.probabilities.argsort()[-20:])
    chances = forced(taught, photographs[3], grid(3)[some], 3)
    np.testing.assert_allclose(reading.values, grid(3), atol=1e-12)
    mass = reading.probabilities[some] * (1 - reading.off_format)
    np.testing.assert_allclose(mass, chances, rtol=1e-3, atol=1e-9)
    assert chances.max() > 3e-3


def test_moments():
    """By hand: 2, 4 and 9 with chances 1/2, 1/4 and 1/4."""
    reading = Reading("4", True, np.array([2.0, 4, 9]), np.array([0.5, 0.25, 0.25]), 0.0)
    assert reading.expected == 4.25
    assert reading.sd**2 == pytest.approx(0.5 * 2.25**2 + 0.25 * 0.25**2 + 0.25 * 4.75**2)


def test_distributions_are_distributions(either, photographs):
    for digits in (1, 2, 3, 4):
        for reading in read_batch(either, photographs, digits):
            assert reading.probabilities.sum() == pytest.approx(1, abs=1e-12)
            assert (reading.probabilities >= 0).all()
            assert (np.diff(reading.values) > 0).all()
            assert 0 <= reading.off_format <= 1
            assert 0 <= reading.expected < 10


# --- greedy ------------------------------------------------------------------------------------


def free(backbone: Backbone, image: Image.Image) -> str:
    """What the model itself writes after the fixed words, up to its end token."""
    ids, seen = prompt_ids(backbone, image)
    out = backbone.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == backbone.model.config.image_token_id).long(),
        **seen,
        max_new_tokens=10,
        do_sample=False,
    )
    return backbone.tokenizer.decode(out[0, ids.shape[1] :])


def restricted(backbone: Backbone, image: Image.Image, digits: int) -> str:
    """The likeliest digit, a full stop, the likeliest digit ..: whole passes, without a cache."""
    ids, seen = prompt_ids(backbone, image)
    known, text = torch.tensor(backbone.digit_ids), ""
    for place in range(digits):
        kinds = (ids == backbone.model.config.image_token_id).long()
        with torch.no_grad():
            logits = backbone.model(input_ids=ids, mm_token_type_ids=kinds, **seen).logits
        digit = int(logits[0, -1, known].argmax())
        added = f"{digit}." if place == 0 and digits > 1 else f"{digit}"
        more = backbone.tokenizer(added, return_tensors="pt").input_ids
        text, ids = text + added, torch.cat((ids, more), 1)
    return text


@pytest.mark.parametrize("digits", [1, 2, 3, 4])
def test_greedy_equals_free_generation(either, photographs, digits):
    for image, reading in zip(photographs, read_batch(either, photographs, digits), strict=True):
        said = free(either, image)
        assert reading.text == restricted(either, image, digits)
        assert reading.parsed == (said == f"{reading.text}.<|im_end|>")
        if reading.parsed:
            answer = BEFORE + said.removesuffix("<|im_end|>")
            assert parse_score(answer, digits).score == reading.greedy
        else:
            assert np.isnan(reading.greedy)


def test_what_is_parsed(taught, untaught, photographs):
    """So that the test above has seen both: two decimals were taught, and nothing else."""
    for digits in (1, 2, 3, 4):
        assert {r.parsed for r in read_batch(taught, photographs, digits)} == {digits == 3}
        assert not any(r.parsed for r in read_batch(untaught, photographs, digits))


@pytest.mark.parametrize("call, half", [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0), (3, 1)])
def test_one_other_token_is_not_parsed(taught, photographs, call, half):
    """Something else is likelier than a digit, the point, a digit, a digit, the full stop, the end.

    The first digits and the points behind them come in one pass, so do the last and the full stop.
    """
    calls, other = itertools.count(), taught.tokenizer.convert_tokens_to_ids("x")

    def prefer_other(module, inputs, logits):
        if next(calls) == call:
            rows = logits.flatten(0, -2)
            rows.tensor_split(2)[half][:, other] += 30.0 if len(rows) > 1 else 0.0
            rows[:, other] += 30.0 if len(rows) == 1 else 0.0
        return logits

    (plain,) = read_batch(taught, photographs[:1], 3)
    hook = taught.model.lm_head.register_forward_hook(prefer_other)
    (reading,) = read_batch(taught, photographs[:1], 3)
    hook.remove()
    assert plain.parsed and not reading.parsed
    assert reading.text == plain.text


def test_another_form(taught, photographs):
    """The fixed words are those of the form; one that was not taught does not parse."""
    odd = Form("odd", "How good is this?", "I would say <", ">.")
    readings = read_batch(taught, photographs, 3, odd)
    assert not any(reading.parsed for reading in readings)
    assert [r.text for r in readings] != [""] * len(readings)


# --- branches, batches, padding ----------------------------------------------------------------


@pytest.mark.parametrize("floor", [1e-3, 0.02, 0.2, 2.0])
def test_floor(taught, photographs, monkeypatch, floor):
    """A branch that is not expanded stands in the middle of its range, at less than the floor."""
    digits = 3
    monkeypatch.setattr(digit_tree, "FLOOR", floor)
    cut = read_batch(taught, photographs, digits)
    monkeypatch.setattr(digit_tree, "FLOOR", 0.0)
    for rough, exact in zip(cut, read_batch(taught, photographs, digits), strict=True):
        assert (rough.text, rough.parsed) == (exact.text, exact.parsed)
        steps = rough.values * 100
        whole = np.isclose(steps, steps.round(), atol=1e-6)
        mass = rough.probabilities * (1 - rough.off_format)
        assert len(rough.values) < 1000 or floor == 1e-3
        assert (mass[~whole] < floor).all()
        middles = rough.values[~whole] % 1
        assert all(np.isclose(m, 0.495) or np.isclose(m * 10 % 1, 0.45) for m in middles)
        # of the two means, the mass of these branches is all that is not the same
        ended, kept = mass[~whole].sum(), mass[whole].sum()
        assert abs(rough.expected - exact.expected) <= 10 * ended / kept
        if floor <= 1e-3:
            assert abs(rough.expected - exact.expected) < 0.02


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_batches_and_padding_change_nothing(either, photographs, whole_tree, batch_size):
    digits = 2
    together = read(either, photographs, digits)
    apart = read(either, photographs, digits, batch_size=batch_size)
    assert len(apart) == len(photographs)
    for one, other in zip(together, apart, strict=True):
        assert (one.text, one.parsed) == (other.text, other.parsed)
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
        assert one.off_format == pytest.approx(other.off_format, abs=1e-5)


def test_order_is_that_of_the_photographs(either, photographs):
    turned = read(either, photographs[::-1], 2)[::-1]
    for one, other in zip(read(either, photographs, 2), turned, strict=True):
        assert one.expected == pytest.approx(other.expected, abs=1e-5)
    expected = [reading.expected for reading in turned]
    assert len(set(np.round(expected, 4))) == len(expected)


def test_photographs_are_opened_one_batch_at_a_time(taught, photographs):
    opened = []

    def opener(number: int):
        def open_it() -> Image.Image:
            opened.append(number)
            return photographs[number]

        return open_it

    lazy = read(taught, [opener(n) for n in range(5)], 2, batch_size=2)
    assert opened == [0, 1, 2, 3, 4]
    for one, other in zip(lazy, read(taught, photographs, 2), strict=True):
        assert one.expected == pytest.approx(other.expected, abs=1e-5)


def test_reading_leaves_the_model_in_evaluation(taught, photographs):
    taught.model.train()
    read(taught, photographs[:1], 1)
    assert not taught.model.training


def test_fixed_words_and_digits_are_tokens_of_their_own(tiny_tokenizer):
    """What is prefilled is the beginning of what is trained on, token by token."""
    for digits, k in itertools.product((1, 2, 3), (0, 7, 42)):
        answer = DIRECT.answer(grid(digits)[k % 10**digits], digits)
        ids, before, after = (
            tiny_tokenizer(text).input_ids for text in (answer, DIRECT.before, DIRECT.after)
        )
        assert ids[: len(before)] == before and ids[len(ids) - len(after) :] == after
        assert len(ids) == len(before) + len(after) + (1 if digits == 1 else digits + 1)


def test_as_frame():
    readings = [
        Reading("3.5", True, np.array([3.0, 4.0]), np.array([0.5, 0.5]), 0.1),
        Reading("7.0", False, np.array([7.0]), np.array([1.0]), 0.9),
    ]
    frame = as_frame(readings, ["a", "b"])
    expected = pd.DataFrame(
        {
            "greedy": [3.5, np.nan],
            "expected": [3.5, 7.0],
            "sd": [0.5, 0.0],
            "parsed": [True, False],
            "text": ["3.5", "7.0"],
            "off_format": [0.1, 0.9],
        },
        index=pd.Index(["a", "b"], name="id"),
    )
    pd.testing.assert_frame_equal(frame, expected)
    assert as_frame(readings).index.tolist() == [0, 1]
