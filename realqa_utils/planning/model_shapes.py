"""The real architectures as numbers, without their weights.

Nothing is downloaded: the two configs are those of the public `config.json` files, and a model of
them is built on torch's `meta` device, where a tensor has a shape and no memory.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedConfig, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from realqa_utils.images.views import PRESETS, View
from realqa_utils.model import adapters
from realqa_utils.model.backbone import MINI_FOLDER, Backbone
from realqa_utils.profiles import unknown
from realqa_utils.training import optimisers
from realqa_utils.training.recipes import Recipe


def _qwen(width: int, heads: int, kv: int, mlp: int, vocabulary: int, tied: bool) -> dict:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    text = {"hidden_size": width, "num_hidden_layers": 28, "num_attention_heads": heads,
            "num_key_value_heads": kv, "intermediate_size": mlp, "vocab_size": vocabulary,
            "max_position_embeddings": 32768, "rope_parameters": rope}  # fmt: skip
    vision = {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "in_channels": 3,
              "hidden_size": width, "patch_size": 14, "spatial_merge_size": 2,
              "temporal_patch_size": 2, "hidden_act": "quick_gelu"}  # fmt: skip
    return {"text_config": text, "vision_config": vision, "tie_word_embeddings": tied}


#: By hub id, as in the public config.json.
CONFIGS: dict[str, dict] = {
    "Qwen/Qwen2-VL-2B-Instruct": _qwen(1536, 12, 2, 8960, 151936, tied=True),
    "Qwen/Qwen2-VL-7B-Instruct": _qwen(3584, 28, 4, 18944, 152064, tied=False),
}


def config_of(model: str) -> PreTrainedConfig:
    """The config of "mini", of a hub id that is known here, or of a local folder.

    Raises ValueError for another name: nothing is asked over the network.
    """
    if model in CONFIGS:
        return Qwen2VLConfig(**CONFIGS[model])
    folder = MINI_FOLDER if model == "mini" else Path(model)
    if not (folder / "config.json").is_file():
        raise ValueError(unknown("model", model, ["mini", *CONFIGS]) + ", or a folder of a model")
    return Qwen2VLConfig.from_pretrained(folder, local_files_only=True)


def on_meta(config: PreTrainedConfig, recipe: Recipe | None = None) -> nn.Module:
    """A model of that config without memory; with a recipe, as `adapters.prepare` leaves it."""
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(config)
        if recipe is None:
            return model
        bare = Backbone(model, None, None, "meta")
        mode = (recipe.language, recipe.vision, recipe.rank, recipe.alpha, recipe.dropout)
        with warnings.catch_warnings():  # peft still asks under the old name
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            return adapters.prepare(bare, *mode).model


@dataclass(frozen=True)
class Parameters:
    """How many there are: of the base model, of its linears that 4-bit weights replace (those of
    layers and blocks), of the largest one, trained ones, and those of them that Muon takes."""

    base: int
    linear: int
    largest: int
    trained: int
    matrices: int


def parameters(config: PreTrainedConfig, recipe: Recipe) -> Parameters:
    """Counted on the meta device."""
    base, adapted = on_meta(config), on_meta(config, recipe)
    inside = re.compile(r"model\.(language_model\.layers|visual\.blocks)\.")
    linears = [m for name, m in base.named_modules() if inside.match(name)]
    sizes = [m.weight.numel() for m in linears if isinstance(m, nn.Linear)]
    matrices, others = optimisers.matrices_and_others(adapted.named_parameters())
    blocks = sum(p.numel() for p in matrices)
    trained = blocks + sum(p.numel() for p in others)
    total = sum(p.numel() for p in base.parameters())
    return Parameters(total, sum(sizes), max(sizes), trained, blocks)


PIXELS: dict[str, View] = {**PRESETS, "mini": View(pixels=(112**2, 112**2))}


def grid(config: PreTrainedConfig, size: tuple[int, int], preset: str) -> tuple[int, int]:
    """Columns and rows of patches that the model sees of a photograph of (width, height) pixels.

    Raises ValueError for another preset than those of `PIXELS`.
    """
    if preset not in PIXELS:
        raise ValueError(unknown("pixel preset", preset, PIXELS))
    longest, (least, most) = PIXELS[preset].longest, PIXELS[preset].pixels
    width, height = size
    if longest and max(size) > longest:
        width, height = (int(side * longest / max(size)) for side in size)
    seen = config.vision_config
    unit = seen.patch_size * seen.spatial_merge_size
    rows, columns = smart_resize(height, width, unit, least, most)
    return columns // seen.patch_size, rows // seen.patch_size


def patch_numbers(config: PreTrainedConfig) -> int:
    """Numbers of a patch of `pixel_values`."""
    seen = config.vision_config
    return seen.in_channels * seen.temporal_patch_size * seen.patch_size**2
