"""What listening to NCM costs, beside a naive way, all in one run: `realqa benchmark-ncm`.

The share of a training step of the mini backbone that `NCMCallback` takes when it logs at every
step; and one update on logits of the size of Qwen2-VL-7B. The naive way looks at one sample after
the other, takes a softmax over every token of it, and asks for each digit.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers.utils import logging

from realqa_utils.datasets import mini
from realqa_utils.datasets.table import Table
from realqa_utils.forms.conversations import DIRECT
from realqa_utils.images.views import View
from realqa_utils.model import backbone
from realqa_utils.model.encoding import IGNORED
from realqa_utils.ncm import NCM, NCMCallback
from realqa_utils.profiles import get_profile
from realqa_utils.records import results
from realqa_utils.training import fine_tuning
from realqa_utils.training.recipes import Recipe

LARGE = (2, 2048, 152_064)  # batch, tokens, vocabulary of Qwen2-VL-7B


class TimedCallback(NCMCallback):
    """Adds up the seconds that it takes of a training."""

    seconds = 0.0

    def observe(self, *args, **options):
        self._timed(super().observe, *args, **options)

    def on_step_begin(self, *args, **options):
        self._timed(super().on_step_begin, *args, **options)

    def on_step_end(self, *args, **options):
        self._timed(super().on_step_end, *args, **options)

    def on_epoch_end(self, *args, **options):
        self._timed(super().on_epoch_end, *args, **options)

    def _timed(self, call: Callable, *args, **options) -> None:
        started = time.perf_counter()
        call(*args, **options)
        self.seconds += time.perf_counter() - started


def share_of_a_step(table: Table, recipe: Recipe, folder: Path) -> tuple[float, float]:
    """Milliseconds of a training step, and of the callback in it, logging to a CSV too."""
    model = backbone.load("mini")
    metric = NCM.of(model.tokenizer, DIRECT, recipe.digits)
    callback = TimedCallback(metric, csv=folder / "ncm.csv")
    fine_tuning.train(model, table, replace(recipe, steps=2), View(), folder)  # the tower's tokens
    watch = results.Stopwatch()
    fine_tuning.train(backbone.load("mini"), table, recipe, View(), folder, callbacks=[callback])
    return 1000 * watch.seconds / recipe.steps, 1000 * callback.seconds / recipe.steps


def naive(metric: NCM, logits: torch.Tensor, labels: torch.Tensor) -> float:
    """NCM sample by sample, by the plain formula."""
    squares = []
    for row, columns in enumerate(metric.places(labels).tolist()):
        chances = logits[row].float().softmax(-1)
        error = 0.0
        for place, column in enumerate(columns):
            ten = chances[column - 1][metric.ids]
            ten = ten / ten.sum()
            mean = sum(digit * float(ten[digit]) for digit in range(10))
            error += (mean - metric.ids.tolist().index(int(labels[row, column]))) / 10**place
        squares.append(error**2)
    return float(np.mean(squares))


def milliseconds(call: Callable, times: int) -> list[float]:
    """Of `times` calls, after one that is not counted."""
    call()
    found = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        found.append(1000 * (time.perf_counter() - started))
    return found


def batch(metric: NCM, shape: tuple[int, int, int], dtype: torch.dtype):
    """Logits and labels of answers that stand at the end of their rows."""
    tokenizer = backbone.load("mini").tokenizer
    rows, columns, vocabulary = shape
    generator = np.random.default_rng(0)
    answers = [DIRECT.answer(score, 3) for score in generator.uniform(0, 10, rows)]
    labels = torch.full((rows, columns), IGNORED)
    for row, answer in enumerate(answers):
        ids = tokenizer(answer).input_ids
        labels[row, -len(ids) :] = torch.tensor(ids)
    logits = torch.zeros(shape, dtype=dtype)
    logits[:, -40:].normal_(generator=torch.Generator().manual_seed(0))
    return logits, labels


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("realqa benchmark-ncm", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-large", action="store_true", help="leave out 7B's size")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.disable_progress_bar()
    watch = results.Stopwatch()
    recipe = replace(get_profile("mini").recipe, steps=options.steps)
    table = mini.build("mini-koniq", 400, 0, results.root() / "runs" / "world")
    with tempfile.TemporaryDirectory() as folder:
        pairs = [share_of_a_step(table, recipe, Path(folder)) for _ in range(options.rounds)]
    steps, spent = np.array(pairs).T
    rows = [
        _row("mini, training step", "ms", steps),
        _row("mini, callback at every step", "ms", spent),
        _row("mini, callback at every step", "share of the step", spent / steps),
    ]
    sizes = {"mini batch": (recipe.batch_size, 24, 1216)}
    sizes |= {} if options.without_large else {"7B batch": LARGE}
    metric = NCM.of(backbone.load("mini").tokenizer, DIRECT, 3)
    for name, shape in sizes.items():
        logits, labels = batch(metric, shape, torch.float32)
        ours = milliseconds(lambda x=logits, y=labels: metric.update(x, y), 20)
        plain = milliseconds(lambda x=logits, y=labels: naive(metric, x, y), 2)
        rows += [_row(f"{name}, update", "ms", ours), _row(f"{name}, naive loop", "ms", plain)]
    found = pd.DataFrame(rows)
    print(found[["model", "metric", "estimate", "low", "high"]].round(4).to_string(index=False))
    results.save(
        "ncm_cost",
        "mini",
        found,
        seeds=0,
        n=options.steps,
        n_parsed=None,
        interval="minimum and maximum of the repetitions; median between",
        data_hashes={table.name: table.ids_hash},
        model_hash=None,
        started=watch,
    )


def _row(model: str, metric: str, values) -> dict:
    return {
        "dataset": "mini-koniq",
        "model": model,
        "metric": metric,
        "estimate": float(np.median(values)),
        "low": float(np.min(values)),
        "high": float(np.max(values)),
        "n": len(values),
        "seeds": "0",
    }
