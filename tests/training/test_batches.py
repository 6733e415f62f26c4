"""Photographs as a training asks for them: decoded, kept, and put into steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from realqa_utils.datasets import mini
from realqa_utils.datasets.table import make_table
from realqa_utils.forms.scores import Scale
from realqa_utils.images.photos import open_photo
from realqa_utils.images.views import PRESETS, View
from realqa_utils.training import batches, fine_tuning
from realqa_utils.training.batches import Collator, Photographs
from realqa_utils.training.recipes import Recipe

SIZES = [(60, 40), (700, 90), (40, 60), (120, 500), (1100, 900), (64, 64)]
RECIPE = Recipe(steps=2, batch_size=2)


@pytest.fixture
def table(tmp_path):
    """Photographs of odd sizes; the last lies on its side."""
    rng, rows = np.random.default_rng(0), []
    for number, (width, height) in enumerate(SIZES):
        path = tmp_path / f"{number}.png"
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        exif = Image.Exif()
        if number == 3:
            exif[0x0112] = 6
        Image.fromarray(pixels).save(path, exif=exif)
        rows.append({"id": str(number), "path": str(path), "mos": float(number)})
    return make_table("odd", Scale(0, 10), pd.DataFrame(rows), source="here")


def _bytes(table) -> list[int]:
    return [3 * int(np.prod(open_photo(path).size)) for path in table.frame["path"]]


@pytest.mark.parametrize("room", [0, 3 * 60 * 40, 10**9])
def test_photographs_are_the_same_whatever_the_room(table, room, monkeypatch):
    monkeypatch.setattr(batches, "ROOM", room)
    opened, own = [], batches.open_photo
    monkeypatch.setattr(batches, "open_photo", lambda path: opened.append(path) or own(path))
    found = Photographs(table, View())
    for rows in ([4, 0, 0], None, [1, 0]):
        for row, image in zip(range(6) if rows is None else rows, found.fitted(rows), strict=True):
            want = own(table.frame["path"][row])
            np.testing.assert_array_equal(np.asarray(image), np.asarray(want))
    kept = sum(_bytes(table)[row] for row in found._kept)
    assert kept <= room
    least = {0: 10, 10**9: 6}  # two, all, two: nothing is kept; each is opened once
    assert len(opened) == least.get(room, len(opened))


@pytest.mark.parametrize("view", [PRESETS["repo"], PRESETS["clean"], View(pixels=(2000, 9000))])
def test_lengths_are_the_patches_that_the_model_is_shown(table, tiny_backbone, view):
    backbone = replace(tiny_backbone, image_processor=_copy(tiny_backbone.image_processor))
    backbone.look_at(*view.limits)
    collator = Collator(backbone, table, replace(RECIPE, vision="lora"), view)
    shown = [backbone.pixels([image])[0].shape[0] for image in collator.data.fitted()]
    assert collator.lengths() == shown
    assert len(set(shown)) > 1


def _copy(processor):
    return type(processor).from_dict(processor.to_dict())


def test_photographs_of_like_length_share_a_step(table, tiny_backbone, tmp_path):
    backbone = replace(tiny_backbone, image_processor=_copy(tiny_backbone.image_processor))
    view = View(pixels=(2000, 90_000))
    backbone.look_at(*view.limits)
    rows = pd.concat([table.frame.assign(id=table.frame["id"] + f" {k}") for k in range(8)])
    many = make_table("odd", Scale(0, 10), rows, source="here")
    recipe = replace(RECIPE, by_length=True, vision="lora")
    collator = Collator(backbone, many, recipe, view)
    trainer = fine_tuning.AnswerTrainer(
        model=backbone.model, args=fine_tuning.arguments(recipe, tmp_path, 0, False),
        train_dataset=range(48), data_collator=collator, recipe=recipe,
        digit_ids=backbone.digit_ids,
    )  # fmt: skip
    lengths, order = np.array(collator.lengths()), list(trainer._get_train_sampler())
    assert sorted(order) == list(range(48))
    assert list(trainer._get_train_sampler()) == order
    assert _padding(lengths[order]) < 0.5 * _padding(lengths)


def _padding(lengths) -> int:
    """What two photographs of a step lack to be as long as the longer one, in all."""
    return int(np.abs(lengths[::2] - lengths[1::2]).sum())


def test_what_is_held_out_is_asked_alike_in_any_batch(tiny_backbone, tmp_path):
    """Questions and windows: a curve must not depend on how many processes share the rows."""
    table = mini.build("mini-koniq", 8, 0, tmp_path)
    recipe = replace(RECIPE, form="direct_and_cot", vision="lora")
    view = View(size=56, short=84, random=True)
    backbone = replace(tiny_backbone, image_processor=_copy(tiny_backbone.image_processor))
    backbone.look_at(*view.limits)
    collator = Collator(backbone, table, recipe, view, one_by_one=True)
    whole = collator(range(8))
    asked = {tuple(row[row >= 0].tolist()) for row in whole["labels"]}
    assert len({len(answer) for answer in asked}) > 1  # more than one form is asked
    pixels = whole["pixel_values"].view(8, -1)
    for rows in ([0], [5, 2], [7, 6, 4]):
        part = collator(rows)
        for place, row in enumerate(rows):
            mine, theirs = (_answer(batch, k) for batch, k in ((part, place), (whole, row)))
            assert mine == theirs
            shown = part["pixel_values"].view(len(rows), -1)[place]
            torch.testing.assert_close(shown, pixels[row], atol=0, rtol=0)


def _answer(batch, row: int) -> list[int]:
    labels = batch["labels"][row]
    return labels[labels >= 0].tolist()


def test_tokens_of_as_many_sets_are_kept_as_have_room(tiny_backbone, table, monkeypatch):
    made, make = [], batches._frozen_tokens
    monkeypatch.setattr(batches, "_TOKENS", {})
    monkeypatch.setattr(batches, "_frozen_tokens", lambda *given: made.append(1) or make(*given))
    sets = [Photographs(table.subset(table.frame["id"].isin([*name])), View()) for name in "0123"]

    def ask(*numbers: int) -> int:
        """How many of these sets were looked at anew."""
        before = len(made)
        for number in numbers:
            batches.frozen_tokens(tiny_backbone, sets[number])
        return len(made) - before

    assert ask(0, 2, 0, 2) == 2
    each = [batches._size(kept) for kept in batches._TOKENS.values()]
    monkeypatch.setattr(batches, "TOKEN_ROOM", sum(each))
    assert ask(0, 2) == 0
    assert ask(2, 3) == 1 and ask(3) == 0  # the oldest has gone
    assert ask(0) == 1
    monkeypatch.setattr(batches, "TOKEN_ROOM", 1)
    assert ask(1, 1) == 1 and len(batches._TOKENS) == 1  # the last one always stays
