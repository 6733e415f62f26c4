"""The generated part of README.md."""

from __future__ import annotations

import ast
import copy
import importlib.util
import re
import subprocess

import numpy as np
import pytest
import torch

from realqa_utils.forms.conversations import DIRECT
from realqa_utils.model.encoding import encode
from realqa_utils.records import results
from realqa_utils.reproduction import readme


def test_the_committed_numbers_are_those_of_the_result_files():
    git = ["git", "status", "--porcelain", "--", "figures", "realqa_utils/model/mini_backbone"]
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


def rows_of(claim: str, text: str) -> list[list[str]]:
    """Cells of the lines of the table of claims that are about `claim`."""
    lines = [line for line in text.splitlines() if line.startswith(f"| `{claim}`")]
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines]


def test_claims_have_a_row_for_every_profile_that_judged_them(root):
    facts = {"estimate": 0.1, "low": 0.05, "high": 0.15, "n": 400, "seeds": (0, 1)}
    results.record_claim("mini", "T4-two-extra-digits", notebook="05", **facts)
    results.record_claim("photos", "T4-two-extra-digits", notebook="05", **facts | {"low": -0.1})
    results.record_claim("mini", "F5-ncmstar-falls", notebook="06", **facts)
    text = readme._claims(root / "figures")
    assert text.splitlines()[2].count("|") == text.splitlines()[3].count("|") == 10
    assert all(line.count(" |") == 9 for line in text.splitlines()[4:])
    digits = rows_of("T4-two-extra-digits", text)
    assert [row[2:4] for row in digits] == [["`mini`", "**holds**"], ["`photos`", "**undecided**"]]
    assert digits[0][4:] == ["+0.100 [+0.050, +0.150]", "difference of SRCC", "400", "0 1", "05"]
    (star,) = rows_of("F5-ncmstar-falls", text)
    assert star[1].startswith(r"NCM\*, which") and star[5] == "squared points"
    (missing,) = rows_of("S47-video-zero-shot", text)
    assert missing[2:] == ["", "not run", "", "", "", "", "10"]
    assert len(text.splitlines()) == 4 + 12


def test_another_verdict_makes_the_readme_stale(root, monkeypatch):
    """On a copy of the claims only: what has no result leaves no part behind."""
    monkeypatch.setattr(results, "home", lambda: root)
    facts = {"notebook": "05", "n": 400, "seeds": 0, "estimate": 0.1, "high": 0.2}
    results.record_claim("mini", "T4-two-extra-digits", low=0.05, **facts)
    text = readme.updated(f"{readme.BEGIN}\n{readme.END}\n")
    assert readme.updated(text) == text and "Notebook 05" not in text
    results.record_claim("mini", "T4-two-extra-digits", low=-0.05, **facts)
    assert readme.updated(text) != text


def test_every_part_is_folded_below_its_first_paragraph():
    text = readme.render()
    assert text.count("<details>") == text.count("</details>") > 10
    assert text.index("**Claims**") < text.index("<details>")
    for part in text.split("<details>")[1:]:  # each heading outside, each table inside
        inside, after = part.split("</details>")
        assert "\n| " in inside and "**Notebook" not in inside
        assert "\n| " not in after


def test_modules_and_pictures_that_the_readme_names_are_there():
    text = (results.home() / "README.md").read_text()
    folders = {path.parent.name for path in (results.home() / "realqa_utils").glob("*/__init__.py")}
    named = {name for name in re.findall(r"`([a-z_]+(?:\.\w+)+)", text)}
    named = {name for name in named if name.split(".")[0] in folders and name[-4:] != ".csv"}
    assert len(named) > 4
    for name in named:
        module, attribute = f"realqa_utils.{name}".rsplit(".", 1)
        found = importlib.import_module(module)
        assert hasattr(found, attribute) or importlib.util.find_spec(f"{module}.{attribute}"), name
    tree = text.split("## Where things are")[1].split("```")[1]
    assert set(re.findall(r"^  ([a-z_]+)/", tree, re.MULTILINE)) == folders
    for link in re.findall(r"\]\((?!http|#)([^)]+)\)", text):
        assert (results.home() / link).exists(), link


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
