"""NCM inside the `Trainer`: what is logged, where, and for which steps."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import peft
import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.modeling_outputs import CausalLMOutput

from realqa_utils.ncm import NCM, callback
from realqa_utils.ncm.callback import COLUMNS, NCMCallback

VOCABULARY, DIGITS, POINT, WORD, NONE = 16, list(range(10)), 10, 11, -100
M = 2


def row(score: str) -> list[int]:
    """Labels: a word that is not trained on, a word, the number, an end."""
    return [NONE, WORD, *(POINT if c == "." else int(c) for c in score), 12]


def places(labels: torch.Tensor) -> torch.Tensor:
    found = torch.tensor([[2, 4]]).expand(len(labels), -1)
    return torch.where((labels[:, 2] < 10)[:, None], found, -1)


class Toy(nn.Module):
    """A causal model of two matrices that returns its loss and logits."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, 8), nn.Linear(8, VOCABULARY)

    def forward(self, input_ids, labels=None):
        logits = self.head(self.embed(input_ids).cumsum(1))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=NONE
            )
        return CausalLMOutput(loss=loss, logits=logits)


def dataset(count: int, seed: int, scored: bool = True) -> list[dict]:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        text = f"{rng.uniform(0, 9.9):.1f}"
        labels = row(text) if scored else [NONE, WORD, 13, 13, 13, 12]
        ids = [int(rng.integers(16)), *labels[1:]]
        rows.append({"input_ids": ids, "labels": labels})
    return rows


@pytest.fixture
def metric():
    return NCM(places, DIGITS, M)


def trainer(tmp_path, train, held_out=None, callbacks=(), **options) -> Trainer:
    torch.manual_seed(0)
    defaults = {
        "output_dir": str(tmp_path), "max_steps": 6, "per_device_train_batch_size": 4,
        "learning_rate": 0.05, "report_to": "none", "use_cpu": True, "disable_tqdm": True,
        "logging_steps": 2, "save_strategy": "no", "dataloader_pin_memory": False,
    }  # fmt: skip
    arguments = TrainingArguments(**(defaults | options))
    return Trainer(
        Toy(), arguments, train_dataset=train, eval_dataset=held_out, callbacks=list(callbacks)
    )


class Listener(TrainerCallback):
    """What a logger such as TensorBoard is told."""

    def __init__(self):
        self.told = []

    def on_log(self, args, state, control, logs=None, **_):
        self.told.append((state.global_step, dict(logs)))


def steps_with(history: list[dict], name: str) -> list[int]:
    return [entry["step"] for entry in history if name in entry]


def test_the_first_step_and_every_third_are_logged_beside_the_loss(tmp_path, metric):
    listener = Listener()
    work = trainer(tmp_path, dataset(24, 0), callbacks=[listener])
    work.add_callback(NCMCallback(metric, work, every=3))
    work.train()
    history = work.state.log_history
    assert steps_with(history, "ncm") == [1, 3, 6]
    assert steps_with(history, "loss") == [2, 4, 6]  # as without the callback
    assert [step for step, logs in listener.told if "ncm" in logs] == [1, 3, 6]
    assert all(entry["scored"] == 4 for entry in history if "ncm" in entry)


def test_values_are_those_of_the_metric_on_the_batch_before_the_step(tmp_path, metric):
    """With one batch of everything, the first value is that of the model as it comes."""
    data = dataset(8, 0)
    work = trainer(tmp_path, data, per_device_train_batch_size=8, max_steps=1)
    batch = {key: torch.tensor([one[key] for one in data]) for key in data[0]}
    metric.update(work.model(**batch).logits, batch["labels"])
    expected = {name: float(value) for name, value in metric.compute().items()}
    metric.reset()
    work.add_callback(NCMCallback(metric, work))
    work.train()
    (entry,) = [e for e in work.state.log_history if "ncm" in e]
    for name, value in expected.items():
        assert entry[name] == pytest.approx(value, rel=1e-5), name


def test_accumulated_batches_count_as_one(tmp_path):
    def first(size: int) -> dict:
        metric = NCM(places, DIGITS, M)
        work = trainer(
            tmp_path, dataset(8, 0), max_steps=1, per_device_train_batch_size=size,
            gradient_accumulation_steps=8 // size,
        )  # fmt: skip
        work.add_callback(NCMCallback(metric, work))
        work.train()
        return next(e for e in work.state.log_history if "ncm" in e)

    whole, parts = first(8), first(2)
    assert parts["scored"] == whole["scored"] == 8
    assert parts["ncm"] == pytest.approx(whole["ncm"], rel=1e-5)


def test_the_held_out_set_is_measured_when_it_is_evaluated(tmp_path, metric):
    held_out = dataset(10, 1)
    work = trainer(
        tmp_path, dataset(24, 0), held_out, eval_strategy="steps", eval_steps=2,
        per_device_eval_batch_size=4, save_strategy="best", metric_for_best_model="eval_ncm",
        greater_is_better=False, load_best_model_at_end=True,
    )  # fmt: skip
    work.add_callback(NCMCallback(metric, work, every=2))
    work.train()
    history = work.state.log_history
    assert steps_with(history, "eval_ncm") == [2, 4, 6]
    assert all(entry["eval_scored"] == 10 for entry in history if "eval_ncm" in entry)
    best = min(entry["eval_ncm"] for entry in history if "eval_ncm" in entry)
    assert work.state.best_metric == best
    batch = {key: torch.tensor([one[key] for one in held_out]) for key in held_out[0]}
    with torch.no_grad():
        check = NCM(places, DIGITS, M)
        check.update(work.model(**batch).logits, batch["labels"])
    assert float(check.compute()["ncm"]) == pytest.approx(best, rel=1e-5)  # the best was loaded


def test_evaluation_at_steps_of_the_callbacks_own_choice(tmp_path, metric):
    work = trainer(tmp_path, dataset(24, 0), dataset(4, 1))
    work.add_callback(NCMCallback(metric, work, every=6, evaluate_every=3))
    work.train()
    assert steps_with(work.state.log_history, "eval_ncm") == [3, 6]


def test_steps_that_are_worked_out_together_are_logged_each_under_its_own(
    tmp_path, metric, monkeypatch
):
    """In order, before what the Trainer says of the last of them, and whatever has room."""

    def run(room: int) -> tuple[list[dict], list]:
        monkeypatch.setattr(callback, "ROOM", room)
        listener = Listener()
        work = trainer(
            tmp_path, dataset(24, 0), max_steps=30, logging_steps=27, callbacks=[listener],
            gradient_accumulation_steps=2, per_device_train_batch_size=2,
        )  # fmt: skip
        work.add_callback(NCMCallback(NCM(places, DIGITS, M), work))
        work.train()
        return work.state.log_history, listener.told

    history, told = run(2**23)
    assert steps_with(history, "ncm") == [step for step, logs in told if "ncm" in logs]
    assert steps_with(history, "ncm") == list(range(1, 31))
    assert [entry["step"] for entry in history if "train_runtime" not in entry] == sorted(
        [*range(1, 31), 27]
    )
    assert "ncm" in history[26] and "loss" in history[27]  # both of step 27
    epochs = [entry["epoch"] for entry in history if "ncm" in entry]
    assert epochs == pytest.approx([step / 6 for step in range(1, 31)])
    assert len({entry["ncm"] for entry in history if "ncm" in entry}) == 30
    tight, _ = run(0)
    values = [[e["ncm"] for e in entries if "ncm" in e] for entries in (history, tight)]
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_a_checkpoint_has_every_step_up_to_its_own(tmp_path, metric):
    work = trainer(tmp_path, dataset(24, 0), save_strategy="steps", save_steps=5, logging_steps=50)
    work.add_callback(NCMCallback(metric, work))
    work.train()
    state = json.loads((tmp_path / "checkpoint-5" / "trainer_state.json").read_text())
    assert steps_with(state["log_history"], "ncm") == [1, 2, 3, 4, 5]


def test_a_training_that_another_callback_stops_is_logged_to_its_end(tmp_path, metric):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step == 4

    work = trainer(tmp_path, dataset(24, 0), logging_steps=50)
    work.add_callback(NCMCallback(metric, work))
    work.add_callback(Stop())
    work.train()
    assert steps_with(work.state.log_history, "ncm") == [1, 2, 3, 4]


def test_the_csv_is_tidy_and_says_what_the_history_says(tmp_path, metric):
    path = tmp_path / "ncm.csv"
    work = trainer(tmp_path, dataset(24, 0), dataset(4, 1), eval_strategy="steps", eval_steps=3)
    work.add_callback(NCMCallback(metric, work, every=3, csv=path))
    work.train()
    table = pd.read_csv(path)
    assert tuple(table.columns) == COLUMNS
    for entry in work.state.log_history:
        for prefix, split in (("", "train"), ("eval_", "held-out")):
            if f"{prefix}ncm" in entry:
                rows = table[(table["step"] == entry["step"]) & (table["split"] == split)]
                for name, value in rows.set_index("metric")["value"].items():
                    assert entry[prefix + name] == pytest.approx(value, nan_ok=True)
    assert len(table) == table.drop_duplicates(["step", "split", "metric"]).shape[0] > 0


def test_a_resumed_training_goes_on_with_the_csv(tmp_path, metric):
    path = tmp_path / "ncm.csv"

    def run(steps: int, resume: bool) -> None:
        fresh = NCM(places, DIGITS, M)
        work = trainer(
            tmp_path, dataset(40, 0), max_steps=steps, save_strategy="steps", save_steps=4,
            lr_scheduler_type="constant",
        )  # fmt: skip
        work.add_callback(NCMCallback(fresh, work, csv=path))
        work.train(resume_from_checkpoint=resume or None)

    run(6, False)  # is cut off after step 6, the last checkpoint is of step 4
    first = pd.read_csv(path)
    with path.open("a") as file:
        file.write("7,train,nc")  # a line that a kill has torn
    run(8, True)
    second = pd.read_csv(path)
    assert sorted(second["step"].unique()) == list(range(1, 9))
    assert len(second) == second.drop_duplicates(["step", "split", "metric"]).shape[0]
    early = second[second["step"] <= 4].reset_index(drop=True)
    pd.testing.assert_frame_equal(early, first[first["step"] <= 4].reset_index(drop=True))
    run(2, False)  # a new training replaces the file
    assert sorted(pd.read_csv(path)["step"].unique()) == [1, 2]


def test_without_a_trainer_the_history_gets_the_values(tmp_path, metric):
    work = trainer(tmp_path, dataset(24, 0), callbacks=[NCMCallback(metric, every=6)])
    work.train()
    assert steps_with(work.state.log_history, "ncm") == [1, 6]
    json.dumps(work.state.log_history)


def test_labels_without_scores_warn_once_and_stop_nothing(tmp_path, metric):
    work = trainer(tmp_path, dataset(24, 0, scored=False))
    work.add_callback(NCMCallback(metric, work))
    with pytest.warns(UserWarning, match="none of 4 rows could be scored") as heard:
        work.train()
    assert len([w for w in heard if "NCM" in str(w.message)]) == 1
    entries = [e for e in work.state.log_history if "skipped" in e]
    assert len(entries) == 6 and all(e["skipped"] == 4 and np.isnan(e["ncm"]) for e in entries)


def test_a_trainer_that_keeps_the_labels_is_told_what_to_do(tmp_path, metric):
    work = trainer(tmp_path, dataset(24, 0))

    def loss(outputs, labels, num_items_in_batch=None):
        logits = outputs.logits[:, :-1].flatten(0, 1)
        return nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=NONE)

    work.compute_loss_func = loss
    work.add_callback(NCMCallback(metric, work))
    with pytest.warns(UserWarning, match="must call `observe"):
        work.train()
    assert not steps_with(work.state.log_history, "ncm")


def test_nothing_is_heard_after_training(tmp_path, metric):
    work = trainer(tmp_path, dataset(24, 0))
    ours = NCMCallback(metric, work)
    work.add_callback(ours)
    work.train()
    assert not work.model._forward_hooks
    assert not ours.heard and not ours.steps


@pytest.mark.parametrize(
    ("remainder", "expected"), [(5, [4, 1]), (3, [3, 0]), (8, [4, 4]), (-1, [4, 4])]
)
def test_rows_that_fill_up_the_last_batch_are_left_out(metric, remainder, expected):
    """On two processes of 4, a last round of 5 rows has 3 copies, in the second process."""
    for process, own in enumerate(expected):
        loading = SimpleNamespace(end_of_dataloader=True, remainder=remainder)
        accelerator = SimpleNamespace(gradient_state=loading, process_index=process)
        ours = NCMCallback(metric, SimpleNamespace(accelerator=accelerator))
        assert ours._own_rows(4) == own
        loading.end_of_dataloader = False
        assert ours._own_rows(4) == 4


def test_every_must_be_a_number_of_steps(metric):
    with pytest.raises(ValueError, match="every is 0"):
        NCMCallback(metric, every=0)


def test_mixed_precision(tmp_path):
    def first(**options) -> dict:
        work = trainer(tmp_path, dataset(8, 0), max_steps=1, **options)
        work.add_callback(NCMCallback(NCM(places, DIGITS, M), work))
        work.train()
        return next(e for e in work.state.log_history if "ncm" in e)

    half, full = first(bf16=True), first()
    assert half["ncm"] != full["ncm"] and half["ncm"] == pytest.approx(full["ncm"], rel=0.1)


def test_lora_on_a_language_model_with_chains_of_thought(tmp_path, tiny_backbone):
    """The answers hold other numbers and are of unequal lengths; the template tells the score."""
    tokenizer = tiny_backbone.tokenizer
    template = "The final score is {}."
    texts = [
        f"Composition Score: {k}. {'Clear and level. ' * k}{template.format(f'{k}.2{k}')}"
        for k in range(1, 9)
    ]
    rows = [tokenizer(text + tokenizer.eos_token).input_ids for text in texts]
    width = max(map(len, rows))
    data = [
        {"input_ids": ids + [tokenizer.pad_token_id] * (width - len(ids)),
         "attention_mask": [1] * len(ids) + [0] * (width - len(ids)),
         "labels": ids + [NONE] * (width - len(ids))}
        for ids in rows
    ]  # fmt: skip
    model = peft.get_peft_model(
        copy.deepcopy(tiny_backbone.model), peft.LoraConfig(target_modules=["q_proj", "v_proj"])
    )
    metric = NCM.of(tokenizer, template, digits=3)
    batch = {key: torch.tensor([one[key] for one in data]) for key in data[0]}
    with torch.no_grad():
        metric.update(model(**batch).logits, batch["labels"])
    expected = float(metric.compute()["ncm"])
    metric.reset()
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=4, gradient_accumulation_steps=2,
        report_to="none", use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    work = Trainer(model, arguments, train_dataset=data)
    work.add_callback(NCMCallback(metric, work))
    work.train()
    entries = [entry for entry in work.state.log_history if "ncm" in entry]
    assert [entry["scored"] for entry in entries] == [8, 8]
    assert entries[0]["ncm"] == pytest.approx(expected, rel=1e-4)


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.ncm.test_callback import DIGITS, M, NCM, NCMCallback, dataset, places, trainer
folder, size = Path(sys.argv[2]), int(sys.argv[3])
work = trainer(
    folder, dataset(24, 0), dataset(13, 1), eval_strategy="steps", eval_steps=3,
    per_device_train_batch_size=size, per_device_eval_batch_size=size, ddp_backend="gloo",
)
work.add_callback(NCMCallback(NCM(places, DIGITS, M), work, csv=folder / "ncm.csv"))
work.train()
"""


@pytest.mark.slow
def test_two_processes_log_what_one_does(tmp_path):
    """Training on 2 x 2 rows a step against 4, and 13 held-out rows, which do not divide by 4."""

    def run(processes: int) -> pd.DataFrame:
        folder = tmp_path / str(processes)
        folder.mkdir()
        (folder / "run.py").write_text(SCRIPT)
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc-per-node={processes}", str(folder / "run.py"),
            str(Path(__file__).parents[2]), str(folder), str(4 // processes),
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return pd.read_csv(folder / "ncm.csv").set_index(["step", "split", "metric"])["value"]

    one, two = run(1), run(2)
    assert one.index.equals(two.index) and {"train", "held-out"} == set(one.index.unique("split"))
    assert one.loc[3, "held-out", "scored"] == 13
    np.testing.assert_allclose(two, one, rtol=1e-6, atol=1e-6)
