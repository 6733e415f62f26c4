"""The vision tower learns how photographs look in frequency, and nothing else changes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from realqa_utils.datasets import mini
from realqa_utils.images.views import View
from realqa_utils.model.backbone import Backbone
from realqa_utils.training import adaptation, spectra

torch.set_num_threads(1)
VIEW = View(size=56, short=64, random=True)


@pytest.fixture(autouse=True)
def small_sample(monkeypatch):
    monkeypatch.setattr(adaptation, "SAMPLE", 96)


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    return [VIEW.fit(mini.photograph("mini-spaq", 0, index)) for index in range(12)]


def copied(backbone: Backbone) -> Backbone:
    return Backbone(
        copy.deepcopy(backbone.model), backbone.tokenizer, backbone.image_processor, backbone.name
    )


def arrays(photographs: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(VIEW.training(p, None)) for p in photographs])


# --- the heads ---------------------------------------------------------------------------------


def heads_of(images: np.ndarray, width: int = 16) -> adaptation.SpectraHeads:
    torch.manual_seed(0)
    return adaptation.SpectraHeads(width, images)


def silent(heads: adaptation.SpectraHeads) -> adaptation.SpectraHeads:
    """Heads that always predict the mean."""
    for head in (heads.token[-1], heads.window[-1]):
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    return heads


def test_heads_have_a_place_for_every_number(photographs):
    heads = heads_of(arrays(photographs))
    assert heads.token[-1].out_features == 31 and heads.window[-1].out_features == 5 * 31
    assert heads.token_mean.shape == (31,) and heads.window_sd.shape == (155,)
    assert not {name for name, _ in heads.named_parameters() if "mean" in name or "sd" in name}


def test_the_loss_of_the_means_is_two(photographs):
    """One for tokens, one for windows; the sd is that of a sample of 12, so 11 / 12 of it."""
    images = arrays(photographs)
    loss = silent(heads_of(images)).loss(torch.zeros(12, 4, 16), images)
    assert float(loss.detach()) == pytest.approx(47 / 48 + 11 / 12, abs=1e-3)


def test_untrained_heads_start_a_little_above_two(photographs):
    images, noise = arrays(photographs), torch.Generator().manual_seed(0)
    loss = heads_of(images, 128).loss(torch.randn(12, 4, 128, generator=noise), images)
    assert 2 < float(loss.detach()) < 3.2


def test_the_loss_written_out(photographs):
    """Squared errors of standardised numbers, the mean over all of them, for both heads."""
    images = arrays(photographs)
    heads, other = silent(heads_of(images)), images[:3, ::-1]
    found = spectra.patch_spectra(images)
    again = spectra.patch_spectra(other)
    expected = 0.0
    for numbers in (spectra.token_spectra, spectra.window_spectra):
        known = numbers(found).reshape(-1, numbers(found).shape[-1])
        seen = numbers(again).reshape(-1, known.shape[-1])
        scaled = (seen - known.mean(0)) / np.maximum(known.std(0, ddof=1), 1e-3)
        expected += np.mean(scaled**2)
    loss = heads.loss(torch.zeros(3, 4, 16), np.ascontiguousarray(other))
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_a_feature_that_never_varies_does_no_harm():
    flat = np.full((4, 28, 28, 3), 90, np.uint8)
    loss = silent(heads_of(flat)).loss(torch.zeros(4, 1, 16), flat)
    assert float(loss.detach()) < 0.01


# --- training ----------------------------------------------------------------------------------


def test_the_error_falls_below_that_of_the_means(tiny_backbone, photographs):
    errors = adaptation.adapt(copied(tiny_backbone), photographs, VIEW, 24, seed=0, batch=12)
    assert len(errors) == 24 and np.isfinite(errors).all()
    assert 2 < errors[0] < 3.5
    assert np.mean(errors[-10:]) < 1.85  # windows of all photographs, so it is noisy


def test_the_same_seed_gives_the_same_tower_and_only_a_tower(tiny_backbone, photographs):
    towers = []
    for seed in (0, 0, 1):
        backbone = copied(tiny_backbone)
        adaptation.adapt(backbone, photographs[:4], VIEW, 2, seed, batch=4)
        before = dict(tiny_backbone.model.named_parameters())
        after = dict(backbone.model.named_parameters())
        assert set(before) == set(after)  # the heads are thrown away
        for name, weight in after.items():
            assert torch.equal(weight, before[name]) == ("visual" not in name), name
        towers.append(torch.cat([w.detach().flatten() for w in backbone.core.visual.parameters()]))
    assert torch.equal(towers[0], towers[1])
    assert not torch.equal(towers[0], towers[2])


def test_photographs_may_differ_in_size(tiny_backbone):
    mixed = [VIEW.fit(Image.new("RGB", size, "teal")) for size in ((56, 112), (200, 80))]
    errors = adaptation.adapt(copied(tiny_backbone), mixed, VIEW, 1, seed=0, batch=2)
    assert len(errors) == 1 and np.isfinite(errors).all()


def test_a_view_without_windows_is_refused(tiny_backbone, photographs):
    with pytest.raises(ValueError, match="looks through windows: the view needs a size"):
        adaptation.adapt(tiny_backbone, photographs, View(), 1, seed=0)


@pytest.mark.parametrize(
    "size, message",
    [(50, "50 x 50 pixels do not divide into patches of 14"), (42, "3 x 3 patches do not pair")],
)
def test_a_window_that_does_not_divide_is_refused(tiny_backbone, photographs, size, message):
    with pytest.raises(ValueError, match=message):
        adaptation.adapt(tiny_backbone, photographs, View(size=size, short=64), 1, seed=0)


def test_image_tokens_are_those_of_the_processor(tiny_backbone, photographs):
    images = arrays(photographs[:3])
    with torch.no_grad():
        tokens = adaptation.image_tokens(tiny_backbone, images)
        for index in range(3):
            limits = {"shortest_edge": 56 * 56, "longest_edge": 56 * 56}
            seen = tiny_backbone.image_processor(
                Image.fromarray(images[index]), size=limits, return_tensors="pt"
            )
            grid = seen["image_grid_thw"]
            alone = tiny_backbone.core.visual(seen["pixel_values"], grid_thw=grid).pooler_output
            torch.testing.assert_close(tokens[index], alone, atol=1e-5, rtol=1e-4)
    assert tokens.shape == (3, 4, tiny_backbone.width)
