"""Matrix products of a model's linear layers, laid out so that a CPU does few and large ones.

For a few dozen rows a product with a transposed copy of the weights takes half the time, and one
with the weights of several layers side by side less than each in turn. Copies are for small models
and are made anew for every batch, so they follow the weights; a layer that is more than its
weights (LoRA, quantised, with hooks) or large is called as it is.
"""

from __future__ import annotations

import torch
from torch import nn

LARGEST = 2**20  # weights of a product that are copied: beyond, the product is worth its time


class Product:
    """The outputs of linear layers for the same input, side by side; without gradients.

    `scale` (inputs,) is a factor of the inputs, the weights of the norm before; `order` (outputs,)
    puts the outputs in another order.
    """

    def __init__(
        self,
        *layers: nn.Module,
        scale: torch.Tensor | None = None,
        order: torch.Tensor | None = None,
    ):
        self.layers, self.scale, self.order = layers, scale, order
        self.weight = self.bias = None
        if all(map(is_plain, layers)) and sum(x.weight.numel() for x in layers) <= LARGEST:
            weight = torch.cat([layer.weight.detach() for layer in layers])
            weight = weight if scale is None else weight * scale.detach()
            bias = torch.cat([_bias(layer) for layer in layers])
            if order is not None:
                weight, bias = weight[order], bias[order]
            self.weight = weight.t().contiguous()
            if any(layer.bias is not None for layer in layers):
                self.bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(n, inputs) -> (n, outputs of all layers)."""
        if self.weight is None:
            x = x if self.scale is None else x * self.scale
            out = torch.cat([layer(x) for layer in self.layers], 1)
            return out if self.order is None else out[:, self.order]
        return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)

    def add_to(self, hidden: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Add the product to `hidden` (n, outputs), in place."""
        if self.weight is None:
            return hidden.add_(self(x))
        hidden.addmm_(x, self.weight)
        return hidden if self.bias is None else hidden.add_(self.bias)


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is its weights and nothing else, on the CPU."""
    hooked = layer._forward_hooks or layer._forward_pre_hooks or hasattr(layer, "_hf_hook")
    return type(layer) is nn.Linear and not hooked and layer.weight.device.type == "cpu"


def _bias(layer: nn.Linear) -> torch.Tensor:
    given = layer.bias
    return layer.weight.new_zeros(layer.out_features) if given is None else given.detach()


def in_pairs(heads: int, rotated: int, head_dim: int) -> torch.Tensor:
    """The order of outputs in which the halves of the first `rotated` heads alternate.

    >>> in_pairs(2, 1, 4).tolist()
    [0, 2, 1, 3, 4, 5, 6, 7]
    """
    order = torch.arange(heads * head_dim).view(heads, 2, -1)
    pairs = order[:rotated].transpose(1, 2)
    return torch.cat((pairs.flatten(), order[rotated:].flatten()))


def turns(rotary: nn.Module, positions: torch.Tensor) -> torch.Tensor:
    """Positions (3, tokens) -> complex numbers (tokens, 1, head_dim / 2) for `rotate`."""
    cos, sin = rotary(torch.zeros(0), positions[:, None])  # (1, tokens, head_dim)
    half = cos.shape[2] // 2
    return torch.complex(cos[0, :, :half], sin[0, :, :half])[:, None]


def rotate(x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of x (..., head_dim) by complex numbers `turn` (..., head_dim / 2).

    Its halves alternate (`in_pairs`), which scalar products of queries and keys do not feel.
    Changes x in place where it is float32.
    """
    wide = x.float()
    torch.view_as_complex(wide.unflatten(-1, (-1, 2))).mul_(turn)
    return wide.to(x.dtype)


def unit(x: torch.Tensor, epsilon: float) -> torch.Tensor:
    """x (n, width) over its root mean square, in float32 as the library has it."""
    wide = x.float()
    return (wide * unit_scale(wide, epsilon)).to(x.dtype)


def unit_scale(x: torch.Tensor, epsilon: float) -> torch.Tensor:
    """One over the root mean square of each row of x (n, width): (n, 1)."""
    squares = torch.linalg.vector_norm(x, dim=1, keepdim=True).square_()
    return squares.div_(x.shape[1]).add_(epsilon).rsqrt_()
