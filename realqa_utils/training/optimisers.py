"""AdamW, and Muon for the matrices of transformer blocks.

Muon (Jordan et al., 2024; `torch.optim.Muon`) replaces a matrix's momentum by the nearest
orthogonal matrix, so that all its directions learn at one rate. On the mini backbone it needs a
third to a fifth of AdamW's steps. It is for full training; LoRA's factors stay with AdamW.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn

BLOCKS = ("blocks.", "layers.", "merger.")  # of Qwen2-VL: vision, language, between them
MUON_RATE = 20  # times AdamW's rate: the update of a matrix has singular values of one
BETAS = (0.9, 0.98)


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` in the precision of its gradients.

    The library's own always goes through bfloat16. A CPU without such instructions needs three
    times as long for that, more than for the rest of a step of the mini backbone.
    """

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)
        return loss

    def _move(self, parameter: torch.Tensor, group: dict) -> None:
        grad, state = parameter.grad, self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        average = state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
        ahead = grad.lerp(average, group["momentum"])  # Nesterov
        update = orthogonal(ahead, group["ns_coefficients"], group["ns_steps"], group["eps"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        rows, columns = parameter.shape
        parameter.add_(update, alpha=-group["lr"] * max(1, rows / columns) ** 0.5)


def orthogonal(
    matrix: torch.Tensor, coefficients: Sequence[float], steps: int, eps: float
) -> torch.Tensor:
    """Newton-Schulz: about the nearest orthogonal matrix; singular values end between 0.7 and 1.2.

    x <- a x + b (x x') x + c (x x')² x, on the side with fewer rows.
    """
    a, b, c = coefficients
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / x.norm().clamp(min=eps)  # largest singular value at most 1
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


class MuonAdamW(torch.optim.Optimizer):
    """Two optimisers as one: Muon for `matrices`, AdamW for `others`.

    The learning rate is that of AdamW; Muon's is `MUON_RATE` times as high. A schedule that scales
    the rates of all parameter groups scales both.
    """

    def __init__(self, matrices, others, lr: float, weight_decay: float, betas=BETAS):
        self.parts = (
            Muon(matrices, MUON_RATE * lr, weight_decay / MUON_RATE, 0.95),
            torch.optim.AdamW(others, lr, betas, weight_decay=weight_decay),
        )
        groups = [group for part in self.parts for group in part.param_groups]
        super().__init__(groups, {})
        self._share()

    def _share(self) -> None:
        # The very same groups, so that a schedule acts on the parts.
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share()


def matrices_and_others(
    named: Iterable[tuple[str, nn.Parameter]],
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The weight matrices inside transformer blocks, and everything else that is trained.

    Embeddings, heads, norms and biases are no matrices in this sense: their rows stand alone.
    """
    parts: tuple[list, list] = ([], [])
    for name, parameter in named:
        if parameter.requires_grad:
            inside = parameter.ndim == 2 and any(part in name for part in BLOCKS)
            parts[not inside].append(parameter)
    return parts


def muon(named: Iterable[tuple[str, nn.Parameter]], lr: float, weight_decay: float) -> MuonAdamW:
    """`MuonAdamW` for the named parameters of a model. Raises ValueError without a matrix."""
    matrices, others = matrices_and_others(named)
    if not (matrices and others):
        raise ValueError("Muon needs matrices of transformer blocks and parameters beside them")
    return MuonAdamW(matrices, others, lr, weight_decay)


def cosine(optimiser: torch.optim.Optimizer, steps: int, warmup: float = 0.05):
    """Learning-rate schedule: linear warm-up over a share of the steps, then a cosine to zero."""
    warm = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        share = (step - warm) / max(1, steps - warm)
        # A plain float: torch does not load a checkpoint whose rates are numpy's.
        return (step + 1) / warm if step < warm else float(0.5 * (1 + np.cos(np.pi * share)))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def take_step(loss: torch.Tensor, parameters, optimiser, schedule) -> None:
    """Gradients clipped to a norm of one, then one step of the optimiser and its schedule."""
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()
    schedule.step()
