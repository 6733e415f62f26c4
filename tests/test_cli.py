"""The command line: what it passes on, and how it refuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from realqa_utils import cli
from realqa_utils.reproduction import notebooks, report


@pytest.fixture
def calls(monkeypatch):
    """What the commands were called with, instead of calling them."""
    seen = []
    monkeypatch.delenv("REALQA_SEEDS", raising=False)
    monkeypatch.setenv("REALQA_SEEDS", "")  # so that what a command sets is taken back

    def reproduce(*given, cluster):
        seen.append((*given, cluster, os.environ["REALQA_SEEDS"]))
        return 1

    monkeypatch.setattr(notebooks, "reproduce", reproduce)
    monkeypatch.setattr(notebooks, "refresh", lambda *given: seen.append(given) or 0)
    pretraining = types.ModuleType("realqa_utils.training.pretraining")
    pretraining.main = lambda given: seen.append(given)
    monkeypatch.setattr(report, "build", lambda profile: seen.append(f"report of {profile}"))
    monkeypatch.setitem(sys.modules, "realqa_utils.training.pretraining", pretraining)
    monkeypatch.setattr("realqa_utils.training.pretraining", pretraining, raising=False)
    return seen


@pytest.mark.parametrize(
    ("arguments", "code", "call"),
    [
        ("reproduce", 1, ("mini", None, {}, "", "")),
        ("reproduce --profile photos --only 05,06", 1, ("photos", ["05", "06"], {}, "", "")),
        ("reproduce --set seed=3 rate=1e-3 --set name=a=b", 1,
         ("mini", None, {"seed": 3, "rate": 0.001, "name": "a=b"}, "", "")),
        ("reproduce --seeds 0,7 --cluster slurm", 1, ("mini", None, {}, "slurm", "0,7")),
        ("report --profile photos", 0, "report of photos"),
        ("notebooks refresh --only 5", 0, (["5"],)),
        ("pretrain --steps 3 --help", 0, ["--steps", "3", "--help"]),
    ],
)  # fmt: skip
def test_commands_pass_on_what_was_asked(calls, arguments, code, call):
    assert cli.main(arguments.split()) == code
    assert calls == [call]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("reproduce --profile mimi", "unknown profile 'mimi': did you mean 'mini'? There are"),
        ("reproduce --only 99", "unknown notebook '99'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_ok.ipynb").write_text(
        '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
    )
    monkeypatch.setattr("realqa_utils.records.results.home", lambda: tmp_path)
    assert cli.main(arguments.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"realqa: {message}")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "required: COMMAND"),
        ("reproduse", "invalid choice"),
        ("reproduce --set seed", "'seed' is not KEY=VALUE"),
        ("reproduce --seeds 1,x", "different whole numbers from 0, like 0,1,2, not '1,x'"),
        ("notebooks burn", "invalid choice"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments.split())
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_commands_that_the_readme_names_are_there(capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    named = set(re.findall(r"\brealqa ([a-z][a-z-]+)", text))
    assert {"plan", "doctor", "evaluate", "train", "curves", "score"} <= named
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    listed = {line.split()[0] for line in shown.splitlines() if line.startswith("    ")}
    assert named <= listed
    for script in re.findall(r"--config_file (\S+)", text):
        assert (Path(__file__).parents[1] / script).is_file()


def test_what_runs_notebooks_starts_in_a_moment():
    """Each notebook has such a process. With torch, or a `jsonschema` that compiles the grammar of
    web addresses by `lark`, it would begin several seconds later."""
    code = "import sys, papermill, realqa_utils.reproduction.job; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "scipy", "lark"} & set(done.stdout.split())
