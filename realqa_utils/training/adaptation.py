"""Teach a vision tower how photographs look in frequency, before it ever sees a score.

A thousand rated photographs are too few to learn from what blur, noise or compression look like.
`spectra` describe just that and need no opinions: predicting them carries a tower that only knows
generated scenes over to real photographs. The same heads help when the tower is made.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from realqa_utils.images.views import View
from realqa_utils.model import vision
from realqa_utils.model.backbone import Backbone
from realqa_utils.training import optimisers, spectra

RATE = 1e-3
SAMPLE = 512  # windows from which the mean and the spread of the targets are taken


class SpectraHeads(nn.Module):
    """Linear heads for the standardised spectra of tokens and of whole windows.

    `images` uint8 (n, h, w, 3) are a sample that sets mean and spread. Thrown away after training.
    """

    def __init__(self, width: int, images: np.ndarray):
        super().__init__()
        found = spectra.patch_spectra(images)
        for name, values in _targets(found).items():
            flat = torch.from_numpy(values).flatten(0, -2)
            self.register_buffer(f"{name}_mean", flat.mean(0))
            self.register_buffer(f"{name}_sd", flat.std(0).clamp(min=1e-3))
            head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, flat.shape[-1]))
            self.add_module(name, head)

    def loss(self, tokens: torch.Tensor, images: np.ndarray) -> torch.Tensor:
        """Squared error for image tokens (n, tokens, width) of `images`; 2 is that of the means."""
        seen = {"token": tokens, "window": tokens.mean(1)}
        total = tokens.new_zeros(())
        for name, values in _targets(spectra.patch_spectra(images)).items():
            mean, sd = getattr(self, f"{name}_mean"), getattr(self, f"{name}_sd")
            target = (torch.from_numpy(values).to(mean.device) - mean) / sd
            total = total + F.mse_loss(getattr(self, name)(seen[name]), target)
        return total


def _targets(found: np.ndarray) -> dict[str, np.ndarray]:
    return {"token": spectra.token_spectra(found), "window": spectra.window_spectra(found)}


def adapt(
    backbone: Backbone,
    photographs: Sequence[Image.Image],
    view: View,
    steps: int,
    seed: int,
    batch: int = 64,
) -> list[float]:
    """Train the vision tower, in place, to predict the spectra of random windows.

    `photographs` are fitted to the view, which must have windows. Returns the loss of each step,
    which starts a little above 2. Weights of the same seed are the same for the same thread count.

    Raises ValueError for a view without windows, or with windows that do not divide into tokens.
    """
    if not view.size:
        raise ValueError("adaptation looks through windows: the view needs a size")
    generator = np.random.default_rng([seed, 3])
    torch.manual_seed(seed)

    def windows(count: int) -> np.ndarray:
        rows = generator.integers(len(photographs), size=count)
        return np.stack([np.asarray(view.training(photographs[r], generator)) for r in rows])

    visual = backbone.core.visual.requires_grad_(True)
    heads = SpectraHeads(backbone.width, windows(SAMPLE)).to(visual.device)
    both = nn.ModuleDict({"visual": visual, "heads": heads})
    optimiser = optimisers.muon(both.named_parameters(), RATE, weight_decay=0.02)
    schedule = optimisers.cosine(optimiser, steps)
    losses = []
    for _ in tqdm(range(steps), "vision tower", mininterval=5, disable=None):
        images = windows(batch)
        loss = heads.loss(image_tokens(backbone, images), images)
        optimisers.take_step(loss, both.parameters(), optimiser, schedule)
        losses.append(float(loss.detach()))
    return losses


def image_tokens(backbone: Backbone, images: np.ndarray) -> torch.Tensor:
    """Output of the vision tower (n, tokens, width) for equal photographs uint8 (n, h, w, 3)."""
    visual = backbone.core.visual
    found = vision.patchify(images, backbone.image_processor)
    pixels, grid = (part.to(visual.device) for part in found)
    return visual(pixels, grid_thw=grid).pooler_output.view(len(images), -1, backbone.width)
