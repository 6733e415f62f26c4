"""A real GPU, where there is one: the numbers of the CPU."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import on_devices
import pandas as pd
import pytest
import torch
from on_devices import RECIPES, WAYS

from realqa_utils.datasets import mini
from realqa_utils.model import quantised
from realqa_utils.model.backbone import Backbone

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
CLOSE = {"atol": 1e-4, "rtol": 1e-3}  # sums are taken in another order


@pytest.fixture(scope="module")
def here(tiny_backbone) -> Backbone:
    return on_devices.loud(tiny_backbone)


@pytest.fixture
def there(here) -> Backbone:
    return replace(here, model=deepcopy(here.model).to("cuda"), prompts={})


@pytest.fixture(scope="module")
def images():
    return [mini.photograph("mini-koniq", 0, index) for index in range(3)]


@pytest.mark.parametrize("way", WAYS)
def test_what_is_read_is_the_same(here, there, images, way):
    pd.testing.assert_frame_equal(WAYS[way](there, images), WAYS[way](here, images), **CLOSE)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("name", RECIPES)
def test_a_step_of_training_is_the_same(here, there, tmp_path, name):
    table = mini.build("mini-koniq", 6, 0, tmp_path)
    told, heard = [], []
    expected = on_devices.step(deepcopy(here), table, RECIPES[name], tmp_path, told)
    found = on_devices.step(there, table, RECIPES[name], tmp_path, heard)
    torch.testing.assert_close(found[0], expected[0], **CLOSE)
    assert (found[1] - expected[1]).norm() / expected[1].norm() < 1e-3
    assert heard == [pytest.approx(values, rel=1e-3) for values in told]


def test_4_bits_say_about_what_float_says(images):
    """On a GPU they are computed with in bfloat16."""
    table = quantised.agreement("mini", images * 4, [2.0, 5.0, 8.0] * 4).set_index("weights")
    assert table.loc["NF4", "megabytes"] < table.loc["float", "megabytes"]
    assert table.loc["NF4", "loss"] == pytest.approx(table.loc["float", "loss"], rel=0.05)
