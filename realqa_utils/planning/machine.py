"""What `realqa doctor` looks at beside the software: GPU, model, data, disk, memory."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from transformers.utils import is_flash_attn_2_available

from realqa_utils import datasets, parallel
from realqa_utils.commands.data import State, survey
from realqa_utils.datasets import registry
from realqa_utils.datasets.table import Table
from realqa_utils.experiments import scorers
from realqa_utils.model import hub_files
from realqa_utils.model.backbone import MINI_FOLDER
from realqa_utils.planning import plan_command, plan_tables
from realqa_utils.planning.doctor import OK, PROBLEM, WARNING, Line
from realqa_utils.planning.plan import GIB
from realqa_utils.planning.plan_tables import Case
from realqa_utils.profiles import Profile
from realqa_utils.records import results

PROCESS = 1 * GIB  # of a process with torch and the package in it, beside its model: an allowance
ADAPTERS = "MingxingLi/RealQA-models"
#: Weights of a folder or hub repository, and the list of their files where there are several.


def examine(profile: Profile) -> Iterator[Line]:
    """Lines about the machine, against the plan of a profile."""
    case = plan_command.case_of(plan_command.options(["--profile", profile.name]))
    yield from gpu(case)
    yield from model(case)
    yield from data(profile)
    yield from disk(case)
    yield memory(case)


# --- hardware ------------------------------------------------------------------------------------


def gpu(case: Case) -> Iterator[Line]:
    """The GPUs, against the plan's memory; bf16 and flash attention."""
    wanted, count = case.setup.gpus > 0, torch.cuda.device_count()
    if not (torch.cuda.is_available() and count):
        found = f"torch {torch.__version__} finds none"
        yield _no_gpu(case, found) if wanted else Line(OK, "GPU", f"{found}; none is needed")
        return
    about = [torch.cuda.get_device_properties(i) for i in range(count)]
    smallest = min(p.total_memory for p in about)
    found = f"{count} x {about[0].name}, {smallest / GIB:.0f} GiB"
    problem = plan_command.verdict(case, smallest) if wanted else ""
    yield Line(PROBLEM if problem else OK, "GPU", found, problem)
    if wanted:
        yield from _kernels()


def _no_gpu(case: Case, found: str) -> Line:
    need = f"an NVIDIA GPU with {plan_tables.largest(case) / GIB:.0f} GiB"
    build = "a CUDA build of torch: install environment.yml without PyTorch's index of CPU builds"
    return Line(PROBLEM, "GPU", found, f"needs {need}, and {build}")


def _kernels() -> Iterator[Line]:
    if torch.cuda.is_bf16_supported():
        yield Line(OK, "bf16", "the GPU has it")
    else:
        yield Line(PROBLEM, "bf16", "the GPU has none", "needs an NVIDIA GPU from 2020 on (Ampere)")
    if is_flash_attn_2_available():
        yield Line(OK, "attention", "flash-attn is installed")
    else:
        yield Line(WARNING, "attention", "no flash-attn: torch's own attention does the work",
                   "optional, and faster: pip install flash-attn --no-build-isolation")  # fmt: skip


def disk(case: Case) -> Iterator[Line]:
    """Free space where results go, and where the hub's weights go if they are still to come."""
    need = plan_tables.disk_table(case)["bytes"]
    download = need["weights, as downloaded"] if hub_files.missing(case.profile.model) else 0
    ours = need["all"] - need["weights, as downloaded"] - need["public sets"]
    yield _room(results.root(), ours, "trained models and checkpoints in runs/",
                "set REALQA_ROOT to a folder with more room")  # fmt: skip
    if download:
        yield _room(Path(hub_files.CACHE), download, "the weights in the hub's cache",
                    "set HF_HOME to a folder with more room")  # fmt: skip


def _room(folder: Path, need: float, purpose: str, advice: str) -> Line:
    there = next(f for f in (folder, *folder.absolute().parents) if f.exists())
    free = shutil.disk_usage(there).free
    found = f"{free / 1e9:.0f} GB free for {purpose}, planned {need / 1e9:.1f} GB"
    return Line(OK, "disk", found) if free >= need else Line(PROBLEM, "disk", found, advice)


def memory(case: Case) -> Line:
    """The computer's memory, against what the processes of a training hold in it."""
    free = available_memory()
    if free is None:
        return Line(WARNING, "memory", "how much is free cannot be told on this system")
    need, reason = needed_memory(case)
    found = f"{free / GIB:.0f} GiB free, planned {need / GIB:.1f} GiB: {reason}"
    if free >= need:
        return Line(OK, "memory", found)
    few = "" if case.setup.gpus else "; or fewer processes: REALQA_WORKERS=1"
    return Line(WARNING, "memory", found, f"close other programs{few}")


def needed_memory(case: Case) -> tuple[float, str]:
    """Bytes, and for what."""
    if not case.setup.gpus:
        workers = case.profile.workers or parallel.cores()
        each = PROCESS + plan_tables.largest(case)
        return workers * each, f"{workers} processes of {each / GIB:.1f} GiB"
    table = plan_tables.sets_table(case)
    home = scorers.home(case.profile)
    weights = case.memory(case.profile.recipe)["weights"]
    return PROCESS + weights + table.loc[home, "decoded"], f"weights, and {home} decoded"


def available_memory() -> float | None:
    """Bytes that new processes may have, as Linux says and a container's limit allows."""
    try:
        lines = Path("/proc/meminfo").read_text("utf-8")
        free = 1024 * float(re.search(r"MemAvailable:\s+(\d+)", lines)[1])
    except (OSError, TypeError):
        return None
    try:
        group = Path("/sys/fs/cgroup")
        used = float((group / "memory.current").read_text())
        return min(free, float((group / "memory.max").read_text()) - used)
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free


# --- model and data ------------------------------------------------------------------------------


def model(case: Case) -> Iterator[Line]:
    """The backbone and, where it is a real one, the released adapters."""
    source = case.profile.model
    if source == "mini":
        lost = [
            name
            for name in (*hub_files.NEEDED, hub_files.SINGLE)
            if not (MINI_FOLDER / name).is_file()
        ]
        found = f"mini, {'without ' + ', '.join(lost) if lost else 'shipped with the package'}"
        yield Line(PROBLEM if lost else OK, "model", found, "install the kit again" * bool(lost))
        return
    lost = hub_files.missing(source)
    if lost:
        size = plan_tables.disk_table(case).loc["weights, as downloaded", "bytes"] / 1e9
        found = f"{source}: not here ({lost[0]} is missing)"
        yield Line(PROBLEM, "model", found, f"{size:.1f} GB: hf download {source}")
    else:
        yield Line(OK, "model", f"{source}: in the hub's cache")
    if any((Path(hub_files.CACHE) / f"models--{ADAPTERS.replace('/', '--')}").glob("snapshots/*")):
        yield Line(OK, "adapters", f"{ADAPTERS}: in the hub's cache")
    else:
        yield Line(WARNING, "adapters", f"{ADAPTERS}: not here",
                   f"only to evaluate the released weights: hf download {ADAPTERS}")  # fmt: skip


def data(profile: Profile) -> Iterator[Line]:
    """The public sets: the one that is trained on must be whole, others are left out if missing."""
    if profile.data == "mini":
        yield Line(OK, "data", "generated")
        return
    try:
        folder = registry.data_folder()
    except (ValueError, FileNotFoundError) as problem:
        yield Line(PROBLEM, "data", " ".join(str(problem).split()),
                   "export REALQA_DATA=FOLDER; realqa data says what goes into it")  # fmt: skip
        return
    home = scorers.home(profile)
    states = {n: survey(r, folder) for n, r in registry.SETS.items() if n != "koniq_zscore"}
    yield from sets(states, home)
    if profile.labels == "realqa":
        yield labels(profile)


def labels(profile: Profile) -> Line:
    """RealQA's own photographs, of which stage 1 learns attributes."""
    try:
        split = datasets.open_labelled(profile, "")
    except (OSError, ValueError) as problem:
        return Line(PROBLEM, "data", " ".join(str(problem).split()))
    found = f"{len(split.train)} photographs to train on, {len(split.test)} to test on"
    return Line(OK, "data", f"RealQA: {found}")


def sets(states: Mapping[str, State], home: str) -> Iterator[Line]:
    """A line a set, the one called `home` first."""
    order = sorted(states, key=lambda name: registry.SETS[name].title != home)
    for name in order:
        rated, state = registry.SETS[name], states[name]
        bad = PROBLEM if rated.title == home else WARNING
        if isinstance(state.table, Table) and state.photos >= len(state.table) >= rated.size:
            yield Line(OK, "data", f"{rated.title}: {state.photos} photographs or clips")
        else:
            yield Line(bad, "data", f"{rated.title}: {_lack(state)}", "see realqa data")


def _lack(state: State) -> str:
    if isinstance(state.table, FileNotFoundError):
        return "not found"
    if isinstance(state.table, Exception):
        return "broken"
    return f"{state.photos} of {len(state.table)} files are there"
