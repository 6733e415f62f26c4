"""Muon against the library's and float64; two optimisers as one, alone and inside the `Trainer`."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from realqa_utils.training.optimisers import (
    Muon,
    MuonAdamW,
    cosine,
    matrices_and_others,
    muon,
    orthogonal,
    take_step,
)

RATE, DECAY = 0.01, 0.3
X = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
Y = X.roll(1, 1).tanh()


class Net(nn.Module):
    """One block between an embedding and a head, called as the `Trainer` calls a model."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))])
        self.lm_head = nn.Linear(8, 6)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        out = self.lm_head(self.blocks[0](self.embed(x).tanh()))
        return {"loss": (out - labels).square().mean()}


def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


def ours(model: nn.Module, lr: float = RATE) -> MuonAdamW:
    return muon(model.named_parameters(), lr, DECAY)


def apart(model: Net) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """The library's two optimisers on the parameters of a `Net`, listed by hand."""
    matrix = model.blocks[0][0].weight
    others = [p for p in model.parameters() if p is not matrix]
    return (
        Muon([matrix], lr=20 * RATE, weight_decay=DECAY / 20, momentum=0.95),
        torch.optim.AdamW(others, lr=RATE, betas=(0.9, 0.98), weight_decay=DECAY),
    )


def step(model: Net, *parts: torch.optim.Optimizer) -> None:
    model.zero_grad()
    model(X, Y)["loss"].backward()
    for part in parts:
        part.step()


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for name, weight in one.named_parameters():
        assert torch.equal(weight, other.get_parameter(name)), name


# --- Muon ---------------------------------------------------------------------------------------

COEFFICIENTS = torch.optim.Muon([nn.Parameter(torch.ones(1, 1))]).defaults["ns_coefficients"]


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16)])
def test_newton_schulz_in_double_precision(shape):
    """Every singular value goes through the polynomial by itself, singular vectors stay."""
    given = np.random.default_rng(3).normal(size=shape)
    left, values, right = np.linalg.svd(given, full_matrices=False)
    values, (a, b, c) = values / np.linalg.norm(given), COEFFICIENTS
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    found = orthogonal(torch.tensor(given, dtype=torch.float32), COEFFICIENTS, 5, 1e-7)
    np.testing.assert_allclose(found, left * values @ right, atol=2e-5)


@pytest.mark.parametrize("shape", [(24, 60), (60, 24)])
def test_muon_is_the_librarys_but_for_bfloat16(shape):
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(shape, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    options = {"lr": 0.1, "weight_decay": 0.2, "momentum": 0.9}
    parts = (Muon([ours], **options), torch.optim.Muon([theirs], **options))
    for _ in range(4):
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.clone()
        for part in parts:
            part.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.01 * moved  # bfloat16 has three digits


# --- the parts ---------------------------------------------------------------------------------


def test_it_equals_the_two_optimisers_run_apart():
    together, separate = net(), net()
    optimiser, parts = ours(together), apart(separate)
    for _ in range(5):
        step(together, optimiser)
        step(separate, *parts)
        assert_same(together, separate)
    for name, weight in together.named_parameters():
        assert not torch.equal(weight, net().get_parameter(name)), name


def test_weights_decay_at_one_rate_in_both_parts():
    """Without a gradient's direction only decay moves a weight: by lr times `weight_decay`."""
    model = net()
    optimiser = ours(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    for name, weight in model.named_parameters():
        expected = net().get_parameter(name) * (1 - RATE * DECAY)
        torch.testing.assert_close(weight, expected, atol=1e-7, rtol=1e-6)


def test_a_schedule_scales_the_rates_of_both_parts():
    model, separate = net(), net()
    optimiser, parts = ours(model), apart(separate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda count: 0.5**count)
    for count in range(3):
        rates = [group["lr"] for group in optimiser.param_groups]
        assert rates == [20 * RATE * 0.5**count, RATE * 0.5**count]
        for part, rate in zip(parts, rates, strict=True):
            part.param_groups[0]["lr"] = rate
        step(model, optimiser)
        step(separate, *parts)
        assert_same(model, separate)
        schedule.step()


def test_gradients_are_cleared_in_both_parts():
    model = net()
    optimiser = ours(model)
    model(X, Y)["loss"].backward()
    optimiser.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_closure_is_called_once_and_its_loss_returned():
    model, separate = net(), net()
    optimiser, losses = ours(model), []

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        losses.append(model(X, Y)["loss"])
        losses[-1].backward()
        return losses[-1]

    assert optimiser.step(closure) is losses[0] and len(losses) == 1
    step(separate, *apart(separate))
    assert_same(model, separate)


# --- state -------------------------------------------------------------------------------------


def test_a_saved_state_goes_on_as_if_nothing_had_happened(tmp_path):
    whole = net()
    optimiser = ours(whole)
    schedule = cosine(optimiser, 8)
    for _ in range(3):
        step(whole, optimiser)
        schedule.step()
    states = (optimiser.state_dict(), schedule.state_dict())
    torch.save(states, tmp_path / "state.pt")
    resumed = copy.deepcopy(whole)
    again = ours(resumed, lr=123.0)  # the state brings the rate
    later = cosine(again, 8)
    first, second = torch.load(tmp_path / "state.pt", weights_only=True)
    again.load_state_dict(first)
    later.load_state_dict(second)
    for _ in range(3):
        step(whole, optimiser)
        schedule.step()
        step(resumed, again)
        later.step()
        assert_same(whole, resumed)
    assert [g["lr"] for g in again.param_groups] == [g["lr"] for g in optimiser.param_groups]


def test_a_state_of_one_part_only_is_refused():
    optimiser = ours(net())
    half = {"parts": optimiser.state_dict()["parts"][:1]}
    with pytest.raises(ValueError):
        optimiser.load_state_dict(half)


# --- which parameter goes where ----------------------------------------------------------------


def places(model: nn.Module) -> dict[str, bool]:
    """By name, whether a parameter goes to Muon."""
    matrices, others = matrices_and_others(model.named_parameters())
    chosen = {id(p) for p in matrices}
    assert not chosen & {id(p) for p in others}
    assert len(matrices) + len(others) == len(list(model.parameters()))
    return {name: id(p) in chosen for name, p in model.named_parameters()}


def test_matrices_of_the_backbone_go_to_muon_and_the_rest_to_adamw(tiny_backbone):
    found = places(tiny_backbone.model)
    blocks = [f"visual.blocks.{i}" for i in range(4)]
    layers = [f"language_model.layers.{i}" for i in range(3)]
    inside = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    names = [f"{block}.{name}" for block in blocks for name in inside]
    seven = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    seven += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    names += [f"{layer}.{name}" for layer in layers for name in seven]
    names += ["visual.merger.mlp.0", "visual.merger.mlp.2"]
    assert {name for name, place in found.items() if place} == {f"model.{n}.weight" for n in names}
    for name in ("visual.patch_embed.proj", "language_model.embed_tokens", "language_model.norm"):
        assert found[f"model.{name}.weight"] is False


def test_a_head_and_an_embedding_stay_with_adamw():
    found = places(net())
    assert [name for name, place in found.items() if place] == ["blocks.0.0.weight"]
    assert {"embed.weight", "lm_head.weight", "blocks.0.1.weight", "blocks.0.0.bias"} < set(found)


def test_frozen_parameters_are_left_out(tiny_backbone):
    model = net()
    model.embed.requires_grad_(False)
    model.blocks.requires_grad_(False)
    matrices, others = matrices_and_others(model.named_parameters())
    assert not matrices and [id(p) for p in others] == [id(p) for p in model.lm_head.parameters()]


def test_rates_of_the_parts_are_twenty_to_one():
    groups = ours(net()).param_groups
    assert [group["lr"] for group in groups] == [20 * RATE, RATE]
    assert [group["weight_decay"] for group in groups] == [DECAY / 20, DECAY]


@pytest.mark.parametrize("keep", ["embed", "blocks.0.0.weight"])
def test_a_model_without_one_of_the_two_kinds_is_refused(keep):
    named = [(n, p) for n, p in net().named_parameters() if n.startswith(keep)]
    with pytest.raises(ValueError, match="Muon needs matrices of transformer blocks and param"):
        muon(named, RATE, DECAY)


# --- schedule and step -------------------------------------------------------------------------


def rates(steps: int, warmup: float = 0.05) -> list[float]:
    adam = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule, out = cosine(adam, steps, warmup), []
    for _ in range(steps):
        out.append(schedule.get_last_lr()[0])
        adam.step()
        schedule.step()
    return [*out, schedule.get_last_lr()[0]]


def test_the_schedule_warms_up_and_falls_as_a_cosine():
    found = rates(100)
    np.testing.assert_allclose(found[:5], 0.5 * np.arange(1, 6) / 5)
    curve = 0.25 * (1 + np.cos(np.pi * np.arange(96) / 95))
    np.testing.assert_allclose(found[5:], curve, atol=1e-12)
    assert found[5] == 0.5 and found[-1] == 0


def test_the_schedule_by_hand():
    np.testing.assert_allclose(rates(5, 0.2), [0.5, 0.5, 0.426777, 0.25, 0.073223, 0], atol=1e-6)
    np.testing.assert_allclose(rates(4, 0.5), [0.25, 0.5, 0.5, 0.25, 0], atol=1e-12)
    assert rates(1) == [0.5, 0.5]  # no more than the warm-up


def test_rates_are_plain_floats():
    assert {type(rate) for rate in rates(10)} == {float}


def test_a_step_clips_gradients_to_a_norm_of_one():
    parameter = nn.Parameter(torch.tensor([3.0, 4.0]))
    sgd = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(sgd, lambda count: 0.5**count)
    parameter.grad = torch.full((2,), 99.0)  # left over: does not count
    take_step(parameter.square().sum(), [parameter], sgd, schedule)  # its gradient is (6, 8)
    torch.testing.assert_close(parameter.data, torch.tensor([2.4, 3.2]))
    take_step(0.1 * parameter.sum(), [parameter], sgd, schedule)  # short enough as it is
    torch.testing.assert_close(parameter.data, torch.tensor([2.35, 3.15]))


def test_muon_and_cosine_fit_a_net():
    model = net()
    optimiser = muon(model.named_parameters(), 0.01, 0.0)
    schedule, losses = cosine(optimiser, 60), []
    for _ in range(60):
        loss = model(X, Y)["loss"]
        take_step(loss, model.parameters(), optimiser, schedule)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


# --- inside the Trainer ------------------------------------------------------------------------


class StopAt(TrainerCallback):
    def __init__(self, last: int):
        self.last = last

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.last
        return control


def trained(folder, last: int = 6, resume: bool = False) -> tuple[Net, Trainer]:
    model = net()
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=6, per_device_train_batch_size=4, learning_rate=RATE,
        lr_scheduler_type="cosine", warmup_steps=2, save_steps=3, logging_steps=1, seed=5,
        report_to="none", disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=[{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)],
        optimizers=(ours(model), None),
        callbacks=[StopAt(last)],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train(resume_from_checkpoint=resume)
    return model, trainer


def test_the_trainer_takes_it_and_its_schedule_reaches_both_parts(tmp_path):
    _, trainer = trained(tmp_path, last=4)
    muons, adams = (group["lr"] for group in trainer.optimizer.param_groups)
    assert muons == pytest.approx(20 * adams)
    assert adams == pytest.approx(RATE * 0.5)  # two of four steps down the cosine


def test_an_interrupted_training_goes_on_identically(tmp_path):
    whole, _ = trained(tmp_path / "whole")
    part, _ = trained(tmp_path / "part", last=3)
    assert (tmp_path / "part" / "checkpoint-3" / "optimizer.pt").exists()
    resumed, trainer = trained(tmp_path / "part", resume=True)
    assert trainer.state.global_step == 6
    assert_same(whole, resumed)
    assert not torch.equal(whole.embed.weight, part.embed.weight)
