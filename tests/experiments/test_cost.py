"""Ways of asking are timed fairly, and larger models really are larger."""

from __future__ import annotations

import resource
import time

import pandas as pd
import pytest
import torch

from realqa_utils.datasets import mini
from realqa_utils.experiments import cost, cost_table
from realqa_utils.experiments.cost import BATCHED, DIGITS, ONE, PREFILL, TREE
from realqa_utils.plotting import cost_plots


@pytest.fixture(scope="module")
def images():
    return [mini.photograph("mini-koniq", 0, index) for index in range(3)]


def counting(calls: list, name: str, seconds: float, monkeypatch_clock: list):
    def way(images):
        calls.append((name, len(images)))
        monkeypatch_clock[0] += seconds * len(images)

    return way


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])
    return now


def test_every_round_has_every_way_once_and_the_first_does_not_count(clock):
    calls: list = []
    ways = {
        "slow": (counting(calls, "slow", 4.0, clock), 2),
        "fast": (counting(calls, "fast", 0.5, clock), 7),
    }
    frame = cost.timed(ways, ["a", "b", "c"], rounds=3, seed=0)
    assert sorted(calls) == [("fast", 7)] * 4 + [("slow", 2)] * 4
    assert frame.groupby("way")["seconds"].mean().to_dict() == {"fast": 0.5, "slow": 4.0}
    assert set(frame["round"]) == {0, 1, 2}
    assert cost.ratio(frame, "slow", "fast") == (8.0, 8.0, 8.0)
    again = cost.timed(ways, ["a", "b", "c"], rounds=3, seed=0)
    assert frame.equals(again)


def test_only_what_is_timed_has_a_thread_a_core(clock, monkeypatch):
    monkeypatch.setenv("REALQA_WORKERS", "3")
    before, seen = torch.get_num_threads(), []
    way = (lambda images: seen.append(torch.get_num_threads()), 1)
    cost.timed({"way": way}, ["a"], rounds=1, seed=0)
    assert seen == [3, 3]
    assert torch.get_num_threads() == before
    monkeypatch.setenv("REALQA_WORKERS", "64")
    assert cost.threads() == cost.CORES


def test_ratios_know_their_aims(clock):
    seconds = {ONE: 30.0, BATCHED: 1.2, DIGITS: 1.0, TREE: 1.3, PREFILL: 1.0}
    ways = {name: (counting([], name, s, clock), 1) for name, s in seconds.items()}
    compared = cost_table.ratios("set", cost.timed(ways, ["a"], 2, 0))
    reached = compared.set_index(["model", "metric"])["reached"].to_dict()
    assert reached == {
        (ONE, f"time over that of {DIGITS}"): True,
        (BATCHED, f"time over that of {DIGITS}"): False,
        (DIGITS, f"time over that of {PREFILL}"): True,
        (TREE, f"time over that of {PREFILL}"): True,
    }
    assert "not reached" in cost_table.summary(compared)
    assert compared["threads"].eq(cost.threads()).all()


@pytest.mark.parametrize("size", cost.SIZES)
def test_larger_models_are_read_like_the_small_one(tiny_backbone, images, size):
    larger = cost.larger(tiny_backbone, size)
    count = sum(p.numel() for p in larger.model.parameters())
    assert count > 2 * sum(p.numel() for p in tiny_backbone.model.parameters())
    ways = cost.ways(larger, few=1, many=2, with_tree=False)
    assert TREE not in ways
    frame = cost.timed(ways, images, 1, 0)
    assert (frame["seconds"] > 0).all()
    figure = cost_plots.speeds(cost_table.table("set", {size: frame}))
    assert figure.axes[0].get_xlabel() == "photographs per second"


def test_plain_leaves_the_given_model_alone(tiny_backbone, images):
    from realqa_utils.model.vision import BatchedVisionAttention

    cost.plain(tiny_backbone)
    kinds = {type(module) for module in tiny_backbone.model.modules()}
    assert BatchedVisionAttention in kinds


def test_growth_has_a_row_for_every_number(tiny_backbone, images):
    frame = cost.growth(tiny_backbone, images, [4, 2])
    assert frame["photographs"].tolist() == [2, 4]
    assert (frame[["per second", "peak MiB"]] > 0).all().all()


def test_memory_is_looked_at_while_something_runs(monkeypatch):
    held = [100.0]
    monkeypatch.setattr(cost, "_resident", lambda: held[0])
    with cost.resident_memory(every=0.001) as seen:
        held[0] = 300.0
        time.sleep(0.2)
        held[0] = 200.0
    assert (seen[0], max(seen)) == (100.0, 300.0)


def test_what_a_process_holds_is_told_in_mebibytes():
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert 50 < cost._resident() <= most + 1


@pytest.mark.parametrize(
    ("speeds", "peaks", "reached"),
    [((90, 100, 91), (500, 510, 540), [True, True]), ((90, 100, 89), (1, 1, 1.2), [False, False])],
)
def test_many_photographs_are_to_cost_no_more_each(speeds, peaks, reached):
    columns = {"photographs": [10, 500, 10_000], "per second": speeds, "peak MiB": peaks}
    rows = cost_table.constancy("set", pd.DataFrame(columns))
    assert list(rows["reached"]) == reached
    assert list(rows["estimate"]) == [speeds[2] / speeds[1], peaks[2] / peaks[1]]
    assert set(rows["model"]) == {"10,000 photographs"}
    assert rows["metric"].str.endswith("over that of 500 photographs").all()


def test_what_gpus_gave_is_read_from_the_files(monkeypatch, tmp_path):
    monkeypatch.setattr(cost_table.provenance, "home", lambda: tmp_path)
    assert "benchmark-gpu" in cost_table.on_gpus()
    folder = tmp_path / "figures" / "paper"
    folder.mkdir(parents=True)
    (folder / "gpu_cost.json").write_text('{"gpu": "a card"}')
    (folder / "gpu_cost.csv").write_text(
        "model,metric,estimate,low,high,planned\n"
        "a,times as fast as b,2.5,1,4,\n"
        "training: any,peak GiB,26.8,26.8,26.8,27.3\n"
        "training: any,tokens/s,3679.45,3415.1,999,\n"
        '"training: any, not checkpointed",tokens/s,1,1,1,\n'
    )
    found = cost_table.on_gpus()["paper", "a card"].to_dict()
    assert found == {
        "a: speed over b": "2.5 [1, 4]",
        "training: peak GiB": "26.8, planned 27.3",
        "training: tokens/s": "3,679 [3,415, 999]",
        "training, not checkpointed: tokens/s": "1 [1, 1]",
    }
