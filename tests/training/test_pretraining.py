"""How the mini backbone is made: its start, its labels, a run of a few steps, its judgement."""

from __future__ import annotations

import copy
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from realqa_utils.datasets import mini, subjects
from realqa_utils.forms import captions, taxonomy
from realqa_utils.forms.conversations import ALL_SETS, FORMS
from realqa_utils.model.backbone import load
from realqa_utils.training import pretraining

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def scenes() -> tuple[np.ndarray, list[dict]]:
    return pretraining.world(0, 24, 1)


# --- labels ------------------------------------------------------------------------------------


def test_world(scenes):
    """All domains in turn, each photograph beside its own labels."""
    images, labels = scenes
    assert images.shape == (24, 112, 112, 3) and images.dtype == np.uint8
    for index in (0, 5, 6, 23):
        domain = list(mini.DOMAINS)[index % len(mini.DOMAINS)]
        np.testing.assert_array_equal(images[index], mini.photograph(domain, 0, index))
        assert labels[index] == mini.labels(mini.scene_at(domain, 0, index))
    again, _ = pretraining.world(0, 3, 1)
    np.testing.assert_array_equal(again, images[:3])
    other, _ = pretraining.world(1, 3, 1)
    assert not np.array_equal(other, again)


def test_neither_quality_nor_mos_is_shown(scenes):
    allowed = {attribute.name for attribute in taxonomy.ATTRIBUTES} | {"subject", "background"}
    allowed |= {"eye_catching_reason", "composition_reason", "kind"}
    assert all(set(row) <= allowed for row in scenes[1])


def test_class_ids_by_hand():
    """Scores 1..10 become 0..9, tiers stay, words become their place in the lists."""
    names = list(taxonomy.SCORED)
    low = {name: 1 if taxonomy.BY_NAME[name].kind == "score" else 0 for name in names}
    tiers = {name: len(taxonomy.BY_NAME[name].tiers) for name in names}
    high = {name: 10 if low[name] == 1 else tiers[name] - 1 for name in names}
    painted = [word for painters in subjects.PAINTERS.values() for word in painters]
    low |= {"subject": painted[0], "background": list(subjects.SURFACES)[0]}
    high |= {"subject": painted[-1], "background": list(subjects.SURFACES)[-1]}
    ids, counts = pretraining.class_ids([low, high]), pretraining.class_counts()
    assert set(ids) == set(counts) == {*names, "subject", "background"}
    for name, values in ids.items():
        assert values.tolist() == [0, counts[name] - 1], name
        assert values.dtype == torch.int64
    assert counts["eye_catching"] == counts["composition"] == 10
    assert counts["level_shot"] == 2 and counts["exposure"] == 5


def test_class_ids_of_scenes(scenes):
    ids, counts = pretraining.class_ids(scenes[1]), pretraining.class_counts()
    for name, values in ids.items():
        assert values.shape == (24,)
        assert values.min() >= 0 and values.max() < counts[name]
    row = scenes[1][7]
    assert ids["composition"][7] == int(row["composition"]) - 1
    assert ids["exposure"][7] == int(row["exposure"])
    assert pretraining.WORDS["subject"][ids["subject"][7]] == row["subject"]


# --- the patch embedding -----------------------------------------------------------------------


@pytest.fixture
def started(tiny_backbone, scenes):
    """A model with the DCT embedding, and the pixels (n, d) that it was scaled on."""
    backbone = copy.deepcopy(tiny_backbone)
    pixels, _ = pretraining.vision.patchify(scenes[0], backbone.image_processor)
    pretraining.dct_patch_embedding(backbone.model, pixels)
    return backbone.model.model.visual.patch_embed, pixels


def test_dct_patch_embedding_has_unit_variance(started):
    embed, pixels = started
    with torch.no_grad():
        spread = embed(pixels).std(0)
    assert spread.shape == (128,)
    torch.testing.assert_close(spread, torch.ones(128), atol=1e-3, rtol=0)


def test_dct_patch_embedding_is_a_dct(started):
    """Every channel gives one coefficient of scipy's DCT of luminance or a colour difference."""
    embed, pixels = started
    some = pixels[::97]
    with torch.no_grad():
        result = embed(some).double().numpy()
    colours = some.view(-1, 3, 2, 14, 14)[:, :, 0].double().numpy()
    red, green, blue = colours.transpose(1, 0, 2, 3)
    mixes = [red - green] * 10 + [0.5 * (red + green) - blue] * 10 + [red + green + blue] * 108
    seen = []
    for channel, mix in enumerate(mixes):
        coefficients = dctn(mix, axes=(1, 2), norm="ortho").reshape(len(some), -1)
        expected = coefficients / coefficients.std(0)
        ours = result[:, channel] / result[:, channel].std()
        errors = np.abs(expected - ours[:, None]).max(0)
        assert errors.min() < 1e-3
        seen.append((channel // 10 if channel < 20 else 2, int(errors.argmin())))
    assert len(set(seen)) == 128  # no wave twice
    lowest = sorted(y**2 + x**2 for y, x in np.ndindex(14, 14))[:10]
    for group in (0, 1):
        squares = [(place // 14) ** 2 + (place % 14) ** 2 for g, place in seen if g == group]
        assert sorted(squares) == lowest


# --- training ----------------------------------------------------------------------------------


def test_flip_mirrors_some():
    images = np.random.default_rng(0).integers(0, 256, (200, 4, 6, 3), dtype=np.uint8)
    flipped = pretraining._flip(images, np.random.default_rng(0))
    same = (flipped == images).all((1, 2, 3))
    mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all() and 70 < mirrored.sum() < 130


def test_caption_loss_is_that_of_the_whole_model(tiny_backbone, scenes):
    """Tokens of the tower computed beforehand stand in for the photographs."""
    images, labels = scenes[0][:3], scenes[1][:3]
    generator = np.random.default_rng(0)
    pairs = [captions.guided_caption(row, generator) for row in labels]
    questions, said = zip(*pairs, strict=True)
    pixels, grids = tiny_backbone.pixels(pretraining.as_images(images))
    with torch.no_grad():
        tokens = pretraining.image_tokens(tiny_backbone, images)
        loss = pretraining.caption_loss(tiny_backbone, tokens, pairs)
        batch = pretraining.encode(tiny_backbone, questions, said, grids)
        expected = tiny_backbone.model(**batch, pixel_values=pixels).loss
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


def test_text_loss_leaves_padding_out(tiny_backbone):
    """The mean over all tokens of lines of any length, line by line."""
    lines = ["3.5 is less than 4.", "After 2 comes 3.", "Sort 3 2 1 9 8: 1 2 3 8 9."]
    tokenizer, total, count = tiny_backbone.tokenizer, 0.0, 0
    with torch.no_grad():
        for line in lines:
            ids = tokenizer(line + "<|im_end|>", return_tensors="pt").input_ids
            chances = tiny_backbone.model(input_ids=ids).logits.log_softmax(-1)
            total -= chances[0, :-1].gather(1, ids[0, 1:, None]).sum()
            count += ids.shape[1] - 1
        result = pretraining._text_loss(tiny_backbone, lines)
    torch.testing.assert_close(result, total / count, atol=1e-5, rtol=1e-5)


FAST = "--scenes 70 --vision-steps 2 --vision-batch 8 --language-steps 2 --language-batch 4"
FAST = (FAST + " --threads 1 --held-out 6").split()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    pretraining.main([*FAST, "--out", str(out)])
    return out


def test_run_writes_a_backbone_and_its_record(made):
    record = json.loads((made / "record.json").read_text())
    assert record["command"] == "realqa pretrain" and record["world"] == mini.world_version()
    assert (record["scenes"], record["vision_steps"], record["language_steps"]) == (70, 2, 2)
    assert record["held_out_scenes"] == 6 and record["stages"] == "both"
    rows = record["caption_accuracy"]
    assert [row["attribute"] for row in rows] == list(captions.PHRASES)
    for row in rows:
        assert 0 <= row["accuracy"] <= row["mentioned"] <= 1 and 0 < row["chance"] <= 1
    backbone = load(made)
    assert len(backbone.tokenizer) <= pretraining.VOCABULARY + 8
    (said,) = backbone.generate(["Describe this photo."], pretraining.as_images(_blank()), 3)
    assert isinstance(said, str)


def _blank() -> np.ndarray:
    return np.full((1, 112, 112, 3), 128, dtype=np.uint8)


def test_second_stage_alone_gives_the_same(made, tmp_path):
    """From the saved tower, with the same options."""
    pretraining.main([*FAST, "--out", str(tmp_path), "--vision-from", str(made)])
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["stages"].startswith("language only")
    one, other = (load(folder).model.state_dict() for folder in (made, tmp_path))
    tower = [name for name in one if "visual" in name]
    assert tower and all(torch.equal(one[name], other[name]) for name in tower)


# --- judgement ---------------------------------------------------------------------------------


def test_caption_accuracy(scenes):
    """Right captions, captions of other scenes, and none."""
    images, labels = scenes
    said = [captions.caption(row) for row in labels]

    def judge(texts: list[str]) -> dict[str, dict]:
        left = list(texts)
        fake = SimpleNamespace(generate=lambda q, i, max_new_tokens: [left.pop(0) for _ in i])
        rows = pretraining.caption_accuracy(fake, images, labels, batch=7)
        return {row["attribute"]: row for row in rows}

    for row in judge(said).values():
        assert row["accuracy"] == row["mentioned"] == 1
    for row in judge(["A photo."] * 24).values():
        assert row["accuracy"] == row["mentioned"] == 0
    turned = judge(said[1:] + said[:1])
    for name, row in turned.items():
        truth = [captions.phrase_index(name, scene[name]) for scene in labels]
        hits = [a == b for a, b in zip(truth, truth[1:] + truth[:1], strict=True)]
        assert row["accuracy"] == pytest.approx(np.mean(hits)) and row["mentioned"] == 1
        assert row["chance"] == pytest.approx(max(truth.count(v) for v in truth) / 24)


def test_every_word_of_a_conversation_is_said_in_pretraining(scenes):
    """None is left without a vector of its own: see `captions.word_text`."""
    words = set(pretraining._words(scenes[1]))
    for form in (*FORMS.values(), *ALL_SETS):
        assert set(re.findall(r"[A-Za-z-]+", form.question)) <= words
    answers = " ".join(form.answer(scenes[1][0]) for form in ALL_SETS)
    assert set(re.findall(r"[A-Za-z-]+", answers)) <= words
