"""The plan against what is measured: bytes that are kept, peaks of real steps, operations."""

from __future__ import annotations

import copy
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from bitsandbytes.nn import Params4bit
from peft.helpers import disable_input_dtype_casting
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from realqa_utils import cli
from realqa_utils.datasets import mini
from realqa_utils.datasets.table import make_table
from realqa_utils.experiments import chain_of_thought, granularity, monitoring, objectives
from realqa_utils.forms.conversations import DIRECT
from realqa_utils.forms.scores import Scale
from realqa_utils.images.views import View
from realqa_utils.model import adapters, backbone, language
from realqa_utils.model.backbone import Backbone
from realqa_utils.model.encoding import IGNORED, encode
from realqa_utils.planning import layer_costs, model_shapes, plan, plan_command, plan_tables
from realqa_utils.planning.layer_costs import Mode, Step
from realqa_utils.planning.plan import GIB, Setup
from realqa_utils.planning.plan_tables import Case
from realqa_utils.profiles import get_profile
from realqa_utils.reproduction import parameters
from realqa_utils.scoring import digit_tree
from realqa_utils.training import batches, fine_tuning, losses
from realqa_utils.training.recipes import Recipe

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

MINI = model_shapes.config_of("mini")
BIG, SMALL = "Qwen/Qwen2-VL-7B-Instruct", "Qwen/Qwen2-VL-2B-Instruct"
LORA = Recipe(steps=3, batch_size=8, rank=16, alpha=32, dropout=0.1)
TOLERANCE = 0.1


# --- what is measured ----------------------------------------------------------------------------


def peak(job) -> int:
    """The most bytes that torch's CPU allocator held during a job, on top of those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        job()
    events = seen.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    return int(np.cumsum([size for _, size in sorted(changes, key=lambda c: c[0])]).max())


def kept(job, given) -> int:
    """Bytes of different storages that autograd keeps in a job, without those that were there."""
    found, alive = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        alive.append(storage)
        found[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        job()
    return sum(found[key] for key in found.keys() - {t.untyped_storage()._cdata for t in given})


def own_bytes(model) -> int:
    return sum(p.nbytes for p in model.parameters())


class Pass:
    """One forward pass of the mini model on `rows` photographs, as a training has it."""

    def __init__(self, recipe, rows=4, is_plain=True, is_bf16=False, checkpointing=False, side=112):
        self.recipe, self.is_plain, self.is_bf16 = recipe, is_plain, is_bf16
        loaded = backbone.load("mini")
        loaded.model.to(torch.bfloat16 if is_bf16 else torch.float32)
        loaded.look_at(side * side, side * side)
        self.backbone = adapters.prepare(
            loaded, recipe.language, recipe.vision, recipe.rank, recipe.alpha, recipe.dropout
        )
        self.model = self.backbone.model.train()
        self.quiet = disable_input_dtype_casting(self.model, active=is_bf16)
        self.quiet.__enter__()  # as in a training, until the end of the backward pass
        if checkpointing:
            self.model.enable_input_require_grads()
            self.model.activation_checkpointing_enable({"use_reentrant": False})
        pixels = np.random.default_rng(0).integers(0, 256, (rows, side, side, 3), np.uint8)
        values, grids = loaded.pixels([Image.fromarray(image) for image in pixels])
        asked, answers = [DIRECT.question] * rows, [DIRECT.answer(3.99, 3)] * rows
        self.batch = encode(self.backbone, asked, answers, grids)
        labels = self.batch.pop("labels")
        self.batch["pixel_values"] = values
        self.columns = (labels[:, 1:] != IGNORED).any(0).nonzero().flatten()
        self.labels = labels[:, self.columns + 1]

    def loss(self) -> torch.Tensor:
        amp = torch.autocast("cpu", torch.bfloat16) if self.is_bf16 else nullcontext()
        with amp:
            run = self.model if self.is_plain else language.forward
            if self.is_plain:
                out = run(**self.batch, use_cache=False, logits_to_keep=self.columns)
            else:
                out = run(self.model, self.batch, self.columns, use_cache=False)
            return losses.answer_loss(out.logits, self.labels)

    def step(self) -> None:
        self.loss().backward()

    @property
    def shape(self) -> Step:
        rows, columns = self.batch["input_ids"].shape
        patches = int(self.batch["image_grid_thw"][0].prod())
        shared = None if self.is_plain else language.shared_columns(self.batch)
        packed = None
        if self.recipe.language == "full" and not self.is_plain:
            packed = rows * (columns - shared) + shared, rows * len(self.columns)
        return Step(rows, patches, columns, len(self.columns), shared, False, packed)

    @property
    def modes(self) -> tuple[Mode, Mode]:
        size = 2 if self.is_bf16 else 4
        more = (self.recipe.rank, self.recipe.dropout, size, size)
        return Mode(self.recipe.vision, *more), Mode(self.recipe.language, *more)


def two_layers(model: str, **text: int) -> Qwen2VLConfig:
    """The real widths, with two layers on either side."""
    given = copy.deepcopy(model_shapes.CONFIGS[model])
    given["text_config"]["num_hidden_layers"] = given["vision_config"]["depth"] = 2
    given["text_config"] |= text | {"bos_token_id": None, "eos_token_id": None}
    return Qwen2VLConfig(**given, image_token_id=7, video_token_id=8, vision_start_token_id=5)


# --- parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "published"), [(BIG, 8_291_375_616), (SMALL, 2_208_985_600)])
def test_the_written_down_configs_have_the_published_number_of_parameters(model, published):
    config = model_shapes.config_of(model)
    built = model_shapes.on_meta(config)
    assert sum(p.numel() for p in built.parameters()) == published
    assert {p.device.type for p in built.parameters()} == {"meta"}


def test_adapters_of_the_7b_counted_by_hand():
    config, recipe = model_shapes.config_of(BIG), get_profile("paper").recipe
    h, kv, m, e = 3584, 512, 18944, 1280
    layer = (h + h) * 2 + (h + kv) * 2 + (h + m) * 3
    block = (e + 3 * e) + (e + e) + 2 * (e + 4 * e)
    table = adapters.trainable_table(model_shapes.on_meta(config, recipe))["trained"]
    assert table["language layers"] == 28 * 128 * layer
    assert table["vision blocks"] == 32 * 128 * block
    count = model_shapes.parameters(config, recipe)
    assert (count.trained, count.largest) == (table["all"], h * m)
    assert count.linear == 28 * (2 * h * h + 2 * h * kv + 3 * h * m) + 32 * 12 * e * e


def test_the_mini_model_on_the_meta_device_is_the_shipped_one():
    shipped = {n: p.shape for n, p in backbone.load("mini").model.named_parameters()}
    assert {n: p.shape for n, p in model_shapes.on_meta(MINI).named_parameters()} == shipped


def test_an_unknown_model_is_refused_without_the_network():
    with pytest.raises(ValueError, match="did you mean 'Qwen/Qwen2-VL-7B-Instruct'"):
        model_shapes.config_of("Qwen/Qwen2-VL-7B")


def test_nf4_bytes_are_those_of_bitsandbytes():
    weight = torch.randn(512, 256)
    packed = Params4bit(
        weight, requires_grad=False, compress_statistics=False, quant_type="nf4"
    ).to("cpu")
    measured = packed.nbytes + packed.quant_state.absmax.nbytes
    assert measured == pytest.approx(plan.WEIGHT_BYTES["nf4"] * weight.numel(), rel=1e-6)


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_plain", [True, False])
@pytest.mark.parametrize(
    ("recipe", "is_bf16"),
    [
        (LORA, False),
        (LORA, True),
        (replace(LORA, dropout=0.0), False),
        (replace(LORA, dropout=0.0), True),
        (replace(LORA, language="full", vision="full"), False),
    ],
    ids=["lora", "lora bf16", "no dropout", "no dropout bf16", "full"],
)
def test_kept_bytes_are_those_that_autograd_keeps(recipe, is_bf16, is_plain):
    one = Pass(recipe, is_plain=is_plain, is_bf16=is_bf16)
    given = [*one.model.parameters(), *one.model.buffers(), *one.batch.values()]
    measured = kept(one.loss, given)
    step, (vision, said) = one.shape, one.modes
    planned = layer_costs.language_bytes(MINI, said, step)
    planned += layer_costs.vision_bytes(MINI, vision, step)
    head = 4 * MINI.text_config.vocab_size  # log-probabilities
    head += 128 * said.bytes * (recipe.language == "full")
    assert planned + step.rows * step.answers * head == pytest.approx(measured, rel=0.04)


@pytest.mark.parametrize(
    ("is_bf16", "rows", "side"), [(False, 8, 112), (True, 8, 112), (False, 2, 280)]
)
def test_peak_of_a_checkpointed_step(is_bf16, rows, side):
    """The language side decides it where photographs are small, the tower where they are large."""
    one = Pass(LORA, rows, is_bf16=is_bf16, checkpointing=True, side=side)
    measured = own_bytes(one.model) + peak(one.step)
    parts = layer_costs.again_bytes(MINI, one.modes, one.shape)
    assert (parts[1] == 0) == (side == 280)
    trained = sum(p.numel() for p in one.model.parameters() if p.requires_grad)
    planned = own_bytes(one.model) + sum(parts) + trained * (2 if is_bf16 else 4)
    assert planned == pytest.approx(measured, rel=TOLERANCE)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """48 photographs of noise with the labels of scenes."""
    folder, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    rows = []
    for number in range(48):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (112, 112, 3), np.uint8)).save(path)
        scene = mini.labels(mini.scene_at("mini-koniq", 0, number))
        rows.append({"id": str(number), "path": str(path), "mos": number / 5} | scene)
    return make_table("noise", Scale(0, 10), pd.DataFrame(rows), source="noise")


MINI_PROFILE = get_profile("mini", seeds=(0,))
BOTH = {"language": "full", "vision": "full"}
TRAININGS = {
    "mini": MINI_PROFILE.recipe,
    "mini, accumulated": replace(MINI_PROFILE.recipe, accumulation=4),
    "stage 1, Muon": MINI_PROFILE.stage_1,
    "chains": MINI_PROFILE.chains,
    "everything": replace(MINI_PROFILE.recipe, **BOTH),
    "LoRA": replace(LORA, accumulation=2),
    "LoRA, rank 128": replace(LORA, rank=128, alpha=256, batch_size=4),
    "LoRA, frozen tower": replace(LORA, vision="frozen", form="direct_and_cot"),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_planned_memory_of_a_training_is_its_measured_peak(name, table, tmp_path):
    recipe = replace(TRAININGS[name], steps=3)
    fresh = backbone.load("mini")
    if recipe.vision == "frozen":  # what the tower says is kept from then on
        batches.Collator(fresh, table, recipe, View())
    before = own_bytes(fresh.model)
    measured = before + peak(lambda: fine_tuning.train(fresh, table, recipe, View(), tmp_path))
    case = Case(MINI_PROFILE, Setup(), "mini", (112, 112))
    assert sum(case.memory(recipe).values()) == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("is_lean", [True, False])
def test_planned_memory_of_scoring_is_its_measured_peak(is_lean, monkeypatch):
    loaded = backbone.load("mini")
    if not is_lean:
        monkeypatch.setattr("realqa_utils.model.lean.knows", lambda base: False)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 112, 112, 3), np.uint8)
    images = backbone.as_images(pixels)
    measured = own_bytes(loaded.model) + peak(lambda: digit_tree.read(loaded, images))
    case = Case(MINI_PROFILE, Setup(), "mini", (112, 112))
    planned = plan_tables.scoring_table(case).loc["all"].item()
    assert planned == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_peak_at_the_real_width(checkpointing):
    """Two layers on either side of the 2B model, rank 128."""
    config, recipe = two_layers(SMALL, vocab_size=1000), get_profile("gpu24").recipe
    bare = Backbone(Qwen2VLForConditionalGeneration(config), None, None)
    how = (recipe.language, recipe.vision, recipe.rank, recipe.alpha, recipe.dropout)
    model = adapters.prepare(bare, *how).model.train()
    if checkpointing:
        model.enable_input_require_grads()
        model.activation_checkpointing_enable({"use_reentrant": False})
    rows, columns, length = 20, 28, 180
    kinds = torch.zeros(1, length, dtype=torch.long)
    kinds[:, 14 : 14 + rows * columns // 4] = 1
    batch = {"input_ids": kinds * config.image_token_id, "attention_mask": torch.ones_like(kinds)}
    batch |= {"mm_token_type_ids": kinds, "image_grid_thw": torch.tensor([[1, rows, columns]])}
    batch["pixel_values"] = torch.randn(rows * columns, model_shapes.patch_numbers(config))
    asked = torch.arange(length - 13, length)

    def step():
        logits = model(**batch, use_cache=False, logits_to_keep=asked).logits
        losses.answer_loss(logits, torch.zeros(1, 13, dtype=torch.long)).backward()

    shape = Step(1, rows * columns, length, 13, None, padded=False)
    modes = (Mode("lora", recipe.rank, recipe.dropout, 4, 4),) * 2
    if checkpointing:
        planned = sum(layer_costs.again_bytes(config, modes, shape))
    else:
        planned = layer_costs.vision_bytes(config, modes[0], shape)
        planned += layer_costs.language_bytes(config, modes[1], shape)
    weights = own_bytes(model)
    assert weights + planned == pytest.approx(weights + peak(step), rel=TOLERANCE)


def test_each_gpu_more_shares_the_passes_of_a_step_and_sends_gradients():
    profile = get_profile("paper")
    one, four = (Case(profile, Setup("bfloat16", True, n), "clean", (1024, 768)) for n in (1, 4))
    assert four.recipe(profile.recipe).accumulation == 1
    alone, shared = one.memory(profile.recipe), four.memory(profile.recipe)
    assert shared["gradients"] == 2 * alone["gradients"] == 8 * 406_847_488
    assert shared["photographs"] == alone["photographs"] / 4


# --- operations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [BIG, SMALL])
def test_language_side_of_the_real_shape_on_the_meta_device(model):
    config, recipe = two_layers(model), get_profile("paper").recipe
    adapted = model_shapes.on_meta(config, recipe).train()
    rows, columns, width = 2, 300, config.text_config.hidden_size
    text = torch.randn(rows, columns, width, device="meta", requires_grad=True)
    where = torch.zeros(3, rows, columns, dtype=torch.long, device="meta")
    side = adapted.get_base_model().model.language_model

    def run():
        return side(inputs_embeds=text, position_ids=where, use_cache=False).last_hidden_state

    step = Step(rows, 0, columns, 0, None, padded=False)
    with FlopCounterMode(display=False) as counter:
        run()
    planned = layer_costs.language_flops(config, step, recipe.rank)
    assert counter.get_total_flops() == sum(planned.values())

    measured = kept(run, [*adapted.parameters(), *adapted.buffers(), text])
    chances = 4 * rows * columns**2 * 2 * config.text_config.num_attention_heads
    mode = Mode("lora", recipe.rank, recipe.dropout, 4, 4)
    planned = layer_costs.language_bytes(config, mode, step)
    # the meta device has no kernel that leaves the attention's probabilities out
    assert planned == pytest.approx(measured - chances, rel=0.02)


def test_vision_block_of_the_real_shape_on_the_meta_device():
    config, recipe = two_layers(BIG), get_profile("paper").recipe
    adapted = model_shapes.on_meta(config, recipe).train()
    patches, width = 1976, 1280
    seen = torch.randn(patches, width, device="meta", requires_grad=True)
    turns = (torch.zeros(patches, 80, device="meta"),) * 2
    block = adapted.get_base_model().model.visual.blocks[0]

    def run():
        return block(seen, cu_seqlens=torch.tensor([0, patches]), position_embeddings=turns)

    with FlopCounterMode(display=False) as counter:
        run()
    planned = layer_costs.vision_flops(config, Step(1, patches, 0, 0), recipe.rank)
    layers = planned["layers"] + planned["lora"] + planned["attention"]
    assert counter.get_total_flops() == layers / 2

    measured = kept(run, list(adapted.parameters())) - 4 * 16 * patches**2
    mode = Mode("lora", recipe.rank, recipe.dropout, 4, 4)
    planned = patches * layer_costs.block_bytes(config, mode)
    assert planned == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("is_plain", [True, False])
@pytest.mark.parametrize("sides", [{}, BOTH], ids=["lora", "full"])
def test_operations_of_a_training_step(sides, is_plain):
    one = Pass(replace(LORA, **sides), is_plain=is_plain)
    planned = plan.training_flops(MINI, one.recipe, Setup(), one.shape)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = one.loss()
        forward = counter.get_total_flops()
        loss.backward()
    assert forward == pytest.approx(planned["forward"], rel=1e-3)
    assert counter.get_total_flops() == pytest.approx(sum(planned.values()), rel=0.05)


def test_operations_that_checkpointing_repeats():
    """A layer whose backward pass needs nothing of its last linear's output is run short of it."""
    one = Pass(LORA, checkpointing=True)
    planned = plan.training_flops(MINI, one.recipe, Setup(checkpointing=True), one.shape)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        one.step()
    assert counter.get_total_flops() == pytest.approx(sum(planned.values()), rel=0.1)


def test_operations_of_a_scored_photograph():
    loaded = backbone.load("mini")
    pixels, grids = loaded.pixels([Image.new("RGB", (112, 112))])
    batch = encode(loaded, [DIRECT.question], [DIRECT.before], grids, end=False)
    del batch["labels"]
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loaded.model(**batch, pixel_values=pixels, logits_to_keep=1)
    case = Case(MINI_PROFILE, Setup(), "mini", (112, 112))
    step = case.scoring()
    assert step.columns == batch["input_ids"].shape[1]
    branches = 2 * plan.BRANCHES
    longer = plan.scoring_flops(MINI, replace(step, columns=step.columns - branches))
    head = 2 * branches * 128 * MINI.text_config.vocab_size
    assert longer - head == pytest.approx(counter.get_total_flops(), rel=1e-6)


# --- steps and photographs -----------------------------------------------------------------------


def test_steps_are_those_of_the_collator(table):
    recipe, loaded = MINI_PROFILE.recipe, backbone.load("mini")
    batch = batches.Collator(loaded, table, recipe, View())(range(recipe.batch_size))
    rows, columns = batch["input_ids"].shape
    answers = int((batch["labels"][:, 1:] != IGNORED).any(0).sum())
    step = Case(MINI_PROFILE, Setup(), "mini", (112, 112)).steps(recipe)[0]
    assert (step.rows, step.columns, step.answers) == (rows, columns, answers)
    assert step.shared == language.shared_columns(batch)
    assert step.patches == int(batch["image_grid_thw"][0].prod())


@pytest.mark.parametrize(
    ("size", "repo", "clean"),
    [
        ((1024, 768), 266, 494),  # 512 x 384 is less than 256 tokens: a little larger again
        ((500, 500), 324, 324),
        ((3000, 4000), 266, 494),
    ],
)
def test_tokens_of_a_photograph(size, repo, clean):
    config = model_shapes.config_of(BIG)
    for preset, tokens in (("repo", repo), ("clean", clean)):
        columns, rows = model_shapes.grid(config, size, preset)
        assert columns * rows == 4 * tokens


@pytest.mark.parametrize("size", [(1024, 768), (640, 425), (90, 70), (200, 1400)])
@pytest.mark.parametrize("preset", ["repo", "clean"])
def test_grid_is_that_of_the_image_processor(size, preset):
    photo = Image.new("RGB", size)
    if preset == "repo" and max(size) > 512:
        scale = 512 / max(size)
        photo = photo.resize([int(side * scale) for side in size], Image.Resampling.NEAREST)
    limits = {"shortest_edge": 256 * 784, "longest_edge": 512 * 784}
    out = Qwen2VLImageProcessorPil(size=limits)([photo], return_tensors="pt")
    _, rows, columns = out["image_grid_thw"][0].tolist()
    assert model_shapes.grid(model_shapes.config_of(SMALL), size, preset) == (columns, rows)


def test_a_misspelt_preset():
    with pytest.raises(ValueError, match="unknown pixel preset 'claen': did you mean 'clean'"):
        model_shapes.grid(MINI, (10, 10), "claen")


# --- hours and disk ------------------------------------------------------------------------------


def test_hours_by_hand():
    # 36 x 10^15 operations at half of 10^12 a second on ten GPUs
    assert plan.hours(36e15, 1, 0.5, 10) == pytest.approx(2)


def test_trainings_are_those_of_the_notebooks():
    found = plan.trainings(get_profile("paper"))
    by = pd.DataFrame(found).groupby("notebook")["count"].sum()
    folder = Path(__file__).parents[2] / "notebooks"
    assert by["05"] == len(parameters.defaults(folder / "05_digit_count.ipynb")["digits"])
    assert by["06"] == len(monitoring.CONDITIONS) - 1  # not from random weights
    assert by["07"] == len(objectives.METHODS) - 1
    forms = [t.recipe.form for t in found if t.notebook in ("02", "03")]
    assert sorted(forms) == sorted(granularity.ASKED)
    stage_1 = {t.recipe.form: t.recipe.steps for t in found if t.notebook in ("02", "03")}
    assert stage_1["all"] == 5570 and sum(stage_1.values()) == pytest.approx(5570 * 27 / 13, abs=2)
    assert [t.recipe.form for t in found if t.notebook == "02"] == ["all"]


def test_direct_answers_in_the_papers_proportion_are_trained_once():
    """Of `paper`, 221 of 662 steps: as long as notebook 05. `mini` has another way for chains."""
    by = {name: plan.trainings(get_profile(name)) for name in ("paper", "mini")}
    steps = {
        name: [t.recipe.steps for t in found if t.what == chain_of_thought.BRIEF]
        for name, found in by.items()
    }
    assert steps == {"paper": [], "mini": [round(get_profile("mini").chains.steps / 3)]}


def test_disk_of_the_real_weights():
    profile, case = get_profile("paper"), _case("paper")
    need = plan.disk(profile, case.parameters(profile.recipe))
    assert need["weights, as downloaded"] == 16_582_751_232  # total_size of the hub's index


# --- the command ---------------------------------------------------------------------------------


def _case(name: str, *more: str) -> Case:
    return plan_command.case_of(plan_command.options(["--profile", name, *more]))


def test_what_fits_is_exit_code_0_and_readable(capsys):
    assert cli.main(["plan", "--profile", "paper", "--gpu", "80"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    for part in ("language layers", "266", "494", "of 1 x A100", "weights, as downloaded"):
        assert part in said.out


@pytest.mark.parametrize(
    ("given", "lever"),
    [
        (["--profile", "paper", "--gpu", "24"], ["--four-bit", "--micro-batch", "8"]),
        (["--profile", "paper", "--gpu", "27"], ["--micro-batch", "2"]),
        (["--profile", "gpu24", "--gpu", "24", "--no-checkpointing"], ["--micro-batch", "2"]),
        (["--profile", "paper", "--gpu", "40", "--no-checkpointing", "--micro-batch", "8"],
         ["--micro-batch", "2"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_names_the_lever_that_makes_it_fit(capsys, given, lever):
    assert cli.main(["plan", *given]) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "does not fit into" in sentence
    assert " ".join(lever) + " fits" in sentence
    limit = float(given[3]) * GIB
    assert plan_tables.largest(_case(given[1], *given[2:], *lever)) <= limit


def test_what_no_lever_helps(capsys):
    assert cli.main(["plan", "--profile", "paper", "--gpu", "6"]) == 1
    said = capsys.readouterr().err
    assert "neither a smaller micro batch nor checkpointing nor 4 bit makes it fit" in said
    assert "no batch fits" in said


def test_json_adds_up(capsys):
    assert cli.main(["plan", "--profile", "gpu24", "--json", "--gpus", "4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["profile"], found["model"], found["problem"]) == ("gpu24", SMALL, "")
    memory = found["tables"]["training memory"]
    assert memory["index"][-1] == "all"
    rows = np.array(memory["data"], float)
    assert rows[-1] == pytest.approx(rows[:-1].sum(0))
    assert found["setup"] == {"weights": "nf4", "checkpointing": True, "gpus": 4}


def test_on_the_mini_model(capsys):
    assert cli.main(["plan"]) == 0
    said = capsys.readouterr().out
    assert "on CPU" in said
    assert "Hours" not in said  # of a CPU nothing is known


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--profile", "papr"], "unknown profile 'papr': did you mean 'paper'?"),
        (["--profile", "paper", "--micro-batch", "3"], "a batch of 64 does not divide"),
        (["--profile", "paper", "--gpus", "5"], "passes of 16 on 5 GPUs"),
    ],
)
def test_bad_input_is_one_line(capsys, given, message):
    assert cli.main(["plan", *given]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "given",
    ["--gpu -1", "--gpu nan", "--gpus 0", "--image 1024", "--utilisation 2", "--pixels mini"],
)
def test_a_wrong_option_is_exit_code_2(given):
    with pytest.raises(SystemExit) as stop:
        cli.main(["plan", *given.split()])
    assert stop.value.code == 2
