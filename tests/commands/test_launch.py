"""Several GPUs: the configs for `accelerate`, and the command that they start, on two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from realqa_utils import cli
from realqa_utils.commands import train as train_command
from realqa_utils.datasets import made_up
from realqa_utils.experiments import trials
from realqa_utils.model import adapters, backbone
from realqa_utils.profiles import get_profile

CONFIGS = Path(__file__).parents[2] / "notebooks" / "profiles" / "accelerate"


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("ddp", {"multi_gpu": True, "use_fsdp": False, "use_deepspeed": False}),
        ("fsdp", {"use_fsdp": True, "fsdp_version": 2, "mixed_precision": "bf16"}),
        ("zero3", {"use_deepspeed": True, "zero_stage": 3, "mixed_precision": "bf16"}),
    ],
)
def test_accelerate_takes_the_configs(name, given):
    words = ["--config_file", str(CONFIGS / f"{name}.yaml"), "-m", "realqa_utils.commands.train"]
    parsed = launch_command_parser().parse_args([*words, "scores", "--profile", "paper"])
    found, _, _ = _validate_launch_command(parsed)
    assert found.num_processes == 4 and found.training_script == "realqa_utils.commands.train"
    for key, value in given.items():
        assert str(getattr(found, key)) == str(value), key


def test_layers_to_wrap_are_those_of_the_model(tiny_backbone):
    words = ["--config_file", str(CONFIGS / "fsdp.yaml"), "x.py"]
    found, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    names = set(found.fsdp_transformer_layer_cls_to_wrap.split(","))
    assert names == {type(m).__name__ for m in tiny_backbone.model.modules()} & names


@pytest.fixture
def dry(root, monkeypatch):
    """The profile `paper` as a dry run, with made-up sets."""
    monkeypatch.setenv("REALQA_DRY_RUN", "1")
    monkeypatch.setenv("REALQA_DATA", str(made_up.write(root / "data")))
    return get_profile("paper")


@pytest.mark.slow
def test_two_processes_train_what_the_notebooks_look_for(dry, root):
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "realqa_utils.commands.train", "scores", "--profile", "paper"]
    more = {"OMP_NUM_THREADS": "1", "REALQA_ROOT": str(root)}
    done = subprocess.run(
        [sys.executable, *command], env=os.environ | more, capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    trial = train_command.trial_of(dry, "scores", 0)
    folder = trials.kept(trial, root / "runs" / "paper" / "trials")
    assert done.stdout.count(f"weights: {folder}\n") == 1
    adapters.load_adapter(backbone.load("mini"), folder)
    curve = (root / "runs/paper/checkpoints" / folder.name / "ncm.csv").read_text()
    assert "\n2,held-out,ncm_star," in curve


def test_what_is_there_is_not_trained_again(dry, root, capsys, monkeypatch):
    trial = train_command.trial_of(dry, "direct", 0)
    folder = trials.kept(trial, root / "runs" / "paper" / "trials")
    folder.mkdir(parents=True)
    monkeypatch.setattr(train_command, "_train", lambda *_: pytest.fail("trained again"))
    assert cli.main(["train", "direct", "--profile", "paper"]) == 0
    assert f"weights: {folder}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chains"], "first realqa train attributes --profile paper"),
        (["scores", "--seed", "5"], "unknown seed '5'"),
    ],
)
def test_one_line_says_what_is_wrong(dry, capsys, words, message):
    assert cli.main(["train", *words, "--profile", "paper"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_model_trained_in_full_is_the_one_that_the_notebooks_train(root, capsys):
    assert cli.main(["train", "scores", "--profile", "smoke", "--every", "1"]) == 0
    said = capsys.readouterr().out
    profile, cache = get_profile("smoke"), root / "runs" / "smoke" / "trials"
    trial = train_command.trial_of(profile, "scores", 0)
    assert f"weights: {trials.kept(trial, cache)}" in said and "realqa curves" in said
    mine = trials.trained(trial, cache).model.state_dict()
    theirs = trials.trained(trial, root / "another").model.state_dict()
    assert all(torch.equal(mine[name], weight) for name, weight in theirs.items())
