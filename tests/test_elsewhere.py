"""A model that is not on the CPU: the same numbers as there, and no tensor left behind.

`elsewhere` pretends a GPU, and raises where one would. Where there is one, `test_gpu` has it.
"""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch

if torch.cuda.is_available():  # before `elsewhere`, which torch would take for a second one
    pytest.skip("there is a real GPU: see test_gpu", allow_module_level=True)

from accelerate.hooks import ModelHook, add_hook_to_module
from elsewhere import DEVICE, Elsewhere, Present, moved
from on_devices import ASKED, RECIPES, WAYS, loud, step

from realqa_utils.datasets import mini
from realqa_utils.experiments import cost
from realqa_utils.images.views import View
from realqa_utils.model import decoder, language, lean
from realqa_utils.model.backbone import Backbone
from realqa_utils.model.encoding import encode
from realqa_utils.number_sorting import number_text, sorting
from realqa_utils.training import adaptation, losses, pretraining, regression_head

torch.set_num_threads(1)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def here(tiny_backbone) -> Backbone:
    return loud(tiny_backbone)


@pytest.fixture(scope="module")
def there(here) -> Backbone:
    return moved(here)


@pytest.fixture(scope="module")
def images():
    return [mini.photograph("mini-koniq", 0, index) for index in range(3)]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return mini.build("mini-koniq", 6, 0, tmp_path_factory.mktemp("world"))


# --- the pretended device ------------------------------------------------------------------------


def test_tensors_do_not_mix():
    with Present():
        x, y = torch.arange(6.0).view(2, 3), torch.arange(6.0, device=DEVICE).view(2, 3)
        assert (
            isinstance(y, Elsewhere) and y.device == DEVICE == torch.tensor(1, device=DEVICE).device
        )
        for mix in (
            lambda: x + y,
            lambda: y.add_(x),
            lambda: torch.cat((x, y)),
            lambda: y @ x.T,
            lambda: y.masked_fill(x > 1, 0),
            lambda: y.gather(1, torch.zeros(2, 1, dtype=torch.long)),
            lambda: torch.isin(y, x),
            lambda: x[y[0].long() > 0],
            lambda: torch.where(y > 1, x, y),
        ):
            with pytest.raises(RuntimeError, match=r"is on cpu, not elsewhere:0"):
                mix()
        for read in (y.numpy, lambda: np.asarray(y)):
            with pytest.raises((RuntimeError, TypeError)):
                read()


def test_what_a_gpu_allows_is_allowed():
    with Present():
        x, y = torch.arange(6.0).view(2, 3), torch.arange(6.0, device=DEVICE).view(2, 3)
        rows, some = torch.tensor([1, 0]), torch.tensor([[True, False, True]] * 2)
        assert torch.equal(y[rows].cpu(), x[rows]) and torch.equal(y[some].cpu(), x[some])
        assert (y + torch.tensor(1.0)).tolist() == (x + 1).tolist()
        z = torch.zeros_like(y)
        z[rows, rows] = 5.0
        assert z.device == DEVICE and z.tolist() == [[5, 0, 0], [0, 5, 0]]
        z.copy_(x)
        assert z.to("cpu", torch.int).tolist() == x.tolist() and float(z.sum()) == 15
        assert torch.ones(3).device.type == "cpu" and y.new_ones(3).device == DEVICE


def test_gradients_pass():
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    with Present():
        there = weight.to(DEVICE).requires_grad_()
        (there.exp()[:, 0] * there[1]).sum().backward()
    here = weight.clone().requires_grad_()
    (here.exp()[:, 0] * here[1]).sum().backward()
    torch.testing.assert_close(there.grad.cpu(), here.grad)


def test_to_others_there_is_no_such_device():
    assert not torch.accelerator.is_available() or torch.cuda.is_available()


# --- reading -------------------------------------------------------------------------------------


BROUGHT = ("image tokens", "numbers sorted")  # by hand; by the library's `generate` for text alone


@pytest.mark.parametrize("way", WAYS)
def test_what_is_read_is_the_same(here, there, images, way):
    expected = WAYS[way](here, images)
    with Present():
        found = WAYS[way](there, images)
    pd.testing.assert_frame_equal(found, expected, **CLOSE)
    assert len(expected.drop_duplicates()) > 1 or way == "loss"  # it depends on what is given


@pytest.mark.parametrize("way", [way for way in WAYS if way not in BROUGHT])
def test_a_batch_that_stays_behind_is_noticed(there, images, monkeypatch, way):
    monkeypatch.setattr(Backbone, "to_device", lambda self, batch: batch)
    with Present(), pytest.raises(RuntimeError, match="is on cpu, not elsewhere:0"):
        WAYS[way](there, images)


@torch.no_grad()
def test_answers_are_continued_with_tensors_of_the_cpu(here, there, images):
    """Logits stay where the model is; and rows are selected, as no reader does there."""
    steps = []
    for backbone in (here, there):
        with Present():
            state, logits = decoder.begin(backbone, images, ASKED, [""] * 3, 2)
            said = state.step(torch.tensor([[5, 6], [7, 8], [9, 10]]))
            state.take(torch.tensor([2, 1, 0]))
            state.select(torch.tensor([1, 0, 0]))
            found = (logits, said, state.step(torch.tensor([[11], [12], [13]])))
            assert {x.device.type for x in found} == {backbone.model.device.type}
            told = [decoder.chances(logits, torch.tensor([5, 7])), decoder.likeliest(said)]
            assert {x.device.type for x in told} == {"cpu"}
            steps.append([*(x.cpu() for x in found), *told])
    torch.testing.assert_close(steps[1], steps[0], **CLOSE)
    assert not lean.knows(there.model) and lean.knows(here.model)


def test_the_floors_of_the_costs_are_measured_where_the_model_is(there, images):
    with Present():
        ways = cost.ways(there, few=1, many=3)
        for name in (cost.PREFILL, cost.TOWER):
            ways[name][0](images)
        assert cost.larger(there, next(iter(cost.SIZES))).model.device == DEVICE


@torch.no_grad()
def test_columns_may_be_named_on_the_cpu(here, there):
    """Of rows that share no beginning and have no padding: there the library leaves out a mask."""
    ids, columns, found = torch.arange(5, 15).view(2, 5), torch.tensor([2, 4]), []
    for backbone in (here, there):
        with Present():
            batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            batch |= {"mm_token_type_ids": torch.zeros_like(ids)}
            batch |= {"position_ids": torch.arange(5).expand(3, 2, 5)}
            out = language.forward(backbone.model, backbone.to_device(batch), columns)
            found.append(out.logits.cpu())
    torch.testing.assert_close(found[1], found[0], **CLOSE)


def test_a_layer_with_a_hook_is_asked_in_the_plain_way(here, images):
    """Of a model on several devices, whose hooks bring every layer its tensors."""
    hooked = deepcopy(here.model)
    add_hook_to_module(hooked.model.language_model.layers[-1], ModelHook())
    batch = encode(here, ASKED[:2], ["It", "It"], [None, None], end=False)
    del batch["labels"]
    last = torch.tensor([batch["input_ids"].shape[1] - 1])
    with torch.no_grad():
        found, expected = (language.forward(m, batch, last).logits for m in (hooked, here.model))
    torch.testing.assert_close(found, expected, **CLOSE)


# --- training ------------------------------------------------------------------------------------

PLACES = torch.tensor([[2, 4, 5], [1, 3, 6], [-1, -1, -1]])
DIGITS, SCORES = torch.tensor([[3, 4, 7], [9, 0, 1], [0, 0, 0]]), torch.tensor([3.47, 9.01, 0.0])
IDS = list(range(5, 15))


def soft(z, places, targets) -> torch.Tensor:
    opinions = losses.opinion_digits(targets[:2], targets[:2].clamp(0.5, 1.0), 3)
    return losses.soft_cross_entropy(z[:2], places[:2], IDS, opinions)


LOSSES = {
    "answer": lambda z, places, digits, scores: losses.answer_loss(z, digits.repeat(1, 3)[:, :7]),
    "answer of a step": lambda z, places, digits, scores: losses.answer_loss(
        z, digits.repeat(1, 3)[:, :7], (digits > 2).sum()
    ),
    "soft digits": lambda z, places, digits, scores: soft(z, places, scores),
    "NCM of digits": lambda z, places, digits, scores: losses.ncm_loss(z, places, IDS, digits),
    "NCM of scores": lambda z, places, digits, scores: losses.ncm_loss(z, places, IDS, scores),
    "distance of digits": lambda z, places, digits, scores: losses.number_token_loss(
        z, places, IDS, digits
    ),
    "distance of scores": lambda z, places, digits, scores: losses.number_token_loss(
        z, places, IDS, scores
    ),
    "number": lambda z, places, digits, scores: regression_head.loss(z[:, :, :1], scores),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_gradients_are_the_same(name):
    z, found = torch.randn(3, 7, 20, generator=torch.Generator().manual_seed(0)), []
    for device in ("cpu", DEVICE):
        with Present():
            given = [x.to(device) for x in (PLACES, DIGITS, SCORES)]
            logits = z.clone().to(device).requires_grad_()
            loss = LOSSES[name](logits, *given)
            loss.backward()
            assert loss.device.type == logits.grad.device.type == torch.device(device).type
            found.append((loss.detach().cpu(), logits.grad.cpu()))
    torch.testing.assert_close(found[1], found[0], **CLOSE)
    assert found[0][1].abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("name", RECIPES)
def test_a_step_of_training_is_the_same(here, table, tmp_path, name):
    expected, heard = step(deepcopy(here), table, RECIPES[name], tmp_path, (told := [])), []
    with Present():
        found = step(moved(here), table, RECIPES[name], tmp_path, heard)
    torch.testing.assert_close(found[0], expected[0], **CLOSE)
    error = (found[1] - expected[1]).norm() / expected[1].norm()
    assert error < 1e-5 and expected[1].norm() > 1e-3
    assert heard == [pytest.approx(values, rel=1e-4) for values in told]


# --- what makes a backbone -----------------------------------------------------------------------


def adapted(backbone, images, labels) -> torch.Tensor:
    view = View(size=56, short=56, random=True)
    return torch.tensor(adaptation.adapt(backbone, images, view, steps=2, seed=0, batch=3))


def captioned(backbone, images, labels) -> torch.Tensor:
    pixels = np.stack([np.asarray(image) for image in images])
    tokens = adaptation.image_tokens(backbone, pixels)
    pairs = [pretraining.conversation(row, np.random.default_rng(0)) for row in labels]
    tokens = [part.cpu() for part in tokens]  # as `batches.frozen_tokens` has them
    return pretraining.caption_loss(backbone, tokens, pairs)


def tower(backbone, images, labels) -> torch.Tensor:
    pixels = np.stack([np.asarray(image) for image in images])
    torch.manual_seed(0)
    pretraining.train_vision(backbone, pixels, labels, steps=1, batch=3, seed=0)
    return backbone.core.visual.merger.mlp[2].weight


def words(backbone, images, labels) -> torch.Tensor:
    pixels = np.stack([np.asarray(image) for image in images])
    pretraining.train_language(backbone, pixels, labels, steps=1, batch=3, seed=0)
    return backbone.core.language_model.norm.weight


MAKING = {
    "adaptation": adapted,
    "captions": captioned,
    "tower": tower,
    "words": words,
    "lines": lambda backbone, images, labels: pretraining._text_loss(backbone, ["4 < 5", "3"]),
    "numbers": lambda backbone, images, labels: number_text.text_loss(
        backbone, [sorting.question(["1.2", "3.4"]), "And?"], ["3.4", "1.2 or so"]
    ),
}


@pytest.mark.parametrize("name", MAKING)
def test_making_a_backbone_is_the_same(here, images, name):
    labels = [pretraining.scene_labels(0, index) for index in range(3)]
    expected = MAKING[name](deepcopy(here), images, labels)
    with Present():
        found = MAKING[name](moved(here), images, labels).detach().cpu()
    torch.testing.assert_close(found, expected.detach(), **CLOSE)
