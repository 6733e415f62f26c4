"""Adapters of old names against the same adapters of new ones, and against sums by hand."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from realqa_utils.model import adapters, released
from realqa_utils.model import backbone as backbones
from realqa_utils.model.backbone import Backbone
from realqa_utils.model.encoding import encode
from realqa_utils.model.released import CONFIG, WEIGHTS
from realqa_utils.scoring import digit_tree

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

RANK, ALPHA = 4, 12
KINDS = {"language and vision": "lora", "language only": "frozen", "vision in full": "full"}
#: Old settings, in the ways that trainers wrote them: by suffix, by pattern, anchored.
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TARGETS = {
    "language and vision": [*LAYERS, "attn.qkv", "attn.proj", "fc1", "fc2"],
    "language only": rf"^(?!.*visual).*(?:{'|'.join(LAYERS)}).*",
    "vision in full": r"model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
}


def old_name(name: str) -> str:
    """Of a tensor in an adapter; by hand."""
    name = name.replace("base_model.model.model.visual.", "base_model.model.visual.")
    return name.replace("base_model.model.model.language_model.", "base_model.model.model.")


def old_config(kind: str) -> dict:
    """As peft 0.12 wrote it."""
    return {
        "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": "somewhere/Qwen2-VL",
        "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "init_lora_weights": True, "layer_replication": None, "layers_pattern": None,
        "layers_to_transform": None, "loftq_config": {}, "lora_alpha": ALPHA, "lora_dropout": 0.15,
        "megatron_config": None, "megatron_core": "megatron.core",
        "modules_to_save": ["visual"] if KINDS[kind] == "full" else None, "peft_type": "LORA",
        "r": RANK, "rank_pattern": {}, "revision": None, "target_modules": TARGETS[kind],
        "task_type": "CAUSAL_LM", "use_dora": False, "use_rslora": False,
    }  # fmt: skip


def copied(backbone: Backbone) -> Backbone:
    return Backbone(copy.deepcopy(backbone.model), backbone.tokenizer, backbone.image_processor)


@pytest.fixture
def fresh(tiny_backbone):
    """Copies of the shared backbone, to be wrapped."""
    return lambda: copied(tiny_backbone)


@pytest.fixture(scope="module")
def originals(tiny_backbone, tmp_path_factory) -> dict[str, tuple[Path, torch.Tensor]]:
    """Adapters of random numbers in both layouts, and the logits of those who wrote them."""
    made = {}
    for kind, vision in KINDS.items():
        folder = tmp_path_factory.mktemp("adapters")
        trained = adapters.prepare(copied(tiny_backbone), "lora", vision, RANK, ALPHA, 0.15)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in trained.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        trained.model.eval().save_pretrained(folder / "new")
        (folder / "old").mkdir()
        saved = load_file(folder / "new" / WEIGHTS)
        assert all(tensor.any() for tensor in saved.values())  # LoRA starts with half at nothing
        old = {old_name(name): tensor for name, tensor in saved.items()}
        save_file(old, folder / "old" / WEIGHTS)
        (folder / "old" / CONFIG).write_text(json.dumps(old_config(kind)))
        made[kind] = folder, logits(trained)
    return made


@pytest.fixture
def written(originals, tmp_path):
    """The folders `new` and `old` of an adapter, to be changed, and the logits it should give."""

    def write(kind: str = "language and vision") -> tuple[Path, Path, torch.Tensor]:
        folder, expected = originals[kind]
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
        return tmp_path / "new", tmp_path / "old", expected

    return write


def photographs(count: int = 3) -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 112, 112, 3), dtype=np.uint8)
    return [Image.fromarray(p) for p in pixels]


def logits(backbone: Backbone) -> torch.Tensor:
    values, grids = backbone.pixels(photographs(2))
    batch = encode(backbone, ["Rate this."] * 2, ["The score", "3.99"], grids)
    del batch["labels"]
    with torch.no_grad():
        return backbone.model(**batch, pixel_values=values).logits


def edit(path: Path, change) -> None:
    """Rewrite an adapter's tensors or its settings."""
    if path.suffix == ".json":
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    else:
        save_file(change(load_file(path)), path)


# --- loading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_old_names_give_what_new_ones_do(fresh, written, kind):
    new, old, expected = written(kind)
    untouched = logits(fresh())
    assert released.has_old_names(old / WEIGHTS) and not released.has_old_names(new / WEIGHTS)
    from_old, from_new = released.load(fresh(), old), released.load(fresh(), str(new))
    assert torch.equal(logits(from_old), expected)
    assert torch.equal(logits(from_new), expected)
    assert (logits(from_old) - untouched).abs().max() > 0.1
    assert not from_old.model.training
    assert not any(parameter.requires_grad for parameter in from_old.model.parameters())


def test_every_layer_gets_its_sum(fresh, written):
    """W + alpha / r B A, from the file and the names of old, without peft."""
    _, old, _ = written()
    saved, before = load_file(old / WEIGHTS), fresh().model.state_dict()
    after = adapters.merged(released.load(fresh(), old)).model.state_dict()
    assert before.keys() == after.keys()
    changed = set()
    for name in before:
        stem = (
            name.removesuffix(".weight").removeprefix("model.").replace("language_model", "model")
        )
        a, b = (saved.get(f"base_model.model.{stem}.lora_{x}.weight") for x in "AB")
        added = torch.zeros(()) if a is None else ALPHA / RANK * b @ a
        torch.testing.assert_close(after[name], before[name] + added, atol=1e-5, rtol=1e-5)
        changed |= {name} if a is not None else set()
    assert len(changed) == len(saved) / 2 == 3 * 7 + 4 * 4


def test_patterns_of_old_names(fresh, written):
    """Other ranks and scales of single layers, named as they were."""
    _, old, _ = written()
    layer = "base_model.model.model.layers.1.mlp.up_proj.lora_{}.weight".format
    one, two = {r"model.layers.1.mlp.up_proj": 2}, {r"^visual\.blocks\.0\.attn\.qkv": 5}
    edit(old / CONFIG, {"rank_pattern": one, "alpha_pattern": two})
    edit(old / WEIGHTS, lambda t: t | {layer("A"): t[layer("A")][:2].clone(),
                                       layer("B"): t[layer("B")][:, :2].clone()})  # fmt: skip
    core = released.load(fresh(), old).core
    scaling = {
        name: (module.r["default"], module.scaling["default"])
        for name, module in core.named_modules()
        if hasattr(module, "scaling") and hasattr(module, "lora_A")
    }
    assert scaling.pop("language_model.layers.1.mlp.up_proj") == (2, ALPHA / 2)
    assert scaling.pop("visual.blocks.0.attn.qkv") == (RANK, 5 / RANK)
    assert set(scaling.values()) == {(RANK, ALPHA / RANK)} and len(scaling) == 35


def test_some_layers_only(fresh, written):
    _, old, _ = written()
    edit(old / CONFIG, {"layers_to_transform": [0, 2], "target_modules": LAYERS})
    edit(old / WEIGHTS, lambda t: {n: v for n, v in t.items() if ".0." in n or ".2." in n})
    with pytest.raises(ValueError, match=r"16 unused \(.*visual.blocks.0.attn.proj.lora_A.weight"):
        released.load(fresh(), old)
    edit(old / WEIGHTS, lambda t: {n: v for n, v in t.items() if "visual" not in n})
    layers = released.load(fresh(), old).core.language_model.layers
    assert [hasattr(layer.mlp.up_proj, "lora_A") for layer in layers] == [True, False, True]


def test_half_precision_arrives(fresh, written):
    _, old, _ = written()
    edit(old / WEIGHTS, lambda t: {n: v.bfloat16() for n, v in t.items()})
    loaded = released.load(fresh(), old).core.language_model.layers[0].self_attn.q_proj
    said = load_file(old / WEIGHTS)[
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    ]
    assert torch.equal(loaded.lora_A["default"].weight, said.float())


# --- what does not fit ---------------------------------------------------------------------------

QKV = "base_model.model.visual.blocks.2.attn.qkv.lora_A.weight"
TODAY = QKV.replace("model.visual", "model.model.visual")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: {n: v for n, v in t.items() if n != QKV}, f"73 tensors, 1 missing .{TODAY}.$"),
        (lambda t: {n: v for n, v in t.items() if ".visual." not in n},
         r"of 42 tensors, 32 missing \(base.*blocks.0.attn.proj.lora_A.weight, .*, .*, \.\.\.\)$"),
        (lambda t: t | {"base_model.model.visual.merger.mlp.0.lora_A.weight": torch.ones(4, 512)},
         r"of 75 tensors, 1 unused \(.*visual.merger.mlp.0.lora_A.weight\)$"),
        (lambda t: {n.replace("blocks.3", "blocks.7"): v for n, v in t.items()},
         r"of 74 tensors, 8 missing \(.*blocks.3.*\), 8 unused \(.*blocks.7.*\)$"),
        (lambda t: {n: v[..., :2].clone() if n == QKV else v for n, v in t.items()},
         rf"1 of another shape \({TODAY}\)$"),
        (lambda t: {n.replace("base_model.model.model.layers", "base_model.model.model"
                              ".language_model.layers"): v for n, v in t.items()},
         r"of 74 tensors, 32 missing \(.*\), 32 unused \(.*\)$"),  # half old, half new
        (lambda t: {}, r"of 0 tensors, 74 missing"),
    ],
    ids=["one missing", "no vision", "merger", "other blocks", "shape", "mixed", "empty"],
)  # fmt: skip
def test_tensors_that_do_not_fit(fresh, written, change, message):
    """And the backbone can be used afterwards."""
    _, old, _ = written()
    whole = load_file(old / WEIGHTS)
    backbone, before = fresh(), logits(fresh())
    edit(old / WEIGHTS, change)
    with pytest.raises(ValueError, match=f"old does not fit mini: .*{message}"):
        released.load(backbone, old)
    assert torch.equal(logits(backbone), before)
    save_file(whole, old / WEIGHTS)
    assert not torch.equal(logits(released.load(backbone, old)), before)


def test_a_missing_part_of_the_tower(fresh, written):
    """Where peft itself would stop at a KeyError."""
    for folder in written("vision in full")[:2]:
        edit(folder / WEIGHTS, lambda t: {n: v for n, v in t.items() if "patch_embed" not in n})
        with pytest.raises(ValueError, match=r"1 missing \(.*visual.patch_embed.proj.weight\)$"):
            released.load(fresh(), folder)


def test_values_that_do_not_arrive(fresh, written, monkeypatch):
    monkeypatch.setattr(released, "set_peft_model_state_dict", lambda *_: None)
    with pytest.raises(ValueError, match=r"of 74 tensors, 74 did not arrive \("):
        released.load(fresh(), written()[0])


@pytest.mark.parametrize("layout", [0, 1])
def test_targets_that_name_no_layer(fresh, written, layout):
    folder = written()[layout]
    edit(folder / CONFIG, {"target_modules": ["query_key_value"]})
    with pytest.raises(ValueError, match=f"{folder.name} does not fit mini: "):
        released.load(fresh(), folder)


def test_a_second_adapter_is_refused(fresh, written):
    new, old, _ = written()
    with pytest.raises(ValueError, match="mini has an adapter already"):
        released.load(released.load(fresh(), new), old)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "is no configuration of peft"),
        ("{}", "is of None: only LoRA"),
        ("[]", "is no configuration of peft"),
        ('{"peft_type": "IA3"}', "is of PeftType.IA3: only LoRA"),
        ('{"peft_type": "MAGIC"}', "is no configuration of peft"),
    ],
)
def test_settings_that_are_none(fresh, written, text, message):
    _, old, _ = written()
    (old / CONFIG).write_text(text)
    with pytest.raises(ValueError, match=f"{CONFIG} {message}"):
        released.load(fresh(), old)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\n", b""])
def test_a_file_that_is_no_safetensors(fresh, written, content):
    _, old, _ = written()
    (old / WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match=f"{WEIGHTS} is no whole safetensors file"):
        released.load(fresh(), old)


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
def test_a_file_is_missing(fresh, written, file):
    """A pickle beside it is not read."""
    _, folder, _ = written()
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"old holds no {file}"):
        released.load(fresh(), folder)


# --- the hub -------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "KonIQ/last"])
def test_a_name_on_the_hub(fresh, written, monkeypatch, below):
    _, old, expected = written()
    asked = []

    def cached_file(path_or_repo_id, filename, subfolder):
        asked.append((path_or_repo_id, subfolder, filename))
        return str(old / filename)

    monkeypatch.setattr(released, "cached_file", cached_file)
    loaded = released.load(fresh(), "owner/some-model" + (below and f"/{below}"))
    assert {(repo, where) for repo, where, _ in asked} == {("owner/some-model", below)}
    assert {file for *_, file in asked} == {CONFIG, WEIGHTS}
    assert torch.equal(logits(loaded), expected)


def test_only_a_name_is_sought_on_the_hub(fresh, written, monkeypatch):
    def never(**_):
        raise AssertionError("asked the hub")

    monkeypatch.setattr(released, "cached_file", never)
    monkeypatch.chdir(written()[1].parent)
    for nowhere in (Path("owner/name"), "./owner/name", "/owner/name", "name"):
        with pytest.raises(FileNotFoundError, match=f"name holds no {WEIGHTS}"):
            released.load(fresh(), nowhere)
    (Path("owner") / "name").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=f"owner/name holds no {WEIGHTS}"):
        released.load(fresh(), "owner/name")
    released.load(fresh(), "old")  # relative, and there


def test_the_hub_cannot_be_reached(fresh):
    with pytest.raises(FileNotFoundError, match="owner/name is no folder here, and the hub gave"):
        released.load(fresh(), "owner/name")


# --- export --------------------------------------------------------------------------------------


def said(backbone: Backbone) -> tuple[list[float], list[np.ndarray], list[str]]:
    readings = digit_tree.read(backbone, photographs(), digits=2, floor=0.0)
    return (
        [r.expected for r in readings],
        [r.probabilities for r in readings],
        [r.text for r in readings],
    )


@pytest.mark.parametrize("kind", KINDS)
def test_export(fresh, written, tmp_path, kind):
    """Merged scores as unmerged ones, in the hub's layout, from memory and from the files."""
    _, old, _ = written(kind)
    unmerged = released.load(fresh(), old)
    expected, chances, texts = said(unmerged)
    plain = said(fresh())[0]
    folder = released.export(unmerged, tmp_path / "merged")
    for merged in (adapters.merged(released.load(fresh(), old)), backbones.load(folder)):
        assert not hasattr(merged.model, "peft_config")
        got = said(merged)
        np.testing.assert_allclose(got[0], expected, atol=1e-4)
        np.testing.assert_allclose(got[1], chances, atol=1e-4)
        assert got[2] == texts
    assert np.abs(np.subtract(plain, expected)).max() > 0.01  # 100 times what is tolerated
    saved = load_file(folder / "model.safetensors")
    hub = {n.removeprefix("model.").replace("language_model.", "model.")
           for n, _ in fresh().model.named_parameters()}  # fmt: skip
    assert set(saved) == hub  # the head is tied
    assert {t.dtype for t in saved.values()} == {torch.float32}
    files = {path.name for path in folder.iterdir()}
    assert {"config.json", "tokenizer.json", "preprocessor_config.json"} <= files
    assert not any("adapter" in name for name in files)


def test_export_in_half_precision(fresh, written, tmp_path):
    released.export(released.load(fresh(), written()[1]), tmp_path / "half", torch.bfloat16)
    saved = load_file(tmp_path / "half" / "model.safetensors")
    assert {t.dtype for t in saved.values()} == {torch.bfloat16}


def test_export_keeps_what_is_there(fresh, written, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    backbone = released.load(fresh(), written()[1])
    for place in (tmp_path / "mine", tmp_path / "mine" / "notes.txt"):
        with pytest.raises(ValueError, match="is not empty: give a new folder"):
            released.export(backbone, place)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
    assert hasattr(backbone.model, "peft_config")  # not used up
