"""A profile on given hardware, and the tables of its plan (`realqa plan`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np
import pandas as pd
from transformers import PreTrainedConfig

from realqa_utils.datasets import mini, registry
from realqa_utils.datasets.table import make_table
from realqa_utils.forms.conversations import DIRECT
from realqa_utils.forms.scores import Scale
from realqa_utils.model import adapters, backbone, decoder
from realqa_utils.model.backbone import Backbone
from realqa_utils.model.encoding import Prompt, encode_prompt
from realqa_utils.planning import model_shapes, plan
from realqa_utils.planning.layer_costs import Step
from realqa_utils.planning.plan import Setup
from realqa_utils.profiles import Profile
from realqa_utils.training import lessons
from realqa_utils.training.recipes import Recipe

SAMPLE = 256  # conversations whose lengths are counted
STAGES = {"scores": "recipe", "stage 1": "stage_1", "chains": "chains"}  # of a profile


@dataclass(frozen=True)
class Case:
    """A profile on given hardware: everything that decides its plan."""

    profile: Profile
    setup: Setup
    pixels: str
    size: tuple[int, int]  # of a photograph, width and height
    micro_batch: int = 0  # conversations of a forward pass, on each GPU; 0: as the recipe has it
    score_batch: int = 0  # photographs scored at once; 0: as scoring has it

    @property
    def config(self) -> PreTrainedConfig:
        return _config(self.profile.model)

    @property
    def patches(self) -> int:
        columns, rows = model_shapes.grid(self.config, self.size, self.pixels)
        return columns * rows

    @property
    def tokens(self) -> int:
        """Of a photograph, in the language model."""
        return self.patches // self.config.vision_config.spatial_merge_size**2

    @property
    def scored(self) -> int:
        """Photographs that are scored at once."""
        place = "cuda" if self.setup.gpus else "cpu"
        return self.score_batch or decoder.rows_at_once(self.config, place)

    def micro(self, recipe: Recipe) -> int:
        """Conversations of a forward pass on each GPU."""
        return self.micro_batch or recipe.batch_size // recipe.accumulation

    def recipe(self, recipe: Recipe) -> Recipe:
        """A recipe with its batch in forward passes, on all GPUs.

        Raises ValueError where it does not divide.
        """
        gpus = max(1, self.setup.gpus)
        passes, rest = divmod(recipe.batch_size, self.micro(recipe) * gpus)
        if rest or not passes:
            raise ValueError(
                f"a batch of {recipe.batch_size} does not divide into forward passes of "
                f"{self.micro(recipe)} on {gpus} GPUs: give another --micro-batch or --gpus"
            )
        return replace(recipe, accumulation=passes)

    def micro_batches(self) -> list[int]:
        """Powers of two into which every batch of the profile divides on these GPUs."""
        batch = math.gcd(*(getattr(self.profile, key).batch_size for key in STAGES.values()))
        return [n for n in (1, 2, 4, 8, 16) if batch % (n * max(1, self.setup.gpus)) == 0]

    def steps(self, recipe: Recipe) -> list[Step]:
        """Forward passes over a sample of the recipe's conversations."""
        spans, opening = lengths(replace(recipe, seed=0))
        shared = None if self.setup.checkpointing else opening
        is_packed = self.setup == Setup() and recipe.language == "full"
        made, rows = [], self.micro(recipe)
        for at in range(0, len(spans) - rows + 1, rows):
            starts, ends = zip(*spans[at : at + rows], strict=True)
            size = (rows, self.patches, self.tokens + max(ends), max(ends) - min(starts))
            tokens = sum(self.tokens + end - opening for end in ends) + opening
            packed = (tokens, sum(ends) - rows * min(starts)) if is_packed else None
            made.append(Step(*size, shared, self.profile.data == "real", packed))
        return made

    def memory(self, recipe: Recipe) -> dict[str, float]:
        """Bytes by part of a training, with the longest conversations of the sample."""
        steps, count = self.steps(recipe), self.parameters(recipe)
        keys = ("columns", "answers", *(["packed"] if steps[0].packed else []))
        worst = replace(
            steps[0], **{key: max(getattr(step, key) for step in steps) for key in keys}
        )
        return plan.training_memory(self.config, count, self.recipe(recipe), self.setup, worst)

    def flops(self, recipe: Recipe) -> dict[str, float]:
        """Operations of an optimiser step by part, on all GPUs together."""
        steps = [
            plan.training_flops(self.config, recipe, self.setup, step)
            for step in self.steps(recipe)
        ]
        return (pd.DataFrame(steps).mean() * (recipe.batch_size / self.micro(recipe))).to_dict()

    def scoring(self) -> Step:
        """The forward pass behind which the scores of a batch are read."""
        before = _mini().tokenizer(DIRECT.before, add_special_tokens=False).input_ids
        tokens = self.tokens + len(prompt(DIRECT.question).ids) - 1 + len(before)
        return Step(self.scored, self.patches, tokens, 1)

    def parameters(self, recipe: Recipe) -> model_shapes.Parameters:
        """How many there are and how many of them the recipe trains."""
        keys = ("language", "vision", "rank", "optimiser")  # the others do not matter
        same = Recipe(steps=1, **{key: getattr(recipe, key) for key in keys})
        return _parameters(self.profile.model, same)


@lru_cache
def lengths(recipe: Recipe) -> tuple[list[tuple[int, int]], int]:
    """Where answers begin and end, in tokens without the photograph's; and tokens before it.

    Counted on generated labels with the kit's own tokenizer: that of Qwen2-VL needs about as many
    for such words, but people who label real photographs may write more.
    """
    frame = pd.DataFrame([mini.labels(mini.scene_at("mini-koniq", 0, i)) for i in range(SAMPLE)])
    frame = frame.assign(id=frame.index.astype(str), path="", mos=np.linspace(0, 10, SAMPLE))
    table = make_table("lengths", Scale(0, 10), frame, source="generated labels", photos=False)
    questions, answers = lessons.of(recipe, table).conversations(range(SAMPLE))
    prompts = [prompt(question) for question in questions]
    said = _mini().tokenizer(list(answers), add_special_tokens=False).input_ids
    starts = [len(prompt.ids) - 1 for prompt in prompts]  # without the one image token
    spans = [(a, a + len(b) + 1) for a, b in zip(starts, said, strict=True)]
    return spans, int(prompts[0].kinds.argmax())


def prompt(question: str) -> Prompt:
    """The tokens of a question about a photograph of a single image token."""
    return encode_prompt(_mini(), question, (1, 2, 2))


@lru_cache
def _mini() -> Backbone:
    return backbone.load("mini", device_map={"": "cpu"})


@lru_cache
def _config(model: str) -> PreTrainedConfig:
    return model_shapes.config_of(model)


@lru_cache
def _parameters(model: str, recipe: Recipe) -> model_shapes.Parameters:
    return model_shapes.parameters(_config(model), recipe)


# --- tables --------------------------------------------------------------------------------------


def parameter_table(case: Case) -> pd.DataFrame:
    """Parameters by part of the model, adapters with the part that they are in."""
    model = model_shapes.on_meta(case.config, case.profile.recipe)
    return adapters.trainable_table(model)


def memory_table(case: Case) -> pd.DataFrame:
    """Bytes by part of the three kinds of training; of one, with checkpointing the other way."""
    columns = {name: case.memory(getattr(case.profile, key)) for name, key in STAGES.items()}
    other = replace(case.setup, checkpointing=not case.setup.checkpointing)
    name = "scores, " + ("" if other.checkpointing else "not ") + "checkpointed"
    columns[name] = replace(case, setup=other).memory(case.profile.recipe)
    return _summed(pd.DataFrame(columns))


def scoring_table(case: Case) -> pd.DataFrame:
    """Bytes by part while a batch is scored."""
    count = case.parameters(case.profile.recipe)
    parts = plan.scoring_memory(case.config, count, case.setup, case.scoring())
    return _summed(pd.DataFrame({f"{case.scored} photographs": parts}))


def ways_table(case: Case) -> pd.DataFrame:
    """Bytes of the training that needs most, by weights, checkpointing and micro batch."""
    rows = {}
    for weights, checkpointing in product(("bfloat16", "nf4"), (True, False)):
        setup = replace(case.setup, weights=weights, checkpointing=checkpointing)
        ways = {n: replace(case, setup=setup, micro_batch=n) for n in case.micro_batches()}
        rows[weights, "yes" if checkpointing else "no"] = {n: largest(w) for n, w in ways.items()}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(rows, names=["weights", "checkpointing"])
    return table.rename_axis(columns="micro batch")


def largest(case: Case) -> float:
    """Bytes of the training that needs most."""
    return max(sum(case.memory(getattr(case.profile, key)).values()) for key in STAGES.values())


def sets_table(case: Case) -> pd.DataFrame:
    """Public sets: photographs, tokens of each with both presets, archives in bytes, and bytes of
    all photographs decoded, as a training holds them in the computer's memory."""
    rows = {}
    for name, (size, gb) in plan.SETS.items():
        known = registry.SETS[name]
        row: dict[str, object] = {"photographs": known.size, "archive": 1e9 * gb}
        if size and name != "konvid":
            row |= {"pixels": "{} x {}".format(*size), "decoded": 3 * math.prod(size) * known.size}
        if size:
            for preset in ("repo", "clean") if case.profile.model != "mini" else ("mini",):
                patches = math.prod(model_shapes.grid(case.config, size, preset))
                row[f"tokens, {preset}"] = patches // 4
        rows[known.title] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def work_table(case: Case) -> pd.DataFrame:
    """Operations of an optimiser step by part, and of one photograph that is scored."""
    columns = {name: case.flops(getattr(case.profile, key)) for name, key in STAGES.items()}
    one = {"forward": plan.scoring_flops(case.config, case.scoring())}
    return _summed(pd.DataFrame(columns | {"scoring, one": one}).fillna(0))


def hours_table(case: Case, tflops: float, utilisation: float) -> pd.DataFrame:
    """Hours of every training by notebook."""
    rows = []
    for training in plan.trainings(case.profile):
        step = sum(case.flops(training.recipe).values())
        one = plan.hours(training.recipe.steps * step, tflops, utilisation, case.setup.gpus)
        rows.append(
            {"notebook": training.notebook, "training": training.what, "how many": training.count,
             "steps": training.recipe.steps, "hours each": one, "hours": one * training.count}
        )  # fmt: skip
    return pd.DataFrame(rows).set_index(["notebook", "training"])


def disk_table(case: Case) -> pd.DataFrame:
    """Bytes on disk by what they are for."""
    return _summed(
        pd.DataFrame({"bytes": plan.disk(case.profile, case.parameters(case.profile.recipe))})
    )


def _summed(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table, table.sum().to_frame("all").T])
