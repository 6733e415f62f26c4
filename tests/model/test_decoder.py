"""Decoding token by token against whole passes of the model, and against `generate`."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from realqa_utils.forms.conversations import DIRECT, MIX
from realqa_utils.model import adapters, decoder, lean, products
from realqa_utils.model.backbone import Backbone
from realqa_utils.model.decoder import Plain
from realqa_utils.model.encoding import encode_prompt
from realqa_utils.model.lean import Lean
from realqa_utils.model.products import Product
from realqa_utils.scoring.digit_tree import read_batch
from realqa_utils.scoring.form_filling import fill

torch.set_num_threads(1)
QUESTIONS = ["Rate it.", "What is in this photograph?", "Rate it."]
BEGUN = ["The score", "", "The score of this image is "]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def photographs() -> dict[str, list[Image.Image]]:
    rng = np.random.default_rng(0)
    sizes = {"equal": [(56, 56)] * 3, "mixed": [(56, 56), (28, 84), (112, 56)]}
    return {
        name: [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sides]
        for name, sides in sizes.items()
    }


def louder(model: nn.Module, words: float, rest: float) -> None:
    """Larger random weights, so that what is said depends on what is seen."""
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                size = words if "embed_tokens" in name else rest
                parameter.normal_(0, size, generator=noise)


@pytest.fixture(scope="module")
def loud(tiny_backbone) -> Backbone:
    model = copy.deepcopy(tiny_backbone.model)
    louder(model, 0.1, 0.08)
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 784, "longest_edge": 12544})
    return Backbone(model.eval(), tiny_backbone.tokenizer, processor)


@pytest.fixture(scope="module")
def plain(loud) -> Backbone:
    """The same model with an attention that is not known."""
    model = copy.deepcopy(loud.model)
    model.set_attn_implementation("eager")
    return Backbone(model, loud.tokenizer, loud.image_processor)


@pytest.fixture(params=["loud", "plain"])
def either(request) -> Backbone:
    return request.getfixturevalue(request.param)


@torch.no_grad()
def whole_pass(backbone: Backbone, image, question: str, begun: str, tokens) -> torch.Tensor:
    """Logits (1 + n, vocabulary) behind a begun answer and behind each of n more tokens."""
    seen = backbone.image_processor([image], return_tensors="pt")
    prompt = encode_prompt(backbone, question, tuple(seen["image_grid_thw"][0].tolist()))
    ids = torch.cat(
        (prompt.ids, torch.tensor([*backbone.tokenizer(begun).input_ids, *tokens]).long())
    )
    kinds = (ids == backbone.model.config.image_token_id).long()
    out = backbone.model(input_ids=ids[None], mm_token_type_ids=kinds[None], **seen)
    return out.logits[0, -1 - len(tokens) :]


def begin(backbone: Backbone, images, columns: int = 1):
    with torch.no_grad():
        return decoder.begin(backbone, images, QUESTIONS, BEGUN, columns)


# --- beginnings and steps ------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", ["equal", "mixed"])
def test_the_beginning_equals_a_whole_pass(either, photographs, sizes):
    state, logits = begin(either, photographs[sizes], 2)
    assert isinstance(state, Lean if either.model.config._attn_implementation == "sdpa" else Plain)
    for row in (0, 2):
        image, question, begun = photographs[sizes][row], QUESTIONS[row], BEGUN[row]
        tokens = either.tokenizer(begun).input_ids
        expected = whole_pass(either, image, question, "", tokens)[-2:]
        torch.testing.assert_close(logits[row], expected, **CLOSE)
    assert logits.std() > 0.3


def test_equal_questions_share_their_opening(loud, photographs):
    """Photographs of one size, so all rows have the same number of tokens and are run densely."""
    images = photographs["equal"]
    state, logits = decoder.begin(loud, images, [DIRECT.question] * 3, [DIRECT.before] * 3)
    assert state.even
    for image, found in zip(images, logits, strict=True):
        expected = whole_pass(loud, image, DIRECT.question, DIRECT.before, [])
        torch.testing.assert_close(found, expected, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("sizes", ["equal", "mixed"])
def test_answers_that_grow_at_their_own_pace(either, photographs, sizes):
    """A chain of which each row takes another part, then one token, then what the others get."""
    images = photographs[sizes]
    state, _ = begin(either, images)
    written = [[], [], []]
    chains = [[[5, 6, 7, 8]] * 3, [[9]] * 3, [[10, 11], [12, 13], [14, 15]]]
    for chain, counts in zip(chains, ([4, 0, 2], [1, 1, 0], [2, 1, 2]), strict=True):
        logits = state.step(torch.tensor(chain))
        for row, count in enumerate(counts):
            told = whole_pass(
                either, images[row], QUESTIONS[row], BEGUN[row], written[row] + chain[row]
            )
            torch.testing.assert_close(logits[row], told[-len(chain[row]) :], **CLOSE)
            written[row] += chain[row][:count]
        state.take(torch.tensor(counts))


@torch.no_grad()
@pytest.mark.parametrize("sizes", ["equal", "mixed"])
def test_branches(either, photographs, sizes):
    """Two branches 20 and 21, behind each another token, and one that sees the first pair only.

    Rows go on with different ones; of the last row only some columns are run.
    """
    images = photographs[sizes]
    state, _ = begin(either, images)
    sees = torch.eye(4, dtype=torch.bool)
    sees[2, 0] = sees[3, 1] = True
    where = torch.tensor([[True] * 4, [True] * 4, [True, False, True, False]])
    tokens = torch.tensor([[20, 21, 22, 23]] * 3)
    first = state.step(tokens, torch.tensor([0, 0, 1, 1]), sees, where)
    third = torch.tensor([[[True, False, True, False, True]]]).expand(3, 1, 5)
    second = state.step(torch.tensor([[24]] * 3), torch.tensor([2]), third)
    assert first.shape[0] == 10
    at = where.flatten().cumsum(0).view(3, 4) - 1
    for row in range(3):
        for way in ([0, 2], [1, 3])[: 1 if row == 2 else 2]:
            path = [*tokens[row, way].tolist(), 24]
            told = whole_pass(either, images[row], QUESTIONS[row], BEGUN[row], path)
            torch.testing.assert_close(first[at[row, way]], told[1:3], **CLOSE)
            if way[0] == 0:
                torch.testing.assert_close(second[row, 0], told[3], **CLOSE)
    columns = torch.tensor([[0, 2, 4], [1, 3, 0], [0, 2, 1]])
    state.take(torch.tensor([3, 2, 1]), columns)
    after = state.step(torch.tensor([[25]] * 3))
    for row, path in enumerate(([20, 22, 24], [21, 23], [20])):
        told = whole_pass(either, images[row], QUESTIONS[row], BEGUN[row], [*path, 25])
        torch.testing.assert_close(after[row, 0], told[-1], **CLOSE)


@torch.no_grad()
def test_rows_may_be_left_out_and_occur_often(either, photographs):
    state, _ = begin(either, photographs["mixed"])
    state.step(torch.tensor([[5, 6]] * 3))
    state.take(torch.tensor([2, 1, 0]))
    state.select(torch.tensor([2, 0, 2]))
    logits = state.step(torch.tensor([[7], [8], [9]]))
    for place, (row, path) in enumerate([(2, [7]), (0, [5, 6, 8]), (2, [9])]):
        told = whole_pass(either, photographs["mixed"][row], QUESTIONS[row], BEGUN[row], path)
        torch.testing.assert_close(logits[place, 0], told[-1], **CLOSE)


@torch.no_grad()
def test_a_cache_and_a_table_that_are_too_small_grow(loud, photographs, monkeypatch):
    monkeypatch.setattr(lean, "ROOM", 1)
    monkeypatch.setattr(lean, "POSITIONS", 4)
    images, path = photographs["mixed"], list(range(30, 39))
    state, _ = begin(loud, images)
    for start in range(0, 9, 3):
        logits = state.step(torch.tensor([path[start : start + 3]] * 3))
        state.take(torch.full((3,), 3))
    for row, image in enumerate(images):
        told = whole_pass(loud, image, QUESTIONS[row], BEGUN[row], path)
        torch.testing.assert_close(logits[row], told[-3:], **CLOSE)


# --- other weights, other models -----------------------------------------------------------------


def test_weights_are_those_of_the_moment(loud, photographs):
    """Nothing is kept from one batch to the next, so training in between is seen."""
    changed = copy.deepcopy(loud.model)
    backbone = Backbone(changed, loud.tokenizer, loud.image_processor)
    _, before = begin(backbone, photographs["equal"])
    changed.model.language_model.layers[1].mlp.up_proj.weight.data.mul_(1.5)  # no version counts it
    changed.model.visual.blocks[0].mlp.fc1.weight.data.mul_(1.5)
    _, after = begin(backbone, photographs["equal"])
    expected = whole_pass(backbone, photographs["equal"][0], QUESTIONS[0], BEGUN[0], [])
    torch.testing.assert_close(after[0], expected, **CLOSE)
    assert not torch.allclose(before, after, atol=0.01)


@torch.no_grad()
@pytest.mark.parametrize("tower", ["lora", "full", "frozen"])
def test_a_wrapped_model_is_decoded_as_it_is(loud, photographs, tower):
    model = copy.deepcopy(loud.model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        wrapped = adapters.prepare(
            Backbone(model, loud.tokenizer, loud.image_processor), "lora", tower, 2, 4, 0.0
        )
    for name, weight in wrapped.model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
        elif "modules_to_save" in name:
            weight.mul_(1.1)
    wrapped.model.eval()
    state, logits = begin(wrapped, photographs["equal"])
    assert isinstance(state, Lean) and state.side.layers[0].qkv.weight is None
    more = state.step(torch.tensor([[5, 6]] * 3))
    told = whole_pass(wrapped, photographs["equal"][0], QUESTIONS[0], BEGUN[0], [5, 6])
    torch.testing.assert_close(torch.cat((logits[0], more[0])), told, **CLOSE)
    untouched = whole_pass(loud, photographs["equal"][0], QUESTIONS[0], BEGUN[0], [5, 6])
    assert not torch.allclose(told, untouched, atol=0.01)


TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 999}  # fmt: skip
TOWER = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2,
         "out_hidden_size": 64, "in_channels": 3}  # fmt: skip


def other_model(tokenizer, name: str) -> Backbone:
    """A model of another class, as a hub may bring it."""
    ids = tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    words = {"vocab_size": -(-len(tokenizer) // 64) * 64, "pad_token_id": tokenizer.pad_token_id}
    tokens = {
        "image_token_id": ids("<|image_pad|>"), "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"), "tie_word_embeddings": True,
    }  # fmt: skip
    if name == "qwen2.5":
        text = TEXT | words | {"rope_parameters": rope | {"mrope_section": [2, 3, 3]}}
        tower = TOWER | {"fullatt_block_indexes": [1]}
        config = Qwen2_5_VLConfig(text_config=text, vision_config=tower, **tokens)
        kind, patch = Qwen2_5_VLForConditionalGeneration, 14
    else:
        text = TEXT | words | {"head_dim": 16}
        text |= {"rope_parameters": rope | {"mrope_section": [4, 2, 2], "mrope_interleaved": True}}
        tower = TOWER | {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
        config = Qwen3VLConfig(text_config=text, vision_config=tower, **tokens)
        kind, patch = Qwen3VLForConditionalGeneration, 16
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config).eval()
    louder(model, 0.1, 0.08)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    size = {"shortest_edge": 4 * patch**2, "longest_edge": 64 * patch**2}
    return Backbone(model, tokenizer, Qwen2VLImageProcessorPil(size=size, patch_size=patch))


@pytest.fixture(scope="module", params=["qwen2.5", "qwen3"])
def other(request, tiny_tokenizer) -> Backbone:
    return other_model(tiny_tokenizer, request.param)


@torch.no_grad()
def test_other_models_take_the_librarys_calls(other, photographs):
    images = photographs["mixed"]
    assert not lean.knows(other.model)
    state, logits = begin(other, images)
    assert isinstance(state, Plain)
    state.step(torch.tensor([[5, 6]] * 3))
    state.take(torch.tensor([2, 1, 0]))
    more = state.step(torch.tensor([[7]] * 3))
    for row, path in enumerate(([5, 6, 7], [5, 7], [7])):
        told = whole_pass(other, images[row], QUESTIONS[row], BEGUN[row], path)
        torch.testing.assert_close(logits[row, 0], told[0], **CLOSE)
        torch.testing.assert_close(more[row, 0], told[-1], **CLOSE)
    assert logits.std() > 0.3


def test_other_models_score_fill_in_and_answer(other, photographs):
    """Each as for itself, of photographs in one batch."""
    images = photographs["mixed"]
    for image, reading in zip(images, read_batch(other, images, 2), strict=True):
        told = whole_pass(other, image, DIRECT.question, DIRECT.before, [])[0].double().softmax(0)
        first = reading.probabilities[reading.values < 1].sum() * (1 - reading.off_format)
        assert 0 < first < told[other.digit_ids[0]] + 1e-6
        assert int(reading.text[0]) == told[other.digit_ids].argmax()
    questions = [MIX.question] * 3
    said = decoder.generate(other, questions, images, 8)
    assert said == other.generate(questions, images, 8)
    for filled, answer in zip(fill(other, images, MIX, max_text_tokens=3), said, strict=True):
        assert filled.text.startswith("Reason for") and not filled.follows
        assert filled.text != answer


# --- free-running answers ------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", ["equal", "mixed"])
@pytest.mark.parametrize("longest", [1, 2, 25])
def test_free_running_answers_are_the_librarys(loud, photographs, sizes, longest):
    """End tokens that come early in some answers and late in others, or never."""
    images, found = photographs[sizes], []
    questions = [DIRECT.question] * 3
    said = loud.generate(questions, images, 25)
    ids = [loud.tokenizer(text).input_ids for text in said]
    assert len({tuple(i) for i in ids}) == 3
    backbone = Backbone(copy.deepcopy(loud.model), loud.tokenizer, loud.image_processor)
    for ends in ([loud.tokenizer.eos_token_id], [ids[0][3], ids[1][9]], [i[0] for i in ids]):
        backbone.model.generation_config.eos_token_id = ends
        library = backbone.generate(questions, images, longest)
        # of an end token that is no special one the library keeps the text
        cut = [decoder.generate(backbone, questions, images, longest)]
        found.append(len(set(map(len, library))))
        for one, other in zip(library, cut[0], strict=True):
            tokens = [t for t in loud.tokenizer(one).input_ids if t not in ends]
            assert one.startswith(other) and len(other) <= len(one)
            if set(loud.tokenizer(one).input_ids).isdisjoint(ends):
                assert one == other
            assert tokens is not None
    assert longest == 1 or max(found) > 1


def test_the_likeliest_token_is_the_first_of_equals():
    logits = torch.tensor([[[0.0, 2.0, 2.0], [3.0, 1.0, 3.0]]])
    for kind in (torch.float32, torch.bfloat16):
        assert decoder.likeliest(logits.to(kind)).tolist() == [[1, 0]]


# --- products ------------------------------------------------------------------------------------


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("biases", [(True, True), (False, True), (False, False)])
def test_products_are_those_of_their_layers(monkeypatch, large, biases):
    if large:
        monkeypatch.setattr(products, "LARGEST", 10)
    torch.manual_seed(0)
    layers = [nn.Linear(6, size, bias) for size, bias in zip((4, 5), biases, strict=True)]
    x, scale, hidden = torch.randn(7, 6), torch.randn(6), torch.randn(7, 9)
    with torch.no_grad():
        expected = torch.cat([layer(x * scale) for layer in layers], 1)
        product = Product(*layers, scale=scale)
        assert (product.weight is None) == large
        torch.testing.assert_close(product(x), expected)
        torch.testing.assert_close(Product(*layers)(x * scale), expected)
        sum_ = hidden + expected
        torch.testing.assert_close(product.add_to(hidden, x), sum_)
        torch.testing.assert_close(hidden, sum_)


def test_a_layer_with_hooks_is_called():
    layer, calls = nn.Linear(3, 2), []
    layer.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        Product(layer)(torch.randn(4, 3))
    assert calls == [1]


def test_unit_rows():
    """By hand: 3, 4 and 0 have a mean square of 25 / 3."""
    found = products.unit(torch.tensor([[3.0, 4.0, 0.0]]), 0.0)
    torch.testing.assert_close(found, torch.tensor([[3.0, 4.0, 0.0]]) / (25 / 3) ** 0.5)


# --- looking -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", ["equal", "mixed"])
def test_image_tokens_are_the_towers(loud, photographs, sizes):
    seen, grids = loud.look(photographs[sizes])
    pixels, expected = loud.pixels(photographs[sizes])
    with torch.no_grad():
        told = loud.core.visual(pixels, grid_thw=torch.tensor(expected)).pooler_output
    assert grids == expected
    torch.testing.assert_close(seen, told, **CLOSE)
    assert told.std() > 0.3
