"""What `test_two_processes_training` starts: one LoRA training, by as many processes as there are.

python two_processes_training.py OUT STEPS_BEFORE_IT_STOPS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

from realqa_utils.datasets import mini
from realqa_utils.images.views import View
from realqa_utils.model import backbone
from realqa_utils.ncm import NCM, NCMCallback
from realqa_utils.training import fine_tuning
from realqa_utils.training.recipes import Recipe


class Stop(TrainerCallback):
    """End the training after some steps, as if it was cut off; keeps the losses."""

    def __init__(self, after: int):
        self.after, self.losses = after, {}

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop |= state.global_step == self.after

    def on_log(self, args, state, control, logs, **_):
        if "loss" in logs and state.is_world_process_zero:
            self.losses[state.global_step] = logs["loss"]


def main(out: str, after: int) -> None:
    torch.set_num_threads(1)
    folder = Path(out)
    model = backbone.load("mini")
    recipe = Recipe(
        steps=6, form="direct_and_cot", batch_size=8, accumulation=4, rank=8, alpha=16, dropout=0.0,
        learning_rate=1e-3, warmup=0.34, checkpointing=True,
    )  # fmt: skip
    table = mini.build("mini-koniq", 24, 0, folder.parent / "world")
    stop = Stop(after)
    ncm = NCMCallback(NCM(None, model.digit_ids, 3), csv=folder / "ncm.csv")
    fine_tuning.train(
        model, table, recipe, View(), folder / "checkpoints", save_steps=2,
        callbacks=[ncm, stop], held_out=table.subset(table.frame["id"][:7]), evaluate_every=3,
        keep=folder / "kept" if after >= recipe.steps else None,
    )  # fmt: skip
    if stop.losses:
        (folder / "losses.json").write_text(json.dumps(stop.losses))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
