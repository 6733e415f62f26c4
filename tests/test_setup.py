"""The environment: one source of versions, set up once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import realqa_utils

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / "environment.yml"

needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


def _pins() -> list[str]:
    """The pip section of environment.yml, as YAML says."""
    dependencies = yaml.safe_load(ENVIRONMENT.read_text())["dependencies"]
    return next(entry["pip"] for entry in dependencies if isinstance(entry, dict))


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_environment_and_pyproject_name_the_same_packages():
    project = _project()
    named = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    assert sorted(map(_canonical, named)) == sorted(
        _canonical(pin.split("==")[0]) for pin in _pins()
    )


def test_every_dependency_is_pinned_exactly_and_says_where_it_is_used():
    for pin in _pins():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", pin), pin
        assert re.search(rf"- {re.escape(pin)} # \S", ENVIRONMENT.read_text()), pin


def test_versions_stand_in_environment_yml_only():
    project = _project()
    named = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    assert [name for name in named if not re.fullmatch(r"[A-Za-z0-9_.-]+", name)] == []


@pytest.mark.parametrize("pin", _pins())
def test_installed_version_is_the_pinned_one(pin):
    name, version = pin.split("==")
    installed = metadata.version(name).split("+")[0]  # 2.13.0+cpu is a build of 2.13.0
    assert installed == version


def test_one_version_of_the_kit():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert metadata.version("realqa-kit") == realqa_utils.__version__ == citation["version"]


def test_console_script_is_installed():
    (script,) = metadata.entry_points(group="console_scripts", name="realqa")
    assert script.value == "realqa_utils.cli:main"
    assert callable(script.load())


def test_ci_script_is_executable_bash():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


@pytest.fixture
def checkout(tmp_path):
    """What `make setup` reads, and a fake environment whose pip writes down its calls."""
    for name in ("Makefile", "environment.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def _fake_pip(checkout: Path) -> None:
    pip = checkout / ".venv" / "bin" / "pip"
    pip.parent.mkdir(parents=True)
    pip.write_text(f'#!/bin/sh\necho "$@" >> "{checkout}/calls"\n')
    pip.chmod(0o755)


def _make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess:
    # Neither flags nor variables of a make that runs these tests.
    drop = {"MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "VENV", "PYTHON"}
    environment = {key: value for key, value in os.environ.items() if key not in drop}
    return subprocess.run(
        ["make", *arguments], cwd=checkout, env=environment, capture_output=True, text=True
    )


@needs_make
def test_make_installs_what_environment_yml_pins():
    assert _make(ROOT, "-s", "requirements").stdout.split() == _pins()


@needs_make
def test_set_up_happens_once_and_again_when_the_pins_change(checkout):
    _fake_pip(checkout)
    calls = checkout / "calls"
    once = ["install -r .venv/requirements.txt", "install --no-deps -e ."]

    assert _make(checkout, "setup").returncode == 0
    assert calls.read_text().splitlines() == once
    assert (checkout / ".venv" / "requirements.txt").read_text().split() == _pins()
    assert _make(checkout, "setup").returncode == 0
    assert calls.read_text().splitlines() == once

    later = (checkout / ".venv" / ".ready").stat().st_mtime + 1
    os.utime(checkout / "environment.yml", (later, later))
    assert _make(checkout, "setup").returncode == 0
    assert calls.read_text().splitlines() == once * 2


@needs_make
@pytest.mark.parametrize("target", ["test", "reproduce", "report", "lab", "notebooks", "quality"])
def test_every_target_sets_up_first(checkout, target):
    commands = _make(checkout, "-n", target).stdout
    assert 0 < commands.find("pip install -r") < commands.rfind(".venv/bin/")


@needs_make
def test_old_python_is_refused_with_a_clear_message(checkout):
    old = checkout / "python3.9"
    code = "import sys; sys.version_info = (3, 9, 1); exec(sys.argv[1])"
    old.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$2"\n')
    old.chmod(0o755)
    run = _make(checkout, "setup", f"PYTHON={old}")
    assert run.returncode != 0
    assert f"Python 3.11 or newer is needed, {old} is 3.9" in run.stderr
    assert not (checkout / ".venv").exists()
