"""`realqa benchmark-gpu` without a GPU: all of it on a CPU, at the size of the mini backbone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from realqa_utils.benchmarks import gpu_benchmark
from realqa_utils.planning import plan
from realqa_utils.profiles import get_profile
from realqa_utils.records import provenance

torch.set_num_threads(1)
PIXELS = (9 * 28**2, 16 * 28**2)


@pytest.fixture(scope="module", params=["paper", "gpu24"])
def profile(request):
    given = get_profile(request.param)
    recipe = replace(given.recipe, batch_size=8, accumulation=2, rank=4)
    same = {key: recipe for key in ("recipe", "stage_1", "chains")}
    return replace(given, model="mini", view=replace(given.view, pixels=PIXELS), **same)


@pytest.fixture(scope="module")
def table(profile):
    parts = gpu_benchmark.measure(profile, "cpu", steps=3, rounds=2, few=1, many=3)
    return pd.DataFrame([row for part in parts for row in part])


def test_every_part_is_measured(profile, table):
    trainings = [name for name in table["model"].unique() if name.startswith("training")]
    assert len(trainings) == (2 if profile.name == "paper" else 1)
    assert trainings[0] == f"training: {profile.recipe.weights}, 2 x 4, checkpointed"
    assert {"greedy digits", "digit tree, every branch"} < {
        name.removeprefix("ours: ") for name in table["model"]
    }
    speeds = table[~table["metric"].str.startswith("peak")]
    assert (speeds["estimate"] > 0).all() and (speeds["low"] <= speeds["high"]).all()
    assert table[table["metric"].str.startswith("peak")]["planned"].gt(0).all()


def test_the_numbers_of_a_training_fit_together(profile, table):
    rows = table[table["model"].str.startswith("training")].groupby("model", sort=False)
    (most,) = table[table["metric"].eq("TFLOP/s") & table["model"].str.startswith("product")][
        "estimate"
    ]
    for _, part in rows:
        of = part.set_index("metric")["estimate"]
        assert of["photographs/s"] * of["seconds a step"] == pytest.approx(8, rel=0.3)
        assert of["TFLOP/s"] / most == pytest.approx(of["share of the ceiling"])
        # a photograph of 9 to 16 tokens, and some forty of text
        assert 30 < of["tokens/s"] / of["photographs/s"] < 80
        with_more = of["share with what is run again"] / of["share of the ceiling"]
        assert with_more == pytest.approx(1) if "not" in part["model"].iloc[0] else with_more > 1.2


def test_photographs_have_the_size_and_repeat(tmp_path):
    table = gpu_benchmark.photographs((64, 48), 70, tmp_path)
    paths = table.frame["path"]
    assert len(table) == 70 and paths.nunique() == 64 and paths[0] == paths[64]
    assert np.ptp(table.targets) > 5


@pytest.mark.parametrize("name", ["paper", "gpu24"])
def test_the_plan_is_within_15_percent_of_what_was_measured(name):
    """Of results that are in the repository, by the plan as it is now."""
    table = pd.read_csv(provenance.home() / "figures" / name / f"{gpu_benchmark.STEM}.csv")
    held = table[table["metric"] == "peak GiB"].set_index("model")["estimate"]
    case = gpu_benchmark.cases(get_profile(name))[0]
    count = case.parameters(case.profile.recipe)
    given = (case.config, count, case.setup, case.scoring())
    planned = {
        "scoring: greedy digits": plan.scoring_memory(*given, 2),
        "scoring: digit tree, every branch": plan.scoring_memory(*given, 100),
        f"training: {gpu_benchmark.layout(case.profile.recipe)}": case.memory(case.profile.recipe),
    }
    assert set(held.index) <= set(planned) and len(held) >= 2
    for what, most in held.items():
        assert gpu_benchmark.allocated(planned[what]) == pytest.approx(most, rel=0.15), what


def test_without_a_gpu_it_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="finds no GPU"):
        gpu_benchmark.main([])
