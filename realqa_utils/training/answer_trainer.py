"""The Hugging Face `Trainer` for answers: logits at the answer only, losses of every objective.

A batch is one of `batches.Collator`. Where the vision tower is frozen it is skipped altogether.
"""

from __future__ import annotations

import torch
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from realqa_utils.model import language
from realqa_utils.model.encoding import IGNORED
from realqa_utils.training import losses, regression_head, tree_mean
from realqa_utils.training.batches import ByLength
from realqa_utils.training.recipes import Recipe

#: What a batch brings beside the model's own inputs.
GIVEN = ("labels", "targets", "digit_places", "soft", "soft_places", "soft_ids", "point")


class AnswerTrainer(Trainer):
    """`Trainer` that looks at the answer only, with the recipe's extra loss terms.

    Callbacks that have a method `observe` (`ncm.callback`) are shown the logits and labels.
    """

    def __init__(self, *args, recipe: Recipe, digit_ids: list[int], eval_collator=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.recipe, self.digit_ids, self.eval_collator = recipe, digit_ids, eval_collator
        self.observers = [c for c in self.callback_handler.callbacks if hasattr(c, "observe")]
        for callback in self.observers:
            callback.trainer = callback.trainer or self

    def _get_train_sampler(self, train_dataset=None):
        if not self.recipe.by_length:
            return super()._get_train_sampler(train_dataset)
        lengths = self.data_collator.lengths()
        return ByLength(self.recipe.batch_size, lengths, self.args.data_seed)

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        size, rows = self.args.per_device_eval_batch_size, self.eval_dataset
        return self.accelerator.prepare(DataLoader(rows, size, collate_fn=self.eval_collator))

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        # Autocast makes bfloat16 of what adapters read, forwards and when a layer is run again:
        # float32 in between, as the library has it, says the same more slowly.
        with disable_input_dtype_casting(self.model, active=self.args.bf16):
            return super().training_step(*args, **kwargs)

    def floating_point_ops(self, inputs) -> int:
        return 0  # no one reads the estimate, and to count parameters at every step takes its time

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
        share = 1 / self.args.gradient_accumulation_steps  # the Trainer sums over a step's batches
        if self.recipe.objective == "regression":
            ids = inputs["input_ids"]
            last = torch.tensor([ids.shape[1] - 1], device=ids.device)
            out = self._logits(model, inputs, last)
            return share * regression_head.loss(out, given["targets"])
        point, digits = int(given["point"]), self.recipe.digits
        with self.accelerator.autocast():
            found = tree_mean.loss(model, inputs, given["targets"], self.digit_ids, point, digits)
        return share * found

    def _logits(self, model, inputs: dict, columns: torch.Tensor) -> torch.Tensor:
        with self.accelerator.autocast():  # its own is around `model` only, and not all calls are
            return language.forward(model, inputs, columns, use_cache=False).logits

    def _answer_loss(self, model, inputs: dict, given: dict, total):
        labels, places = given["labels"], given["digit_places"]  # None where there is no score
        keep = (labels[:, 1:] != IGNORED).any(0).nonzero().flatten()  # columns that predict
        logits = self._logits(model, inputs, keep)
        for key in ("digit_places", "soft_places"):  # as columns of these logits
            if given[key] is not None:
                given[key] = torch.searchsorted(keep, given[key] - 1) + 1
        places, labels = given["digit_places"], labels[:, keep + 1]
        for callback in self.observers:
            shifted = F.pad(labels, (1, 0), value=IGNORED)  # column c is predicted by c - 1
            callback.observe(logits.detach(), shifted, places, training=model.training)
        loss = self._loss(logits, labels, given, total)
        if total is not None:  # of all processes, whose gradients are then averaged
            loss = loss * self.accelerator.num_processes
        return loss, logits

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
