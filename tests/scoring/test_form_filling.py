"""Filled forms against free generation and against whole passes without a cache."""

from __future__ import annotations

import copy
import itertools
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from realqa_utils.datasets import mini
from realqa_utils.datasets.table import make_table
from realqa_utils.forms import taxonomy
from realqa_utils.forms.chains import REGULAR
from realqa_utils.forms.conversations import ATTRIBUTE_FORMS, MIX, AttributeForm
from realqa_utils.forms.scores import Scale
from realqa_utils.images.views import View
from realqa_utils.model import backbone as backbones
from realqa_utils.model import vision
from realqa_utils.model.backbone import Backbone, mini_config
from realqa_utils.scoring import digit_tree
from realqa_utils.scoring.form_filling import fill
from realqa_utils.scoring.form_steps import END, grow, legal_labels, plan
from realqa_utils.training.fine_tuning import train
from realqa_utils.training.recipes import Recipe

torch.set_num_threads(1)
#: No reasons and no texts.
CHOICES = AttributeForm(
    "choices", "What is it?", tuple(a for a in taxonomy.ATTRIBUTES if a.kind == "tier")
)
TEXT = AttributeForm("text", "What is in it?", (taxonomy.BY_NAME["subject_background"],))
COLOURS = list(itertools.product((20, 235), repeat=3))
#: The heading that comes next is begun inside the text, for a word and for three.
BEGUN = "it is so. Eye it well. Eye-Catching Scores vary"


def named(form: AttributeForm) -> str:
    return form.name


def labels(number: int) -> dict[str, object]:
    said = mini.labels(mini.scene_at("mini-koniq", 0, number))
    return said | ({"eye_catching_reason": BEGUN} if number % 2 else {})


@pytest.fixture(scope="module")
def learnt() -> list[Image.Image]:
    return [Image.new("RGB", (84, 84), colour) for colour in COLOURS]


@pytest.fixture(scope="module")
def photographs(learnt) -> list[Image.Image]:
    """Two that were learnt and some that were not, of other sizes."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in [(56, 28, 3), (56, 84, 3)]]
    mixed = [Image.new("RGB", (56, 56), colour) for colour in [(60, 90, 130), (160, 140, 60)]]
    return [*learnt[:2], *map(Image.fromarray, noise), *mixed]


def build(tokenizer) -> Backbone:
    """Random weights, one layer on either side."""
    config = mini_config(tokenizer).to_dict()
    config["text_config"] |= {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    config["vision_config"] |= {"depth": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = vision.batch_vision(Qwen2VLForConditionalGeneration(Qwen2VLConfig(**config)))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    size = {"shortest_edge": 28 * 28, "longest_edge": 112 * 112}
    return Backbone(model.eval(), tokenizer, Qwen2VLImageProcessorPil(size=size))


@pytest.fixture(scope="module")
def untaught(tiny_tokenizer) -> Backbone:
    """With larger weights, so that not all tokens are alike to it."""
    backbone = build(tiny_tokenizer)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in backbone.model.named_parameters():
            if parameter.ndim == 2:
                size = 0.1 if "embed_tokens" in name else 0.05
                parameter.normal_(0, size, generator=noise)
    return backbone


@pytest.fixture(scope="module")
def taught(tiny_tokenizer, learnt, tmp_path_factory) -> Backbone:
    """Has learnt by heart what to say of eight colours."""
    folder, rows = tmp_path_factory.mktemp("colours"), []
    for number, image in enumerate(learnt):
        path = folder / f"{number}.png"
        image.save(path)
        rows.append({"id": str(number), "path": str(path), "mos": 5.0} | labels(number))
    table = make_table("tiny", Scale(0, 10), pd.DataFrame(rows), source="tiny")
    recipe = Recipe(
        70, form="mix", batch_size=8, learning_rate=8e-3, language="full", vision="frozen"
    )
    return train(build(tiny_tokenizer), table, recipe, View(), folder)


@pytest.fixture(scope="module")
def shipped() -> Backbone:
    return backbones.load("mini")


# --- the form as tokens ------------------------------------------------------------------------

WORDS = ["it", "a lamp", "the sea (at night)", "No. 5", "10 of 10", "naïve…"]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(ATTRIBUTE_FORMS)), st.data())
def test_pieces_are_the_tokens_of_the_whole_answer(shipped, name, data):
    form, tokenizer = ATTRIBUTE_FORMS[name], shipped.tokenizer
    said, pieces = {}, []
    for step in plan(form, tokenizer)[:-1]:
        legal = legal_labels(step.slot)
        said[step.key] = data.draw(st.sampled_from(legal or WORDS))
        pieces += step.fixed.tolist()
        if legal:
            pieces += step.tree.choices[legal.index(said[step.key])]
        else:
            pieces += tokenizer(f" {said[step.key]}.").input_ids
    assert pieces == tokenizer(form.answer(said)).input_ids
    assert plan(form, tokenizer)[-1].fixed.tolist() == [tokenizer.eos_token_id]


@pytest.mark.parametrize("name", sorted(ATTRIBUTE_FORMS))
def test_another_tokenizer_has_seams_too(name, tiny_tokenizer):
    form = ATTRIBUTE_FORMS[name]
    assert [step.key for step in plan(form, tiny_tokenizer)] == [*(s.key for s in form.slots), END]


def test_a_tree_by_hand():
    """Choices 1 2 9, 1 3 and 4: the nodes are 1 and 1 2, the rest are leaves."""
    tree = grow([(1, 2, 9), (1, 3), (4,)])
    assert tree.nodes.tolist() == [1, 2]
    assert tree.depth.tolist() == [0, 1]
    assert tree.sees.tolist() == [[True, False], [True, True]]
    assert tree.ways.tolist() == [[True, True], [True, False], [False, False]]
    edges = sorted(zip(tree.parent.tolist(), tree.token.tolist(), strict=True))
    assert edges == [(0, 1), (0, 4), (1, 2), (1, 3), (2, 9)]
    of_first = {int(t) for t in tree.token[tree.paths[0]]}
    assert of_first == {1, 2, 9} and tree.paths.sum(1).tolist() == [3, 2, 1]


@pytest.mark.parametrize("choices", [[(1,), (1, 2)], [(1, 2), (1, 2)]])
def test_a_choice_that_begins_another_is_refused(choices):
    with pytest.raises(ValueError, match="begins with another"):
        grow(choices)


# --- against whole passes without a cache ------------------------------------------------------


@torch.no_grad()
def whole_pass(backbone: Backbone, image, question: str, said: list[str]) -> list[torch.Tensor]:
    """Logits (n + 1, vocabulary) before each token of each beginning of an answer and after it."""
    tokenizer, seen = backbone.tokenizer, backbone.image_processor([image], return_tensors="pt")
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    pads = "<|image_pad|>" * int(seen["image_grid_thw"].prod() // 4)
    prompt = tokenizer(text.replace("<|image_pad|>", pads)).input_ids
    ids = [tokenizer(answer).input_ids for answer in said]
    width = max(map(len, ids))
    whole = torch.tensor([prompt + i + [tokenizer.pad_token_id] * (width - len(i)) for i in ids])
    rows = len(said)
    logits = backbone.model(
        input_ids=whole,
        mm_token_type_ids=(whole == backbone.model.config.image_token_id).long(),
        pixel_values=seen["pixel_values"].repeat(rows, 1),
        image_grid_thw=seen["image_grid_thw"].repeat(rows, 1),
        logits_to_keep=width + 1,
    ).logits
    return [row[: len(i) + 1] for row, i in zip(logits, ids, strict=True)]


def starts(form: AttributeForm, text: str) -> list[int]:
    """Where the heading of each slot starts, and the end."""
    found = [0]
    for slot in form.slots[1:]:
        found.append(text.index(f". {slot.heading}:", found[-1]) + 1)
    return [*found, len(text)]


def first_left(backbone: Backbone, image, form: AttributeForm, text: str) -> str:
    (logits,) = whole_pass(backbone, image, form.question, [text])
    tokens = backbone.tokenizer(text, return_offsets_mapping=True)
    expected = torch.tensor([*tokens.input_ids, backbone.tokenizer.eos_token_id])
    other = (logits.argmax(1) != expected).nonzero().flatten().tolist()
    if not other:
        return ""
    places = [a for a, _ in tokens.offset_mapping] + [len(text)]
    keys = [*(slot.key for slot in form.slots), END]
    return keys[sum(start <= places[other[0]] for start in starts(form, text)) - 1]


@pytest.mark.parametrize("form", [MIX, CHOICES, ATTRIBUTE_FORMS["exposure"]], ids=named)
def test_where_the_form_is_left(taught, photographs, form):
    """One pass over the whole answer tells where another token is likelier."""
    for image, filled in zip(photographs, fill(taught, photographs, form), strict=True):
        assert filled.left == first_left(taught, image, form, filled.text)
        assert filled.follows == (filled.left == "")


def restricted(chances: list[torch.Tensor], tokens: list[list[int]]) -> int:
    """The choice that is left when the likeliest token is taken again and again."""
    left, place = list(range(len(tokens))), 0
    while len(left) > 1:
        best = max(left, key=lambda choice: float(chances[choice][place]))
        left = [choice for choice in left if tokens[choice][place] == tokens[best][place]]
        place += 1
    return left[0]


@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize(
    "model, form", [("taught", MIX), ("taught", CHOICES), ("untaught", CHOICES)]
)
def test_probabilities_are_those_of_every_choice_on_its_own(request, photographs, model, form, at):
    """In one batch with photographs of other sizes, so behind padding as well."""
    either = request.getfixturevalue(model)
    filled, tokenizer = fill(either, photographs, form)[at], either.tokenizer
    for slot, start in zip(form.slots, starts(form, filled.text), strict=False):
        if not (legal := legal_labels(slot)):
            continue
        before = filled.text[:start] + " " * (start > 0) + f"{slot.heading}:"
        said = [f"{before} {slot.say(label)}." for label in legal]
        passes = whole_pass(either, photographs[at], form.question, said)
        skip = len(tokenizer(before).input_ids)
        skip += slot.attribute.kind == "score"  # the space before a digit is a token
        tokens = [tokenizer(text).input_ids[skip:] for text in said]
        chances = [
            logits[skip:-1].double().log_softmax(-1)[range(len(ids)), ids]
            for logits, ids in zip(passes, tokens, strict=True)
        ]
        mass = torch.stack([c.sum() for c in chances]).exp().numpy()
        name = slot.attribute.name
        np.testing.assert_allclose(filled.probabilities[name], mass / mass.sum(), atol=1e-5)
        assert filled.off_format[name] == pytest.approx(1 - mass.sum(), abs=1e-5)
        assert filled.parsed.values[name] == legal[restricted(chances, tokens)]
        tiers = slot.attribute.tiers
        codes = [tiers[label].code for label in legal] if tiers else legal
        assert filled.expected[name] == pytest.approx(mass @ codes / mass.sum(), abs=1e-4)


# --- against free generation -------------------------------------------------------------------


def test_equal_to_free_generation_where_that_follows(taught, learnt, photographs):
    """Half of the texts begin the next heading before they end, so rows wait for each other."""
    said = []
    for images in (learnt, photographs):
        answers = taught.generate([MIX.question] * len(images), images, 200)
        for filled, answer in zip(fill(taught, images, MIX), answers, strict=True):
            assert filled.follows == (filled.text == answer)
            if filled.follows:
                assert filled.parsed == MIX.parse(answer)
            said.append(filled)
    assert all(filled.follows for filled in said[:8])
    assert {BEGUN in filled.text for filled in said[:8]} == {True, False}
    assert {filled.follows for filled in said[8:]} == {True, False}


@pytest.mark.parametrize("form", [MIX, CHOICES, ATTRIBUTE_FORMS["exposure"]], ids=named)
def test_a_model_that_never_follows_gets_an_answer(shipped, untaught, photographs, form):
    for backbone in (shipped, untaught):
        answers = backbone.generate([form.question] * len(photographs), photographs, 40)
        filled = fill(backbone, photographs, form, max_text_tokens=5)
        for one, answer in zip(filled, answers, strict=True):
            assert not one.follows and one.text != answer
            for attribute in form.attributes:
                if attribute.kind != "text":
                    assert one.parsed.code(attribute.name) in attribute.codes
                    assert one.probabilities[attribute.name].sum() == pytest.approx(1)
                    assert 0 <= one.off_format[attribute.name] <= 1
        assert max(max(one.off_format.values()) for one in filled) > 0.9


# --- free texts --------------------------------------------------------------------------------


@contextmanager
def saying(backbone: Backbone, following: dict[str, str]):
    """Let the model say after each token the one that is written for it, and else a full stop."""
    ids = backbone.tokenizer.convert_tokens_to_ids
    table = torch.full((len(backbone.tokenizer),), ids("."))
    for token, after in following.items():
        table[ids(token)] = ids(after)
    read = []

    def note(module, inputs):
        read[:] = [inputs[0].flatten()]

    def say(module, inputs, logits):
        count = logits[..., 0].numel()  # of one photograph
        after = table[read[0][-count:]].view(*logits.shape[:-1], 1)
        return torch.zeros_like(logits).scatter(-1, after, 9.0)

    words = backbone.model.get_input_embeddings().register_forward_pre_hook(note)
    head = backbone.model.lm_head.register_forward_hook(say)
    yield
    words.remove()
    head.remove()


HEADING = {"Ċ": "S", "S": "ubject", "ubject": "Ġand", "Ġand": "ĠBackground", "ĠBackground": ":"}
SCRIPTS = {  # what comes after a token -> the text that is written, where the form is left
    "it ends": ({":": "Ġthe", "Ġthe": "Ġfor", "Ġfor": ".", ".": "<|im_end|>"}, "the for", ""),
    "no full stop": ({":": "Ġthe", "Ġthe": "<|im_end|>"}, "the", "subject_background"),
    "silence": ({":": "<|im_end|>"}, "", "subject_background"),
    "no end": ({":": "Ġthe", "Ġthe": "Ġthe"}, "the the the the", "subject_background"),
    "in sentences": ({":": "Ġthe", ".": "Ġthe"}, "the. the", "end"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_how_a_text_ends(tiny_backbone, learnt, script):
    following, text, left = SCRIPTS[script]
    with saying(tiny_backbone, HEADING | following):
        (filled,) = fill(tiny_backbone, learnt[:1], TEXT, max_text_tokens=4)
        (answer,) = tiny_backbone.generate([TEXT.question], learnt[:1], 40)
    assert filled.text == f"Subject and Background: {text}."
    assert filled.parsed.values.get("subject_background", "") == text
    assert (filled.left, filled.follows) == (left, filled.text == answer)
    assert filled.probabilities == {}


def test_a_checkpoint_may_have_two_end_tokens(tiny_backbone, learnt, monkeypatch):
    ids = tiny_backbone.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    monkeypatch.setattr(tiny_backbone.model.generation_config, "eos_token_id", ids)
    with saying(tiny_backbone, HEADING | {":": "Ġthe", ".": "<|endoftext|>"}):
        (filled,) = fill(tiny_backbone, learnt[:1], TEXT)
        (answer,) = tiny_backbone.generate([TEXT.question], learnt[:1], 40)
    assert filled.follows and filled.text == answer == "Subject and Background: the."


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_texts_are_bounded(taught, untaught, learnt, limit):
    """Cut behind so many tokens of what free generation says."""
    cut, whole = fill(taught, learnt, MIX, max_text_tokens=limit), fill(taught, learnt, MIX)
    for filled, full in zip(cut, whole, strict=True):
        assert filled.left == "eye_catching_reason"
        said = taught.tokenizer(f" {full.parsed.reasons['eye_catching']}.").input_ids[:limit]
        assert filled.parsed.reasons["eye_catching"] == taught.tokenizer.decode(said).strip()
    for filled in fill(untaught, learnt, MIX, max_text_tokens=limit):
        assert len(filled.parsed.reasons["composition"]) <= (limit + 1) * 20


def test_a_bound_below_one_is_refused(untaught, learnt):
    with pytest.raises(ValueError, match="max_text_tokens=0: at least 1"):
        fill(untaught, learnt, MIX, max_text_tokens=0)


# --- batches and cost --------------------------------------------------------------------------


def assert_alike(one, other) -> None:
    assert (one.text, one.left, one.parsed) == (other.text, other.left, other.parsed)
    assert one.probabilities.keys() == other.probabilities.keys()
    for name, chances in one.probabilities.items():
        np.testing.assert_allclose(chances, other.probabilities[name], atol=1e-5)
        assert one.off_format[name] == pytest.approx(other.off_format[name], abs=1e-5)
        assert one.expected[name] == pytest.approx(other.expected[name], abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_batches_and_order_change_nothing(taught, learnt, photographs, batch_size):
    images = [*photographs, *learnt[2:]]
    together = fill(taught, images, MIX)
    apart = fill(taught, images[::-1], MIX, batch_size=batch_size)[::-1]
    for one, other in zip(together, apart, strict=True):
        assert_alike(one, other)


def test_a_chain_may_have_its_greedy_digits_alone(shipped, learnt, monkeypatch):
    monkeypatch.setattr(digit_tree, "FLOOR", 0.0)
    whole = fill(shipped, learnt[:3], REGULAR)
    greedy = fill(shipped, learnt[:3], REGULAR, tree=False)
    for one, other in zip(whole, greedy, strict=True):
        assert_alike(one, other)
        assert (one.reading.text, one.reading.parsed) == (other.reading.text, other.reading.parsed)
        assert one.reading.off_format == pytest.approx(other.reading.off_format, abs=1e-3)
        assert len(one.reading.values) == 1000
        assert len(other.reading.values) == 28  # nine left at two levels, ten at the last


def test_photographs_are_opened_one_batch_at_a_time(untaught, learnt):
    opened = []

    def opener(number: int):
        def open_it() -> Image.Image:
            opened.append(number)
            return learnt[number]

        return open_it

    untaught.model.train()
    lazy = fill(untaught, [opener(n) for n in range(5)], CHOICES, batch_size=2)
    assert opened == [0, 1, 2, 3, 4]
    assert not untaught.model.training
    for one, other in zip(lazy, fill(untaught, learnt[:5], CHOICES), strict=True):
        assert_alike(one, other)


@contextmanager
def counted(backbone: Backbone):
    """How often the model says what comes next."""
    calls = []
    hook = backbone.model.lm_head.register_forward_pre_hook(lambda *_: calls.append(1))
    yield calls
    hook.remove()


def test_passes_are_few_and_shared_by_the_batch(taught, learnt):
    """One for the photographs, one for every choice, one for every token of a text, one to end."""
    for images in (learnt[:1], learnt):
        with counted(taught) as calls:
            fill(taught, images, CHOICES)
        assert len(calls) == 1 + len(CHOICES.slots) + 1
    filled = fill(taught, learnt, MIX)
    ordinary = [i for i, one in zip(learnt, filled, strict=True) if BEGUN not in one.text]
    said = [MIX.parse(one.text) for one in filled if BEGUN not in one.text]
    texts = [[f" {parsed.reasons[name]}." for parsed in said] for name in said[0].reasons]
    texts += [[f" {parsed.values['subject_background']}." for parsed in said]]
    tokens = sum(max(map(len, taught.tokenizer(column).input_ids)) for column in texts)
    choices = sum(bool(legal_labels(slot)) for slot in MIX.slots)
    with counted(taught) as calls:
        fill(taught, ordinary, MIX)
    # a heading between a choice and a text has a pass as well: two in this form
    assert len(calls) == 1 + tokens + choices + 2 + 1
    with counted(taught) as free:
        taught.generate([MIX.question] * len(ordinary), ordinary, 200)
    assert len(calls) < 0.6 * len(free)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_another_attention_gives_the_same(taught, photographs):
    model = copy.deepcopy(taught.model)
    model.set_attn_implementation("eager")
    eager = Backbone(model, taught.tokenizer, taught.image_processor)
    for one, other in zip(
        fill(eager, photographs, MIX), fill(taught, photographs, MIX), strict=True
    ):
        assert_alike(one, other)
