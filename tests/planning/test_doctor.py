"""`realqa doctor` on machines that are made up, and on this one."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml

from realqa_utils import cli
from realqa_utils.commands.data import State
from realqa_utils.datasets import made_up, registry
from realqa_utils.datasets.table import make_table
from realqa_utils.forms.scores import Scale
from realqa_utils.model import hub_files
from realqa_utils.planning import doctor, machine, plan_command, plan_tables
from realqa_utils.planning.doctor import OK, PROBLEM, WARNING
from realqa_utils.planning.plan import GIB

ROOT = Path(__file__).resolve().parents[2]
MODEL = "Qwen/Qwen2-VL-7B-Instruct"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Whoever opens a connection fails."""

    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the hub."""
    monkeypatch.setattr(hub_files, "CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def case(profile: str) -> plan_tables.Case:
    return plan_command.case_of(plan_command.options(["--profile", profile]))


def states(lines) -> list[str]:
    return [line.state for line in lines]


# --- software ------------------------------------------------------------------------------------


def test_pins_are_those_that_yaml_reads():
    text = (ROOT / "environment.yml").read_text()
    section = next(d["pip"] for d in yaml.safe_load(text)["dependencies"] if isinstance(d, dict))
    assert [f"{name}=={version}" for name, version in doctor.pins(text).items()] == section


def test_versions_here_are_compared(monkeypatch):
    versions = {"peft": "0.1", "torchmetrics": None, "pytest": None}
    real = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda name: versions.get(name, real(name)))
    first, *odd = doctor.packages(ROOT)
    pins = doctor.pins((ROOT / "environment.yml").read_text())
    assert first.found == f"{len(pins) - 3} of {len(pins)} as pinned"
    found = {line.found.split()[0]: line for line in odd}
    assert {name: line.state for name, line in found.items()} == {
        "peft": WARNING,  # may do
        "torchmetrics": PROBLEM,
        "pytest": WARNING,  # for tests only
    }
    wanted = f"torchmetrics=={pins['torchmetrics']}"
    assert found["torchmetrics"].advice == f'pip install "{wanted}"'
    assert found["peft"].found == f"peft 0.1, pinned is {pins['peft']}"


def test_without_a_checkout_versions_are_not_compared(tmp_path):
    (line,) = doctor.packages(tmp_path)
    assert line.state == WARNING


def test_where_a_package_is_missing_the_machine_is_not_looked_at(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "installed", lambda name: None if name == "peft" else "0")
    monkeypatch.setattr(machine, "examine", lambda profile: pytest.fail("needs the package"))
    assert cli.main(["doctor"]) == 1
    assert "problem  packages    peft is missing" in capsys.readouterr().out


def test_an_old_python(monkeypatch):
    monkeypatch.setattr(doctor, "sys", SimpleNamespace(version_info=(3, 10, 2, "final", 0)))
    line = doctor.python()
    assert (line.state, line.found) == (PROBLEM, "3.10.2")
    assert "3.11" in line.advice


# --- GPU -----------------------------------------------------------------------------------------


@pytest.fixture
def cards(monkeypatch):
    """GPUs of so many GiB, with or without bf16 and flash attention."""

    def put(*sizes: float, bf16: bool = True, flash: bool = True):
        about = [SimpleNamespace(name="A100", total_memory=int(size * GIB)) for size in sizes]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(sizes))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(sizes))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: about[i])
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
        monkeypatch.setattr(machine, "is_flash_attn_2_available", lambda: flash)

    return put


def test_a_gpu_for_the_paper(cards):
    cards(79.2, 79.2)
    lines = list(machine.gpu(case("paper")))
    assert states(lines) == [OK, OK, OK]
    assert lines[0].found == "2 x A100, 79 GiB"


def test_a_gpu_that_is_too_small_is_told_the_lever(cards):
    cards(80, 24)  # the smallest decides
    line = next(iter(machine.gpu(case("paper"))))
    assert line.state == PROBLEM
    assert "--four-bit --micro-batch 8 fits" in line.advice


@pytest.mark.parametrize(
    ("how", "expected"),
    [({"bf16": False}, [OK, PROBLEM, OK]), ({"flash": False}, [OK, OK, WARNING])],
)
def test_what_a_gpu_lacks(cards, how, expected):
    cards(80, **how)
    lines = list(machine.gpu(case("paper")))
    assert states(lines) == expected
    assert all(line.advice for line in lines if line.state != OK)


@pytest.mark.parametrize(("profile", "state"), [("mini", OK), ("gpu24", PROBLEM)])
def test_no_gpu(cards, profile, state):
    cards()
    (line,) = machine.gpu(case(profile))
    assert line.state == state
    assert ("CUDA build" in line.advice) == (state == PROBLEM)


# --- disk and memory -----------------------------------------------------------------------------


def _free(monkeypatch, free: float) -> None:
    usage = SimpleNamespace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)


def test_disk_for_weights_is_asked_where_they_are_missing(hub, monkeypatch, root):
    _free(monkeypatch, 10e9)
    runs, download = machine.disk(case("paper"))
    assert (runs.state, download.state) == (PROBLEM, PROBLEM)
    assert "REALQA_ROOT" in runs.advice
    assert "planned 16.6 GB" in download.found and "HF_HOME" in download.advice
    monkeypatch.setattr(hub_files, "missing", lambda source: [])
    (line,) = machine.disk(case("paper"))
    assert line == runs


def test_room_enough(monkeypatch, root):
    _free(monkeypatch, 1e12)
    assert states(machine.disk(case("mini"))) == [OK]


@pytest.mark.parametrize(
    ("profile", "free", "state"),
    [("mini", 16, OK), ("mini", 1, WARNING), ("paper", 100, OK), ("paper", 12, WARNING)],
)
def test_memory(monkeypatch, profile, free, state):
    monkeypatch.setenv("REALQA_WORKERS", "4")
    monkeypatch.setattr(machine, "available_memory", lambda: free * GIB)
    line = machine.memory(case(profile))
    assert line.state == state
    assert ("REALQA_WORKERS=1" in line.advice) == (state != OK and profile == "mini")


def test_memory_that_cannot_be_told(monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda: None)
    assert machine.memory(case("mini")).state == WARNING


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    2048 kB\n"}, 2 * 2**20),
        ({"/proc/meminfo": "MemAvailable: 2048 kB", "/sys/fs/cgroup/memory.max": "max\n",
          "/sys/fs/cgroup/memory.current": "5\n"}, 2 * 2**20),
        ({"/proc/meminfo": "MemAvailable: 2048 kB", "/sys/fs/cgroup/memory.max": "1000\n",
          "/sys/fs/cgroup/memory.current": "400\n"}, 600),
        ({"/proc/meminfo": "something else"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_available_memory(monkeypatch, files, free):
    def read(path, *_):
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read)
    assert machine.available_memory() == free


# --- model and data ------------------------------------------------------------------------------


def _cached(hub: Path, name: str, files: dict[str, str]) -> Path:
    """A repository in the layout of the hub's cache."""
    folder = hub / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    for file, text in files.items():
        (snapshot / file).write_text(text)
    return snapshot


SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1], "c": SHARDS[1]}})
WHOLE = (
    {name: "{}" for name in hub_files.NEEDED} | {hub_files.LIST: INDEX} | dict.fromkeys(SHARDS, "")
)


def test_a_model_in_the_cache(hub):
    _cached(hub, MODEL, WHOLE)
    _cached(hub, machine.ADAPTERS, {"README.md": ""})
    assert states(machine.model(case("paper"))) == [OK, OK]


@pytest.mark.parametrize("lost", [SHARDS[1], "tokenizer.json"])
def test_a_model_that_is_not_whole(hub, lost):
    snapshot = _cached(hub, MODEL, WHOLE)
    (snapshot / lost).unlink()
    model, released = machine.model(case("paper"))
    assert model.state == PROBLEM
    assert f"{lost} is missing" in model.found
    assert model.advice == f"16.6 GB: hf download {MODEL}"
    assert released.state == WARNING and machine.ADAPTERS in released.advice


def test_an_index_that_is_cut_off(hub):
    _cached(hub, MODEL, WHOLE | {hub_files.LIST: INDEX[:20]})
    assert hub_files.missing(MODEL) == [hub_files.LIST]


def test_a_model_in_a_folder(tmp_path):
    for name in hub_files.NEEDED:
        (tmp_path / name).write_text("{}")
    assert hub_files.missing(str(tmp_path)) == [hub_files.SINGLE]
    (tmp_path / hub_files.SINGLE).write_text("")
    assert hub_files.missing(str(tmp_path)) == []


def test_the_mini_model(tmp_path, monkeypatch):
    assert states(machine.model(case("mini"))) == [OK]
    monkeypatch.setattr(machine, "MINI_FOLDER", tmp_path)
    (line,) = machine.model(case("mini"))
    assert line.state == PROBLEM and hub_files.SINGLE in line.found


def test_generated_data(monkeypatch):
    assert states(machine.data(case("mini").profile)) == [OK]


def test_no_data_folder(monkeypatch):
    monkeypatch.delenv("REALQA_DATA", raising=False)
    (line,) = machine.data(case("photos").profile)
    assert line.state == PROBLEM and "export REALQA_DATA" in line.advice


def test_an_empty_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("REALQA_DATA", str(tmp_path))
    first, *others, labels = machine.data(case("paper").profile)
    assert (first.state, first.found) == (PROBLEM, "KonIQ-10k: not found")
    assert set(states(others)) == {WARNING}
    assert len(others) == len(registry.SETS) - 2  # KonIQ-10k is there under two names
    assert labels.state == PROBLEM and "hf download MingxingLi/RealQA" in labels.found
    first, *others = machine.data(case("photos").profile)
    assert (first.state, first.found) == (PROBLEM, "LIVE Challenge: not found")
    assert len(others) == len(registry.SETS) - 2


def test_labels_of_attributes(tmp_path, monkeypatch):
    monkeypatch.setenv("REALQA_DATA", str(made_up.write(tmp_path / "data")))
    line = machine.labels(case("paper").profile)
    assert (line.state, line.found) == (OK, "RealQA: 30 photographs to train on, 10 to test on")
    (tmp_path / "data" / "realqa" / "labels.csv").write_text("image,split\n")
    assert machine.labels(case("paper").profile).state == PROBLEM


def test_sets_that_are_whole_cut_off_or_broken():
    size = registry.SETS["livec"].size
    frame = pd.DataFrame({"id": map(str, range(size)), "path": "x", "mos": 5.0})
    table = make_table("livec", Scale(0, 10), frame, source="made up", photos=False)
    found = {"koniq": State(ValueError("bad")), "livec": State(table, size)}
    home, other = machine.sets(found, "LIVE Challenge")
    assert (home.state, home.found) == (OK, f"LIVE Challenge: {size} photographs or clips")
    assert (other.state, other.found) == (WARNING, "KonIQ-10k: broken")
    (cut,) = machine.sets({"livec": State(table, size - 1)}, "LIVE Challenge")
    assert (cut.state, cut.found) == (
        PROBLEM,
        f"LIVE Challenge: {size - 1} of {size} files are there",
    )


# --- the command ---------------------------------------------------------------------------------


def test_ready_is_exit_code_0(monkeypatch, capsys, root):
    _free(monkeypatch, 1e12)
    monkeypatch.setattr(machine, "available_memory", lambda: 64 * GIB)
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "ready for profile mini: 0 problems, 0 warnings"
    assert all(line.startswith("ok ") for line in said[:-1])


def test_a_problem_is_exit_code_1_with_what_to_do_below_it(hub, monkeypatch, capsys, root):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("REALQA_DATA", raising=False)
    assert cli.main(["doctor", "--profile", "paper"]) == 1
    said = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(said) if line.startswith("problem  model"))
    assert said[at + 1].strip() == f"-> 16.6 GB: hf download {MODEL}"
    assert said[-1].startswith("not ready for profile paper:")


def test_an_unknown_profile(capsys):
    assert cli.main(["doctor", "--profile", "papr"]) == 2
    assert "did you mean 'paper'" in capsys.readouterr().err
