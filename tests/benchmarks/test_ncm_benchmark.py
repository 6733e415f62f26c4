"""The naive way of the NCM benchmark gives the same NCM; the callback's time is its own."""

from __future__ import annotations

import pytest
import torch

from realqa_utils.benchmarks import ncm_benchmark
from realqa_utils.datasets import mini
from realqa_utils.forms.conversations import DIRECT
from realqa_utils.model import backbone
from realqa_utils.ncm import NCM
from realqa_utils.training.recipes import Recipe


@pytest.fixture
def metric():
    return NCM.of(backbone.load("mini").tokenizer, DIRECT, 3)


def test_both_ways_give_the_same_ncm(metric):
    logits, labels = ncm_benchmark.batch(metric, (4, 30, 1216), torch.float32)
    metric.update(logits, labels)
    values = metric.compute()
    assert values["scored"] == 4
    plain = ncm_benchmark.naive(metric, logits, labels)
    assert plain == pytest.approx(float(values["ncm"]), rel=1e-5)


def test_the_share_of_a_step_is_measured(tmp_path):
    table = mini.build("mini-koniq", 4, 0, tmp_path)
    recipe = Recipe(3, batch_size=2, language="full", vision="frozen")
    step, spent = ncm_benchmark.share_of_a_step(table, recipe, tmp_path)
    assert 0 < spent < step
    assert (tmp_path / "ncm.csv").read_text().count("ncm_star,") == 3
