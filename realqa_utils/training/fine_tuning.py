"""Fine-tuning on scores or attributes with the Hugging Face `Trainer`.

A `Recipe` says everything that decides the outcome; the steps are those of `answer_trainer`, on
batches of `batches`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PrinterCallback, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import is_flash_attn_2_available

from realqa_utils.datasets.table import Table
from realqa_utils.images.views import View
from realqa_utils.model import adapters, language
from realqa_utils.model.backbone import Backbone
from realqa_utils.model.taught import Taught
from realqa_utils.training import optimisers, regression_head
from realqa_utils.training.answer_trainer import AnswerTrainer
from realqa_utils.training.batches import Collator
from realqa_utils.training.recipes import Recipe


def arguments(
    recipe: Recipe, out: Path, save_steps: int, progress: bool, evaluate_every: int = 0
) -> TrainingArguments:
    """The recipe in the library's words: AdamW, cosine with warm-up.

    Several processes share the batches of a step. Raises ValueError where they do not divide.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and recipe.objective == "tree_mean":
        raise ValueError("objective='tree_mean' is for one process: it calls the model three times")
    if recipe.accumulation % world:
        raise ValueError(
            f"{world} processes do not divide the {recipe.accumulation} batches of a step: "
            f"accumulation is to be a multiple of {world}"
        )
    on_gpu = torch.cuda.is_available()
    made = TrainingArguments(
        # is made in any case, so without checkpoints it is one that is there
        output_dir=str(out) if save_steps else tempfile.gettempdir(),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_size // recipe.accumulation,
        gradient_accumulation_steps=recipe.accumulation // world,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup,
        weight_decay=recipe.weight_decay,
        seed=recipe.seed,
        data_seed=recipe.seed,
        logging_steps=20 if recipe.steps >= 100 else 1,
        save_strategy="steps" if save_steps else "no",
        save_steps=save_steps or 500,
        save_total_limit=1,
        eval_strategy="steps" if evaluate_every else "no",
        eval_steps=evaluate_every or None,
        eval_on_start=bool(evaluate_every),
        per_device_eval_batch_size=64 if recipe.weights == "float32" else 8,
        prediction_loss_only=True,
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=not progress,
        use_cpu=not on_gpu,
        # 4-bit weights are computed with in float32 on a CPU
        bf16=recipe.weights == "bfloat16" or (recipe.weights == "nf4" and on_gpu),
        activation_checkpointing=recipe.checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        dataloader_pin_memory=on_gpu,
        dataloader_num_workers=loaders(),
        average_tokens_across_devices=True,
        ddp_find_unused_parameters=False,
        ddp_backend="gloo" if world > 1 and not on_gpu else None,
    )
    made._n_gpu = min(1, made.n_gpu)  # else one process would split every batch over all GPUs
    return made


def loaders() -> int:
    """Processes that prepare batches while a GPU computes; a CPU has nothing to spare for them.

    They are forked, as the collator holds a model that no process could be sent.
    """
    return 4 if torch.cuda.is_available() and multiprocessing.get_start_method() == "fork" else 0


def train(
    backbone: Backbone,
    table: Table,
    recipe: Recipe,
    view: View,
    out: Path,
    save_steps: int = 0,
    progress: bool = False,
    callbacks: Sequence = (),
    held_out: Table | None = None,
    evaluate_every: int = 0,
    keep: Path | None = None,
) -> Backbone:
    """Train on a table and return the trained backbone; the one given is used up.

    With `save_steps`, checkpoints go to `out` and an interrupted run goes on from the last one.
    With `evaluate_every`, the loss on `held_out` is logged before the first step and then after so
    many steps; callbacks such as `NCMCallback` hear it too. The same recipe, data and thread count
    give the same weights. What was trained is written to the folder `keep`: an adapter, or a whole
    model, and how to ask it (`model.taught`). Several processes (`torchrun`, `accelerate launch`)
    share the work of one.
    """
    torch.manual_seed(recipe.seed)
    if recipe.objective == "regression":
        backbone = regression_head.attach(backbone, float(table.targets.mean()), recipe.seed)
    with warnings.catch_warnings():  # peft still asks under the old name
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        backbone = adapters.prepare(
            backbone, recipe.language, recipe.vision, recipe.rank, recipe.alpha, recipe.dropout,
            head=recipe.objective == "regression",
        )  # fmt: skip
    watched = None
    if evaluate_every:
        watched = Collator(backbone, held_out, recipe, view, one_by_one=True)
    trainer = AnswerTrainer(
        model=backbone.model,
        args=arguments(recipe, out, save_steps, progress, evaluate_every),
        train_dataset=range(len(table)),  # the collator fetches a whole batch at once
        eval_dataset=range(len(held_out)) if evaluate_every else None,
        data_collator=Collator(backbone, table, recipe, view),
        callbacks=list(callbacks),
        optimizers=(_optimiser(backbone.model, recipe), None),  # the schedule is the Trainer's
        recipe=recipe,
        digit_ids=backbone.digit_ids,
        eval_collator=watched,
    )
    trainer.remove_callback(PrinterCallback)
    with attention(backbone, _attention(recipe)):
        trainer.train(resume_from_checkpoint=last_checkpoint(out) if save_steps else None)
    if keep:
        _keep(trainer, backbone, keep, view)
    backbone.model.eval()
    return backbone


def _keep(trainer: AnswerTrainer, backbone: Backbone, folder: Path, view: View) -> None:
    """All processes take part, since each may hold a piece of the weights; the first one writes."""
    part = folder.with_name(f".{folder.name}.part")
    trainer.save_model(str(part))
    if trainer.is_world_process_zero():
        if not isinstance(trainer.model, PeftModel):
            backbone.tokenizer.save_pretrained(part)
            backbone.image_processor.save_pretrained(part)
        (part / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle, of which nothing is read
        recipe = trainer.recipe
        below = "" if recipe.tower_steps else backbone.name  # an adapted tower is no known model
        Taught(below, recipe.objective, recipe.form, recipe.digits, view).save(part)
        os.replace(part, folder)
    trainer.accelerator.wait_for_everyone()


def _attention(recipe: Recipe) -> str:
    """flash-attn for a training, where it is installed; it does not know the masks of a tree."""
    fits = recipe.weights != "float32" and recipe.objective != "tree_mean"
    found = fits and torch.cuda.is_available() and is_flash_attn_2_available()
    return "flash_attention_2" if found else "sdpa"


@contextmanager
def attention(backbone: Backbone, kind: str) -> Iterator[None]:
    """Let a model's attention be of a kind that the library knows: sdpa, flash_attention_2."""
    base = language.base_of(backbone.model)
    before = base.config._attn_implementation
    if kind == before:
        yield
        return
    base.set_attn_implementation(kind)
    try:
        yield
    finally:
        base.set_attn_implementation(before)


def _optimiser(model, recipe: Recipe) -> torch.optim.Optimizer | None:
    """Muon, where the recipe asks for it; None leaves AdamW to the Trainer."""
    if recipe.optimiser != "muon":
        return None
    return optimisers.muon(model.named_parameters(), recipe.learning_rate, recipe.weight_decay)


def last_checkpoint(out: Path) -> str | None:
    """The latest complete checkpoint in a folder; a run that is killed may leave part of one."""
    for folder in Path(out).glob("checkpoint-*"):
        try:
            json.loads((folder / "trainer_state.json").read_text())  # is written last
        except (FileNotFoundError, ValueError):
            shutil.rmtree(folder)
    return get_last_checkpoint(out) if Path(out).exists() else None


def recipe_record(recipe: Recipe, view: View) -> dict[str, object]:
    """The recipe and the view as plain values, for the record of a result."""
    return asdict(recipe) | {"view": asdict(view)}
