"""The plain way of the benchmark computes the same loss as ours."""

from __future__ import annotations

import copy

import pytest
import torch

from realqa_utils.benchmarks import benchmark
from realqa_utils.datasets import mini
from realqa_utils.images.views import View
from realqa_utils.model import vision
from realqa_utils.training import batches, fine_tuning
from realqa_utils.training.recipes import Recipe


def test_both_ways_have_the_same_loss(tiny_backbone, tmp_path):
    table = mini.build("mini-koniq", 6, 0, tmp_path)
    recipe = Recipe(steps=1, batch_size=4)
    backbone = copy.copy(tiny_backbone)
    backbone.model = vision.unbatch_vision(copy.deepcopy(tiny_backbone.model))
    plain_batch = benchmark.PlainCollator(backbone, table, recipe)([0, 3, 5])
    with torch.no_grad():
        plain = backbone.model(**plain_batch).loss
    trainer = fine_tuning.AnswerTrainer(
        model=tiny_backbone.model,
        args=fine_tuning.arguments(recipe, tmp_path, 0, False),
        recipe=recipe,
        digit_ids=tiny_backbone.digit_ids,
    )
    batch = batches.Collator(tiny_backbone, table, recipe, View())([0, 3, 5])
    with torch.no_grad():
        ours = trainer.compute_loss(tiny_backbone.model, batch)
    assert float(ours) == pytest.approx(float(plain), abs=1e-5)
