"""Fine-tuning on digit scores with the Hugging Face `Trainer`.

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
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.trainer_utils import get_last_checkpoint

from realqa_utils import adapters, language, losses
from realqa_utils.backbone import Backbone
from realqa_utils.conversations import FORMS
from realqa_utils.datasets.table import Table
from realqa_utils.encoding import IGNORED, Grid, digit_tokens, encode, encode_prompt
from realqa_utils.photos import open_photo
from realqa_utils.recipes import Recipe
from realqa_utils.views import View


class ScoreDataset(torch.utils.data.Dataset):
    """Photographs of a table with targets on the 0..10 scale; decoded once, kept in memory."""

    def __init__(self, table: Table, view: View):
        self.paths = tuple(table.frame["path"])
        self.targets = table.targets
        self.view = view

    @cached_property
    def photographs(self) -> list[Image.Image]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoders release the interpreter lock
            return list(pool.map(lambda path: self.view.fit(open_photo(path)), self.paths))

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> int:
        return index  # the collator fetches a whole batch at once


class Collator:
    """Row numbers -> one batch: tokens, positions, labels, pixels, digit columns, targets."""

    def __init__(self, backbone: Backbone, data: ScoreDataset, recipe: Recipe):
        self.backbone, self.data, self.recipe = backbone, data, recipe
        self.form = FORMS[recipe.form]
        self.tokens = frozen_tokens(backbone, data) if self._cacheable else None

    @property
    def _cacheable(self) -> bool:
        return self.recipe.vision == "frozen" and not self.data.view.random

    def __call__(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        scores = self.data.targets[list(rows)]
        answers = [self.form.answer(score, self.recipe.digits) for score in scores]
        if self.tokens is None:
            # Stateless: a batch has the same windows whether or not the run was interrupted.
            rng = np.random.default_rng([self.recipe.seed, *rows])
            images = [self.data.view.training(self.data.photographs[r], rng) for r in rows]
            pixels, grids = self.backbone.pixels(images)
            seen = {"pixel_values": pixels}
        else:
            tokens, grids = ([part[row] for row in rows] for part in self.tokens)
            seen = {"image_tokens": tokens}
        batch = encode(self.backbone, [self.form.question] * len(rows), answers, grids)
        return (
            batch
            | seen
            | {
                "digit_places": self._digit_places(answers, grids),
                "targets": torch.as_tensor(scores),  # float32 could round to other digits
            }
        )

    def _digit_places(self, answers: Sequence[str], grids: Sequence) -> torch.Tensor:
        """Columns (batch, M) of the digits, found by their place in the form."""
        tokenizer, rows = self.backbone.tokenizer, []
        for answer, grid in zip(answers, grids, strict=True):
            start = len(encode_prompt(self.backbone, self.form.question, grid).ids)
            inside = digit_tokens(tokenizer, answer, self.form.score_span(answer))
            rows.append([start + i for i in inside])
        return torch.tensor(rows)


_TOKENS: dict = {}  # what frozen towers said; several trainings in one process share it


def frozen_tokens(backbone: Backbone, data: ScoreDataset) -> tuple[list[torch.Tensor], list[Grid]]:
    """What a frozen tower says of every photograph, (tokens, width) each, and their grids."""
    seen = backbone.image_processor.to_json_string()
    key = (_weights_hash(backbone.core.visual), seen, data.paths, data.view)
    if key not in _TOKENS:
        if len(_TOKENS) == 4:
            _TOKENS.pop(next(iter(_TOKENS)))
        _TOKENS[key] = _frozen_tokens(backbone, data)
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
    backbone: Backbone, data: ScoreDataset, batch: int = 64
) -> tuple[list[torch.Tensor], list[Grid]]:
    views = [data.view.training(p, None) for p in data.photographs]
    merged = backbone.image_processor.merge_size**2  # patches per token
    tokens, grids = [], []
    for start in range(0, len(views), batch):
        pixels, some = backbone.pixels(views[start : start + batch])
        out = backbone.core.visual(pixels, grid_thw=torch.tensor(some)).pooler_output
        tokens += out.split([t * h * w // merged for t, h, w in some])
        grids += some
    return tokens, grids


class ScoreTrainer(Trainer):
    """`Trainer` that looks at the answer only, with the recipe's extra loss terms."""

    def __init__(self, *args, recipe: Recipe, digit_ids: list[int], **kwargs):
        super().__init__(*args, **kwargs)
        self.recipe, self.digit_ids = recipe, digit_ids

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        labels, targets = inputs.pop("labels"), inputs.pop("targets")
        places = inputs.pop("digit_places")
        tokens = inputs.pop("image_tokens", None)
        if tokens is not None:
            seen = BaseModelOutputWithPooling(pooler_output=tuple(tokens))
            inputs["mm_encoder_outputs"] = {"image": seen}
        keep = (labels[:, 1:] != IGNORED).any(0).nonzero().flatten()  # columns that predict
        logits = language.forward(model, inputs, keep, use_cache=False).logits
        places = torch.searchsorted(keep, places - 1) + 1  # as columns of these logits
        loss = self._loss(logits, labels[:, keep + 1], places, targets, num_items_in_batch)
        return (loss, {"logits": logits}) if return_outputs else loss

    def _loss(self, logits, labels, places, targets, total) -> torch.Tensor:
        recipe, ids = self.recipe, self.digit_ids
        here = (labels != IGNORED).sum()
        count = here if total is None else total  # of all batches of an accumulated step
        if recipe.opinion_spread:
            labels = labels.clone()
            labels[torch.arange(len(labels))[:, None], places - 1] = IGNORED
        loss = losses.answer_loss(logits, labels, count)
        if recipe.opinion_spread:
            soft = losses.opinion_digits(targets.cpu(), recipe.opinion_spread, recipe.digits)
            entropy = losses.soft_cross_entropy(logits, places, ids, soft.to(logits.device))
            loss = loss + entropy / count
        if recipe.expectation_weight:
            expected = losses.expectation(losses.digit_logits(logits, places, ids))
            error = (expected - targets.float()).square().mean() * here / count
            loss = loss + recipe.expectation_weight * error
        return loss

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        if isinstance(self.model, PeftModel):
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        # A whole model is saved under the hub's names, of which the library's code finds none here.
        saved = type(self.model).from_pretrained(resume_from_checkpoint, dtype=self.model.dtype)
        self.model.load_state_dict(saved.state_dict())


def arguments(recipe: Recipe, out: Path, save_steps: int, progress: bool) -> TrainingArguments:
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
) -> Backbone:
    """Train on a table and return the trained backbone; the one given is used up.

    With `save_steps`, checkpoints go to `out` and an interrupted run goes on from the last one.
    The same recipe, data and thread count give the same weights.
    """
    torch.manual_seed(recipe.seed)
    with warnings.catch_warnings():  # peft still asks under the old name
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        backbone = adapters.prepare(
            backbone, recipe.language, recipe.vision, recipe.rank, recipe.alpha, recipe.dropout
        )
    data = ScoreDataset(table, view)
    trainer = ScoreTrainer(
        model=backbone.model,
        args=arguments(recipe, out, save_steps, progress),
        train_dataset=data,
        data_collator=Collator(backbone, data, recipe),
        callbacks=list(callbacks),
        recipe=recipe,
        digit_ids=backbone.digit_ids,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last_checkpoint(out) if save_steps else None)
    backbone.model.eval()
    return backbone


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
