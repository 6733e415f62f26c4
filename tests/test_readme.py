"""The generated part of README.md."""

from __future__ import annotations

import subprocess

import pytest

from realqa_utils import readme, results


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
