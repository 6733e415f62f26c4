"""What a profile costs on the GPU that is here, beside its plan: `realqa benchmark-gpu`.

The model has the profile's shape and random weights, the photographs KonIQ-10k's size and nothing
to see, so nothing is downloaded and nothing is learnt. Measured are the card's own ceiling (a
product of large matrices), ways of reading scores, and some steps of the profile's training, in
every second of which NCM listens. The plan says what memory and operations they should take.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, TrainerCallback
from transformers.utils import logging

from realqa_utils.datasets.table import Table, make_table
from realqa_utils.experiments import cost
from realqa_utils.forms.conversations import DIRECT
from realqa_utils.forms.scores import Scale
from realqa_utils.images.views import PRESETS
from realqa_utils.model import backbone as backbones
from realqa_utils.model import quantised, vision
from realqa_utils.model.backbone import Backbone
from realqa_utils.ncm import NCM, NCMCallback
from realqa_utils.planning import model_shapes, plan, plan_command
from realqa_utils.planning.plan_tables import Case
from realqa_utils.profiles import Profile
from realqa_utils.records import results
from realqa_utils.scoring import digit_tree
from realqa_utils.training import fine_tuning
from realqa_utils.training.recipes import Recipe

STEM = "gpu_cost"
EVERY_BRANCH = "ours: digit tree, every branch"
SIZE = 8192  # of the matrices whose product is the ceiling


# --- the model and what it sees ------------------------------------------------------------------


def random_backbone(profile: Profile, device: str) -> Backbone:
    """A model of the profile's shape with random weights, in 4 bits if the recipe's are; its
    tokenizer is that of the mini backbone."""
    mini = backbones.load("mini", device_map={"": "cpu"})
    config = model_shapes.config_of(profile.model)
    for key in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        setattr(config, key, getattr(mini.model.config, key))
    weights = profile.recipe.weights
    dtype = torch.float32 if weights == "float32" else torch.bfloat16
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    model.generation_config = mini.model.generation_config
    backbone = Backbone(
        vision.batch_vision(model).eval(), mini.tokenizer, mini.image_processor, profile.model
    )
    if weights == "nf4":
        backbone = quantised.quantise(backbone)
    if any(profile.view.limits):
        backbone.look_at(*profile.view.limits)
    return backbone


def photographs(size: tuple[int, int], count: int, folder: Path) -> Table:
    """A table of `count` photographs of (width, height) pixels, of which 64 differ."""
    rng = np.random.default_rng(0)
    for number in range(min(count, 64)):
        small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
    frame = pd.DataFrame(
        {
            "id": [str(number) for number in range(count)],
            "path": [str(folder / f"{number % 64}.jpg") for number in range(count)],
            "mos": rng.uniform(0, 10, count).round(2),
        }
    )
    return make_table("noise", Scale(0, 10), frame, source="random numbers")


# --- measuring -----------------------------------------------------------------------------------


def ceiling(device: str, size: int = SIZE, times: int = 20) -> list[float]:
    """10^12 operations a second of products of random bfloat16 matrices, a value for each."""
    generator = torch.Generator(device).manual_seed(0)
    a, b = (
        torch.randn(size, size, device=device, dtype=torch.bfloat16, generator=generator)
        for _ in range(2)
    )
    found = []
    for _ in range(times + 3):  # the first ones are not counted
        with _finished(device):
            started = time.perf_counter()
            a @ b
        found.append(2 * size**3 / (time.perf_counter() - started) / 1e12)
    return found[3:]


@contextmanager
def _finished(device: str) -> Iterator[None]:
    """What was given to the device before is done at the beginning, and all is at the end."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    yield
    wait()


def peak(device: str, call: Callable[[], object]) -> float:
    """Bytes that torch's allocator holds at the highest moment of a call; NaN without a GPU."""
    gc.collect()
    if not device.startswith("cuda"):
        call()
        return float("nan")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    call()
    return float(torch.cuda.max_memory_allocated())


class Watch(TrainerCallback):
    """Seconds from the beginning of each step to that of the next, and the tokens of all steps."""

    def __init__(self, device: str):
        self.device, self.stamps, self.seen = device, [], []

    def on_train_begin(self, args, state, control, model=None, **_):
        def note(module, given, inputs):
            self.seen.append(inputs["attention_mask"].sum())  # read later: it would wait

        model.register_forward_pre_hook(note, with_kwargs=True)

    def on_step_begin(self, *_, **__):
        with _finished(self.device):
            self.stamps.append(time.perf_counter())

    def on_train_end(self, *args, **options):
        self.on_step_begin()

    @property
    def seconds(self) -> np.ndarray:
        """Of every step but the first, which pays for what is done once."""
        return np.diff(self.stamps)[1:]

    @property
    def tokens(self) -> float:
        """Of a step, on average."""
        return float(torch.stack(self.seen).sum()) / (len(self.stamps) - 1)


# --- the two measurements ------------------------------------------------------------------------


def scored(case: Case, device: str, rounds: int, few: int, many: int) -> list[dict]:
    """Rows of the ways of reading a score, and of the memory it takes beside what is planned.

    Random weights write no scores, so a tree would not be followed; here it is, in every branch,
    which no trained model's is.
    """
    backbone, view = random_backbone(case.profile, device), case.profile.view
    with tempfile.TemporaryDirectory() as folder:
        table = photographs(case.size, 64, Path(folder))
        images = [view.fit(Image.open(path).convert("RGB")) for path in table.frame["path"]]
    whole = partial(digit_tree.read, backbone, floor=0.0)
    rows = []
    for name, call, nodes in (
        ("greedy digits", partial(digit_tree.read, backbone, tree=False), 2),
        ("digit tree, every branch", whole, 100),
    ):
        held = peak(device, partial(call, images[: case.scored]))
        count = case.parameters(case.profile.recipe)
        planned = plan.scoring_memory(case.config, count, case.setup, case.scoring(), nodes)
        rows.append(_row(f"scoring: {name}", "peak GiB", [held / plan.GIB], allocated(planned)))
    found = cost.ways(backbone, few, many, with_tree=False) | {EVERY_BRANCH: (whole, many)}
    timed = cost.timed(found, images, rounds, seed=0)
    for way, part in timed.groupby("way", sort=False):
        rows.append(_row(way, "photographs/s", 1 / part["seconds"]))
    for fast in (cost.DIGITS, EVERY_BRANCH):
        for slow in (cost.ONE, cost.BATCHED):
            wide = timed.pivot(index="round", columns="way", values="seconds")
            rows.append(_row(fast, f"times as fast as {slow}", wide[slow] / wide[fast]))
    return rows


def trained(case: Case, device: str, steps: int, ceiling: float) -> list[dict]:
    """Rows of a training as the profile has it: speed, use of the card, memory, and NCM's share.

    Operations are those of the plan, without what checkpointing does again; the ceiling is in
    10^12 a second.
    """
    recipe = replace(case.recipe(case.profile.recipe), steps=steps)
    watch = Watch(device)
    with tempfile.TemporaryDirectory() as folder:
        table = photographs(case.size, steps * recipe.batch_size, Path(folder))
        backbone = random_backbone(case.profile, device)
        ncm = NCMCallback(NCM.of(backbone.tokenizer, DIRECT, recipe.digits), every=2)
        held = peak(
            device,
            lambda: fine_tuning.train(
                backbone, table, recipe, case.profile.view, Path(folder), callbacks=[watch, ncm]
            ),
        )
    name, flops = f"training: {layout(recipe)}", case.flops(recipe)
    useful = (flops["forward"] + flops["backward"]) / 1e12
    seconds = watch.seconds
    heard, quiet = seconds[::2], seconds[1::2]  # of steps 2, 4, .. and of 3, 5, ..
    pairs = min(len(heard), len(quiet))
    return [
        _row(name, "seconds a step", seconds),
        _row(name, "photographs/s", recipe.batch_size / seconds),
        _row(name, "tokens/s", watch.tokens / seconds),
        _row(name, "TFLOP/s", useful / seconds),
        _row(name, "share of the ceiling", useful / seconds / ceiling),
        _row(name, "share with what is run again", sum(flops.values()) / 1e12 / seconds / ceiling),
        _row(name, "a step with NCM over one without", heard[:pairs] / quiet[:pairs]),
        _row(name, "peak GiB", [held / plan.GIB], allocated(case.memory(case.profile.recipe))),
    ]


def layout(recipe: Recipe) -> str:
    """Weights, micro batch and checkpointing in words."""
    micro = recipe.batch_size // recipe.accumulation
    kept = "checkpointed" if recipe.checkpointing else "not checkpointed"
    return f"{recipe.weights}, {recipe.accumulation} x {micro}, {kept}"


def allocated(planned: dict[str, float]) -> float:
    """Of a plan, what torch's allocator should hold, in GiB."""
    return (sum(planned.values()) - planned["allowance"]) / plan.GIB


def _row(model: str, metric: str, values, planned: float = float("nan")) -> dict:
    values = np.asarray(values, float)
    return {
        "dataset": "noise", "model": model, "metric": metric,
        "estimate": float(np.median(values)), "low": values.min(), "high": values.max(),
        "n": len(values), "seeds": "0", "planned": planned,
    }  # fmt: skip


def cases(profile: Profile) -> list[Case]:
    """The profile's own training, and in bfloat16 one that keeps activations, in more passes."""
    case = plan_command.case_of(plan_command.options(["--profile", profile.name]))
    pixels = {view: name for name, view in PRESETS.items()}.get(profile.view, case.pixels)
    case = replace(case, profile=profile, pixels=pixels)
    if profile.recipe.weights != "bfloat16":
        return [case]
    other = replace(profile, recipe=replace(profile.recipe, checkpointing=False))
    setup = replace(case.setup, checkpointing=False)
    return [case, replace(case, profile=other, setup=setup, micro_batch=4)]


def measure(profile: Profile, device: str, steps: int, rounds: int, few: int, many: int):
    """All rows, one part after the other, as each is done; the second training has fewer steps."""
    most = ceiling(device) if device != "cpu" else ceiling(device, 512)
    yield [_row(f"product of {SIZE} x {SIZE}, bfloat16", "TFLOP/s", most)]
    found = cases(profile)
    yield scored(found[0], device, rounds, few, many)
    for case, some in zip(found, (steps, max(4, steps // 3)), strict=False):
        yield trained(case, device, some, float(np.median(most)))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("realqa benchmark-gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="paper", metavar="P")
    parser.add_argument("--steps", type=int, default=12, help="of each training")
    parser.add_argument("--rounds", type=int, default=3, help="of reading scores")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise ValueError(f"torch {torch.__version__} finds no GPU: realqa plan says what it can")
    profile = plan_command.case_of(plan_command.options(["--profile", options.profile])).profile
    warnings.simplefilter("ignore")
    logging.disable_progress_bar()
    watch, rows = results.Stopwatch(), []
    device = backbones.own_device()
    for part in measure(profile, device, options.steps, options.rounds, few=4, many=128):
        rows += part
        shown = pd.DataFrame(part)[["model", "metric", "estimate", "low", "high", "planned"]]
        print(shown.round(3).to_string(index=False, header=len(rows) == len(part)), flush=True)
        gc.collect()
        torch.cuda.empty_cache()
        results.save(
            STEM,
            profile,
            pd.DataFrame(rows),
            seeds=0,
            n=options.steps,
            n_parsed=None,
            interval="minimum and maximum of the repetitions; median between",
            data_hashes={},
            model_hash=None,
            started=watch,
            notes=f"{torch.cuda.get_device_name()}; random weights, {profile.model}",
        )
