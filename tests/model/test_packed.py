"""Packed tokens and their own backward passes; against the library's call in `test_language`."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.autograd import gradcheck

from realqa_utils.forms.conversations import DIRECT
from realqa_utils.model import adapters, language, packed
from realqa_utils.model.backbone import Backbone
from realqa_utils.model.encoding import encode

torch.set_num_threads(1)
GRIDS = [(1, 4, 4), (1, 2, 2), (1, 8, 4)]
BEGUN = [DIRECT.before, "", DIRECT.before[:10]]


def numbers(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def inputs_of(backbone: Backbone, end: bool) -> dict[str, torch.Tensor]:
    """Conversations of unequal length, padded on the right or, with `end=False`, on the left."""
    inputs = encode(backbone, [DIRECT.question] * 3, BEGUN, GRIDS, end=end)
    del inputs["labels"]
    patches = sum(t * h * w for t, h, w in GRIDS)
    noise = torch.Generator().manual_seed(0)
    return inputs | {"pixel_values": torch.randn(patches, 3 * 2 * 14 * 14, generator=noise)}


ROWS = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()


def test_tokens_are_run_once_and_stand_in_rows_from_the_left():
    rows = packed._Rows(ROWS, 2)
    assert rows.shape == (3, 5) and int(rows.once.sum()) == 8  # two of all rows, and 2 + 3 + 1
    tokens = torch.arange(1.0, 9)[:, None]
    together = packed._Together.apply(tokens, rows)[:, :, 0]
    assert together.tolist() == [[1, 2, 3, 4, 0], [1, 2, 5, 6, 7], [1, 2, 8, 0, 0]]
    back = packed._Pick.apply(together.reshape(15, 1), rows.at)
    assert torch.equal(back, tokens)
    left = packed._Rows(ROWS.flip(1), 0)
    assert left.at.tolist() == [0, 1, 2, 3, *range(5, 10), 10, 11, 12]


def test_slopes_are_those_of_finite_differences():
    rows = packed._Rows(ROWS, 2)
    turn = torch.polar(torch.ones(5, 1, 2, dtype=torch.float64), numbers(5, 1, 2).detach())
    assert gradcheck(lambda x: packed._Together.apply(x, rows), numbers(8, 3))
    assert gradcheck(lambda x: packed._Pick.apply(x, torch.tensor([4, 0, 2])), numbers(5, 3))
    assert gradcheck(packed._Gate.apply, numbers(4, 6))
    assert gradcheck(
        lambda x, w, b: packed._NormedProduct.apply(x, w, b, 1e-6),
        (numbers(4, 6), numbers(5, 6), numbers(5)),
    )
    assert gradcheck(
        lambda x, w: packed._NormedProduct.apply(x, w, None, 0.1), (numbers(4, 6), numbers(5, 6))
    )
    # the embedding itself is in float32
    x = numbers(5, 12).detach().float().requires_grad_()
    turned = packed._Rotate.apply(1.0 * x, turn.to(torch.complex64), 2)
    slope = numbers(5, 12).float()
    (found,) = torch.autograd.grad(turned, x, slope)
    expected = packed._rotated(slope.detach().clone(), turn.conj().to(torch.complex64), 2)
    assert torch.equal(turned[:, 8:], x[:, 8:])
    torch.testing.assert_close(turned.norm(dim=1), x.norm(dim=1))  # turned, not stretched
    torch.testing.assert_close((found * x).sum(), (slope * turned).sum())  # as of any linear map
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("end", [True, False], ids=["right", "left"])
def test_padding_is_zero_and_changes_nothing(tiny_backbone, end):
    inputs = inputs_of(tiny_backbone, end)
    width = inputs["input_ids"].shape[1]
    columns = torch.arange(5, width)
    real = inputs["attention_mask"][:, columns].bool()
    assert not real.all()
    with torch.no_grad():
        plain = tiny_backbone.model(**inputs, logits_to_keep=columns, use_cache=False).logits
        ours = language.forward(tiny_backbone.model, inputs, columns, use_cache=False).logits
    torch.testing.assert_close(ours[real], plain[real], atol=1e-5, rtol=1e-5)
    assert not ours[~real].any()


def test_photographs_without_a_place_are_refused(tiny_backbone):
    inputs = inputs_of(tiny_backbone, True)
    inputs["image_grid_thw"] = inputs["image_grid_thw"][:2]
    inputs["pixel_values"] = inputs["pixel_values"][: 16 + 4]
    with pytest.raises(ValueError, match="13 image tokens, but features of 5"):
        language.forward(tiny_backbone.model, inputs, torch.tensor([30]), use_cache=False)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_what_it_is_for(tiny_backbone):
    """Plain float32 layers: adapters, other precisions and hooks are the library's business."""
    model = copy.deepcopy(tiny_backbone.model)
    assert packed.knows(model)
    hook = model.model.language_model.layers[0].mlp.up_proj.register_forward_hook(lambda *_: None)
    assert not packed.knows(model)
    hook.remove()
    assert packed.knows(model)
    assert not packed.knows(copy.deepcopy(model).to(torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        assert not packed.knows(model)
    parts = tiny_backbone.tokenizer, tiny_backbone.image_processor
    adapters.prepare(Backbone(model, *parts), rank=2, alpha=4)
    assert not packed.knows(model)
