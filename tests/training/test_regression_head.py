"""A real number from the last hidden state: the head, its loss, and training through `train`."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch

from realqa_utils.datasets import mini
from realqa_utils.forms.conversations import DIRECT
from realqa_utils.images.views import View
from realqa_utils.model.prompting import last_logits
from realqa_utils.training import fine_tuning, regression_head
from realqa_utils.training.recipes import Recipe


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return mini.build("mini-koniq", 12, 0, tmp_path_factory.mktemp("world"))


def recipe(**changes) -> Recipe:
    chosen = {"steps": 3, "batch_size": 4, "language": "full", "vision": "frozen", **changes}
    return Recipe(objective="regression", learning_rate=3e-3, **chosen)


def test_a_new_head_says_the_mean(tiny_backbone):
    backbone = regression_head.attach(deepcopy(tiny_backbone), 4.2, seed=0)
    images = [mini.photograph("mini-koniq", 0, i) for i in range(3)]
    said = regression_head.read(backbone, images)
    assert said["expected"].tolist() == pytest.approx([4.2] * 3, abs=1.5)
    assert said["greedy"].equals(said["expected"])
    embedding = backbone.core.language_model.embed_tokens.weight
    assert embedding.shape == tiny_backbone.core.language_model.embed_tokens.weight.shape


def test_it_is_the_head_on_the_last_hidden_state(tiny_backbone):
    backbone = regression_head.attach(deepcopy(tiny_backbone), 5.0, seed=1)
    image = mini.photograph("mini-koniq", 0, 1)
    pixels, grids = backbone.pixels([image])
    from realqa_utils.model.encoding import encode

    batch = encode(backbone, [DIRECT.question], None, grids)
    del batch["labels"]
    hidden = backbone.core(**batch, pixel_values=pixels).last_hidden_state
    expected = backbone.model.lm_head(hidden[:, -1])
    torch.testing.assert_close(last_logits(backbone, [image], DIRECT.question), expected)


def test_the_loss_is_the_mean_squared_error():
    found = regression_head.loss(torch.tensor([[[3.0]], [[5.0]]]), torch.tensor([4.0, 7.0]))
    assert found.item() == pytest.approx((1 + 4) / 2)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_training_moves_the_numbers_to_the_scores(tiny_backbone, table, tmp_path, accumulation):
    few = table.subset(np.arange(len(table)) < 4)
    chosen = recipe(steps=60, accumulation=accumulation)
    backbone = fine_tuning.train(deepcopy(tiny_backbone), few, chosen, View(), tmp_path)
    images = [mini.photograph("mini-koniq", 0, i) for i in range(4)]
    said = regression_head.read(backbone, images)["expected"]
    before = np.square(few.targets - few.targets.mean()).mean()
    assert np.square(said - few.targets).mean() < before


def test_accumulated_batches_give_the_gradient_of_one(tiny_backbone, table, tmp_path):
    weights = [
        fine_tuning.train(
            deepcopy(tiny_backbone), table, recipe(steps=2, accumulation=n), View(), tmp_path
        ).model.lm_head.weight.detach()
        for n in (1, 2)
    ]
    torch.testing.assert_close(*weights, atol=1e-4, rtol=1e-3)
