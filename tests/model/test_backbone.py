"""Saving, loading and asking a backbone; random tiny checkpoints stand in for the hub's."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from transformers import Qwen2VLForConditionalGeneration

from realqa_utils.model import backbone as backbones
from realqa_utils.model import vision
from realqa_utils.model.backbone import Backbone, as_images, load, new_mini
from realqa_utils.model.encoding import encode_prompt

torch.set_num_threads(1)
QUESTION = "Rate this image."


def noise(*sizes: tuple[int, int], seed: int = 0) -> list[Image.Image]:
    """Photographs of random pixels, each (width, height)."""
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


def logits(backbone: Backbone, image: Image.Image) -> torch.Tensor:
    """Of one question with the library's own inputs: no positions given, vision unbatched."""
    model = vision.unbatch_vision(copy.deepcopy(backbone.model)).eval()
    out = backbone.image_processor([image], return_tensors="pt")
    grid = tuple(out["image_grid_thw"][0].tolist())
    prompt = encode_prompt(backbone, QUESTION, grid)
    with torch.no_grad():
        return model(
            input_ids=prompt.ids[None], mm_token_type_ids=prompt.kinds[None], **out
        ).logits.float()


# --- the hub's layout --------------------------------------------------------------------------


def hub_config(backbone: Backbone) -> dict:
    """As in Qwen/Qwen2-VL-2B-Instruct, where the language side lies flat at the top."""
    config = backbone.model.config
    text, seen = config.text_config, config.vision_config
    flat = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    flat += ("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "hidden_act")
    flat += ("vocab_size", "eos_token_id")
    vision_keys = ("embed_dim", "depth", "num_heads", "hidden_size", "mlp_ratio", "hidden_act")
    ids = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.41.2",
        "tie_word_embeddings": config.tie_word_embeddings,
        "use_sliding_window": False,
        "sliding_window": 32768,
        **{key: getattr(text, key) for key in flat},
        "rope_theta": text.rope_parameters["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": text.rope_parameters["mrope_section"]},
        "vision_config": {
            **{key: getattr(seen, key) for key in vision_keys},
            "in_chans": 3,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
        **{key: getattr(config, key) for key in ids},
    }


def hub_state(backbone: Backbone, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Weights under the hub's names: `visual.`, `model.` and `lm_head.`."""
    tied = backbone.model.config.tie_word_embeddings
    state = {}
    for name, value in backbone.model.state_dict().items():
        if not (tied and name == "lm_head.weight"):
            name = name.removeprefix("model.").replace("language_model.", "model.")
            state[name] = value.to(dtype).clone()
    return state


def write_hub_layout(
    backbone: Backbone, folder: Path, dtype: torch.dtype = torch.bfloat16, sharded: bool = False
) -> Path:
    """Files as in Qwen/Qwen2-VL-2B-Instruct, written by hand."""
    folder.mkdir()
    backbone.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    backbone.tokenizer.backend_tokenizer.model.save(str(folder))  # vocab.json, merges.txt
    template = backbone.tokenizer.chat_template
    added = {
        str(backbone.tokenizer.convert_tokens_to_ids(token)): {"content": token, "special": True}
        for token in backbone.tokenizer.added_tokens_encoder
    }
    texts = {
        "config.json": hub_config(backbone),
        "generation_config.json": {
            "do_sample": True,
            "eos_token_id": [backbone.tokenizer.eos_token_id, backbone.tokenizer.pad_token_id],
            "pad_token_id": backbone.tokenizer.pad_token_id,
            "repetition_penalty": 1.5,  # 1.05 in some checkpoints
            "temperature": 0.01,
            "top_k": 1,
            "top_p": 0.001,
        },
        "chat_template.json": {"chat_template": template},
        "tokenizer_config.json": {
            "add_prefix_space": False,
            "added_tokens_decoder": added,
            "bos_token": None,
            "chat_template": template,
            "eos_token": "<|im_end|>",
            "model_max_length": 32768,
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
        "preprocessor_config.json": {
            "min_pixels": 56 * 56,
            "max_pixels": 112 * 112,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2VLProcessor",
        },
    }
    for name, content in texts.items():
        (folder / name).write_text(json.dumps(content))
    state = hub_state(backbone, dtype)
    if not sharded:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    shards = [dict(list(state.items())[::2]), dict(list(state.items())[1::2])]
    index = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-00002.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(shard, name)
    total = sum(v.numel() * v.element_size() for v in state.values())
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)
    return folder


def rounded(backbone: Backbone, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {k: v.to(dtype).float() for k, v in backbone.model.state_dict().items()}


@pytest.mark.parametrize("sharded", [False, True])
def test_hub_layout_loads(tiny_backbone, tmp_path, sharded):
    folder = write_hub_layout(tiny_backbone, tmp_path / "hub", sharded=sharded)
    loaded = load(folder)
    assert isinstance(loaded.model, Qwen2VLForConditionalGeneration)
    assert loaded.model.dtype == torch.float32 and not loaded.model.training
    assert loaded.name == str(folder)
    torch.testing.assert_close(
        loaded.model.state_dict(), rounded(tiny_backbone, torch.bfloat16), atol=0, rtol=0
    )
    assert loaded.digit_ids == tiny_backbone.digit_ids
    assert loaded.width == tiny_backbone.width
    twin = copy.deepcopy(tiny_backbone.model)
    twin.load_state_dict(rounded(tiny_backbone, torch.bfloat16))
    original = Backbone(twin, tiny_backbone.tokenizer, loaded.image_processor)
    (image,) = noise((112, 84))
    torch.testing.assert_close(logits(loaded, image), logits(original, image))


def test_hub_layout_with_its_own_head(tiny_tokenizer, tmp_path):
    """Qwen2-VL-7B does not tie the language head to the token embedding."""
    config = backbones.mini_config(tiny_tokenizer)
    config.tie_word_embeddings = False
    torch.manual_seed(1)
    model = Qwen2VLForConditionalGeneration(config).eval()
    processor = new_mini(tiny_tokenizer).image_processor
    backbone = Backbone(model, tiny_tokenizer, processor)
    write_hub_layout(backbone, tmp_path / "hub", torch.float32)
    backbone.save(tmp_path / "saved", torch.float32)
    (image,) = noise((112, 112))
    for folder in ("hub", "saved"):
        loaded = load(tmp_path / folder)
        head, embedding = loaded.model.lm_head.weight, loaded.core.language_model.embed_tokens
        assert not torch.equal(head, embedding.weight)
        torch.testing.assert_close(logits(loaded, image), logits(backbone, image))


def test_limits_of_the_hub_processor(tiny_backbone, tmp_path):
    """`min_pixels` and `max_pixels` of the hub's file bound the size of a photograph."""
    loaded = load(write_hub_layout(tiny_backbone, tmp_path / "hub"))
    _, (large, small) = loaded.pixels(noise((448, 448), (28, 28)))
    assert large == (1, 8, 8) and small == (1, 4, 4)  # 112 x 112 and 56 x 56 pixels


@pytest.mark.parametrize("sizes", [[(112, 112)] * 3, [(112, 112), (56, 112)], [(100, 90)] * 2,
                                   [(28, 28)] * 2, [(224, 224)] * 2])  # fmt: skip
def test_pixels_equal_the_processor(tiny_backbone, tmp_path, sizes):
    """Whether or not the photographs take the short cut for sizes that fit."""
    loaded = load(write_hub_layout(tiny_backbone, tmp_path / "hub"))
    for backbone in (tiny_backbone, loaded):
        expected = backbone.image_processor(noise(*sizes), return_tensors="pt")
        pixels, grids = backbone.pixels(noise(*sizes))
        torch.testing.assert_close(pixels, expected["pixel_values"], atol=1e-6, rtol=0)
        assert grids == [tuple(g) for g in expected["image_grid_thw"].tolist()]


# --- save and load -----------------------------------------------------------------------------


def test_round_trip_in_float16(tiny_backbone, tmp_path):
    tiny_backbone.save(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert {v.dtype for v in stored.values()} == {torch.float16}
    assert "lm_head.weight" not in stored  # tied: it would be stored twice
    assert set(stored) == set(hub_state(tiny_backbone, torch.float16))
    loaded = load(tmp_path)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    torch.testing.assert_close(
        loaded.model.state_dict(), rounded(tiny_backbone, torch.float16), atol=0, rtol=0
    )
    assert not list(tmp_path.glob("*.bin"))


def test_round_trip_in_float32_is_exact(tiny_backbone, tmp_path):
    tiny_backbone.save(tmp_path, torch.float32)
    loaded = load(tmp_path)
    state = tiny_backbone.model.state_dict()
    torch.testing.assert_close(loaded.model.state_dict(), state, atol=0, rtol=0)
    (image,) = noise((112, 112))
    assert torch.equal(logits(loaded, image), logits(tiny_backbone, image))
    for text in ("The score of this image is 3.99.", "<|im_start|>user\nRate<|im_end|>"):
        assert loaded.tokenizer(text).input_ids == tiny_backbone.tokenizer(text).input_ids
    assert loaded.tokenizer.chat_template == tiny_backbone.tokenizer.chat_template
    assert loaded.image_processor.to_dict() == tiny_backbone.image_processor.to_dict()
    asked = loaded.generate([QUESTION], [image], 4), tiny_backbone.generate([QUESTION], [image], 4)
    assert asked[0] == asked[1]


def test_saving_leaves_the_model_alone(tiny_backbone, tmp_path):
    before = {k: v.clone() for k, v in tiny_backbone.model.state_dict().items()}
    tiny_backbone.save(tmp_path)
    torch.testing.assert_close(tiny_backbone.model.state_dict(), before, atol=0, rtol=0)
    assert tiny_backbone.model.dtype == torch.float32


def test_folder_without_a_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} holds no config.json"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent holds no config.json"):
        load(tmp_path / "absent")


def test_merging_tokenizer_is_refused(tiny_backbone, tmp_path):
    folder = write_hub_layout(tiny_backbone, tmp_path / "hub")
    data = json.loads((folder / "tokenizer.json").read_text())
    vocabulary, merges = data["model"]["vocab"], data["model"]["merges"]
    vocabulary["42"] = max(vocabulary.values()) + 100
    merges.insert(0, ["4", "2"])
    data["pre_tokenizer"] = json.loads(
        pre_tokenizers.ByteLevel(add_prefix_space=False).__getstate__()
    )
    (folder / "tokenizer.json").write_text(json.dumps(data))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="does not write digits one by one: '42'"):
        load(folder)


class Trap:
    """Unpickling one writes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json"])
def test_pickled_weights_are_refused(tiny_backbone, tmp_path, name):
    folder = write_hub_layout(tiny_backbone, tmp_path / "hub")
    (folder / "model.safetensors").unlink()
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    index = {"metadata": {}, "weight_map": dict.fromkeys(hub_state(tiny_backbone, torch.half), "x")}
    (folder / "x").write_bytes(trap)
    (folder / name).write_bytes(trap if name.endswith("bin") else json.dumps(index).encode())
    with pytest.raises(OSError, match="safetensors"):
        load(folder)
    assert not (tmp_path / "sprung").exists()


def test_code_of_a_checkpoint_is_not_run(tiny_backbone, tmp_path):
    folder = write_hub_layout(tiny_backbone, tmp_path / "hub")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForImageTextToText": "trap.Model", "AutoConfig": "trap.Config"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    assert type(load(folder).model) is Qwen2VLForConditionalGeneration
    assert not (tmp_path / "sprung").exists()


# --- building and asking -----------------------------------------------------------------------


def test_new_mini_follows_the_global_generator(tiny_tokenizer):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(new_mini(tiny_tokenizer).core.language_model.embed_tokens.weight)
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_size_of_the_mini(tiny_backbone):
    assert 1_500_000 < sum(p.numel() for p in tiny_backbone.model.parameters()) < 2_500_000
    assert tiny_backbone.model.config.text_config.vocab_size % 64 == 0
    assert tiny_backbone.model.config.text_config.vocab_size >= len(tiny_backbone.tokenizer)


def greedy(backbone: Backbone, question: str, image: Image.Image, count: int) -> str:
    """Argmax tokens one after the other: a whole forward pass for each, without any cache."""
    out = backbone.image_processor([image], return_tensors="pt")
    prompt = encode_prompt(backbone, question, tuple(out["image_grid_thw"][0].tolist()))
    ids, kinds = prompt.ids[None], prompt.kinds[None]
    for _ in range(count):
        with torch.no_grad():
            values = backbone.model(input_ids=ids, mm_token_type_ids=kinds, **out).logits
        ids = torch.cat((ids, values[:, -1:].argmax(-1)), 1)
        kinds = torch.nn.functional.pad(kinds, (0, 1))
        if ids[0, -1] == backbone.tokenizer.eos_token_id:
            break
    return backbone.tokenizer.decode(ids[0, len(prompt.ids) :], skip_special_tokens=True)


@pytest.fixture(scope="module")
def talkative(tiny_backbone, tmp_path_factory) -> Backbone:
    """Larger random weights, so that answers differ; the folder's settings ask for sampling."""
    model = copy.deepcopy(tiny_backbone.model)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                scale = 1.0 if "embed_tokens" in name else 0.12
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        # never the likeliest: a placeholder in an answer would want a photograph
        model.model.language_model.embed_tokens.weight[model.config.image_token_id] = 0
        model.model.language_model.embed_tokens.weight[model.config.video_token_id] = 0
    loud = Backbone(model, tiny_backbone.tokenizer, tiny_backbone.image_processor)
    folder = tmp_path_factory.mktemp("talkative") / "hub"
    return load(write_hub_layout(loud, folder, torch.float32))


def test_generate_is_greedy_whatever_the_batch(talkative):
    images = noise((112, 112), (56, 112), (112, 84), (84, 84))
    questions = [QUESTION, QUESTION, "Describe this photo.", "Sort 3 2 1:"]
    together = talkative.generate(questions, images, 10)
    alone = [talkative.generate([q], [i], 10)[0] for q, i in zip(questions, images, strict=True)]
    assert together == alone
    assert together == [greedy(talkative, q, i, 10) for q, i in zip(questions, images, strict=True)]
    assert len(set(together)) > 1


def test_as_images():
    arrays = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    images = as_images(arrays)
    assert images[0].size == (7, 5)
    np.testing.assert_array_equal(np.stack([np.asarray(i) for i in images]), arrays)
