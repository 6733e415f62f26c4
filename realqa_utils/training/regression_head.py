"""The score as one real number: a linear head on the last hidden state, the way of VideoScore.

The head takes the place of the language head, so everything else of a model stays as it is; it is
trained by the squared error of the score on the 0..10 scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers.utils import logging

from realqa_utils.datasets.table import Table
from realqa_utils.forms.conversations import DIRECT
from realqa_utils.model import backbone as backbones
from realqa_utils.model.backbone import Backbone
from realqa_utils.model.prompting import last_logits


def attach(backbone: Backbone, mean: float, seed: int) -> Backbone:
    """Put a new head in place of the language head, in place: it begins at about `mean`."""
    model = backbone.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(model.config.text_config.hidden_size, 1, dtype=model.dtype)
    nn.init.constant_(head.bias, mean)
    model.lm_head = head.to(model.device)
    model.config.tie_word_embeddings = False  # else the embedding would be written over it
    return backbone


def load(folder: Path) -> Backbone:
    """A model with its head, as `Backbone.save` wrote it: its language head has one output."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # of the library: that one layer does not fit is known
    try:
        backbone = backbones.load(folder, ignore_mismatched_sizes=True)
    finally:
        logging.set_verbosity(before)
    saved = load_file(folder / "model.safetensors")
    head = {name: saved[f"lm_head.{name}"] for name in ("weight", "bias")}
    attach(backbone, 0.0, 0).model.lm_head.load_state_dict(head)
    return backbone


class RegressionLesson:
    """The paper's direct question, and no answer in words: the target is the number."""

    is_open = True  # the answer is not ended, for there is none

    def __init__(self, table: Table):
        self.targets = table.targets

    def conversations(self, rows: Sequence[int]) -> tuple[list[str], list[str]]:
        """Questions and empty answers."""
        return [DIRECT.question] * len(rows), [""] * len(rows)

    def extras(self, backbone: Backbone, rows: Sequence[int], *_) -> dict[str, torch.Tensor]:
        """`targets` (batch,) on the 0..10 scale."""
        return {"targets": torch.as_tensor(self.targets[list(rows)], dtype=torch.float32)}


def loss(predicted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean squared error of (batch, 1, 1) against (batch,)."""
    return (predicted[:, -1, 0].float() - targets).square().mean()


def read(backbone: Backbone, images: Sequence[Image.Image]) -> pd.DataFrame:
    """One row per photograph: the number, as greedy and as expected; it has no spread."""
    said = last_logits(backbone, images, DIRECT.question)[:, 0].double().numpy()
    return pd.DataFrame({"greedy": said, "expected": said, "sd": float("nan"), "parsed": True})
