"""One look at the end of a prompt: what a model would go on with, without going on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from realqa_utils.model import language
from realqa_utils.model.backbone import Backbone
from realqa_utils.model.encoding import encode


@torch.no_grad()
def last_logits(
    backbone: Backbone,
    images: Sequence[Image.Image],
    question: str,
    before: str = "",
    batch_size: int = 64,
) -> torch.Tensor:
    """What the language head says (photographs, outputs) behind a question and a begun answer.

    In float32, on the CPU.
    """
    backbone.model.eval()
    parts = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        pixels, grids = backbone.pixels(part, backbone.model.device)
        rows = len(part)
        batch = encode(backbone, [question] * rows, [before] * rows, grids, end=False)
        del batch["labels"]
        batch["pixel_values"] = pixels.to(backbone.model.dtype)
        last = torch.tensor([batch["input_ids"].shape[1] - 1])
        batch = backbone.to_device(batch)
        out = language.forward(backbone.model, batch, last, use_cache=False)
        parts.append(out.logits[:, -1].to("cpu", torch.float32))
    return torch.cat(parts)
