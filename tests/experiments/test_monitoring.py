"""Trainings with the monitor on are recorded once."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from realqa_utils.experiments import monitoring
from realqa_utils.experiments.monitoring import PLAIN, RANDOM
from realqa_utils.profiles import get_profile

SMOKE = get_profile("smoke", train_images=12, test_images=6, seeds=(0, 1, 2), resamples=50)


@pytest.mark.slow
def test_a_training_is_recorded_once(root, monkeypatch):
    data = monitoring.split(SMOKE)
    recipe = replace(SMOKE.recipe, steps=8)  # half of them are made
    one = replace(SMOKE, recipe=recipe, seeds=(3,), workers=1)
    found = monitoring.record(one, data, [PLAIN, RANDOM])
    assert list(found) == [PLAIN, RANDOM]
    (frame,) = found[PLAIN]
    held_out = frame[frame["split"] == "held-out"].set_index(["metric", "step"])["value"]
    assert held_out["ncm"].index.tolist() == held_out["srcc_expected"].index.tolist()
    assert held_out["ncm"].index.tolist() == [0, 1, 2, 3, 4]
    assert held_out["scored", 0] == 6 and frame["value"].notna().any()
    assert not frame["value"].equals(found[RANDOM][0]["value"])
    monkeypatch.setattr(monitoring, "_trained", lambda *_: pytest.fail("trained again"))
    again = monitoring.record(one, data, [PLAIN])
    pd.testing.assert_frame_equal(again[PLAIN][0], frame)
