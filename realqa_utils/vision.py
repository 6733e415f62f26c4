"""The vision tower without its per-image loop, and pixels without the per-image processor.

The library runs attention image by image unless flash attention is there; for many equal small
images on a CPU that loop is most of the step. The classes here replace it by one batched call
and fall back to the library's code when sizes differ. Values agree to 1e-5 (tested).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers.models.qwen2_vl.modeling_qwen2_vl import (
    PatchEmbed,
    VisionAttention,
)


class BatchedVisionAttention(VisionAttention):
    """`VisionAttention` of Qwen2-VL, one call for all images when all have the same size."""

    def forward(self, hidden_states, cu_seqlens, position_embeddings=None, **kwargs):
        lengths = cu_seqlens[1:] - cu_seqlens[:-1]
        if len(lengths) < 2 or not bool((lengths == lengths[0]).all()):
            return super().forward(hidden_states, cu_seqlens, position_embeddings, **kwargs)
        images, patches = len(lengths), int(lengths[0])
        # (images x patches, dim) -> 3 x (images, heads, patches, head_dim)
        qkv = self.qkv(hidden_states).view(images, patches, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        cos, sin = (e.view(images, 1, patches, self.head_dim) for e in position_embeddings)
        q, k = (_rotate(x, cos, sin) for x in (q, k))
        mixed = F.scaled_dot_product_attention(q, k, v, scale=self.scaling)
        return self.proj(mixed.transpose(1, 2).reshape(images * patches, self.dim))


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of x (..., head_dim); the halves of `cos` and `sin` are equal."""
    half = x.shape[-1] // 2
    first, second = x.float().split(half, -1)  # float32, as in the library
    cos, sin = cos[..., :half].float(), sin[..., :half].float()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


class LinearPatchEmbed(PatchEmbed):
    """The patch embedding as the matrix product that it is: a 3-D convolution is slow on CPU."""

    def forward(self, hidden_states):
        weight = self.proj.weight
        return F.linear(hidden_states.to(weight.dtype), weight.flatten(1))


def batch_vision(model: nn.Module) -> nn.Module:
    """Switch the vision tower of a Qwen2-VL `model` to the batched code, in place.

    Only modules of exactly the library's classes are touched, so another architecture passes
    through unchanged. Parameters and their names stay.
    """
    for module in model.modules():
        if type(module) is VisionAttention:
            module.__class__ = BatchedVisionAttention
        elif type(module) is PatchEmbed:
            module.__class__ = LinearPatchEmbed
    return model


def unbatch_vision(model: nn.Module) -> nn.Module:
    """Undo `batch_vision`: the library's own code, for comparison."""
    for module in model.modules():
        if type(module) is BatchedVisionAttention:
            module.__class__ = VisionAttention
        elif type(module) is LinearPatchEmbed:
            module.__class__ = PatchEmbed
    return model


def patchify(images: np.ndarray, processor) -> tuple[torch.Tensor, torch.Tensor]:
    """Equal photographs uint8 (n, height, width, 3) -> `pixel_values` and `image_grid_thw`.

    What the image processor gives for photographs that need no resizing, for the whole batch at
    once: (n x patches, 3 x temporal x patch x patch) float32, and (n, 3).
    Raises ValueError when a side is not a multiple of patch x merge.
    """
    n, height, width, _ = images.shape
    patch, merge = processor.patch_size, processor.merge_size
    if height % (patch * merge) or width % (patch * merge):
        raise ValueError(
            f"photographs of {width} x {height} pixels do not divide into patches: "
            f"both sides must be multiples of {patch * merge}"
        )
    mean = torch.tensor(processor.image_mean, dtype=torch.float32) * 255
    std = torch.tensor(processor.image_std, dtype=torch.float32) * 255
    pixels = (torch.from_numpy(np.ascontiguousarray(images)).float() - mean) / std
    rows, columns = height // patch, width // patch
    shape = (n, rows // merge, merge, patch, columns // merge, merge, patch, 3)
    # to (n, block row, block column, row, column, channel, y, x): patches of a block are neighbours
    blocks = pixels.view(shape).permute(0, 1, 4, 2, 5, 7, 3, 6)
    blocks = blocks.unsqueeze(6).expand(*blocks.shape[:6], processor.temporal_patch_size, -1, -1)
    grid = torch.tensor([[1, rows, columns]]).expand(n, 3)
    return blocks.reshape(n * rows * columns, -1), grid
