"""The vision tower learns statistics of photographs, and nothing else changes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from realqa_utils import adaptation
from realqa_utils.backbone import Backbone
from realqa_utils.datasets import mini
from realqa_utils.views import View

torch.set_num_threads(1)
VIEW = View(size=112, short=112, grid=1, random=True)


def copied(backbone: Backbone) -> Backbone:
    return Backbone(
        copy.deepcopy(backbone.model), backbone.tokenizer, backbone.image_processor, backbone.name
    )


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    return [mini.photograph("mini-spaq", 0, index) for index in range(24)]


def test_the_error_falls_below_that_of_the_mean(tiny_backbone, photographs):
    errors = adaptation.adapt(copied(tiny_backbone), photographs[:6], VIEW, 40, seed=0, batch=12)
    assert len(errors) == 40
    assert np.mean(errors[:2]) > 0.9
    assert np.mean(errors[-5:]) < 0.7


def test_the_same_seed_gives_the_same_tower_and_only_a_tower(tiny_backbone, photographs):
    towers = []
    for seed in (0, 0, 1):
        backbone = copied(tiny_backbone)
        adaptation.adapt(backbone, photographs[:4], VIEW, 2, seed)
        for name, weight in backbone.model.named_parameters():
            if "visual" not in name:
                torch.testing.assert_close(weight, tiny_backbone.model.get_parameter(name))
        towers.append(torch.cat([w.detach().flatten() for w in backbone.core.visual.parameters()]))
    assert torch.equal(towers[0], towers[1])
    assert not torch.equal(towers[0], towers[2])


def test_windows_of_a_photograph_without_windows_are_the_photograph(tiny_backbone, photographs):
    errors = adaptation.adapt(copied(tiny_backbone), photographs[:3], View(), 1, seed=0)
    assert len(errors) == 1 and np.isfinite(errors).all()


def test_standardised():
    features = np.random.default_rng(0).normal(5, 3, (30, 4))
    features[:, 0], features[:, 1] = 7.0, [100.0] + [0.0] * 29
    scaled = adaptation.standardised(features).numpy()
    assert (scaled[:, 0] == 0).all()
    assert scaled[0, 1] == adaptation.LIMIT  # it would be 5.4
    expected = np.clip(stats.zscore(features[:, 1:]), -adaptation.LIMIT, adaptation.LIMIT)
    np.testing.assert_allclose(scaled[:, 1:], expected, rtol=1e-5, atol=1e-6)


def test_mean_tokens_of_photographs_of_any_size(tiny_backbone):
    images = [Image.new("RGB", size, "teal") for size in ((112, 112), (224, 56), (56, 224))]
    with torch.no_grad():
        together = adaptation.mean_tokens(tiny_backbone, images)
        alone = torch.cat([adaptation.mean_tokens(tiny_backbone, [image]) for image in images])
    assert together.shape == (3, tiny_backbone.width)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
