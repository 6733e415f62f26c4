"""`realqa plan [--profile P] [--gpu GIB]`: what a profile needs, before any download."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pandas as pd

from realqa_utils.planning import plan, plan_tables
from realqa_utils.planning.plan import GIB
from realqa_utils.planning.plan_tables import Case
from realqa_utils.profiles import PROFILES, get_profile

#: GiB of the GPU that a profile is made for.
GPUS = {"paper": 80.0, "gpu24": 24.0}
#: GiB, name, and 10^12 dense bf16 operations a second by the data sheet.
CARDS = ((24, "RTX 3090", 71), (48, "RTX A6000", 155), (80, "A100", 312), (141, "H200", 989))
#: Share of these that training reaches: usual for LoRA on such models, not measured here.
UTILISATION = 0.4
NOTES = """\
Worked out from shapes, not measured. Assumed are the allowance (1 GiB for CUDA, 8 % for gaps of the
allocator) and the share of a GPU's speed, which `realqa benchmark-gpu` measures. Text is counted
with the kit's own tokenizer on generated labels; all photographs are taken to be of the size named
above; hours are those of training."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan. 1: a training or the scoring does not fit on the GPU.

    Raises ValueError for bad input.
    """
    given = options(arguments)
    case = case_of(given)
    limit = given.gpu or GPUS.get(case.profile.name, 0)
    tflops, source = speed(given.tflops, limit)
    found = tables(case, tflops, given.utilisation)
    problem = verdict(case, limit * GIB) if limit else ""
    if given.json:
        facts = {"profile": case.profile.name, "model": case.profile.model, "problem": problem}
        values = {name: json.loads(t.to_json(orient="split")) for name, t in found.items()}
        print(json.dumps(facts | {"setup": vars(case.setup), "tables": values}, indent=1))
    else:
        print("\n\n".join(report(case, found, limit, source, given.utilisation)))
    if problem:
        print(f"realqa plan: {problem}", file=sys.stderr)
    return int(bool(problem))


def case_of(options: argparse.Namespace) -> Case:
    """The case that `options` ask for. Raises ValueError for an unknown profile."""
    profile = get_profile(options.profile)
    setup = plan.setup(profile, options.gpus if options.gpu else 0)
    if setup.gpus:
        setup = replace(setup, gpus=options.gpus)
    if options.checkpointing is not None:
        setup = replace(setup, checkpointing=options.checkpointing)
    if options.four_bit is not None:
        setup = replace(setup, weights="nf4" if options.four_bit else "bfloat16")
    is_mini = profile.model == "mini"
    return Case(
        profile,
        setup,
        "mini" if is_mini else options.pixels,
        options.image or ((112, 112) if is_mini else (1024, 768)),
        options.micro_batch,
        options.score_batch,
    )


def speed(given: float | None, memory: float) -> tuple[float, str]:
    """10^12 operations a second, and where the number is from; 0 where nothing is known."""
    if given:
        return given, "given"
    if not memory:
        return 0, ""
    _, name, tflops = max((c for c in CARDS if c[0] <= memory), default=CARDS[0])
    return tflops, name


def tables(case: Case, tflops: float, utilisation: float) -> dict[str, pd.DataFrame]:
    """The parts of the plan, in bytes, operations and hours."""
    found = {
        "parameters": plan_tables.parameter_table(case),
        "training memory": plan_tables.memory_table(case),
        "scoring memory": plan_tables.scoring_table(case),
    }
    if case.setup.gpus:
        found["other ways"] = plan_tables.ways_table(case)
    found["operations"] = plan_tables.work_table(case)
    if tflops:
        found["hours"] = plan_tables.hours_table(case, tflops, utilisation)
    if case.profile.data == "real":
        found["sets"] = plan_tables.sets_table(case)
    return found | {"disk": plan_tables.disk_table(case)}


def report(
    case: Case, found: dict[str, pd.DataFrame], limit: float, source: str, utilisation: float
) -> Iterator[str]:
    """The plan as text, in sections."""
    profile, setup = case.profile, case.setup
    where = f"{setup.gpus} x {limit:g} GiB" if setup.gpus else "CPU"
    layers = "run again backwards (checkpointing)" if setup.checkpointing else "kept"
    yield (
        f"{profile.name}: {profile.model}, {setup.weights} weights, activations {layers}, "
        f"{case.micro(profile.recipe)} conversations at once on {where}\n"
        f"photographs of {case.size[0]} x {case.size[1]} pixels, preset {case.pixels!r}: "
        f"{case.patches} patches, {case.tokens} tokens"
    )
    titles = {
        "parameters": "Parameters, with the adapters",
        "training memory": "Memory of a training step at its highest"
        + ", on each GPU" * (setup.gpus > 0),
        "scoring memory": "Memory while scoring",
        "other ways": "Memory of the training that needs most, in other ways",
        "operations": "Operations of an optimiser step, and of one photograph scored",
        "hours": f"Hours at {utilisation:.0%} of the speed of {setup.gpus or 1} x {source}",
        "sets": "Public sets: tokens of a photograph; decoded, as a training holds them all in "
        "the computer's memory",
        "disk": "Disk; public sets with their archives beside what is unpacked",
    }
    for name, table in found.items():
        shown, unit = readable(name, table)
        yield f"{titles[name]}{unit and f', in {unit}'}\n{shown}"
    yield NOTES


def readable(name: str, table: pd.DataFrame) -> tuple[str, str]:
    """A table as text, and its unit."""
    if name == "parameters":
        return table.to_string(formatters={"share": "{:.1%}".format}), ""
    if name == "hours":
        table = table.reset_index()
        return table.round(2).to_string(index=False) + f"\nall {table['hours'].sum():.1f}", ""
    if name == "sets":
        table = table.assign(archive=table["archive"] / 1e9, decoded=table["decoded"] / GIB)
        table = table.rename(columns={"archive": "archive GB", "decoded": "decoded GiB"})
        return table.map(_cell).to_string(), ""
    scale, unit = _unit(name, float(table.max(axis=None)))
    return (table / scale).round(2).to_string(), unit


def _cell(value: object) -> str:
    if pd.isna(value):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _unit(name: str, largest: float) -> tuple[float, str]:
    if name == "operations":
        return (1e12, "10^12") if largest >= 1e12 else (1e9, "10^9")
    if name == "disk":
        return 1e9, "GB"
    return (GIB, "GiB") if largest >= GIB else (2**20, "MiB")


# --- does it fit? --------------------------------------------------------------------------------


def verdict(case: Case, limit: float) -> str:
    """Empty where training and scoring fit into so many bytes; else what does not, and the lever
    that would make it fit."""
    said = []
    if (need := plan_tables.largest(case)) > limit:
        said.append(f"a training step needs {_gib(need)}; {lever(case, limit)}")
    scoring = plan_tables.scoring_table(case).loc["all"].item()
    if scoring > limit:
        fits = [n for n in (32, 16, 8, 4, 2, 1) if n < case.scored and _scores(case, n) <= limit]
        way = f"--score-batch {fits[0]} fits" if fits else "no batch fits"
        said.append(f"scoring needs {_gib(scoring)}; {way}")
    if not said:
        return ""
    return f"{case.profile.name} does not fit into {_gib(limit)}: " + "; ".join(said)


def lever(case: Case, limit: float) -> str:
    """The first way in which the largest training fits, the least change first."""
    for options, other in ways(case):
        need = plan_tables.largest(other)
        if need <= limit:
            return f"{' '.join(options)} fits ({_gib(need)})"
    return "neither a smaller micro batch nor checkpointing nor 4 bit makes it fit"


def ways(case: Case) -> Iterator[tuple[list[str], Case]]:
    """Other ways to lay out a training, with their options: one lever, then two, then three."""
    micro = min(case.micro(getattr(case.profile, key)) for key in plan_tables.STAGES.values())
    smaller = [n for n in reversed(case.micro_batches()) if n < micro]
    setups = [([], case.setup)]
    if not case.setup.checkpointing:
        setups.append((["--checkpointing"], replace(case.setup, checkpointing=True)))
    if case.setup.weights != "nf4":
        setups += [
            ([*said, "--four-bit"], replace(setup, weights="nf4")) for said, setup in list(setups)
        ]
    for said, setup in setups:
        for n in [0, *smaller] if said else smaller:
            options = [*said, *([f"--micro-batch {n}"] if n else [])]
            yield options, replace(case, setup=setup, micro_batch=n or case.micro_batch)


def _scores(case: Case, batch: int) -> float:
    return plan_tables.scoring_table(replace(case, score_batch=batch)).loc["all"].item()


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


# --- options -------------------------------------------------------------------------------------


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(
        "realqa plan", description="What a profile needs, before any download."
    )
    add = parser.add_argument
    add("--profile", default="mini", metavar="P", help=f"{', '.join(PROFILES)} (default: mini)")
    add("--gpu", type=_positive, metavar="GIB", help="memory of a GPU (default: the profile's)")
    add("--gpus", type=_count, default=1, metavar="N", help="of them, each with the whole model")
    add("--tflops", type=_positive, metavar="T", help="10^12 bf16 operations a second of a GPU")
    add(
        "--utilisation", type=_share, default=UTILISATION, metavar="U", help="share of them reached"
    )
    add("--pixels", choices=["clean", "repo"], default="repo", help="preset (default: repo)")
    add("--image", type=_size, metavar="WxH", help="size of photographs (default: 1024x768)")
    add("--micro-batch", type=_count, default=0, metavar="N", help="conversations at once")
    add("--checkpointing", action=argparse.BooleanOptionalAction, help="of activations")
    add("--four-bit", action=argparse.BooleanOptionalAction, help="base weights in NF4")
    add("--score-batch", type=_count, default=0, metavar="N", help="photographs scored at once")
    add("--json", action="store_true", help="in bytes, operations and hours, for programs")
    return parser.parse_args(arguments)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _share(text: str) -> float:
    if _positive(text) > 1:
        raise argparse.ArgumentTypeError(f"{text} is a share: above 0, at most 1")
    return float(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT in pixels, like 1024x768")
    return int(match[1]), int(match[2])
