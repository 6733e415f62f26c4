"""4-bit base weights under LoRA (QLoRA), by bitsandbytes: for one 24 GB GPU, small ones on a CPU.

The linears of the language layers and vision blocks are NF4 (Dettmers et al., 2023,
arXiv:2305.14314), computed in bfloat16 on a GPU and in float32 on a CPU. Merger, patch embedding,
token embedding and head stay as they are: they are small, get no LoRA, and the head may be the
embedding (as in mini and Qwen2-VL-2B), which 4 bits would tear apart.

`load` gives a backbone like any other: `adapters.prepare` and `released.load` put LoRA on it.
Trained in full, 4-bit weights cannot be: `vision` is then "lora" or "frozen".
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from bitsandbytes.nn import Linear4bit
from PIL import Image
from torch import nn
from transformers import BitsAndBytesConfig

from realqa_utils.forms.conversations import DIRECT, Form
from realqa_utils.measures import statistics
from realqa_utils.model import backbone as backbones
from realqa_utils.model import language
from realqa_utils.model.backbone import Backbone
from realqa_utils.model.encoding import encode
from realqa_utils.scoring import digit_tree

BLOCK = 64  # weights that share one scale
KEPT = r"(?!model\.(language_model\.layers|visual\.blocks)\.).*"  # modules that are not 4-bit
#: Rows of `agreement`; doubly quantised, the scales have 8 bits instead of 32.
FORMS = {"float": None, "NF4": False, "NF4, double quantisation": True}


def load(source: str | Path = "mini", double: bool = False, device: str | None = None) -> Backbone:
    """Load a backbone with 4-bit weights: "mini", a local folder, or a hub name.

    `double` quantises the scales as well, which saves 0.37 bits a weight. `device` is this
    process's GPU if there is one and none is named. Raises FileNotFoundError for a folder without a
    checkpoint, ValueError for a tokenizer that merges digits and for layers that bitsandbytes gets
    wrong on a CPU.
    """
    place = torch.device(device or backbones.own_device())
    dtype = torch.float32 if place.type == "cpu" else torch.bfloat16
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=double,
        llm_int8_skip_modules=[KEPT],
    )
    backbone = backbones.load(source, dtype, quantization_config=config, device_map={"": place})
    if place.type == "cpu":
        _prepare_for_cpu(backbone.model)
    return backbone


def layers(model: nn.Module) -> dict[str, Linear4bit]:
    """The 4-bit linears of a model by name, whether or not LoRA is around them."""
    base = language.base_of(model)
    found = {n: part for n, part in base.named_modules() if isinstance(part, Linear4bit)}
    return {name.removesuffix(".base_layer"): part for name, part in found.items()}


def _prepare_for_cpu(model: nn.Module) -> None:
    for name, layer in layers(model).items():
        # With AVX-512, version 0.50 expands rows of 16, 32, 48, 80 .. weights to wrong numbers.
        if layer.in_features % BLOCK:
            raise ValueError(
                f"{name} has {layer.in_features} inputs: 4 bits on a CPU need a multiple of {BLOCK}"
            )
        # With AVX512-BF16, an answer would repack the weights and round to bfloat16; and training
        # that goes on after it would get no gradient through the layer.
        layer.support_avx512bf16_for_cpu = False


def quantise(backbone: Backbone, double: bool = False) -> Backbone:
    """A 4-bit copy of a backbone in memory, by way of a temporary folder as large as its weights.

    It is where the backbone is. Raises ValueError for one with LoRA around it (`adapters.merged`
    adds it in) and for one in 4 bits.
    """
    if hasattr(backbone.model, "peft_config"):
        raise ValueError(f"{backbone.name} has an adapter: quantise what `adapters.merged` gives")
    if layers(backbone.model):
        raise ValueError(f"{backbone.name} is in 4 bits already")
    with tempfile.TemporaryDirectory() as folder, backbones.quiet():
        backbone.save(folder, backbone.model.dtype)
        copy = load(folder, double, str(backbone.model.device))
    copy.name = backbone.name
    return copy


# --- what it costs -------------------------------------------------------------------------------


def agreement(
    backbone: Backbone | str | Path,
    images: Sequence[Image.Image],
    scores: Sequence[float],
    digits: int = 3,
    form: Form = DIRECT,
) -> pd.DataFrame:
    """How well NF4 weights agree with float ones on photographs; one row for each of `FORMS`.

    `scores` (n,) are the true ones on the 0..10 scale. Columns: megabytes of all weights; `loss`,
    the cross entropy of the true answers per token; `srcc` of the expected scores against the true
    ones; and against float, `expected` and `greedy`, the mean distances of the scores in points,
    `same`, the share of photographs with the same digits, and `rank`, the SRCC of expected scores.
    """
    given = backbone if isinstance(backbone, Backbone) else backbones.load(backbone)
    answers = [form.answer(score, digits) for score in scores]
    rows, first = [], None
    for name, double in FORMS.items():
        model = given if double is None else quantise(given, double)
        readings = digit_tree.read(model, images, digits, form)
        said = digit_tree.as_frame(readings).assign(greedy=[float(r.text) for r in readings])
        first = said if first is None else first
        rows.append(
            {
                "weights": name,
                "megabytes": megabytes(model.model),
                "loss": _loss(model, images, answers, form),
                "srcc": statistics.srcc(scores, said["expected"]),
                "expected": (said["expected"] - first["expected"]).abs().mean(),
                "greedy": (said["greedy"] - first["greedy"]).abs().mean(),
                "same": (said["text"] == first["text"]).mean(),
                "rank": statistics.srcc(first["expected"], said["expected"]),
                "n": len(images),
            }
        )
    return pd.DataFrame(rows)


def megabytes(model: nn.Module) -> float:
    """Of all weights (10^6 bytes) with the scales of 4-bit ones; what is tied counts once."""
    return sum({t.data_ptr(): t.nbytes for t in model.state_dict().values()}.values()) / 1e6


@torch.no_grad()
def _loss(backbone: Backbone, images, answers: Sequence[str], form: Form, size: int = 32) -> float:
    """Cross entropy per token of answers that are all of one length."""
    model, losses = backbone.model.eval(), []
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        pixels, grids = backbone.pixels(images[part], model.device)
        batch = encode(backbone, [form.question] * len(grids), answers[part], grids)
        batch["pixel_values"] = pixels.to(model.dtype)
        losses += [float(model(**backbone.to_device(batch)).loss)] * len(grids)
    return float(np.mean(losses))
