"""Hashes of weights, code and facts: equal for equal things, other for others."""

from __future__ import annotations

from copy import deepcopy

import torch

from realqa_utils.model import backbone
from realqa_utils.records import hashes


def test_facts_do_not_depend_on_their_order():
    assert hashes.of_facts({"a": 1, "b": [2]}) == hashes.of_facts({"b": [2], "a": 1})
    assert hashes.of_facts({"a": 1}) != hashes.of_facts({"a": 2})


def test_code_has_a_part_for_every_module():
    both = hashes.of_code(("forms.scores", "profiles"))
    assert both == hashes.of_code(("forms.scores",)) + hashes.of_code(("profiles",))
    assert len(both) == 16


def test_weights_are_told_apart_by_value_name_and_shape():
    layer = torch.nn.Linear(3, 2)
    other = deepcopy(layer)
    assert hashes.of_weights(layer) == hashes.of_weights(other)
    with torch.no_grad():
        other.bias[0] += 1
    assert hashes.of_weights(layer) != hashes.of_weights(other)
    assert hashes.of_weights(torch.nn.Sequential(layer)) != hashes.of_weights(layer)


def test_a_model_and_its_tower(tiny_backbone, tmp_path):
    changed = deepcopy(tiny_backbone)
    tiny_backbone.save(tmp_path / "a", torch.float32)
    with torch.no_grad():
        changed.core.language_model.norm.weight[0] += 1
    changed.save(tmp_path / "b", torch.float32)
    first, second = (str(tmp_path / name) for name in "ab")
    assert hashes.of_model(first) != hashes.of_model(second)
    assert hashes.of_tower(first) == hashes.of_tower(second)
    assert hashes.of_model("mini") == hashes.of_model(str(backbone.MINI_FOLDER))
    assert hashes.of_tower("no/such-model") != hashes.of_tower("no/other-model")
