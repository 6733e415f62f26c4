"""Training speed against the plain way, both in one run: `realqa benchmark`.

The plain way is what a reader of the libraries' manuals would write: `Trainer`, a collator that
opens, resizes and tokenises every photograph at every step, logits for the whole sequence, and the
library's vision tower. Ours computes the same loss. Prints samples/s of both and their ratio.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import Trainer
from transformers.utils import logging

from realqa_utils.datasets import mini
from realqa_utils.datasets.table import Table
from realqa_utils.forms.conversations import FORMS
from realqa_utils.images.photos import open_photo
from realqa_utils.images.views import View
from realqa_utils.model import adapters, backbone, vision
from realqa_utils.records import results
from realqa_utils.training import batches, fine_tuning
from realqa_utils.training.recipes import Recipe

BASE = Recipe(steps=1, rank=32, alpha=64, dropout=0.0, batch_size=32, learning_rate=1e-3)
#: What is trained, by the name of its row: the ways of `mini`, of `photos` and of the paper.
RECIPES = {
    "language in full, vision frozen": replace(BASE, language="full", vision="frozen"),
    "language and vision in full": replace(BASE, language="full", vision="full"),
    "LoRA on both": BASE,
}


class PlainCollator:
    """Everything at every step, row by row, as in the libraries' own examples."""

    def __init__(self, model: backbone.Backbone, table: Table, recipe: Recipe):
        self.backbone, self.table, self.recipe = model, table, recipe

    def __call__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        form, tokenizer = FORMS[self.recipe.form], self.backbone.tokenizer
        images = [open_photo(self.table.frame["path"][row]) for row in rows]
        seen = self.backbone.image_processor(images, return_tensors="pt")
        merge = self.backbone.image_processor.merge_size**2
        texts, starts = [], []
        for row, grid in zip(rows, seen["image_grid_thw"], strict=True):
            question = [{"type": "image"}, {"type": "text", "text": form.question}]
            messages = [{"role": "user", "content": question}]
            prompt = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            ).replace("<|image_pad|>", "<|image_pad|>" * int(grid.prod() // merge))
            answer = form.answer(self.table.targets[row], self.recipe.digits)
            texts.append(prompt + answer + tokenizer.eos_token)
            starts.append(len(tokenizer(prompt).input_ids))
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        for row, start in enumerate(starts):
            labels[row, :start] = -100
        pad = self.backbone.model.config.image_token_id
        kinds = (batch["input_ids"] == pad).long()
        return {**batch, "mm_token_type_ids": kinds, "labels": labels, **seen}


def plain_speed(table: Table, recipe: Recipe, folder: Path) -> float:
    """Samples per second of the plain way, from loading the model to the last step."""
    watch = results.Stopwatch()
    model = adapters.prepare(
        backbone.load("mini"), recipe.language, recipe.vision, recipe.rank, recipe.alpha, 0.0
    )
    vision.unbatch_vision(model.model)
    trainer = Trainer(
        model=model.model,
        args=fine_tuning.arguments(recipe, folder, 0, False),
        train_dataset=list(range(len(table))),
        data_collator=PlainCollator(model, table, recipe),
    )
    trainer.train()
    return recipe.steps * recipe.batch_size / watch.seconds


def our_speed(table: Table, recipe: Recipe, folder: Path) -> float:
    """Samples per second of `fine_tuning.train`, from loading the model to the last step."""
    batches.forget_frozen_tokens()
    watch = results.Stopwatch()
    fine_tuning.train(backbone.load("mini"), table, recipe, View(), folder)
    return recipe.steps * recipe.batch_size / watch.seconds


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("realqa benchmark", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.disable_progress_bar()
    watch = results.Stopwatch()
    table = mini.build("mini-koniq", 500, 0, results.root() / "runs" / "world")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, recipe in RECIPES.items():
            recipe = replace(recipe, steps=options.steps)
            pairs = np.array(
                [
                    (
                        our_speed(table, recipe, Path(folder)),
                        plain_speed(table, recipe, Path(folder)),
                    )
                    for _ in range(options.rounds)
                ]
            )
            rows += _rows(name, pairs)
    table_ = pd.DataFrame(rows)
    print(table_[["model", "metric", "estimate", "low", "high"]].round(2).to_string(index=False))
    results.save(
        "training_speed",
        "mini",
        table_,
        seeds=0,
        n=options.steps * BASE.batch_size,
        n_parsed=None,
        interval=f"minimum and maximum of {options.rounds} alternating rounds; median between",
        data_hashes={table.name: table.ids_hash},
        model_hash=None,
        started=watch,
    )


def _rows(name: str, pairs: np.ndarray) -> list[dict]:
    """Median, minimum and maximum of our speed, the plain one, and their ratio pair by pair."""
    ours, plain = pairs.T
    values = {"samples/s": ours, "plain samples/s": plain, "ratio": ours / plain}
    return [
        {"dataset": "mini-koniq", "model": name, "metric": metric,
         "estimate": float(np.median(v)), "low": v.min(), "high": v.max(),
         "n": len(v), "seeds": "0"}
        for metric, v in values.items()
    ]  # fmt: skip
