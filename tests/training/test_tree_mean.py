"""The mean of the digit tree as a loss: it is the mean that is read, and has its gradient."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch

from realqa_utils.datasets import mini
from realqa_utils.forms.conversations import DIRECT
from realqa_utils.images.views import View
from realqa_utils.model.encoding import encode
from realqa_utils.scoring import digit_tree
from realqa_utils.training import fine_tuning, tree_mean
from realqa_utils.training.recipes import Recipe


@pytest.fixture(scope="module")
def images():
    return [mini.photograph("mini-koniq", 0, index) for index in range(3)]


def begun(backbone, images) -> dict:
    pixels, grids = backbone.pixels(images)
    rows = len(images)
    batch = encode(backbone, [DIRECT.question] * rows, [DIRECT.before] * rows, grids, end=False)
    del batch["labels"]
    return batch | {"pixel_values": pixels}


def mean(backbone, images, digits) -> torch.Tensor:
    (point,) = backbone.tokenizer(".", add_special_tokens=False).input_ids
    batch = begun(backbone, images)
    return tree_mean.mean(backbone.model, batch, backbone.digit_ids, point, digits)[0]


@pytest.mark.parametrize("digits", [1, 2])
def test_it_is_the_mean_that_reading_gives(tiny_backbone, images, monkeypatch, digits):
    monkeypatch.setattr(digit_tree, "FLOOR", 0.0)
    readings = digit_tree.read_batch(tiny_backbone, images, digits)
    expected = [reading.expected for reading in readings]
    with torch.no_grad():
        found = mean(tiny_backbone, images, digits)
    # reading gives a branch below its floor the middle of its range: at most half a unit of it
    assert found.tolist() == pytest.approx(expected, abs=2e-3)


def test_its_gradient_is_that_of_finite_differences(tiny_backbone, images):
    backbone = deepcopy(tiny_backbone)
    weight = backbone.core.language_model.layers[1].mlp.down_proj.weight
    mean(backbone, images, 2).sum().backward()
    with torch.no_grad():
        direction = weight.grad / weight.grad.norm()
        sides = []
        for step in (1e-2, -1e-2):
            weight += step * direction
            sides.append(mean(backbone, images, 2).double().sum().item())
            weight -= step * direction
    assert (sides[0] - sides[1]) / 2e-2 == pytest.approx(weight.grad.norm().item(), rel=0.02)


def test_training_brings_the_mean_to_the_scores(tiny_backbone, tmp_path):
    table = mini.build("mini-koniq", 4, 0, tmp_path)
    recipe = Recipe(
        steps=40, objective="tree_mean", digits=2, batch_size=4, learning_rate=3e-3,
        language="full", vision="frozen",
    )  # fmt: skip
    backbone = fine_tuning.train(deepcopy(tiny_backbone), table, recipe, View(), tmp_path)
    images = [mini.photograph("mini-koniq", 0, index) for index in range(4)]
    with torch.no_grad():
        said = mean(backbone, images, 2).numpy()
    assert np.square(said - table.targets).mean() < np.var(table.targets)


def test_a_tree_of_three_digits_is_refused(tmp_path):
    table = mini.build("mini-koniq", 4, 0, tmp_path)
    with pytest.raises(ValueError, match="digits=3: right is 1 or 2"):
        tree_mean.TreeLesson(table, 3)


def test_the_loss_is_the_squared_error_and_the_price_of_another_format(monkeypatch):
    said = torch.tensor([3.0, 5.0]), torch.tensor([1.0, 0.5])
    monkeypatch.setattr(tree_mean, "mean", lambda *_: said)
    found = tree_mean.loss(None, {}, torch.tensor([4.0, 7.0]), [], 0, 2)
    assert found.item() == pytest.approx((1 + 4) / 2 + np.log(2) / 2)
