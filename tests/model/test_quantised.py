"""4-bit weights against the NF4 of the paper by hand, LoRA on top of them, and what they cost."""

from __future__ import annotations

import copy
import json
import math
import warnings

import bitsandbytes
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy import stats
from torch.nn import functional as F  # noqa: N812

from realqa_utils.datasets import mini
from realqa_utils.forms.conversations import DIRECT
from realqa_utils.images.views import View
from realqa_utils.model import adapters, quantised, released
from realqa_utils.model import backbone as backbones
from realqa_utils.model.backbone import Backbone
from realqa_utils.model.encoding import encode
from realqa_utils.scoring import digit_tree
from realqa_utils.training import fine_tuning
from realqa_utils.training.recipes import Recipe

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

# The 16 values of NF4, as printed in the appendix of the QLoRA paper.
NF4 = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
])  # fmt: skip
LANGUAGE = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
            "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}  # fmt: skip
VISION = {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}


@pytest.fixture
def four_bit(tiny_backbone) -> Backbone:
    return quantised.quantise(tiny_backbone)


def by_hand(weight: torch.Tensor) -> torch.Tensor:
    """Every 64 weights over their largest, each rounded to the nearest of the 16."""
    blocks = weight.reshape(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True)
    nearest = (blocks / scale)[..., None].sub(NF4).abs().argmin(-1)
    return (NF4[nearest] * scale).view(weight.shape)


def photographs(count: int, seed: int = 0) -> list[Image.Image]:
    return [mini.photograph("mini-livec", seed, i) for i in range(count)]


def batch_of(backbone: Backbone, scores) -> dict[str, torch.Tensor]:
    pixels, grids = backbone.pixels(photographs(len(scores)))
    answers = [DIRECT.answer(score, 3) for score in scores]
    batch = encode(backbone, [DIRECT.question] * len(grids), answers, grids)
    return batch | {"pixel_values": pixels}


def state(layer) -> list[torch.Tensor]:
    return [layer.weight.detach().clone(), layer.weight.quant_state.absmax.clone()]


# --- weights -------------------------------------------------------------------------------------


def test_which_layers(four_bit, tiny_backbone):
    expected = {f"model.language_model.layers.{i}.{name}" for i in range(3) for name in LANGUAGE}
    expected |= {f"model.visual.blocks.{i}.{name}" for i in range(4) for name in VISION}
    assert set(quantised.layers(four_bit.model)) == expected
    assert set(quantised.layers(adapters.prepare(four_bit, rank=2).model)) == expected
    assert not quantised.layers(tiny_backbone.model)


def test_the_rest_stays_as_it_was(four_bit, tiny_backbone):
    """The head is still the embedding."""
    model = four_bit.model
    assert model.lm_head.weight is model.get_input_embeddings().weight
    kept, before = dict(model.named_parameters()), dict(tiny_backbone.model.named_parameters())
    linears = {f"{name}.weight" for name in quantised.layers(model)}
    assert kept.keys() == before.keys()
    for name in kept.keys() - linears:
        assert torch.equal(kept[name], before[name]), name
    assert {kept[name].dtype for name in linears} == {torch.uint8}


def test_values_are_those_of_the_paper(four_bit, tiny_backbone):
    """Through the layer itself: it maps the unit vectors to the columns of its weights."""
    for name, layer in quantised.layers(four_bit.model).items():
        weight = tiny_backbone.model.get_submodule(name).weight.detach()
        bias = 0 if layer.bias is None else layer.bias
        with torch.no_grad():
            got = (layer(torch.eye(layer.in_features)) - bias).T
        torch.testing.assert_close(got, by_hand(weight), atol=1e-6, rtol=1e-5)
        assert 0.05 < (got - weight).norm() / weight.norm() < 0.12


def test_double_quantisation_rounds_the_scales_only(four_bit, tiny_backbone):
    double = quantised.quantise(tiny_backbone, double=True)
    for name, layer in quantised.layers(double.model).items():
        single = quantised.layers(four_bit.model)[name]
        assert torch.equal(layer.weight, single.weight)
        assert layer.weight.quant_state.nested and not single.weight.quant_state.nested
        x = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            near, exact = layer(x), single(x)
        assert 0 < (near - exact).norm() / exact.norm() < 0.02


@pytest.mark.parametrize("double, bits", [(False, 4 + 32 / 64), (True, 4 + 8 / 64 + 32 / 64 / 256)])
def test_megabytes(tiny_backbone, double, bits):
    """By counting; tables of 16 and 256 values and a record of about 100 bytes lie beside them."""
    model = quantised.quantise(tiny_backbone, double).model
    whole = sum(p.numel() for p in tiny_backbone.model.parameters())
    linear = sum(math.prod(x.weight.quant_state.shape) for x in quantised.layers(model).values())
    assert quantised.megabytes(tiny_backbone.model) == pytest.approx(4 * whole / 1e6, rel=1e-3)
    expected = 4 * (whole - linear) + linear * bits / 8
    beside = 1e6 * quantised.megabytes(model) - expected
    assert 0 < beside < 37 * (64 + 128 + double * 1200)


def test_the_shipped_backbone():
    """Reads photographs, near to what the float weights say."""
    float_one, four_bit = backbones.load("mini"), quantised.load("mini", device="cpu")
    assert four_bit.name == "mini" and four_bit.model.dtype == torch.float32
    batch = batch_of(float_one, [3.25, 7.5])
    with torch.no_grad():
        a, b = (x.model(**batch).logits.log_softmax(-1) for x in (float_one, four_bit))
    gap = F.kl_div(b, a, log_target=True, reduction="none").sum(-1)
    assert 1e-6 < gap.mean() < 0.2
    ids = four_bit.digit_ids
    assert ids == float_one.digit_ids


def test_no_repacking_for_answers(tiny_backbone, monkeypatch):
    """Where the CPU has bfloat16 products, the library repacks weights that then cannot train."""
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: True)
    four_bit = quantised.quantise(tiny_backbone)
    before = {name: state(layer) for name, layer in quantised.layers(four_bit.model).items()}
    digit_tree.read(four_bit, photographs(2))
    for name, layer in quantised.layers(four_bit.model).items():
        assert all(map(torch.equal, state(layer), before[name])), name


# --- what does not go ----------------------------------------------------------------------------


def test_widths_that_the_library_gets_wrong(tiny_backbone, tmp_path):
    """112 = 7 x 16 inputs: wrong numbers with AVX-512, so refused on any CPU."""
    backbone = Backbone(
        copy.deepcopy(tiny_backbone.model), tiny_backbone.tokenizer, tiny_backbone.image_processor
    )
    config = backbone.model.config.to_dict()
    config["text_config"]["intermediate_size"] = 112
    backbone.model = type(backbone.model)(type(backbone.model.config)(**config))
    backbone.save(tmp_path)
    with pytest.raises(
        ValueError, match=r"layers.0.mlp.down_proj has 112 inputs: .* multiple of 64"
    ):
        quantised.load(tmp_path, device="cpu")


def test_folders_without_a_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no config.json"):
        quantised.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere holds no config.json"):
        quantised.load(tmp_path / "nowhere")


def test_neither_twice_nor_under_an_adapter(four_bit):
    with pytest.raises(ValueError, match="mini is in 4 bits already"):
        quantised.quantise(four_bit)
    with pytest.raises(ValueError, match="mini has an adapter"):
        quantised.quantise(adapters.prepare(four_bit, rank=2))


# --- LoRA ----------------------------------------------------------------------------------------


def test_lora_starts_at_nothing_and_trains_alone(four_bit):
    batch = batch_of(four_bit, [2.0, 8.0])
    with torch.no_grad():
        before = four_bit.model(**batch).logits
    wrapped = adapters.prepare(four_bit, rank=4, alpha=8, dropout=0.0)
    torch.testing.assert_close(wrapped.model(**batch).logits, before, atol=1e-5, rtol=1e-5)
    trained = {n for n, p in wrapped.model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(quantised.layers(wrapped.model))
    assert all(".lora_" in name for name in trained)
    wrapped.model.train()
    wrapped.model(**batch).loss.backward()
    for name, parameter in wrapped.model.named_parameters():
        assert (parameter.grad is not None) == (name in trained), name
        if ".lora_B." in name:
            assert parameter.grad.any(), name


def test_gradients_are_those_of_the_expanded_weights(four_bit, tiny_backbone):
    """The same adapter on float weights that are what NF4 stands for."""
    expanded = copy.deepcopy(tiny_backbone.model)
    with torch.no_grad():
        for name in quantised.layers(four_bit.model):
            weight = expanded.get_submodule(name).weight
            weight.copy_(by_hand(weight))
    sides = []
    for model in (four_bit.model, expanded):
        given = Backbone(model, tiny_backbone.tokenizer, tiny_backbone.image_processor)
        wrapped = adapters.prepare(given, rank=4, alpha=8, dropout=0.0)
        generator = torch.Generator().manual_seed(0)
        trained = {n: p for n, p in wrapped.model.named_parameters() if p.requires_grad}
        for _, parameter in sorted(trained.items()):
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
        wrapped.model(**batch_of(wrapped, [2.0, 8.0])).loss.backward()
        sides.append({name: parameter.grad for name, parameter in trained.items()})
    assert sides[0].keys() == sides[1].keys()
    for name, gradient in sides[0].items():
        scale = sides[1][name].abs().max()
        torch.testing.assert_close(gradient / scale, sides[1][name] / scale, atol=1e-3, rtol=0)


def test_training_lowers_the_loss_and_leaves_the_base(tmp_path):
    """Of the shipped backbone, through the kit's own training; what comes of it is an adapter."""
    four_bit = quantised.load("mini", device="cpu")
    table = mini.build("mini-livec", 16, 0, tmp_path / "world", 1)
    base = {name: state(layer) for name, layer in quantised.layers(four_bit.model).items()}
    batch = batch_of(four_bit, table.targets[:8])
    with torch.no_grad():
        before = float(four_bit.model(**batch).loss)
    recipe = Recipe(steps=8, batch_size=8, learning_rate=1e-2, rank=8, alpha=16, dropout=0.0)
    trained = fine_tuning.train(four_bit, table, recipe, View(), tmp_path)
    with torch.no_grad():
        after = trained.model(**batch)
    assert after.loss < 0.8 * before
    for name, layer in quantised.layers(trained.model).items():
        assert all(map(torch.equal, state(layer), base[name])), name
    trained.model.save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {t.dtype for t in saved.values()} == {torch.float32} and len(saved) == 74
    with pytest.raises(ValueError, match="load them without 4 bits"):
        released.export(trained, tmp_path / "merged")


def as_of_old(folder) -> None:
    """Rename an adapter as it would have been under transformers 4."""
    weights, settings = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    old = {
        n.replace("model.model.visual", "model.visual"): t for n, t in load_file(weights).items()
    }
    save_file({n.replace("model.language_model", "model"): t for n, t in old.items()}, weights)
    names = sorted(name.rpartition(".")[2] for name in LANGUAGE) + sorted(VISION)
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"target_modules": names}))


@pytest.mark.parametrize("put_on", [adapters.load_adapter, released.load])
def test_a_saved_adapter_comes_back(tiny_backbone, tmp_path, put_on):
    """Also one that was trained on float weights, under the names of old for `released`."""
    float_one = Backbone(
        copy.deepcopy(tiny_backbone.model), tiny_backbone.tokenizer, tiny_backbone.image_processor
    )
    trained = adapters.prepare(float_one, rank=4, alpha=8)
    generator = torch.Generator().manual_seed(0)
    for parameter in trained.model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    trained.model.eval().save_pretrained(tmp_path)
    if put_on is released.load:
        as_of_old(tmp_path)
    batch = batch_of(trained, [2.0, 8.0])
    plain = quantised.quantise(tiny_backbone)
    loaded = put_on(quantised.quantise(tiny_backbone), tmp_path)
    with torch.no_grad():
        without, got, exact = (x.model(**batch).logits for x in (plain, loaded, trained))
    assert (got - exact).norm() < 0.25 * (without - exact).norm()


@pytest.mark.parametrize("language, vision", [("full", "frozen"), ("lora", "full")])
def test_four_bits_cannot_be_trained_in_full(four_bit, language, vision):
    with pytest.raises(RuntimeError, match="only Tensors of floating point"):
        adapters.prepare(four_bit, language, vision, rank=2)


# --- agreement -----------------------------------------------------------------------------------


def test_agreement(tiny_backbone):
    """Against the readings and losses of each model, one photograph at a time."""
    scores, images = [2.5, 4.75, 7.0, 3.25, 8.0], photographs(5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        table = quantised.agreement(tiny_backbone, images, scores, digits=2)
    assert table["weights"].tolist() == ["float", "NF4", "NF4, double quantisation"]
    models = [tiny_backbone, *(quantised.quantise(tiny_backbone, d) for d in (False, True))]
    said = [[digit_tree.read(m, [image], digits=2)[0] for image in images] for m in models]
    expected = np.array([[r.expected for r in row] for row in said])
    greedy = np.array([[float(r.text) for r in row] for row in said])
    for i, (_, row) in enumerate(table.iterrows()):
        assert row["expected"] == pytest.approx(np.abs(expected[i] - expected[0]).mean(), abs=1e-4)
        assert row["greedy"] == pytest.approx(np.abs(greedy[i] - greedy[0]).mean(), abs=1e-6)
        assert row["same"] == (greedy[i] == greedy[0]).mean()
        assert row["rank"] == pytest.approx(stats.spearmanr(expected[i], expected[0]).statistic)
        assert row["srcc"] == pytest.approx(stats.spearmanr(expected[i], scores).statistic)
        assert row["megabytes"] == quantised.megabytes(models[i].model)
        losses = [one_loss(models[i], image, s) for image, s in zip(images, scores, strict=True)]
        assert row["loss"] == pytest.approx(np.mean(losses), abs=1e-4)
    assert (table["n"] == 5).all()
    own = table.loc[0, ["expected", "greedy", "same", "rank"]]
    assert own.tolist() == pytest.approx([0, 0, 1, 1], abs=1e-9)
    assert (table.loc[1:, "expected"] > 0).all() and table["megabytes"].is_monotonic_decreasing


def one_loss(backbone: Backbone, image: Image.Image, score: float) -> float:
    """Minus the mean log probability of the answer's tokens and the end token."""
    pixels, grids = backbone.pixels([image])
    batch = encode(backbone, [DIRECT.question], [DIRECT.answer(score, 2)], grids)
    answer = batch.pop("labels")[0, 1:]
    with torch.no_grad():
        logits = backbone.model(**batch, pixel_values=pixels).logits[0, :-1]
    chances = logits.double().log_softmax(-1)[answer >= 0]
    return -float(chances.gather(1, answer[answer >= 0, None]).mean())


def test_agreement_from_a_folder(tiny_backbone, tmp_path):
    tiny_backbone.save(tmp_path, torch.float32)
    images = photographs(3)
    table = quantised.agreement(tmp_path, images, [1.0, 5.0, 9.0], digits=1)
    same = quantised.agreement(tiny_backbone, images, [1.0, 5.0, 9.0], digits=1)
    pd.testing.assert_frame_equal(table, same)
