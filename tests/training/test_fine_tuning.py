"""Fine-tuning: a step against the library's own path, repeatability, resuming, overfitting."""

from __future__ import annotations

import copy
import gc
import itertools
import multiprocessing
import shutil
import warnings
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, TrainerCallback
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from realqa_utils.datasets import mini
from realqa_utils.datasets.table import make_table
from realqa_utils.forms.conversations import DIRECT, STAGE_1
from realqa_utils.forms.scores import Scale, digits_of, parse_score, quantise
from realqa_utils.images.views import View
from realqa_utils.model import adapters, vision
from realqa_utils.model.backbone import Backbone, mini_config
from realqa_utils.ncm import NCM, NCMCallback
from realqa_utils.scoring import digit_tree
from realqa_utils.training import answer_trainer, batches, fine_tuning, losses
from realqa_utils.training.answer_trainer import AnswerTrainer
from realqa_utils.training.fine_tuning import Collator, arguments, train
from realqa_utils.training.recipes import Recipe

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

# Two have equally many patches; the answer to the largest begins after that to the smallest ends.
MIXED = [(112, 28), (28, 112), (140, 140), (28, 28)]
WHOLE = View()
BASE = Recipe(steps=2, seed=3, batch_size=4, learning_rate=1e-3, rank=4, alpha=8, dropout=0.0)


@pytest.fixture
def tiny(tiny_tokenizer):
    """Backbones of equal random weights, one layer on either side, for photographs of any size."""
    config = mini_config(tiny_tokenizer).to_dict()
    config["text_config"] |= {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    config["vision_config"] |= {"depth": 1}
    config = Qwen2VLConfig(**config)
    size = {"shortest_edge": 28 * 28, "longest_edge": 140 * 140}

    def build() -> Backbone:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = vision.batch_vision(Qwen2VLForConditionalGeneration(config))
        model.generation_config.eos_token_id = tiny_tokenizer.eos_token_id
        model.generation_config.pad_token_id = tiny_tokenizer.pad_token_id
        return Backbone(model, tiny_tokenizer, Qwen2VLImageProcessorPil(size=size))

    return build


@pytest.fixture(scope="module", autouse=True)
def quick_collection():
    """`Trainer` collects garbage in every run; spare it what was there before the first."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def write_table(folder, sizes, mos=None):
    """Photographs of coloured noise, each (width, height)."""
    rng = np.random.default_rng(0)
    rows = []
    for number, (width, height) in enumerate(sizes):
        colour = rng.integers(0, 200, 3)
        pixels = colour + rng.integers(0, 56, (height, width, 3))
        path = folder / f"{number}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        rows.append({"id": str(number), "path": str(path), "mos": rng.uniform(0, 10)})
    frame = pd.DataFrame(rows)
    if mos is not None:
        frame["mos"] = mos
    return make_table("tiny", Scale(0, 10), frame, source="tiny")


@pytest.fixture(scope="module")
def equal(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("equal"), [(56, 56)] * 16)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return labelled(write_table(tmp_path_factory.mktemp("mixed"), MIXED))


def labelled(table):
    """The same photographs with the labels of scenes that they do not show."""
    labels = [mini.labels(mini.scene_at("mini-koniq", 0, i)) for i in range(len(table))]
    return replace(table, frame=table.frame.assign(**pd.DataFrame(labels)))


def trainer(backbone, table, recipe, tmp_path, view=WHOLE) -> AnswerTrainer:
    return AnswerTrainer(
        model=backbone.model,
        args=arguments(recipe, tmp_path, 0, False),
        train_dataset=range(len(table)),
        data_collator=Collator(backbone, table, recipe, view),
        recipe=recipe,
        digit_ids=backbone.digit_ids,
    )


def state(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in backbone.model.state_dict().items()}


def assert_equal(one: dict, other: dict, atol: float = 0.0) -> None:
    torch.testing.assert_close(one, other, atol=atol, rtol=0)


def difference(one: dict, other: dict) -> float:
    return max(float((one[k] - other[k]).abs().max()) for k in one)


# --- one step ----------------------------------------------------------------------------------


def library_inputs(backbone: Backbone, table, digits: int):
    """Rendered and padded conversations, built without `encoding`; labels on the answers."""
    tokenizer, processor = backbone.tokenizer, backbone.image_processor
    images = [Image.open(path) for path in table.frame["path"]]
    seen = processor(images, return_tensors="pt")
    texts, prompts = [], []
    for target, grid in zip(table.targets, seen["image_grid_thw"], strict=True):
        content = [{"type": "image"}, {"type": "text", "text": DIRECT.question}]
        messages = [{"role": "user", "content": content}]
        answer = f"The score of this image is {quantise(target, digits):.{digits - 1}f}."
        rendered = [
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True),
            tokenizer.apply_chat_template(
                [*messages, {"role": "assistant", "content": answer}], tokenize=False
            ).removesuffix("\n"),
        ]
        pads = "<|image_pad|>" * int(grid.prod() // 4)
        prompt, whole = (text.replace("<|image_pad|>", pads) for text in rendered)
        assert whole.startswith(prompt)
        prompts.append(len(tokenizer(prompt).input_ids))
        texts.append(whole)
    inputs = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    for row, length in enumerate(prompts):
        labels[row, :length] = -100
    kinds = (inputs["input_ids"] == tokenizer.convert_tokens_to_ids("<|image_pad|>")).long()
    return {**inputs, **seen, "mm_token_type_ids": kinds, "labels": labels}


def library_loss(backbone: Backbone, table, recipe: Recipe) -> torch.Tensor:
    """Loss of a whole table from the library's logits, position by position in float64."""
    inputs = library_inputs(backbone, table, recipe.digits)
    out = vision.unbatch_vision(backbone.model)(**inputs)
    if not (recipe.opinion_spread or recipe.expectation_weight or recipe.number_token_weight):
        return out.loss
    chances, ids = out.logits.double().log_softmax(-1), torch.tensor(backbone.digit_ids)
    labels, total, squares, distances = inputs["labels"], 0.0, [], []
    soft = losses.opinion_digits(table.targets, recipe.opinion_spread or 1, recipe.digits)
    for row, target in enumerate(table.targets):
        level, expected = 0, 0.0
        for column in range(1, labels.shape[1]):
            if (label := labels[row, column]) == -100:
                continue
            before = chances[row, column - 1]
            if label in ids:
                share = before[ids].softmax(-1)
                expected = expected + (share @ torch.arange(10.0).double()) / 10**level
                apart = (torch.arange(10.0).double() - ids.tolist().index(label)).abs()
                distances.append(share @ apart / 10**level)
                if recipe.opinion_spread:
                    total = total - soft[row, level].double() @ before[ids]
                else:
                    total = total - before[label]
                level += 1
            else:
                total = total - before[label]
        assert level == recipe.digits
        squares.append((expected - target) ** 2)
    error = recipe.expectation_weight * sum(squares) / len(squares)
    weights = len(squares) * sum(10.0**-level for level in range(recipe.digits))
    error = error + recipe.number_token_weight * sum(distances) / weights
    return (total / (labels != -100).sum() + error).float()


LOSSES = {
    "plain": BASE,
    "one digit": replace(BASE, digits=1),
    "soft": replace(BASE, opinion_spread=0.7),
    "squared": replace(BASE, expectation_weight=0.3),
    "number tokens": replace(BASE, number_token_weight=0.7),
    "all": replace(BASE, opinion_spread=0.7, expectation_weight=0.3, digits=4),
}


@pytest.mark.parametrize("sizes", ["equal", "mixed"])
@pytest.mark.parametrize("recipe", LOSSES.values(), ids=list(LOSSES))
def test_step_equals_the_library(tiny, recipe, sizes, request, tmp_path):
    """Loss and gradients; on the other side are the library's inputs, positions and vision code."""
    table = request.getfixturevalue(sizes).subset(["0", "1", "2", "3"])
    recipe = replace(recipe, language="full", vision="full")
    backbone, library = tiny(), tiny()
    expected = library_loss(library, table, recipe)
    expected.backward()
    ours = trainer(backbone, table, recipe, tmp_path)
    loss = ours.compute_loss(backbone.model, ours.data_collator(range(4)))
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    loss.backward()
    ours, theirs = (
        {name: parameter.grad for name, parameter in b.model.named_parameters()}
        for b in (backbone, library)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("sizes", ["equal", "mixed"])
def test_cached_tokens_of_a_frozen_tower(tiny, sizes, request, tmp_path):
    table = request.getfixturevalue(sizes)
    recipe = replace(BASE, vision="frozen", opinion_spread=0.5, expectation_weight=0.2)
    backbone = adapters.prepare(tiny(), vision="frozen", rank=4, alpha=8, dropout=0)
    ours = trainer(backbone, table, recipe, tmp_path)
    cached = ours.data_collator
    uncached = copy.copy(cached)
    uncached.tokens = None
    for rows in ([0, 1, 2, 3], [3, 1]):
        inputs = cached(rows), uncached(rows)
        assert ["pixel_values" in batch for batch in inputs] == [False, True]
        losses = [ours.compute_loss(ours.model, batch) for batch in inputs]
        torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)


def test_cached_tokens_follow_weights_and_processor(tiny, equal):
    """Two of equal weights that see photographs in other sizes, and one of other weights."""
    first, smaller, other = tiny(), tiny(), tiny()
    smaller.image_processor.size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28}
    with torch.no_grad():
        other.core.visual.merger.mlp[2].bias.add_(1)
    recipe = replace(BASE, vision="frozen")
    collators = [Collator(backbone, equal, recipe, WHOLE) for backbone in (first, smaller, other)]
    tokens = [collator([0])["image_tokens"][0] for collator in collators]
    assert [len(t) for t in tokens] == [4, 1, 4]
    torch.testing.assert_close(tokens[2], tokens[0] + 1)


def test_a_frozen_tower_looks_once_at_a_dozen_random_windows(tiny, equal):
    backbone, view = tiny(), View(size=28, short=56, random=True)
    collator = Collator(backbone, equal, replace(BASE, vision="frozen"), view)
    assert len(collator.tokens[0]) == 16 * batches.FROZEN_WINDOWS
    first, again = (collator([0, 3])["image_tokens"] for _ in range(2))
    torch.testing.assert_close(first, again)  # an interrupted run goes on with the same windows
    known = collator.tokens[0][3 * batches.FROZEN_WINDOWS : 4 * batches.FROZEN_WINDOWS]
    assert any(torch.equal(first[1], token) for token in known)
    picked = {tuple(collator([3, i])["image_tokens"][0].flatten().tolist()) for i in range(8)}
    assert len(picked) > 1


def test_soft_digits_follow_the_written_ones(tiny, tmp_path):
    """4.995 is written 5.00; as a float32 it is 4.99499989, which begins with 4."""
    table = write_table(tmp_path, [(56, 56)], mos=[4.995])
    batch = Collator(tiny(), table, BASE, WHOLE)([0])
    soft = losses.opinion_digits(batch["targets"], 0.02, 3)
    assert soft[0].argmax(-1).tolist()[1:] == [0, 0]  # after 5 the next are 0 0; after 4, 9 9


def test_labels_are_the_answer_and_its_end(tiny, mixed):
    backbone = tiny()
    batch = Collator(backbone, mixed, BASE, WHOLE)(range(4))
    for row, target in enumerate(mixed.targets):
        labels = batch["labels"][row]
        said = backbone.tokenizer.decode(labels[labels != -100])
        assert said == f"The score of this image is {quantise(target, 3):.2f}.<|im_end|>"
        digits = batch["input_ids"][row, batch["digit_places"][row]]
        assert digits.tolist() == [backbone.digit_ids[d] for d in digits_of(target, 3)]


# --- whole runs --------------------------------------------------------------------------------


class Watch(TrainerCallback):
    """Notes the steps and the logged losses; with `end`, raises before that optimiser step."""

    def __init__(self, end: int = -1):
        self.end, self.begun, self.losses = end, [], []

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.end:
            raise KeyboardInterrupt
        self.begun.append(state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.losses += [logs[key] for key in ("loss", "train_loss") if key in logs]


def run(backbone, table, recipe, out, view=WHOLE, **more) -> dict[str, torch.Tensor]:
    return state(train(backbone, table, recipe, view, out, **more))


def test_same_seed_same_weights(tiny, equal, tmp_path):
    """Whatever the state of the global generators."""
    weights = []
    for noise, seed in enumerate((3, 3, 4)):
        torch.manual_seed(noise)
        np.random.seed(noise)
        weights.append(run(tiny(), equal, replace(BASE, seed=seed, dropout=0.1), tmp_path))
    assert_equal(weights[0], weights[1])
    assert difference(weights[0], weights[2]) > 1e-4


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="they are forked")
def test_batches_may_be_prepared_in_other_processes(tiny, mixed, tmp_path, monkeypatch):
    """As on a GPU: by length too, whose order is drawn anew in every epoch."""
    recipe, weights = replace(BASE, steps=5, by_length=True, accumulation=2), []
    for count in (0, 2):
        monkeypatch.setattr(fine_tuning, "loaders", lambda count=count: count)
        weights.append(run(tiny(), mixed, recipe, tmp_path))
    assert_equal(*weights)


@pytest.mark.parametrize("terms", ["plain", "soft", "squared"])
def test_accumulation(tiny, equal, tmp_path, terms):
    """Two passes of 8 are one of 16: the same losses and weights."""
    recipe = replace(LOSSES[terms], batch_size=16, steps=3, language="full", vision="full")
    losses, weights = [], []
    for passes in (1, 2):
        watch = Watch()
        split = replace(recipe, accumulation=passes, learning_rate=1e-4)
        weights.append(run(tiny(), equal, split, tmp_path, callbacks=[watch]))
        losses.append(watch.losses)
    assert len(losses[0]) == 4 and losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert_equal(*weights, atol=1e-5)
    assert difference(weights[0], state(tiny())) > 1e-4


WINDOWS = View(size=28, short=56, random=True)
LORA = replace(BASE, steps=5, batch_size=2, dropout=0.2)
RESUMED = {
    "tower in full, between epochs": (replace(LORA, vision="full"), WHOLE, 2),
    "frozen tower": (replace(LORA, vision="frozen"), WHOLE, 3),
    "all in full": (replace(LORA, language="full", vision="full", accumulation=2), WHOLE, 3),
    "random windows": (LORA, WINDOWS, 3),
    "by length, in the second epoch": (replace(LORA, by_length=True, seed=7), WHOLE, 3),
    "stage 1, with Muon": (
        replace(LORA, form="all", language="full", vision="frozen", optimiser="muon"), WHOLE, 3
    ),
}  # fmt: skip


def test_adapters_read_bfloat16_and_learn_what_they_would_from_float32(
    tiny, equal, tmp_path, monkeypatch
):
    """Of bfloat16 weights: the library would widen what they read, for autocast to narrow it."""
    recipe = replace(BASE, weights="bfloat16", dropout=0.1)

    def trained() -> tuple[set, dict]:
        backbone, read = tiny(), set()
        backbone.model.bfloat16()
        place = backbone.core.language_model.layers[0].mlp.down_proj

        def listen(*_, model=None, **__):
            adapter = model.get_submodule(f"{name_of(model, place)}.lora_A.default")
            adapter.register_forward_pre_hook(lambda _, given: read.add(given[0].dtype))

        listener = TrainerCallback()
        listener.on_train_begin = listen
        done = train(backbone, equal, recipe, WHOLE, tmp_path, callbacks=[listener])
        return read, {n: p for n, p in done.model.named_parameters() if p.requires_grad}

    def name_of(model, base) -> str:
        return next(n for n, m in model.named_modules() if getattr(m, "base_layer", None) is base)

    read, narrow = trained()
    monkeypatch.setattr(
        answer_trainer, "disable_input_dtype_casting", lambda *_, **__: nullcontext()
    )
    widened, wide = trained()
    assert (read, widened) == ({torch.bfloat16}, {torch.float32})
    moved = [name for name in wide if "lora_B" in name]  # they start at 0
    narrow, wide = (torch.cat([x[name].flatten() for name in moved]) for x in (narrow, wide))
    assert (narrow - wide).norm() < 0.01 * wide.norm()  # gradients are added up in bfloat16


@pytest.mark.parametrize("recipe, view, save_steps", RESUMED.values(), ids=list(RESUMED))
def test_resuming(tiny, mixed, tmp_path, recipe, view, save_steps):
    """Epochs have two steps; the run is cut off before its fifth step."""
    whole = run(tiny(), mixed, recipe, tmp_path / "whole", view)
    out = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        run(tiny(), mixed, recipe, out, view, save_steps=save_steps, callbacks=[Watch(4)])
    saved = max(step for step in range(5) if step % save_steps == 0)
    assert [path.name for path in out.iterdir()] == [f"checkpoint-{saved}"]
    watch = Watch()
    again = run(tiny(), mixed, recipe, out, view, save_steps=save_steps, callbacks=[watch])
    assert watch.begun == list(range(saved, 5))
    assert_equal(again, whole, atol=1e-6)


def test_half_written_checkpoints_are_passed_over(tiny, mixed, tmp_path):
    """The state, written last, is not there, or is cut off."""
    whole = run(tiny(), mixed, LORA, tmp_path / "whole")
    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        run(tiny(), mixed, LORA, cut, save_steps=3, callbacks=[Watch(4)])
    text = (cut / "checkpoint-3" / "trainer_state.json").read_text()
    for state_left in (None, "", text[: len(text) // 2]):
        out = shutil.copytree(cut, tmp_path / f"{state_left is None} {len(state_left or '')}")
        later = shutil.copytree(out / "checkpoint-3", out / "checkpoint-4")
        (later / "optimizer.pt").unlink()
        (later / "trainer_state.json").unlink()
        if state_left is not None:
            (later / "trainer_state.json").write_text(state_left)
        watch = Watch()
        again = run(tiny(), mixed, LORA, out, save_steps=3, callbacks=[watch])
        assert watch.begun == [3, 4]
        assert_equal(again, whole, atol=1e-6)


def test_a_finished_run_is_not_repeated(tiny, mixed, tmp_path):
    recipe = replace(LORA, steps=2)
    whole = run(tiny(), mixed, recipe, tmp_path, save_steps=5)
    watch = Watch()
    assert_equal(run(tiny(), mixed, recipe, tmp_path, save_steps=5, callbacks=[watch]), whole)
    assert watch.begun == []
    # unless no checkpoints were asked for
    assert_equal(run(tiny(), mixed, recipe, tmp_path, callbacks=[watch]), whole)
    assert watch.begun == [0, 1]


def test_nothing_but_a_half_written_checkpoint(tiny, mixed, tmp_path):
    (tmp_path / "checkpoint-4").mkdir()
    watch = Watch()
    run(tiny(), mixed, replace(LORA, steps=2), tmp_path, save_steps=2, callbacks=[watch])
    assert watch.begun == [0, 1]


def test_quiet(tiny, mixed, tmp_path, capfd):
    """No warning of the library's own making, no log on the screen, no folder without need."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        train(tiny(), mixed, BASE, WHOLE, tmp_path / "out")
    assert capfd.readouterr().out == ""
    assert not (tmp_path / "out").exists()


def test_overfitting(tiny, tmp_path):
    """Eight colours are learnt by heart, and their scores come back both ways of asking."""
    table = write_table(tmp_path, [(56, 56)] * 8)
    colours = itertools.product((20, 235), repeat=3)
    images = [Image.new("RGB", (56, 56), colour) for colour in colours]
    for image, path in zip(images, table.frame["path"], strict=True):
        image.save(path)
    recipe = Recipe(80, batch_size=8, learning_rate=5e-3, language="full", vision="frozen")
    backbone = train(tiny(), table, recipe, WHOLE, tmp_path)
    assert not backbone.model.training
    targets = quantise(table.targets, 3).tolist()
    said = backbone.generate([DIRECT.question] * 8, images, 16)
    assert said == [f"The score of this image is {target:.2f}." for target in targets]
    assert [parse_score(text, 3).score for text in said] == targets
    readings = digit_tree.read(backbone, images, 3)
    assert [reading.greedy for reading in readings] == targets
    assert [r.expected for r in readings] == pytest.approx(targets, abs=0.3)
    assert max(r.off_format for r in readings) < 0.1


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_stage_1_lowers_the_loss(tiny, equal, tmp_path, optimiser):
    table = labelled(equal)
    recipe = Recipe(
        12, form="levels", batch_size=16, learning_rate=3e-3, language="full", vision="frozen",
        optimiser=optimiser,
    )  # fmt: skip
    losses = []
    for backbone in (tiny(), train(tiny(), table, recipe, WHOLE, tmp_path)):
        ours = trainer(backbone, table, recipe, tmp_path)
        losses.append(ours.compute_loss(backbone.model, ours.data_collator(range(16))).item())
    assert losses[1] < 0.8 * losses[0]


def test_ncm_is_heard_in_training_and_on_the_held_out_set(tiny, equal, tmp_path):
    """Before the first step, it is that of the library's own logits."""
    held_out = equal.subset(["0", "1", "2", "3"])
    recipe = replace(BASE, steps=3, language="full", vision="full", batch_size=8)
    inputs = library_inputs(tiny(), held_out, recipe.digits)
    metric = NCM.of(tiny().tokenizer, DIRECT, recipe.digits)
    with torch.no_grad():
        metric.update(vision.unbatch_vision(tiny().model)(**inputs).logits, inputs["labels"])
    expected = {name: float(value) for name, value in metric.compute().items()}
    metric.reset()
    path = tmp_path / "ncm.csv"
    callback = NCMCallback(metric, every=2, csv=path)
    train(
        tiny(), equal, recipe, WHOLE, tmp_path, callbacks=[callback], held_out=held_out,
        evaluate_every=3,
    )  # fmt: skip
    table = pd.read_csv(path).set_index(["split", "step", "metric"])["value"].sort_index()
    assert list(table["held-out"].index.unique("step")) == [0, 3]
    assert list(table["train"].index.unique("step")) == [1, 2]
    assert table["train", 1, "scored"] == 8
    first = table["held-out", 0]
    assert first.to_dict() == pytest.approx(expected, rel=1e-4)
    assert table["held-out", 3, "ncm"] != first["ncm"]


# --- recipes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["direct", "attributes", "levels", "mix", "mix_low_first", "all"])
def test_a_recipe_trains_on_any_set(form):
    assert replace(BASE, form=form).form == form
    assert form == "direct" or form in STAGE_1


@pytest.mark.parametrize(
    "change, message",
    [
        ({"batch_size": 10, "accumulation": 4}, "batch_size 10 does not divide by accumulation 4"),
        ({"accumulation": 0}, "accumulation=0: at least 1"),
        ({"steps": 0}, "steps=0: at least 1"),
        ({"vision": "thawed"}, "vision='thawed': one of lora, full, frozen"),
        ({"language": "full"}, "vision='lora' needs language='lora'"),
        ({"form": "odd"}, "form='odd': one of direct, attributes, levels, mix, .*all"),
        ({"form": "image_clarity"}, "form='image_clarity': one of"),
        ({"optimiser": "sgd"}, "optimiser='sgd': one of adamw, muon"),
        ({"optimiser": "muon"}, "optimiser='muon' needs language='full'"),
        ({"tower_steps": -1}, "tower_steps=-1: at least 0"),
        ({"start": "cold"}, "start='cold': one of pretrained, random"),
        ({"start": "random"}, "start='random' needs language='full' and vision='full'"),
    ],
)
def test_recipes_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        replace(BASE, **change)


def test_arguments_follow_the_recipe(tmp_path):
    recipe = Recipe(steps=50, seed=5, batch_size=24, accumulation=3, learning_rate=2e-4)
    out = arguments(recipe, tmp_path, 0, False)
    assert out.train_batch_size == 8 and out.gradient_accumulation_steps == 3
    assert out.get_warmup_steps(50) == 5
    assert (out.max_steps, out.seed, out.data_seed, out.learning_rate) == (50, 5, 5, 2e-4)
    assert out.lr_scheduler_type == "cosine" and out.report_to == []


def test_recipe_record():
    record = fine_tuning.recipe_record(BASE, WINDOWS)
    assert record["rank"] == 4 and record["view"]["size"] == 28
    assert Recipe(**{k: v for k, v in record.items() if k != "view"}) == BASE
