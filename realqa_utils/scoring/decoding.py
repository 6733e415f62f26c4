"""Free-running answers: greedy, or sampled as the authors decode, so that the difference shows.

The authors sample at temperature 0.95 among the 50 likeliest tokens and the top 0.7 of the mass;
the same photograph then gets another score each time. Here every photograph draws from a stream of
its own, so a seed fixes its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from realqa_utils.model.backbone import Backbone
from realqa_utils.model.encoding import encode

MODES = ("greedy", "sampled")
TEMPERATURE, TOP_P, TOP_K = 0.95, 0.7, 50  # the authors' decoding


def generate(
    backbone: Backbone,
    questions: Sequence[str],
    images: Sequence[Image.Image] | Sequence[Callable[[], Image.Image]],
    max_new_tokens: int,
    mode: str = "greedy",
    seed: int = 0,
    batch_size: int = 64,
) -> list[str]:
    """One answer per question and photograph; functions are called to open photographs.

    "sampled": photograph i of the call draws from stream (seed, i), whatever the batch size and
    however long other answers are. Only where rounding, which does change with the batch, moves a
    probability across a draw (about one token in a million) may an answer differ. Raises
    ValueError for another mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: one of {', '.join(MODES)}")
    said: list[str] = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        opened = [image() if callable(image) else image for image in part]
        asked = questions[start : start + batch_size]
        if mode == "greedy":
            said += backbone.generate(asked, opened, max_new_tokens)
        else:
            numbers = range(start, start + len(opened))
            said += _sample(backbone, asked, opened, draws(seed, numbers, max_new_tokens))
    return said


def draws(seed: int, numbers: Sequence[int], steps: int) -> torch.Tensor:
    """Uniform draws (photographs, steps) in [0, 1); row i depends on seed and `numbers[i]` only."""
    rows = [np.random.default_rng([seed, number]).random(steps) for number in numbers]
    return torch.from_numpy(np.stack(rows))


@torch.no_grad()
def _sample(backbone: Backbone, questions, images, uniform: torch.Tensor) -> list[str]:
    pixels, grids = backbone.pixels(images, backbone.model.device)
    batch = encode(backbone, questions, None, grids)
    del batch["labels"], batch["position_ids"]  # `generate` works them out for itself
    batch["pixel_values"] = pixels.to(backbone.model.dtype)
    width = batch["input_ids"].shape[1]
    out = backbone.model.generate(
        **backbone.to_device(batch),
        max_new_tokens=uniform.shape[1],
        do_sample=False,  # `Drawn` leaves one token to take
        repetition_penalty=1.0,  # some checkpoints bring another
        logits_processor=LogitsProcessorList([Drawn(uniform, width)]),
    )
    return backbone.tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)


class Drawn(LogitsProcessor):
    """Leaves of every row's tokens just the one that its draw for this step falls on.

    `uniform` (rows, steps); `width` is the number of columns of the prompt.
    """

    def __init__(self, uniform: torch.Tensor, width: int):
        self.uniform, self.width = uniform, width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self.width
        uniform = self.uniform[:, step, None].to(scores.device)
        tokens = fall(chances(scores), uniform)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens, 0.0)


def chances(logits: torch.Tensor) -> torch.Tensor:
    """Logits (rows, vocabulary) -> the probabilities that the authors sample from, float64.

    >>> chances(torch.tensor([[2.0, 1.0, 0.0, -1.0]])).round(decimals=2).tolist()
    [[0.74, 0.26, 0.0, 0.0]]
    """
    scores = logits.float()
    for warp in (
        TemperatureLogitsWarper(TEMPERATURE), TopKLogitsWarper(TOP_K), TopPLogitsWarper(TOP_P),
    ):  # fmt: skip
        scores = warp(None, scores)
    return scores.double().softmax(-1)


def fall(probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The tokens (rows, 1) on which draws (rows, 1) fall, all tokens laid end to end by number."""
    edges = probabilities.cumsum(-1)
    return (edges / edges[:, -1:] <= uniform).sum(-1, keepdim=True)
