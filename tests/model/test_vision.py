"""The batched vision tower and `patchify` against the library's own code."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchEmbed, VisionAttention

from realqa_utils.model import vision

torch.set_num_threads(1)
EQUAL = [(1, 4, 6)] * 3  # grids: frames, rows, columns of patches
MIXED = [(1, 4, 6), (1, 2, 2), (1, 8, 4)]
VIDEO = [(3, 4, 4)]  # attention is within a frame, so one video is three equal sequences


@pytest.fixture(scope="module")
def towers(tiny_backbone):
    """The same tower with the library's code and with the batched code."""
    library = vision.unbatch_vision(copy.deepcopy(tiny_backbone.model.model.visual)).eval()
    return library, vision.batch_vision(copy.deepcopy(library))


def patches(grids) -> torch.Tensor:
    count = sum(t * h * w for t, h, w in grids)
    return torch.randn(count, 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(0))


def types(tower) -> set[type]:
    kinds = (VisionAttention, PatchEmbed)
    return {type(module) for module in tower.modules() if isinstance(module, kinds)}


@pytest.mark.parametrize("grids", [EQUAL, MIXED, EQUAL[:1], VIDEO])
def test_tower_equals_the_library(towers, grids):
    library, batched = towers
    pixels, grid = patches(grids), torch.tensor(grids)
    expected = library(pixels, grid_thw=grid).pooler_output
    result = batched(pixels, grid_thw=grid).pooler_output
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.1  # the comparison says something


@pytest.mark.parametrize("grids", [EQUAL, MIXED])
def test_gradients_equal_the_library(towers, grids):
    gradients = []
    for tower in towers:
        pixels = patches(grids).requires_grad_()
        out = tower(pixels, grid_thw=torch.tensor(grids)).pooler_output
        weights = torch.linspace(-1, 1, out.numel()).view_as(out)
        gradients.append(torch.autograd.grad((out * weights).mean(), [pixels, *tower.parameters()]))
    for expected, result in zip(*gradients, strict=True):
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-4)
    assert max(g.abs().max() for g in gradients[0]) > 1e-3


def test_images_do_not_see_each_other(towers):
    pixels, grid = patches(EQUAL), torch.tensor(EQUAL)
    changed = pixels.clone()
    changed[:24] += 1
    before, after = (towers[1](p, grid_thw=grid).pooler_output for p in (pixels, changed))
    assert not torch.allclose(before[:6], after[:6], atol=0.01)
    torch.testing.assert_close(before[6:], after[6:])


def test_attention_alone(towers):
    (library, batched) = (tower.blocks[0].attn for tower in towers)
    hidden = torch.randn(24, library.dim, generator=torch.Generator().manual_seed(1))
    angles = torch.rand(24, library.head_dim // 2, generator=torch.Generator().manual_seed(2)) * 6
    rotary = [f(torch.cat((angles, angles), -1)) for f in (torch.cos, torch.sin)]
    for ends in ([0, 8, 16, 24], [0, 4, 24], [0, 24]):
        inputs = (hidden, torch.tensor(ends, dtype=torch.int32), rotary)
        torch.testing.assert_close(batched(*inputs), library(*inputs), atol=1e-5, rtol=1e-5)


def test_patch_embedding_alone(towers):
    (library, batched) = (tower.patch_embed for tower in towers)
    pixels = patches(EQUAL)
    torch.testing.assert_close(batched(pixels), library(pixels), atol=1e-5, rtol=1e-5)
    # half-precision weights: the input is cast to them
    library, batched = (copy.deepcopy(m).to(torch.bfloat16) for m in (library, batched))
    assert batched(pixels).dtype == torch.bfloat16
    torch.testing.assert_close(batched(pixels), library(pixels), atol=0.05, rtol=0.05)


def test_batch_and_unbatch(tiny_backbone):
    model = copy.deepcopy(tiny_backbone.model)
    names = list(model.state_dict())
    fast = {vision.BatchedVisionAttention, vision.LinearPatchEmbed}
    assert types(model) == fast
    assert vision.unbatch_vision(model) is model
    assert types(model) == {VisionAttention, PatchEmbed}
    assert types(vision.batch_vision(vision.batch_vision(model))) == fast
    assert list(model.state_dict()) == names


def test_another_architecture_passes_unchanged():
    class Own(VisionAttention):
        def __init__(self):
            torch.nn.Module.__init__(self)

    model = torch.nn.ModuleList([Own(), torch.nn.Linear(2, 2)])
    kinds = [type(module) for module in vision.batch_vision(model)]
    assert kinds == [Own, torch.nn.Linear]


@pytest.mark.parametrize("height, width", [(112, 112), (28, 84), (140, 56)])
def test_patchify_equals_the_processor(height, width):
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 10**6})
    images = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    expected = processor([Image.fromarray(i) for i in images], return_tensors="pt")
    pixels, grid = vision.patchify(images, processor)
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels, expected["pixel_values"], atol=1e-6, rtol=0)
    assert grid.tolist() == expected["image_grid_thw"].tolist()


def test_patchify_takes_views():
    """Mirrored and cropped arrays have strides of their own, and must not be written to."""
    images = np.random.default_rng(0).integers(0, 256, (2, 60, 60, 3), dtype=np.uint8)
    view = images[:, 2:58, 1:57][:, :, ::-1]
    view.setflags(write=False)
    processor = Qwen2VLImageProcessorPil()
    torch.testing.assert_close(
        vision.patchify(view, processor)[0], vision.patchify(view.copy(), processor)[0]
    )


@pytest.mark.parametrize("height, width", [(112, 100), (42, 112), (1, 1)])
def test_patchify_refuses_sizes_that_do_not_divide(height, width):
    images = np.zeros((1, height, width, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=f"{width} x {height} pixels.*multiples of 28"):
        vision.patchify(images, Qwen2VLImageProcessorPil())
