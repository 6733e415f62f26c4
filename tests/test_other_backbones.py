"""Nothing but the preset knows of Qwen2-VL: the same checks on tiny Qwen2.5-VL and Qwen3-VL."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from realqa_utils.datasets import mini
from realqa_utils.forms import chains
from realqa_utils.forms.conversations import DIRECT
from realqa_utils.forms.scores import grid
from realqa_utils.images.photos import open_photo
from realqa_utils.images.views import View
from realqa_utils.model import adapters, decoder, lean, released, vision
from realqa_utils.model import backbone as backbones
from realqa_utils.model.backbone import Backbone
from realqa_utils.model.encoding import IGNORED, encode
from realqa_utils.ncm import NCM
from realqa_utils.scoring import digit_tree
from realqa_utils.training import fine_tuning
from realqa_utils.training.recipes import Recipe

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

LANGUAGE = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
            "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}  # fmt: skip
TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 4096, "bos_token_id": None,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
SEEN = {"hidden_size": 64, "intermediate_size": 96, "num_heads": 4, "out_hidden_size": 64}


@dataclass(frozen=True)
class Kind:
    """What differs: classes, settings, sizes, and the linears of a vision block."""

    model: type
    config: type
    text: dict
    seen: dict
    patch: int
    linears: frozenset[str]


# A head has 16 dimensions, half of them divided among time, height, width.
KINDS = {
    "Qwen2.5-VL": Kind(
        Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig,
        {"rope_parameters": ROPE | {"mrope_section": [2, 3, 3]}},
        {"depth": 2, "window_size": 56, "fullatt_block_indexes": [1]},  # windows of 2 x 2 tokens
        14, frozenset({"attn.qkv", "attn.proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}),
    ),
    "Qwen3-VL": Kind(
        Qwen3VLForConditionalGeneration, Qwen3VLConfig,
        {"head_dim": 16,
         "rope_parameters": ROPE | {"mrope_section": [4, 2, 2], "mrope_interleaved": True}},
        {"depth": 3, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
        16, frozenset({"attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2"}),
    ),
}  # fmt: skip


def build(kind: Kind, tokenizer) -> Backbone:
    """Random weights, larger than usual, so that answers are not all alike."""
    ids = tokenizer.convert_tokens_to_ids
    config = kind.config(
        text_config=TEXT | kind.text | {"vocab_size": -(-len(tokenizer) // 64) * 64,
                                        "eos_token_id": tokenizer.eos_token_id,
                                        "pad_token_id": tokenizer.pad_token_id},
        vision_config=SEEN | kind.seen | {"patch_size": kind.patch},
        image_token_id=ids("<|image_pad|>"), video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"), vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind.model(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(0, 0.15)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    processor = Qwen2VLImageProcessorPil(
        patch_size=kind.patch, size={"shortest_edge": 28 * 28, "longest_edge": 160 * 160}
    )
    return Backbone(vision.batch_vision(model).eval(), tokenizer, processor, "tiny")


@pytest.fixture(scope="module", params=KINDS)
def kind(request) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def backbone(kind, tiny_tokenizer) -> Backbone:
    """Shared, so a test must leave its weights alone."""
    return build(kind, tiny_tokenizer)


@pytest.fixture
def own(backbone) -> Backbone:
    model = copy.deepcopy(backbone.model)
    return Backbone(model, backbone.tokenizer, backbone.image_processor, "tiny")


@pytest.fixture(scope="module")
def photographs(kind) -> list[Image.Image]:
    """Of random pixels, 3 x 2, 2 x 2, 4 x 5 and 1 x 3 image tokens."""
    rng, unit = np.random.default_rng(0), 2 * kind.patch
    sizes = [(2, 3), (2, 2), (5, 4), (3, 1)]
    pixels = (rng.integers(0, 256, (h * unit, w * unit, 3), dtype=np.uint8) for h, w in sizes)
    return [Image.fromarray(p) for p in pixels]


# --- the library's own way -----------------------------------------------------------------------


def prompt(backbone: Backbone, image: Image.Image) -> tuple[torch.Tensor, dict]:
    """Tokens (1, n) of a conversation up to the answer, and the pixels; without the kit's code."""
    seen = backbone.image_processor([image], return_tensors="pt")
    content = [{"type": "image"}, {"type": "text", "text": DIRECT.question}]
    text = backbone.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    pads = "<|image_pad|>" * int(seen["image_grid_thw"].prod() // 4)
    text = text.replace("<|image_pad|>", pads)
    return backbone.tokenizer(text, return_tensors="pt").input_ids, dict(seen)


@torch.no_grad()
def plain_logits(backbone: Backbone, image: Image.Image, texts: list[str]):
    """Logits (texts, n, vocabulary) that predict the n tokens of each text, and these tokens.

    Texts follow the prompt and are equally long in tokens. One plain call, without a cache; the
    library works out the positions for itself.
    """
    ids, seen = prompt(backbone, image)
    said = backbone.tokenizer(texts, return_tensors="pt").input_ids
    whole = torch.cat((ids.expand(len(texts), -1), said), 1)
    logits = backbone.model(
        input_ids=whole,
        attention_mask=torch.ones_like(whole),
        mm_token_type_ids=(whole == backbone.model.config.image_token_id).long(),
        pixel_values=seen["pixel_values"].repeat(len(texts), 1),
        image_grid_thw=seen["image_grid_thw"].repeat(len(texts), 1),
    ).logits
    return logits[:, ids.shape[1] - 1 : -1], said


# --- tokens and labels ---------------------------------------------------------------------------


def test_digit_ids(backbone):
    assert backbone.digit_ids == [backbone.tokenizer.convert_tokens_to_ids(d) for d in "0123456789"]


def test_pixels(backbone, photographs):
    """Patches of 14 or 16 pixels, of photographs of several sizes and of one."""
    expected = backbone.image_processor(photographs, return_tensors="pt")
    pixels, grids = backbone.pixels(photographs)
    torch.testing.assert_close(pixels, expected["pixel_values"], atol=1e-6, rtol=1e-6)
    assert grids == [tuple(g) for g in expected["image_grid_thw"].tolist()]
    for photograph in photographs:
        alone, (grid_,) = backbone.pixels([photograph] * 2)[0], backbone.pixels([photograph])[1]
        single = backbone.image_processor([photograph], return_tensors="pt")
        torch.testing.assert_close(alone, single["pixel_values"].repeat(2, 1), atol=1e-5, rtol=1e-5)
        assert list(grid_) == single["image_grid_thw"][0].tolist()


def test_labels_are_the_answer_and_its_end(backbone, photographs):
    rows = [
        (DIRECT.question, "The score of this image is 3.99."),
        ("Rate it.", "7"),
        (chains.CHAINS["cot_natural"].question, "Sharp, 2 people. The final score is <6.59>."),
        ("", "0.00"),
    ]
    _, grids = backbone.pixels(photographs)
    batch = encode(backbone, *zip(*rows, strict=True), grids)
    for labels, ids, (_, answer) in zip(batch["labels"], batch["input_ids"], rows, strict=True):
        said = labels[labels != IGNORED]
        assert backbone.tokenizer.decode(said) == answer + "<|im_end|>"
        assert torch.equal(said, ids[labels != IGNORED])
    count = (batch["input_ids"] == backbone.model.config.image_token_id).sum(1)
    assert count.tolist() == [6, 4, 20, 3]


def test_a_padded_batch_gives_the_logits_of_each_row(backbone, photographs):
    """With the kit's tokens, positions and padding, against the library's for one photograph."""
    answers = ["3.99", "0.01", "7.25", "5.50"]
    pixels, grids = backbone.pixels(photographs)
    batch = encode(backbone, [DIRECT.question] * 4, answers, grids)
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = backbone.model(**batch, pixel_values=pixels).logits
    for row, (photograph, answer) in enumerate(zip(photographs, answers, strict=True)):
        expected, _ = plain_logits(backbone, photograph, [answer + "<|im_end|>"])
        at = (labels[row] != IGNORED).nonzero().flatten() - 1
        torch.testing.assert_close(logits[row, at], expected[0], atol=1e-4, rtol=1e-4)


def test_saved_and_loaded(backbone, photographs, tmp_path):
    backbone.save(tmp_path, torch.float32)
    loaded = backbones.load(tmp_path)
    assert type(loaded.model) is type(backbone.model)
    assert loaded.image_processor.patch_size == backbone.image_processor.patch_size
    for photograph in photographs[:2]:
        before, after = (plain_logits(b, photograph, ["3.99"])[0] for b in (backbone, loaded))
        assert torch.equal(before, after)


# --- LoRA ----------------------------------------------------------------------------------------


def targets(model) -> set[str]:
    found = {n.split(".lora_A.")[0] for n, _ in model.named_parameters() if ".lora_A." in n}
    return {re.sub(r"^base_model\.model\.model\.", "", name) for name in found}


@pytest.mark.parametrize("vision_mode", ["lora", "full", "frozen"])
def test_lora_targets(kind, own, vision_mode):
    """Exactly these; no merger, no deepstack merger, no embedding, no head."""
    expected = {f"language_model.layers.{i}.{name}" for i in range(2) for name in LANGUAGE}
    if vision_mode == "lora":
        depth = kind.seen["depth"]
        expected |= {f"visual.blocks.{i}.{name}" for i in range(depth) for name in kind.linears}
    assert targets(adapters.prepare(own, vision=vision_mode, rank=2).model) == expected


def test_the_linears_of_a_block_are_all_there_are(kind, backbone):
    block = backbone.core.visual.blocks[0]
    found = {n for n, part in block.named_modules() if isinstance(part, torch.nn.Linear)}
    assert found == kind.linears


@pytest.mark.parametrize("put_on", [adapters.load_adapter, released.load])
def test_a_saved_adapter_comes_back(backbone, own, photographs, tmp_path, put_on):
    untouched = plain_logits(backbone, photographs[0], ["3.99"])[0]
    trained = adapters.prepare(own, rank=2, alpha=4)
    generator = torch.Generator().manual_seed(0)
    for parameter in trained.model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    trained.model.eval().save_pretrained(tmp_path)
    other = Backbone(copy.deepcopy(backbone.model), backbone.tokenizer, backbone.image_processor)
    expected = plain_logits(trained, photographs[0], ["3.99"])[0]
    got = plain_logits(put_on(other, tmp_path), photographs[0], ["3.99"])[0]
    assert torch.equal(got, expected)
    assert (expected - untouched).abs().max() > 0.1


def plain_loss(backbone: Backbone, table) -> float:
    """Per token of the answers and their ends."""
    losses = []
    for path, score in zip(table.frame["path"], table.targets, strict=True):
        text = DIRECT.answer(score, 3) + "<|im_end|>"
        logits, said = plain_logits(backbone, open_photo(path), [text])
        losses.append(-logits.log_softmax(-1).gather(-1, said[..., None]).mean())
    return float(np.mean(losses))


@pytest.mark.parametrize("vision_mode", ["lora", "frozen"])
def test_training(own, tmp_path, vision_mode):
    """The loss is the library's, and falls. A frozen tower is asked once, for all that it says."""
    table = mini.build("mini-livec", 8, 0, tmp_path / "world", 1)
    recipe = Recipe(steps=6, batch_size=8, learning_rate=1e-2, rank=4, alpha=8, dropout=0.0,
                    vision=vision_mode)  # fmt: skip
    before = plain_loss(own, table)
    trainer = fine_tuning.AnswerTrainer(
        model=own.model,
        args=fine_tuning.arguments(recipe, tmp_path, 0, False),
        recipe=recipe,
        digit_ids=own.digit_ids,
    )
    with torch.no_grad():
        batch = fine_tuning.Collator(own, table, recipe, View())(range(8))
        assert float(trainer.compute_loss(own.model, batch)) == pytest.approx(before, abs=1e-4)
    assert plain_loss(fine_tuning.train(own, table, recipe, View(), tmp_path), table) < before - 0.5


# --- scores --------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits, at", [(1, 0), (1, 2), (2, 1), (2, 3)])
def test_tree_equals_all_strings(backbone, photographs, digits, at):
    """In one batch with photographs of other sizes, so behind padding as well."""
    reading = digit_tree.read(backbone, photographs, digits, floor=0.0)[at]
    texts = [f"{DIRECT.before}{value:.{digits - 1}f}" for value in grid(digits)]
    logits, said = plain_logits(backbone, photographs[at], texts)
    number = digits + 1 if digits > 1 else 1
    chances = logits.double().log_softmax(-1).gather(-1, said[..., None])[:, -number:]
    chances = chances.sum((1, 2)).exp().numpy()
    np.testing.assert_allclose(reading.values, grid(digits), atol=1e-12)
    np.testing.assert_allclose(reading.probabilities, chances / chances.sum(), atol=1e-5)
    assert reading.probabilities.max() > 3 * reading.probabilities.min()  # not all alike
    assert reading.off_format == pytest.approx(1 - chances.sum(), abs=1e-5)


def test_greedy_digits(backbone, photographs):
    """Step by step by the library: the likeliest digit, then the point, then the next digits."""
    readings = digit_tree.read(backbone, photographs, 3, tree=False)
    for reading, photograph in zip(readings, photographs, strict=True):
        text = DIRECT.before
        for place in range(3):
            logits, _ = plain_logits(backbone, photograph, [text + "0"])
            text += str(int(logits[0, -1, backbone.digit_ids].argmax()))
            text += "." if place == 0 else ""
        assert reading.text == text.removeprefix(DIRECT.before)


def test_free_answers(backbone, photographs):
    """One batch by the kit, one photograph at a time by the library."""
    assert not lean.knows(backbone.model)
    questions = [DIRECT.question] * len(photographs)
    said = decoder.generate(backbone, questions, photographs, 5)
    for answer, photograph in zip(said, photographs, strict=True):
        ids, seen = prompt(backbone, photograph)
        out = backbone.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), **seen, max_new_tokens=5,
            mm_token_type_ids=(ids == backbone.model.config.image_token_id).long(),
            do_sample=False,
        )  # fmt: skip
        alone = backbone.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        assert answer == alone


def test_ncm(backbone, photographs):
    """From a padded batch, against sums over the digits of each row alone."""
    scores, weights = [3.99, 0.01, 7.25, 5.5], np.array([1, 0.1, 0.01])
    answers = [DIRECT.answer(score, 3) for score in scores]
    pixels, grids = backbone.pixels(photographs)
    batch = encode(backbone, [DIRECT.question] * 4, answers, grids)
    with torch.no_grad():
        logits = backbone.model(**batch, pixel_values=pixels).logits
    metric = NCM.of(backbone.tokenizer, DIRECT, 3)
    metric.update(logits, batch["labels"])
    squares, stars = [], []
    for photograph, score in zip(photographs, scores, strict=True):
        text = f"{DIRECT.before}{score:.2f}"
        z, said = plain_logits(backbone, photograph, [text])
        z, said = z[0, [-4, -2, -1]][:, backbone.digit_ids].double(), said[0, [-4, -2, -1]]
        digits = [backbone.digit_ids.index(token) for token in said.tolist()]
        chances = z.softmax(-1).numpy()
        squares.append((weights @ (chances @ np.arange(10)) - score) ** 2)
        chances[range(3), digits] = 0
        others = chances @ np.arange(10) / chances.sum(1)
        stars.append((weights @ others - score) ** 2)
    assert metric.numbers()["scored"] == 4
    assert metric.numbers()["ncm"] == pytest.approx(np.mean(squares), rel=1e-4)
    assert metric.numbers()["ncm_star"] == pytest.approx(np.mean(stars), rel=1e-4)
