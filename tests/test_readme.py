"""The generated part of README.md."""

from __future__ import annotations

import ast
import copy
import subprocess

import numpy as np
import pytest
import torch

from realqa_utils import readme, results
from realqa_utils.conversations import DIRECT
from realqa_utils.encoding import encode


def test_the_committed_numbers_are_those_of_the_result_files():
    git = ["git", "status", "--porcelain", "--", "figures", "realqa_utils/mini_backbone"]
    state = subprocess.run(git, cwd=results.home(), capture_output=True, text=True, check=False)
    if state.returncode or state.stdout.strip():
        pytest.skip("figures/ were regenerated here: `realqa readme` renews the numbers")
    text = (results.home() / "README.md").read_text()
    assert readme.updated(text) == text, "README.md is stale: run `realqa readme`"


def test_a_readme_without_the_marks_is_refused():
    with pytest.raises(ValueError, match="marks .* are missing"):
        readme.updated("# A page\n")


def test_only_the_generated_part_changes(monkeypatch):
    monkeypatch.setattr(readme, "render", lambda: "new")
    text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    assert readme.updated(text) == f"before\n{readme.BEGIN}\n\nnew\n\n{readme.END}\nafter\n"
    assert readme.updated(readme.updated(text)) == readme.updated(text)


def test_the_plain_loop_of_the_readme_runs(tiny_backbone, capsys):
    text = (results.home() / "README.md").read_text()
    code = text.split("<!-- tested: plain loop -->")[1].split("```python")[1].split("```")[0]
    answers = [DIRECT.answer(score, 3) for score in np.linspace(0, 9.9, 10)]
    batches = []
    for answer in answers:
        batch = encode(tiny_backbone, [DIRECT.question], [answer], [None])
        batches.append({key: batch[key] for key in ("input_ids", "labels")})
    model = copy.deepcopy(tiny_backbone.model)
    optimiser = torch.optim.SGD(model.parameters(), 0.01)
    names = {"tokenizer": tiny_backbone.tokenizer, "loader": batches, "model": model}
    exec(code, names | {"optimiser": optimiser})
    (said,) = [ast.literal_eval(line) for line in capsys.readouterr().out.splitlines()]
    assert said["scored"] == 10 and said["skipped"] == 0 and said["ncm"] > 0
