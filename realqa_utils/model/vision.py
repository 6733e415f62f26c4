"""The vision tower without its per-image loop, and pixels without the per-image processor.

The library runs attention image by image unless flash attention is there; for many equal small
images on a CPU that loop is most of the step. The classes here replace it by one batched call
and fall back to the library's code when sizes differ. Where nothing is trained, `look` goes from
bytes to image tokens with few and large products. Values agree to 1e-5 (tested).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.models.qwen2_vl.modeling_qwen2_vl import (
    PatchEmbed,
    Qwen2VisionTransformerPretrainedModel,
    Qwen2VLVisionBlock,
    VisionAttention,
)

from realqa_utils.model.products import Product, in_pairs, rotate

GREY = 117.0  # is taken off bytes, so that rounding is that of small numbers
AT_ONCE = 32  # photographs whose activations pass through the tower together: they stay in cache


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


def patchify(
    images: np.ndarray, processor, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Equal photographs uint8 (n, height, width, 3) -> `pixel_values` and `image_grid_thw`.

    What the image processor gives for photographs that need no resizing, for the whole batch at
    once: (n x patches, 3 x temporal x patch x patch) float32 on `device`, and (n, 3).
    Raises ValueError when a side is not a multiple of patch x merge.
    """
    n, patch, merge = len(images), processor.patch_size, processor.merge_size
    rows, columns = sides(images, processor)
    mean = torch.tensor(processor.image_mean, dtype=torch.float32, device=device) * 255
    std = torch.tensor(processor.image_std, dtype=torch.float32, device=device) * 255
    pixels = (torch.from_numpy(np.ascontiguousarray(images)).to(device).float() - mean) / std
    shape = (n, rows // merge, merge, patch, columns // merge, merge, patch, 3)
    # to (n, block row, block column, row, column, channel, y, x): patches of a block are neighbours
    blocks = pixels.view(shape).permute(0, 1, 4, 2, 5, 7, 3, 6)
    blocks = blocks.unsqueeze(6).expand(*blocks.shape[:6], processor.temporal_patch_size, -1, -1)
    grid = torch.tensor([[1, rows, columns]]).expand(n, 3)
    return blocks.reshape(n * rows * columns, -1), grid


def pixels(
    images: Sequence[Image.Image], processor, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, list[tuple[int, int, int]]]:
    """RGB photographs of any size -> `pixel_values` (patches, d) on `device`, the grid of each.

    What the image processor gives, without its work per photograph; bytes go to the device, which
    are an eighth of what is made of them there. Raises ValueError for one that is more than 200
    times as long as it is wide.
    """
    arrays, by_size = fitted(images, processor), {}
    for row, array in enumerate(arrays):
        by_size.setdefault(array.shape, []).append(row)
    found: dict[int, tuple] = {}
    for rows in by_size.values():
        seen, grids = patchify(np.stack([arrays[row] for row in rows]), processor, device)
        if len(by_size) == 1:
            return seen, [tuple(grid) for grid in grids.tolist()]
        parts = zip(seen.chunk(len(rows)), map(tuple, grids.tolist()), strict=True)
        found.update(zip(rows, parts, strict=True))
    seen, grids = zip(*(found[row] for row in range(len(arrays))), strict=True)
    return torch.cat(seen), list(grids)


def fitted(images: Sequence[Image.Image], processor) -> list[np.ndarray]:
    """RGB photographs as the image processor resizes them, if it does: uint8 (height, width, 3)."""
    if not processor.do_resize:
        return [np.asarray(image) for image in images]
    unit, limits = processor.patch_size * processor.merge_size, dict(processor.size)
    least, most = limits["shortest_edge"], limits["longest_edge"]
    sizes = [smart_resize(image.height, image.width, unit, least, most) for image in images]
    if all(size == image.size[::-1] for size, image in zip(sizes, images, strict=True)):
        return [np.asarray(image) for image in images]

    def fit(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
        fits = size == image.size[::-1]
        return np.asarray(image if fits else image.resize(size[::-1], processor.resample))

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # resizing releases the interpreter lock
        return list(pool.map(fit, images, sizes))


def sides(images: np.ndarray, processor) -> tuple[int, int]:
    """Rows and columns of patches of photographs (n, height, width, 3).

    Raises ValueError when a side is not a multiple of patch x merge.
    """
    (height, width), unit = images.shape[1:3], processor.patch_size * processor.merge_size
    if height % unit or width % unit:
        raise ValueError(
            f"photographs of {width} x {height} pixels do not divide into patches: "
            f"both sides must be multiples of {unit}"
        )
    return height // processor.patch_size, width // processor.patch_size


def can_look(tower: nn.Module) -> bool:
    """Whether `look` knows the tower: the library's classes, or ours, in float32 on a CPU."""
    return (
        type(tower) is Qwen2VisionTransformerPretrainedModel
        and all(type(block) is Qwen2VLVisionBlock for block in tower.blocks)
        and tower.get_dtype() == torch.float32
        and tower.get_device().type == "cpu"
        and not tower._forward_hooks
    )


@torch.no_grad()
def look(tower: nn.Module, images: np.ndarray, processor) -> torch.Tensor:
    """Image tokens (n x tokens, width) of equal photographs uint8 (n, height, width, 3).

    The tower's output for the pixels of `patchify`; the same sides are asked for.
    """
    n, (rows, columns) = len(images), sides(images, processor)
    positions = _positions(rows, columns, processor.merge_size)
    cos, sin = tower.rotary_pos_emb(torch.zeros(0), positions)  # (patches, head_dim)
    half = cos.shape[1] // 2
    turn = torch.complex(cos[:, :half], sin[:, :half])[:, None]  # (patches, 1, half)
    embed = _embedding(tower.patch_embed, processor)
    blocks = [_Block(block) for block in tower.blocks]
    said = []
    for start in range(0, n, AT_ONCE):
        hidden = embed(_bytes(images[start : start + AT_ONCE], processor) - GREY)
        for block in blocks:
            block(hidden, turn)
        said.append(tower.merger(hidden))
    return torch.cat(said)


class _Block:
    """A vision block with its weights laid out for large products; changes its input in place."""

    def __init__(self, block: Qwen2VLVisionBlock):
        attend, mlp = block.attn, block.mlp
        self.norms, self.act, self.scale = (block.norm1, block.norm2), mlp.act, attend.scaling
        self.heads, self.head_dim = attend.num_heads, attend.head_dim
        order = in_pairs(3 * self.heads, 2 * self.heads, self.head_dim)
        self.qkv, self.proj = Product(attend.qkv, order=order), Product(attend.proj)
        self.up, self.down = Product(mlp.fc1), Product(mlp.fc2)

    def __call__(self, hidden: torch.Tensor, turn: torch.Tensor) -> None:
        patches = len(turn)
        shape = (-1, patches, 3 * self.heads, self.head_dim)
        qkv = self.qkv(self.norms[0](hidden)).view(shape)
        q, k = rotate(qkv[:, :, : 2 * self.heads], turn).transpose(1, 2).chunk(2, 1)
        v = qkv[:, :, 2 * self.heads :].transpose(1, 2)  # (images, heads, patches, head_dim)
        mixed = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        self.proj.add_to(hidden, mixed.transpose(1, 2).reshape(hidden.shape))
        self.down.add_to(hidden, self.act(self.up(self.norms[1](hidden))))


def _embedding(embed: PatchEmbed, processor) -> Product:
    """The patch embedding of bytes: both frames of a photograph and its normalisation in one."""
    weight = embed.proj.weight.double().sum(2).permute(0, 2, 3, 1)  # (width, y, x, channel)
    mean, std = (torch.tensor(x).double() for x in (processor.image_mean, processor.image_std))
    bias = (weight * ((GREY / 255 - mean) / std)).sum((1, 2, 3))
    whole = nn.Linear(weight[0].numel(), len(weight))
    whole.weight.data = (weight / (255 * std)).flatten(1).float()
    whole.bias.data = bias.float()
    return Product(whole)


def _bytes(images: np.ndarray, processor) -> torch.Tensor:
    """Photographs (n, height, width, 3) as patches (n x patches, patch x patch x 3), in order."""
    patch, merge = processor.patch_size, processor.merge_size
    rows, columns = sides(images, processor)
    shape = (len(images), rows // merge, merge, patch, columns // merge, merge, patch, 3)
    blocks = torch.from_numpy(np.ascontiguousarray(images)).view(shape)
    return blocks.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, patch * patch * 3)


def _positions(rows: int, columns: int, merge: int) -> torch.Tensor:
    """Row and column (patches, 2) of every patch, in the order of `patchify`."""
    at = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"))
    return at.view(2, rows // merge, merge, columns // merge, merge).transpose(2, 3).flatten(1).t()
