"""Fine-tuning on scores or attributes with the Hugging Face `Trainer`.

A `Recipe` says everything that decides the outcome. Photographs are decoded once, before the first
step; a step works on token batches from `encoding`, computes logits at the answer only, and skips
the vision tower altogether where it is frozen.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from PIL import Image
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.trainer_utils import get_last_checkpoint

from realqa_utils import adapters, language, lessons, losses, optimisers
from realqa_utils.backbone import Backbone
from realqa_utils.datasets.table import Table
from realqa_utils.encoding import IGNORED, Grid, encode
from realqa_utils.photos import open_photo
from realqa_utils.recipes import Recipe
from realqa_utils.views import View

FROZEN_WINDOWS = 12  # random ones; as good as a fresh one at every step, and faster


class Photographs:
    """The photographs of a table as a view fits them; decoded once, kept in memory."""

    def __init__(self, table: Table, view: View):
        self.paths = tuple(table.frame["path"])
        self.view = view

    @property
    def windows(self) -> int:
        """Windows of each photograph that a frozen tower looks at, once, before training."""
        return FROZEN_WINDOWS if self.view.random else 1

    @cached_property
    def fitted(self) -> list[Image.Image]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoders release the interpreter lock
            return list(pool.map(lambda path: self.view.fit(open_photo(path)), self.paths))


class Collator:
    """Row numbers -> one batch: tokens, positions, labels, pixels, and what the lesson adds."""

    def __init__(self, backbone: Backbone, table: Table, recipe: Recipe, view: View):
        self.backbone, self.recipe = backbone, recipe
        self.data, self.lesson = Photographs(table, view), lessons.of(recipe, table)
        frozen = recipe.vision == "frozen"
        self.tokens = frozen_tokens(backbone, self.data, recipe.seed) if frozen else None

    def __call__(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        # Stateless: a batch has the same windows whether or not the run was interrupted.
        rng = np.random.default_rng([self.recipe.seed, *rows])
        if self.tokens is None:
            images = [self.data.view.training(self.data.fitted[r], rng) for r in rows]
            pixels, grids = self.backbone.pixels(images)
            seen = {"pixel_values": pixels}
        else:
            count = self.data.windows
            picked = [row * count + rng.integers(count) for row in rows]
            tokens, grids = ([part[i] for i in picked] for part in self.tokens)
            seen = {"image_tokens": tokens}
        questions, answers = self.lesson.conversations(rows)
        batch = encode(self.backbone, questions, answers, grids)
        return batch | seen | self.lesson.extras(self.backbone, rows, answers, grids)


_TOKENS: dict = {}  # what frozen towers said; several trainings in one process share it


def frozen_tokens(
    backbone: Backbone, data: Photographs, seed: int = 0
) -> tuple[list[torch.Tensor], list[Grid]]:
    """What a frozen tower says of every window, (tokens, width) each, and their grids.

    Window k of photograph i is number i x `data.windows` + k.
    """
    seen = backbone.image_processor.to_json_string()
    drawn = seed if data.view.random else None
    key = (_weights_hash(backbone.core.visual), seen, data.paths, data.view, drawn)
    if key not in _TOKENS:
        if len(_TOKENS) == 4:
            _TOKENS.pop(next(iter(_TOKENS)))
        _TOKENS[key] = _frozen_tokens(backbone, data, seed)
    return _TOKENS[key]


def forget_frozen_tokens() -> None:
    """Empty what `frozen_tokens` keeps: a timing must pay for the tower every time."""
    _TOKENS.clear()


def _weights_hash(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for parameter in module.parameters():
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.no_grad()
def _frozen_tokens(
    backbone: Backbone, data: Photographs, seed: int, batch: int = 64
) -> tuple[list[torch.Tensor], list[Grid]]:
    rng = np.random.default_rng([seed, 2]) if data.view.random else None
    views = [data.view.training(p, rng) for p in data.fitted for _ in range(data.windows)]
    merged = backbone.image_processor.merge_size**2  # patches per token
    tokens, grids = [], []
    for start in range(0, len(views), batch):
        pixels, some = backbone.pixels(views[start : start + batch])
        out = backbone.core.visual(pixels, grid_thw=torch.tensor(some)).pooler_output
        tokens += out.split([t * h * w // merged for t, h, w in some])
        grids += some
    return tokens, grids


class AnswerTrainer(Trainer):
    """`Trainer` that looks at the answer only, with the recipe's extra loss terms.

    Callbacks that have a method `observe` (`ncm_callback`) are shown the logits and labels.
    """

    def __init__(self, *args, recipe: Recipe, digit_ids: list[int], eval_collator=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.recipe, self.digit_ids, self.eval_collator = recipe, digit_ids, eval_collator
        self.observers = [c for c in self.callback_handler.callbacks if hasattr(c, "observe")]
        for callback in self.observers:
            callback.trainer = callback.trainer or self

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        return DataLoader(
            self.eval_dataset, self.args.per_device_eval_batch_size, collate_fn=self.eval_collator
        )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        labels, targets = inputs.pop("labels"), inputs.pop("targets", None)
        places = inputs.pop("digit_places", None)  # of a score, else None
        tokens = inputs.pop("image_tokens", None)
        if tokens is not None:
            seen = BaseModelOutputWithPooling(pooler_output=tuple(tokens))
            inputs["mm_encoder_outputs"] = {"image": seen}
        keep = (labels[:, 1:] != IGNORED).any(0).nonzero().flatten()  # columns that predict
        logits = language.forward(model, inputs, keep, use_cache=False).logits
        if places is not None:
            places = torch.searchsorted(keep, places - 1) + 1  # as columns of these logits
        labels = labels[:, keep + 1]
        for callback in self.observers:
            shifted = F.pad(labels, (1, 0), value=IGNORED)  # column c is predicted by c - 1
            callback.observe(logits.detach(), shifted, places, training=model.training)
        loss = self._loss(logits, labels, places, targets, num_items_in_batch)
        return (loss, {"logits": logits}) if return_outputs else loss

    def _loss(self, logits, labels, places, targets, total) -> torch.Tensor:
        recipe, ids = self.recipe, self.digit_ids
        here = (labels != IGNORED).sum()
        count = here if total is None else total  # of all batches of an accumulated step
        if places is None:
            return losses.answer_loss(logits, labels, count)
        if recipe.opinion_spread:
            labels = labels.clone()
            labels[torch.arange(len(labels))[:, None], places - 1] = IGNORED
        loss = losses.answer_loss(logits, labels, count)
        if recipe.opinion_spread:
            soft = losses.opinion_digits(targets.cpu(), recipe.opinion_spread, recipe.digits)
            entropy = losses.soft_cross_entropy(logits, places, ids, soft.to(logits.device))
            loss = loss + entropy / count
        share = here / count  # of this batch in the step
        if recipe.expectation_weight:
            ncm = losses.ncm_loss(logits, places, ids, targets)
            loss = loss + recipe.expectation_weight * share * ncm
        if recipe.number_token_weight:
            distance = losses.number_token_loss(logits, places, ids, targets)
            loss = loss + recipe.number_token_weight * share * distance
        return loss

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        if isinstance(self.model, PeftModel):
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        # A whole model is saved under the hub's names, of which the library's code finds none here.
        saved = type(self.model).from_pretrained(resume_from_checkpoint, dtype=self.model.dtype)
        self.model.load_state_dict(saved.state_dict())


def arguments(
    recipe: Recipe, out: Path, save_steps: int, progress: bool, evaluate_every: int = 0
) -> TrainingArguments:
    """The recipe in the library's words: AdamW, cosine with warm-up, float32 on a CPU."""
    return TrainingArguments(
        # is made in any case, so without checkpoints it is one that is there
        output_dir=str(out) if save_steps else tempfile.gettempdir(),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_size // recipe.accumulation,
        gradient_accumulation_steps=recipe.accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup,
        weight_decay=recipe.weight_decay,
        seed=recipe.seed,
        data_seed=recipe.seed,
        logging_steps=20,
        save_strategy="steps" if save_steps else "no",
        save_steps=save_steps or 500,
        save_total_limit=1,
        eval_strategy="steps" if evaluate_every else "no",
        eval_steps=evaluate_every or None,
        eval_on_start=bool(evaluate_every),
        per_device_eval_batch_size=64,
        prediction_loss_only=True,
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=not progress,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        average_tokens_across_devices=False,
    )


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
) -> Backbone:
    """Train on a table and return the trained backbone; the one given is used up.

    With `save_steps`, checkpoints go to `out` and an interrupted run goes on from the last one.
    With `evaluate_every`, the loss on `held_out` is logged before the first step and then after so
    many steps; callbacks such as `NCMCallback` hear it too. The same recipe, data and thread count
    give the same weights.
    """
    torch.manual_seed(recipe.seed)
    with warnings.catch_warnings():  # peft still asks under the old name
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        backbone = adapters.prepare(
            backbone, recipe.language, recipe.vision, recipe.rank, recipe.alpha, recipe.dropout
        )
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
        eval_collator=Collator(backbone, held_out, recipe, view) if evaluate_every else None,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last_checkpoint(out) if save_steps else None)
    backbone.model.eval()
    return backbone


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
