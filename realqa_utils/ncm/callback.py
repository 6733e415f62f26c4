"""NCM beside any training with the Hugging Face `Trainer`: log history, its loggers, a tidy CSV.

The callback listens to the model's own forward passes, so it costs no extra one. Training is
measured on the batches of a step, with all their accumulation; the held-out set whenever the
`Trainer` evaluates it. Values of several processes are added up.

Of a step only the logits at its digits are put by. What they say is worked out for many steps at
once, which takes hardly longer than for one, and logged under the step that it is of.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from transformers import Trainer, TrainerCallback

from realqa_utils.ncm.metric import COUNTS, NCM, Heard
from realqa_utils.records import results

COLUMNS = ("step", "split", "metric", "value")
TRAIN, HELD_OUT = "train", "held-out"
STEPS = 20  # that are worked out at once, at most
ROOM = 2**23  # bytes of logits that are put by; larger ones are worked out in every step
UNHEARD = (
    "no forward pass had both labels and logits; a Trainer that computes its loss outside of the "
    "model must call `observe(logits, labels)`"
)


class NCMCallback(TrainerCallback):
    """Log the values of `NCM.compute` at the first step and at every `every`-th one.

    `trainer.add_callback(NCMCallback(NCM.of(tokenizer, form, digits=3), trainer))`. Names are as
    `NCM.compute` gives them, with "eval_" before those of the held-out set, so the Trainer's
    `metric_for_best_model="eval_ncm", greater_is_better=False` works. Without `trainer`, values
    reach the log history and the CSV but no logger such as TensorBoard. `csv` is written by the
    first process: columns step, split ("train" or "held-out"), metric, value; a resumed training
    goes on with it, a new one replaces it. With `evaluate_every`, the `Trainer` evaluates at those
    steps too. Values are logged every `STEPS` logged steps, and before the `Trainer` logs,
    evaluates, saves or ends: what a kill loses is no more than the `Trainer` loses itself.

    A `Trainer` that keeps labels from its model (label smoothing, a loss function of its own) has
    to call `observe` itself; where nothing is heard or scored, one warning says so.
    """

    def __init__(
        self,
        metric: NCM,
        trainer: Trainer | None = None,
        every: int = 1,
        csv: str | Path | None = None,
        evaluate_every: int = 0,
    ):
        if every < 1:
            raise ValueError(f"every is {every}: must be a number of steps, at least 1")
        self.metrics = {TRAIN: metric, HELD_OUT: metric.clone()}
        self.trainer, self.every, self.evaluate_every = trainer, every, evaluate_every
        self.csv = Path(csv) if csv else None
        self.due, self.warned, self._hook, self._file = False, False, None, None
        self._forget()

    # --- listening -------------------------------------------------------------------------------

    def on_train_begin(self, args, state, control, model=None, **_):
        self._forget()
        self._listen(model)
        if self.csv and state.is_world_process_zero:
            _begin(self.csv, state.global_step)
            self._file = self.csv.open("ab", buffering=0)  # a kill loses nothing logged

    def on_train_end(self, args, state, control, **_):
        self._hook.remove()
        if self._file:
            self._file.close()
        self._hook = self._file = None

    def _listen(self, model: nn.Module) -> None:
        if self._hook is None:
            self._hook = model.register_forward_hook(self._hear, with_kwargs=True)

    def _hear(self, model, args, inputs, output) -> None:
        labels, logits = inputs.get("labels"), getattr(output, "logits", None)
        if labels is not None and logits is not None:
            self.observe(logits, labels, training=model.training)

    def observe(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        places: torch.Tensor | None = None,
        training: bool = True,
    ) -> None:
        """Take in a batch, as `NCM.update` does; of training only in the steps that are logged."""
        if training and not self.due:
            return
        if not training and (own := self._own_rows(len(labels))) < len(labels):
            logits, labels = logits[:own], labels[:own]
            places = None if places is None else places[:own]
        if not training:
            self.metrics[HELD_OUT].update(logits, labels, places)
            return
        self.heard.append(self.metrics[TRAIN].hear(logits, labels, places))
        self.step_of.append(len(self.steps))
        if sum(batch.logits.nbytes for batch in self.heard) > ROOM:
            self._work_out()

    def _work_out(self) -> None:
        if self.heard:
            self.worked_out.append(self.metrics[TRAIN].sums_of(self.heard))
            self.heard = []

    def _forget(self) -> None:
        self.steps: list[tuple[int, float]] = []  # step and epoch of those to be logged
        self.heard: list[Heard] = []  # batches of them
        self.worked_out: list[tuple[torch.Tensor, torch.Tensor]] = []  # sums of batches before
        self.step_of: list[int] = []  # of each batch of both, as an index of `steps`

    def _own_rows(self, rows: int) -> int:
        """How many rows of a batch of evaluation are no copies.

        With several processes, the last batch is filled up with rows of the first one.
        """
        if self.trainer is None:
            return rows
        loading = self.trainer.accelerator.gradient_state
        if not loading.end_of_dataloader or loading.remainder <= 0:
            return rows
        before = self.trainer.accelerator.process_index * rows
        return min(max(loading.remainder - before, 0), rows)

    # --- logging ---------------------------------------------------------------------------------

    def on_step_begin(self, args, state, control, **_):
        step = state.global_step + 1
        self.due = step == 1 or step % self.every == 0

    def on_step_end(self, args, state, control, **_):
        if self.due:
            self.due = False
            self.steps.append((state.global_step, state.epoch))
        if self.evaluate_every and state.global_step % self.evaluate_every == 0:
            control.should_evaluate = True
        self._log_steps(state, control)

    def on_epoch_end(self, args, state, control, **_):
        self._log_steps(state, control)

    def on_evaluate(self, args, state, control, metrics=None, **_):
        metric = self.metrics[HELD_OUT]
        values = metric.numbers()
        named = self._log(state, HELD_OUT, values, metric.counts)
        metric.reset()
        if metrics is not None:
            metrics.update(named)

    def _log_steps(self, state, control) -> None:
        """Log what was put by, where the Trainer is about to do something or it is enough."""
        asked = control.should_log  # a log of ours would answer for the Trainer's own
        soon = asked or control.should_evaluate or control.should_save
        if not self.steps or not (soon or control.should_training_stop or len(self.steps) >= STEPS):
            return
        self._work_out()
        sums, counts = self._sums_of_steps()
        values = self.metrics[TRAIN].numbers_of(sums, counts)
        for (step, epoch), named, rows in zip(self.steps, values, counts, strict=True):
            with _as_of(state, step, epoch):
                self._log(state, TRAIN, named, rows)
        self._forget()
        control.should_log = asked

    def _sums_of_steps(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(steps, 4, M) and (steps, 3), in this process; a step in which nothing was heard is 0."""
        found = []
        for which, state in enumerate((self.metrics[TRAIN].sums, self.metrics[TRAIN].counts)):
            steps = state.new_zeros(len(self.steps), *state.shape)
            if self.worked_out:
                batches = torch.cat([part[which] for part in self.worked_out]).to(steps)
                steps.index_add_(0, torch.tensor(self.step_of, device=steps.device), batches)
            found.append(steps)
        return tuple(found)

    def _log(self, state, split: str, values: dict, counts: torch.Tensor) -> dict[str, float]:
        heard = any(map(values.get, COUNTS))
        if not (self.warned or values["scored"]):
            self.warned = True
            said = self.metrics[split].explain(counts) if heard else UNHEARD
            warnings.warn(f"NCM, {split}: {said}", stacklevel=2)
        if not heard:
            return {}
        prefix = "eval_" if split == HELD_OUT else ""
        named = {prefix + name: value for name, value in values.items()}
        if self.trainer is None:
            state.log_history.append({**named, "epoch": state.epoch, "step": state.global_step})
        else:
            self.trainer.log(dict(named))
        if self._file:
            start = f"{state.global_step},{split},"
            lines = (f"{start}{name},{value!r}\n" for name, value in values.items())
            self._file.write("".join(lines).encode())
        return named


@contextmanager
def _as_of(state, step: int, epoch: float) -> Iterator[None]:
    """Let a `Trainer` that has gone on log for a step before."""
    now = state.global_step, state.epoch
    state.global_step, state.epoch = step, epoch
    try:
        yield
    finally:
        state.global_step, state.epoch = now


def _begin(path: Path, step: int) -> None:
    """A file with its header, and with the rows up to `step` that it has already."""
    rows = pd.DataFrame(columns=list(COLUMNS))
    if step and path.exists():
        rows = pd.read_csv(path)
        rows = rows[pd.to_numeric(rows["step"], errors="coerce") <= step].dropna(subset="metric")
    results.write_table(path, rows)
