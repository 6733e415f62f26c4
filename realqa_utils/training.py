"""Fine-tuning on scores or attributes with the Hugging Face `Trainer`.

A `Recipe` says everything that decides the outcome. A step works on the batches of `batches`,
computes logits at the answer only, and skips the vision tower altogether where it is frozen.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from peft import PeftModel
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.trainer_utils import get_last_checkpoint

from realqa_utils import (
    adapters,
    language,
    losses,
    optimisers,
    regression_head,
    tree_mean,
)
from realqa_utils.backbone import Backbone
from realqa_utils.batches import Collator
from realqa_utils.datasets.table import Table
from realqa_utils.encoding import IGNORED
from realqa_utils.recipes import Recipe
from realqa_utils.views import View

#: What a batch brings beside the model's own inputs.
GIVEN = ("labels", "targets", "digit_places", "soft", "soft_places", "soft_ids", "point")


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
        inputs, given = dict(inputs), {}
        for key in GIVEN:
            given[key] = inputs.pop(key, None)
        tokens = inputs.pop("image_tokens", None)
        if tokens is not None:
            seen = BaseModelOutputWithPooling(pooler_output=tuple(tokens))
            inputs["mm_encoder_outputs"] = {"image": seen}
        if self.recipe.objective in ("regression", "tree_mean"):
            loss, logits = self._number_loss(model, inputs, given), None
        else:
            loss, logits = self._answer_loss(model, inputs, given, num_items_in_batch)
        return (loss, {"logits": logits}) if return_outputs else loss

    def _number_loss(self, model, inputs: dict, given: dict) -> torch.Tensor:
        """Of an objective that looks at one number, wherever it comes from."""
        share = 1 / self.recipe.accumulation  # the Trainer sums over the batches of a step
        if self.recipe.objective == "regression":
            last = torch.tensor([inputs["input_ids"].shape[1] - 1])
            out = language.forward(model, inputs, last, use_cache=False).logits
            return share * regression_head.loss(out, given["targets"])
        point, digits = int(given["point"]), self.recipe.digits
        return share * tree_mean.loss(
            model, inputs, given["targets"], self.digit_ids, point, digits
        )

    def _answer_loss(self, model, inputs: dict, given: dict, total):
        labels, places = given["labels"], given["digit_places"]  # None where there is no score
        keep = (labels[:, 1:] != IGNORED).any(0).nonzero().flatten()  # columns that predict
        logits = language.forward(model, inputs, keep, use_cache=False).logits
        for key in ("digit_places", "soft_places"):  # as columns of these logits
            if given[key] is not None:
                given[key] = torch.searchsorted(keep, given[key] - 1) + 1
        places, labels = given["digit_places"], labels[:, keep + 1]
        for callback in self.observers:
            shifted = F.pad(labels, (1, 0), value=IGNORED)  # column c is predicted by c - 1
            callback.observe(logits.detach(), shifted, places, training=model.training)
        return self._loss(logits, labels, given, total), logits

    def _loss(self, logits, labels, given: dict, total) -> torch.Tensor:
        recipe, ids, places = self.recipe, self.digit_ids, given["digit_places"]
        here = (labels != IGNORED).sum()
        count = here if total is None else total  # of all batches of an accumulated step
        soft = self._soft(given)
        if soft is not None:
            labels, rows = labels.clone(), torch.arange(len(labels))[:, None]
            labels[rows, soft[0] - 1] = IGNORED
        loss = losses.answer_loss(logits, labels, count)
        if soft is not None:
            loss = loss + losses.soft_cross_entropy(logits, *soft) / count
        if places is None:
            return loss
        share, targets = here / count, given["targets"]  # share of this batch in the step
        if recipe.expectation_weight:
            ncm = losses.ncm_loss(logits, places, ids, targets)
            loss = loss + recipe.expectation_weight * share * ncm
        if recipe.number_token_weight:
            distance = losses.number_token_loss(logits, places, ids, targets)
            loss = loss + recipe.number_token_weight * share * distance
        return loss

    def _soft(self, given: dict):
        """Places (batch, k), ids and labels (batch, k, ids) in place of hard ones; or None."""
        if given["soft"] is not None:
            return given["soft_places"], given["soft_ids"].tolist(), given["soft"]
        if given["digit_places"] is None or not self.recipe.opinion_spread:
            return None
        recipe, targets = self.recipe, given["targets"].cpu()
        soft = losses.opinion_digits(targets, recipe.opinion_spread, recipe.digits)
        return given["digit_places"], self.digit_ids, soft.to(given["targets"].device)

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
    if recipe.objective == "regression":
        backbone = regression_head.attach(backbone, float(table.targets.mean()), recipe.seed)
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
