"""What `prepare` trains, and that a saved adapter brings all of it back."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from realqa_utils.model import adapters
from realqa_utils.model.backbone import Backbone
from realqa_utils.model.encoding import encode

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

RANK = 4
# Of the docstring, written out: width 128, vision mlp 512; 4 heads and 2 key-value heads of 32.
LANGUAGE = {
    "self_attn.q_proj": (128, 128),
    "self_attn.k_proj": (128, 64),
    "self_attn.v_proj": (128, 64),
    "self_attn.o_proj": (128, 128),
    "mlp.gate_proj": (128, 384),
    "mlp.up_proj": (128, 384),
    "mlp.down_proj": (384, 128),
}
VISION = {
    "attn.qkv": (128, 384),
    "attn.proj": (128, 128),
    "mlp.fc1": (128, 512),
    "mlp.fc2": (512, 128),
}
LANGUAGE_LORA = 3 * RANK * sum(a + b for a, b in LANGUAGE.values())
VISION_LORA = 4 * RANK * sum(a + b for a, b in VISION.values())


@pytest.fixture
def fresh(tiny_backbone):
    """Copies of the shared backbone, to be wrapped."""

    def copied() -> Backbone:
        model = copy.deepcopy(tiny_backbone.model)
        return Backbone(model, tiny_backbone.tokenizer, tiny_backbone.image_processor)

    return copied


def prepared(backbone: Backbone, language: str, vision: str) -> Backbone:
    return adapters.prepare(backbone, language, vision, rank=RANK, alpha=2 * RANK)


def scramble(model: torch.nn.Module) -> None:
    """Give every trained tensor new values, as training would."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.05 * noise)


def logits(backbone: Backbone) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    values, grids = backbone.pixels([Image.fromarray(p) for p in pixels])
    batch = encode(backbone, ["Rate this."] * 2, ["The score", "3.99"], grids)
    del batch["labels"]
    backbone.model.eval()
    with torch.no_grad():
        return backbone.model(**batch, pixel_values=values).logits


def lora_places(model: torch.nn.Module) -> set[str]:
    found = {n.split(".lora_A.")[0] for n, _ in model.named_parameters() if ".lora_A." in n}
    return {re.sub(r"^base_model\.model\.model\.", "", name) for name in found}


@pytest.mark.parametrize("vision", ["lora", "full", "frozen"])
def test_lora_targets(fresh, vision):
    expected = {f"language_model.layers.{i}.{name}" for i in range(3) for name in LANGUAGE}
    if vision == "lora":
        expected |= {f"visual.blocks.{i}.{name}" for i in range(4) for name in VISION}
    assert lora_places(prepared(fresh(), "lora", vision).model) == expected


def test_lora_settings(fresh):
    wrapped = adapters.prepare(fresh(), rank=3, alpha=7, dropout=0.25)
    layer = wrapped.core.visual.blocks[0].attn.qkv
    assert layer.lora_A["default"].weight.shape == (3, 128)
    assert layer.scaling["default"] == pytest.approx(7 / 3)
    assert layer.lora_dropout["default"].p == 0.25


@pytest.mark.parametrize(
    "language, vision, expected",
    [
        ("lora", "lora", {"language layers": LANGUAGE_LORA, "vision blocks": VISION_LORA}),
        ("lora", "frozen", {"language layers": LANGUAGE_LORA}),
        ("lora", "full", {"language layers": LANGUAGE_LORA, "patch embedding": ..., "merger": ...,
                          "vision blocks": ...}),
        ("full", "frozen", {"language layers": ..., "token embedding": ..., "other": ...}),
        ("full", "full", {"language layers": ..., "token embedding": ..., "other": ...,
                          "patch embedding": ..., "merger": ..., "vision blocks": ...}),
    ],
)  # fmt: skip
def test_trainable_table(fresh, language, vision, expected):
    """`...` stands for the whole part; what is not named is not trained at all."""
    base = fresh()
    plain = adapters.trainable_table(base.model)
    table = adapters.trainable_table(prepared(base, language, vision).model)
    for part, row in table.drop(index="all").iterrows():
        want = expected.get(part, 0)
        assert row["trained"] == (plain["parameters"][part] if want is ... else want), part
    lora = sum(count for count in expected.values() if count is not ...)
    assert table["parameters"]["all"] == plain["parameters"]["all"] + lora
    assert table["trained"]["all"] == table["trained"].drop("all").sum()
    np.testing.assert_allclose(table["share"], table["trained"] / table["parameters"])


def test_table_of_an_untouched_model(fresh):
    model = fresh().model
    table = adapters.trainable_table(model)
    assert table["parameters"]["patch embedding"] == 128 * 3 * 2 * 14 * 14
    assert table["parameters"]["token embedding"] == model.config.text_config.vocab_size * 128
    assert table["parameters"]["other"] == 128  # the last norm; the head is tied
    assert table["parameters"]["all"] == sum(p.numel() for p in model.parameters())
    assert (table["share"] == 1).all()


@pytest.mark.parametrize("vision", ["lora", "full", "frozen"])
def test_saved_adapter_comes_back(fresh, tmp_path, vision):
    trained = prepared(fresh(), "lora", vision)
    before = logits(trained)
    torch.testing.assert_close(before, logits(fresh()))  # LoRA starts at nothing
    scramble(trained.model)
    trained.model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    loaded = adapters.load_adapter(fresh(), tmp_path)
    assert not loaded.model.training
    for name, tensor in trained.core.visual.state_dict().items():
        if "original_module" not in name:
            assert torch.equal(loaded.core.visual.state_dict()[name], tensor), name
    assert torch.equal(logits(loaded), logits(trained))
    assert (logits(loaded) - before).abs().max() > 0.01


def test_full_vision_is_saved_whole(fresh, tmp_path):
    """All tensors of the tower, and they differ from the base's."""
    trained = prepared(fresh(), "lora", "full")
    scramble(trained.model)
    trained.model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    tower = {k.split(".visual.")[1]: v for k, v in saved.items() if ".visual." in k}
    base = fresh().core.visual.state_dict()
    assert set(tower) == set(base)
    assert not any(torch.equal(tower[name], base[name]) for name in base)


def test_adapter_of_other_layer_names_is_refused(fresh, tmp_path):
    """As of an adapter trained under the older names, which would load nothing and only warn."""
    prepared(fresh(), "lora", "lora").model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    old = {k.replace(".model.visual.", ".visual."): v for k, v in load_file(path).items()}
    save_file(old, path)
    with pytest.raises(ValueError, match="does not fit mini: no tensor for .*visual.blocks"):
        adapters.load_adapter(fresh(), tmp_path)


class Trap:
    """Unpickling one writes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("weights", [None, "trap", "tensors"])
def test_adapter_without_safetensors_is_refused(fresh, tmp_path, weights):
    prepared(fresh(), "lora", "frozen").model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    state = load_file(path)
    path.unlink()
    if weights == "trap":
        (tmp_path / "adapter_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    elif weights == "tensors":
        torch.save(state, tmp_path / "adapter_model.bin")
    with pytest.raises(FileNotFoundError, match="holds no adapter_model.safetensors"):
        adapters.load_adapter(fresh(), tmp_path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "language, vision, message",
    [
        ("none", "lora", "language='none': one of lora, full"),
        ("lora", "thawed", "vision='thawed': one of lora, full, frozen"),
        ("full", "lora", "vision='lora' needs language='lora'"),
    ],
)
def test_bad_words(fresh, language, vision, message):
    with pytest.raises(ValueError, match=message):
        prepared(fresh(), language, vision)


def test_only_trained_parameters_get_gradients(fresh):
    for language, vision in (("lora", "lora"), ("lora", "full"), ("full", "frozen")):
        backbone = prepared(fresh(), language, vision)
        pixels, grids = backbone.pixels([Image.new("RGB", (112, 112), "teal")])
        batch = encode(backbone, ["Rate this."], ["3.99"], grids)
        backbone.model(**batch, pixel_values=pixels).loss.backward()
        for name, parameter in backbone.model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name


def test_the_import_says_nothing():
    """Libraries warn at import, on some CPUs only, of what nothing here uses."""
    command = [sys.executable, "-c", "import realqa_utils.model.adapters"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
