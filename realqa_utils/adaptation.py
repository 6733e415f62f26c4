"""Teach the vision tower to tell natural-scene statistics, before it ever sees a score.

A thousand rated photographs are too few to learn from what blur, noise or compression look like.
The statistics of `baselines.hand_features` describe just that, and need no opinions: predicting
them from windows of the training photographs carries a tower that only knows generated scenes
over to real ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from realqa_utils.backbone import Backbone
from realqa_utils.baselines import hand_features
from realqa_utils.pretraining import optimiser, take_step
from realqa_utils.views import View

GRID = 4  # x GRID windows of each photograph
LIMIT = 3.0  # standard deviations at which a statistic is cut off: some have long tails


def adapt(
    backbone: Backbone,
    photographs: Sequence[Image.Image],
    view: View,
    steps: int,
    seed: int,
    batch: int = 64,
) -> list[float]:
    """Train the vision tower, in place, to predict the statistics of windows of `photographs`.

    `photographs` are fitted to the view. A linear head on the mean image token predicts the
    standardised statistics (batch, 46) and is thrown away. Returns the squared error of each
    step, averaged over the statistics; 1 is that of predicting their means. Weights of the same
    seed are the same for the same thread count.
    """
    windows = [replace(view, grid=GRID).testing(photograph) for photograph in photographs]
    flat = [window for part in windows for window in part]
    targets = standardised(np.stack([hand_features(window) for window in flat]))
    generator = np.random.default_rng([seed, 3])
    torch.manual_seed(seed)
    head = nn.Sequential(nn.LayerNorm(backbone.width), nn.Linear(backbone.width, targets.shape[1]))
    parameters = [*backbone.core.visual.requires_grad_(True).parameters(), *head.parameters()]
    adam, schedule = optimiser(parameters, 1e-3, steps)
    errors = []
    for _ in tqdm(range(steps), "vision tower", mininterval=5, disable=None):
        rows = generator.choice(len(flat), min(batch, len(flat)), replace=False)
        said = head(mean_tokens(backbone, [flat[row] for row in rows]))
        loss = (said - targets[rows]).square().mean()
        take_step(loss, parameters, adam, schedule)
        errors.append(float(loss.detach()))
    return errors


def standardised(features: np.ndarray) -> torch.Tensor:
    """Each column (n, f) at mean 0 and sd 1, cut off at `LIMIT`; a constant column is all 0."""
    spread = features.std(0)
    scaled = (features - features.mean(0)) / np.where(spread > 0, spread, 1)
    return torch.from_numpy(np.clip(scaled, -LIMIT, LIMIT)).float()


def mean_tokens(backbone: Backbone, images: Sequence[Image.Image]) -> torch.Tensor:
    """The mean image token of each photograph, (n, width)."""
    pixels, grids = backbone.pixels(images)
    seen = backbone.core.visual(pixels, grid_thw=torch.tensor(grids)).pooler_output
    merged = backbone.image_processor.merge_size**2  # patches per token
    parts = seen.split([t * h * w // merged for t, h, w in grids])
    return torch.stack([part.mean(0) for part in parts])
