"""What is trained: LoRA on the language and vision linears, or whole parts of the model.

The targets are those of the released configs: the seven linears of every language layer, and
`qkv`, `proj`, `fc1`, `fc2` of every vision block (in Qwen2.5-VL and Qwen3-VL the linears of its MLP
have other names). The merger, the patch embedding and the language head get none, which is why the
patterns are anchored ("all-linear" would hit the merger).
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pandas as pd
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from realqa_utils.model.backbone import Backbone
from realqa_utils.training.recipes import LANGUAGE_MODES, VISION_MODES

LANGUAGE = r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
VISION = r".*visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.((linear_)?fc[12]|(gate|up|down)_proj))"


def prepare(
    backbone: Backbone,
    language: str = "lora",
    vision: str = "lora",
    rank: int = 128,
    alpha: int = 256,
    dropout: float = 0.05,
    head: bool = False,
) -> Backbone:
    """Choose what is trained; returns a backbone around the same (now wrapped) model.

    `language` is "lora" or "full", `vision` "lora", "full" or "frozen"; LoRA on one side only goes
    with the other side frozen or, for vision, trained in full. With `head` the language head is
    trained too. Raises ValueError for other words.
    """
    if language not in LANGUAGE_MODES:
        raise ValueError(f"language={language!r}: one of {', '.join(LANGUAGE_MODES)}")
    if vision not in VISION_MODES:
        raise ValueError(f"vision={vision!r}: one of {', '.join(VISION_MODES)}")
    if language == "full" and vision == "lora":
        raise ValueError("vision='lora' needs language='lora'; or train vision 'full' or 'frozen'")
    model = backbone.model
    if language == "full":
        model.requires_grad_(True)
        backbone.core.visual.requires_grad_(vision == "full")
    else:
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            target_modules=f"({LANGUAGE}|{VISION})" if vision == "lora" else LANGUAGE,
            # copies that are saved with the adapter; requires_grad alone saves nothing
            modules_to_save=["visual"] * (vision == "full") + ["lm_head"] * head or None,
        )
        model = get_peft_model(model, config)
    return Backbone(model, backbone.tokenizer, backbone.image_processor, backbone.name)


def merged(backbone: Backbone) -> Backbone:
    """The same model with an adapter added into its weights; one without stays as it is."""
    model = backbone.model
    whole = model.merge_and_unload() if isinstance(model, PeftModel) else model
    return Backbone(whole, backbone.tokenizer, backbone.image_processor, backbone.name)


def load_adapter(backbone: Backbone, folder: str | Path) -> Backbone:
    """Put a saved adapter on a backbone (safetensors only).

    Raises FileNotFoundError for a folder without `adapter_model.safetensors`, ValueError for an
    adapter that leaves some of its tensors unset, as one with other names of the layers does.
    """
    if not (Path(folder) / "adapter_model.safetensors").exists():  # peft would take a pickle
        raise FileNotFoundError(f"{folder} holds no adapter_model.safetensors")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Found missing adapter keys")
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        try:
            model = PeftModel.from_pretrained(backbone.model, folder)
        except UserWarning as problem:
            first = str(problem).split("'")[1]
            raise ValueError(
                f"{folder} does not fit {backbone.name}: no tensor for {first} (the first missing)"
            ) from None
    return Backbone(model.eval(), backbone.tokenizer, backbone.image_processor, backbone.name)


PARTS = {
    "patch embedding": "visual.patch_embed",
    "vision blocks": "visual.blocks",
    "merger": "visual.merger",
    "token embedding": "embed_tokens",
    "language layers": "language_model.layers",
    "language head": "lm_head",
}


def trainable_table(model: nn.Module) -> pd.DataFrame:
    """Parameters by part of the model: how many there are and how many are trained."""
    rows = {part: [0, 0] for part in PARTS}
    rows["other"] = [0, 0]
    for name, parameter in model.named_parameters():
        if ".original_module." in name:
            continue  # idle: its trained copy stands in for it
        name = name.replace(".modules_to_save.default", "")
        part = next((p for p, mark in PARTS.items() if mark in name), "other")
        rows[part][0] += parameter.numel()
        rows[part][1] += parameter.numel() * parameter.requires_grad
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["parameters", "trained"])
    frame = frame[frame["parameters"] > 0]
    frame.loc["all"] = frame.sum()
    return frame.assign(share=frame["trained"] / frame["parameters"])
