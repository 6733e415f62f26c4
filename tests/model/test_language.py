"""Shared openings and selective last layers against the library's plain call."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLDecoderLayer

from realqa_utils.forms.conversations import DIRECT
from realqa_utils.model import adapters, language, packed
from realqa_utils.model.backbone import Backbone
from realqa_utils.model.encoding import IGNORED, encode

torch.set_num_threads(1)
EQUAL = [(1, 4, 4)] * 3
MIXED = [(1, 4, 4), (1, 2, 2), (1, 8, 4)]
NONE = [None] * 3
ANSWERS = [DIRECT.answer(score, 3) for score in (0.0, 3.47, 9.99)]


def batch(backbone: Backbone, grids, end: bool = True) -> dict[str, torch.Tensor]:
    """Three conversations with random patches; `end=False` pads on the left."""
    answers = ANSWERS if end else [DIRECT.before, "", DIRECT.before[:10]]
    out = encode(backbone, [DIRECT.question] * 3, answers, grids, end=end)
    patches = sum(t * h * w for t, h, w in filter(None, grids))
    if patches:
        noise = torch.Generator().manual_seed(0)
        out["pixel_values"] = torch.randn(patches, 3 * 2 * 14 * 14, generator=noise)
    return out


def columns_of(labels: torch.Tensor) -> torch.Tensor:
    return (labels[:, 1:] != IGNORED).any(0).nonzero().flatten()


@pytest.mark.parametrize("is_packed", [True, False], ids=["packed", "selective"])
@pytest.mark.parametrize("grids", [EQUAL, MIXED, NONE], ids=["equal", "mixed", "text"])
def test_logits_and_gradients_equal_the_plain_call(tiny_backbone, grids, is_packed, monkeypatch):
    inputs = batch(tiny_backbone, grids)
    columns = columns_of(inputs.pop("labels"))
    real = inputs["attention_mask"][:, columns].bool()
    monkeypatch.setattr(packed, "knows", lambda _, knows=packed.knows: is_packed and knows(_))
    assert packed.knows(tiny_backbone.model) == is_packed
    found = []
    for call in (
        lambda model: model(**inputs, logits_to_keep=columns, use_cache=False),
        lambda model: language.forward(model, inputs, columns, use_cache=False),
    ):
        model = copy.deepcopy(tiny_backbone.model)
        logits = call(model).logits[real]
        (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).mean().backward()
        found.append((logits.detach(), {n: p.grad for n, p in model.named_parameters()}))
    (plain, slopes), (ours, our_slopes) = found
    assert plain.std() > 0.1
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    for name, slope in slopes.items():
        torch.testing.assert_close(our_slopes[name], slope, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("grids", [EQUAL, MIXED], ids=["equal", "mixed"])
def test_the_cache_covers_every_column(tiny_backbone, grids):
    inputs = batch(tiny_backbone, grids, end=False)
    inputs.pop("labels")
    width = inputs["input_ids"].shape[1]
    with torch.no_grad():
        plain = tiny_backbone.model(**inputs, use_cache=True, logits_to_keep=1)
        ours = language.forward(
            tiny_backbone.model, inputs, torch.tensor([width - 1]), use_cache=True
        )
    torch.testing.assert_close(ours.logits, plain.logits, atol=1e-5, rtol=1e-5)
    seen = inputs["attention_mask"].bool()
    for layer, other in zip(ours.past_key_values.layers, plain.past_key_values.layers, strict=True):
        assert layer.keys.shape == other.keys.shape
        for mine, theirs in ((layer.keys, other.keys), (layer.values, other.values)):
            mine, theirs = (x.transpose(1, 2)[seen] for x in (mine, theirs))
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_the_opening_is_run_once_for_all_rows(tiny_backbone):
    inputs = batch(tiny_backbone, EQUAL)
    columns = columns_of(inputs.pop("labels"))
    rows = []
    layer = tiny_backbone.model.model.language_model.layers[0]
    hook = layer.register_forward_pre_hook(lambda _, args: rows.append(tuple(args[0].shape[:2])))
    with torch.no_grad():
        language.forward(tiny_backbone.model, inputs, columns)
    hook.remove()
    opening = int((inputs["mm_token_type_ids"][0] == 1).nonzero()[0])
    assert rows == [(1, opening), (3, inputs["input_ids"].shape[1] - opening)]


def test_left_padding_shares_nothing(tiny_backbone):
    inputs = batch(tiny_backbone, MIXED, end=False)
    assert language.shared_columns(inputs) == 0
    assert language.shared_columns(batch(tiny_backbone, MIXED)) > 10


def test_the_layer_is_the_librarys_again_even_after_an_error(tiny_backbone):
    inputs = batch(tiny_backbone, EQUAL)
    columns = columns_of(inputs.pop("labels"))
    last = tiny_backbone.model.model.language_model.layers[-1]
    with pytest.raises(ValueError, match="features"):  # too few patches for the placeholders
        language.forward(
            tiny_backbone.model,
            inputs
            | {
                "image_grid_thw": torch.tensor(EQUAL[:2]),
                "pixel_values": inputs["pixel_values"][:32],
            },
            columns,
        )
    assert type(last) is Qwen2VLDecoderLayer
    assert not hasattr(last, "wanted")


def test_a_wrapped_model_takes_the_fast_call_too(tiny_backbone):
    model = copy.deepcopy(tiny_backbone.model)
    inputs = batch(tiny_backbone, EQUAL)
    columns = columns_of(inputs.pop("labels"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        wrapped = adapters.prepare(
            Backbone(model, tiny_backbone.tokenizer, tiny_backbone.image_processor),
            rank=2, alpha=4, dropout=0.0,
        ).model  # fmt: skip
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    wrapped.eval()
    assert language.known(wrapped.get_base_model())
    with torch.no_grad():
        plain = wrapped(**inputs, logits_to_keep=columns).logits
        ours = language.forward(wrapped, inputs, columns).logits
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_other_models_take_the_plain_call(tiny_backbone):
    model = copy.deepcopy(tiny_backbone.model)
    model.set_attn_implementation("eager")
    assert not language.known(model)
    inputs = batch(tiny_backbone, EQUAL)
    columns = columns_of(inputs.pop("labels"))
    with torch.no_grad():
        plain = model(**inputs, logits_to_keep=columns).logits
        torch.testing.assert_close(language.forward(model, inputs, columns).logits, plain)
    model.set_attn_implementation("sdpa")
    assert language.known(model)
    model.gradient_checkpointing_enable()
    assert not language.known(model)
