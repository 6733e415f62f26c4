"""A training that several processes share is that of one, and goes on with one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import two_processes_training
from safetensors.torch import load_file

from realqa_utils.training import fine_tuning
from realqa_utils.training.recipes import Recipe

pytestmark = pytest.mark.slow


def run(out: Path, processes: int, after: int = 6) -> Path:
    out.mkdir(exist_ok=True)
    if processes == 1:  # here: another process would spend most of its time on imports
        two_processes_training.main(str(out), after)
        return out
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [sys.executable, *start, two_processes_training.__file__, str(out), str(after)],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def losses(out: Path) -> dict[str, float]:
    return json.loads((out / "losses.json").read_text())


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "kept" / "adapter_model.safetensors")


def same_weights(a: Path, b: Path) -> None:
    one, other = weights(a), weights(b)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("training") / "alone", 1)


def test_loss_curves_and_weights_are_those_of_one_process(alone):
    """Answers are of different length: one process may have more tokens than the other."""
    both = run(alone.with_name("both"), 2)
    assert list(losses(both)) == list(losses(alone)) and len(losses(alone)) == 6
    np.testing.assert_allclose(list(losses(both).values()), list(losses(alone).values()), atol=1e-4)
    ncm = [
        pd.read_csv(out / "ncm.csv").set_index(["step", "split", "metric"])["value"]
        for out in (alone, both)
    ]
    assert ncm[0].index.equals(ncm[1].index)
    np.testing.assert_allclose(ncm[1], ncm[0], rtol=1e-3, atol=1e-3)
    same_weights(alone, both)


def test_checkpoints_move_between_one_process_and_two(alone):
    out = alone.with_name("one-two-one")
    for processes, after in ((1, 2), (2, 4)):
        run(out, processes, after)
        assert list(losses(out)) == [str(after - 1), str(after)]
        assert (out / "checkpoints" / f"checkpoint-{after}").is_dir()
        assert not (out / "kept").exists()
    run(out, 1)
    assert list(losses(out)) == ["5", "6"]
    same_weights(alone, out)


def test_processes_that_do_not_divide_a_step(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="3 processes do not divide the 4 batches"):
        fine_tuning.arguments(Recipe(steps=1, batch_size=8, accumulation=4), tmp_path, 0, False)
    with pytest.raises(ValueError, match="is for one process"):
        recipe = Recipe(steps=1, batch_size=9, accumulation=3, objective="tree_mean", digits=2)
        fine_tuning.arguments(recipe, tmp_path, 0, False)
