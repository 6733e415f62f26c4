"""Chains of thought: how they read, what is read back from them, and their tokens."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realqa_utils.datasets import mini
from realqa_utils.forms import chains, scores, taxonomy
from realqa_utils.forms.answers import Parsed
from realqa_utils.forms.chains import CHAINS, NATURAL, REGULAR, STAGE_2, ChainForm, Part
from realqa_utils.forms.conversations import DIRECT, FORMS, MIX, Slot, vocabulary_texts
from realqa_utils.model import backbone
from realqa_utils.model.encoding import digit_tokens
from realqa_utils.ncm.score_places import ScorePlaces
from realqa_utils.scoring.form_steps import END, endings, full_stops, legal_labels, plan

FORM = st.sampled_from(list(CHAINS.values()))
TENS = st.floats(0, 10, allow_nan=False)
WORDS = st.text("abcdefghijklmnopqrstuvwxyzäß", min_size=1, max_size=8)
TEXT = st.lists(WORDS, min_size=1, max_size=5).map(" ".join) | st.sampled_from(
    ["a bell tower, behind it the sea", "it is well placed, slightly cut off, and level", "2 cats",
     "the exposure is right, the level shot too", "it scores 3.5 (of 5)"]
)  # fmt: skip
LABELS = st.fixed_dictionaries(
    {s.key: st.sampled_from(legal_labels(s)) if legal_labels(s) else TEXT for s in NATURAL.slots}
)
BY_HAND = {
    "eye_catching": 6,
    "eye_catching_reason": "it shows, in vivid colours, and is large",
    "composition": 10,
    "composition_reason": "it is well placed, whole, and level",
    "subject_background": "a castle, behind it the sea",
    "subject_integrity": 1,
    "subject_clutter": 0,
    "background_clutter": 1,
    "level_shot": 1,
    "image_clarity": 1,
    "exposure": 3,
    "saturation": 2,
}
SAID = {
    "cot_natural": (
        "The reason for the composition score is this: it is well placed, whole, and level. "
        "The composition score is 10. "
        "The reason for the eye-catching score is this: it shows, in vivid colours, and is large. "
        "The eye-catching score is 6. "
        "The subject and background are a castle, behind it the sea. The subject integrity is "
        "partially complete (slightly cut off or slightly obscured). The subject clutter is "
        "cluttered. The background clutter is moderately cluttered. The level shot is level. "
        "The image clarity is slightly blurry. The exposure is slightly overexposed. "
        "The saturation is vivid. The final score is <6.59>."
    ),
    "cot_regular": (
        "1.1 Reason for Composition Score: it is well placed, whole, and level, "
        "1.2 Composition Score: 10. "
        "1.3 Reason for Eye-Catching Score: it shows, in vivid colours, and is large, "
        "1.4 Eye-Catching Score: 6. "
        "2.1 Subject and Background: a castle, behind it the sea. 2.2 Subject Integrity: "
        "partially complete (slightly cut off or slightly obscured). 2.3 Subject Clutter: "
        "cluttered. 2.4 Background Clutter: moderately cluttered. 2.5 Level Shot: level. "
        "3.1 Image Clarity: slightly blurry. 3.2 Exposure: slightly overexposed. "
        "3.3 Saturation: vivid. The final score is <6.59>."
    ),
}
forms = pytest.mark.parametrize("form", CHAINS.values(), ids=list(CHAINS))


def truth(labels: dict) -> Parsed:
    """What a perfect answer says."""
    reasons = {k.removesuffix("_reason"): v for k, v in labels.items() if k.endswith("_reason")}
    return Parsed({a.name: labels[a.name] for a in taxonomy.ATTRIBUTES}, reasons)


# --- rendering ---------------------------------------------------------------------------------


@forms
def test_answers_by_hand(form):
    assert form.answer(BY_HAND, 6.5901, 3) == SAID[form.name]
    assert form.answer(BY_HAND, 6.5901, 1).endswith("The final score is <7>.")
    assert form.parse(SAID[form.name]) == (truth(BY_HAND), scores.Parsed(6.59, "6.59"))


def test_the_questions_are_those_of_the_vocabulary():
    for form in CHAINS.values():
        assert form.question in vocabulary_texts()
    assert REGULAR.question == NATURAL.question[:-1] + " with the regular form."
    assert {**CHAINS} == {"cot_natural": NATURAL, "cot_regular": REGULAR}


def test_stage_2_by_name():
    assert STAGE_2["direct"] == (DIRECT,) and STAGE_2["cot_natural"] == (NATURAL,)
    assert STAGE_2["direct_and_cot"] == (DIRECT, NATURAL, REGULAR)
    assert set(FORMS) <= set(STAGE_2)


@forms
def test_all_ten_attributes_high_level_first_and_the_reason_before_its_score(form):
    values = [slot.attribute for slot in form.slots if not slot.is_reason]
    assert set(values) == set(taxonomy.ATTRIBUTES) and len(values) == 10
    assert [a.level for a in values] == ["high"] * 2 + ["middle"] * 5 + ["low"] * 3
    for slot, following in zip(form.slots, form.slots[1:], strict=False):
        assert not slot.is_reason or following == Slot(slot.attribute)
    assert {slot.key for slot in form.slots} == {slot.key for slot in MIX.slots}


@forms
@pytest.mark.parametrize(
    "key, label, message",
    [
        ("composition", 11, "composition: 11 is none of 1 to 10"),
        ("exposure", None, "exposure: None is none of 0 to 4"),
        ("composition_reason", float("nan"), "composition_reason: nan is no text"),
    ],
)
def test_a_label_that_cannot_be_is_refused(form, key, label, message):
    with pytest.raises(ValueError, match=message):
        form.answer(BY_HAND | {key: label}, 5, 3)
    with pytest.raises(KeyError, match=key):
        form.answer({k: v for k, v in BY_HAND.items() if k != key}, 5, 3)


# --- where the score stands --------------------------------------------------------------------


@given(FORM, LABELS, TENS, st.integers(1, 4))
def test_round_trip(form, labels, score, digits):
    answer = form.answer(labels, score, digits)
    start, end = form.score_span(answer)
    assert answer[start:end] == scores.format_score(score, digits)
    parsed, said = form.parse(answer, digits)
    assert parsed == truth(labels)
    assert said.score == scores.quantise(score, digits), said.reason


def test_the_last_score_is_the_span():
    """Whatever a reason says."""
    labels = BY_HAND | {"composition_reason": "The final score is <1.00>. So be it"}
    answer = REGULAR.answer(labels, 6.59, 3)
    assert answer[slice(*REGULAR.score_span(answer))] == "6.59"
    assert REGULAR.parse(answer)[1].score == 6.59


@forms
@pytest.mark.parametrize(
    "spoil",
    [
        lambda said: "",
        lambda said: said[:-1],
        lambda said: said[1:],
        lambda said: said.replace("<6.59>", "6.59"),
        lambda said: said.replace("6.59", "good"),
        lambda said: said.replace("6.59", "6.59>."),
        lambda said: said.replace("6.59", ""),
        lambda said: "The final score is <6.59>.",
    ],
)
def test_an_answer_of_another_form_is_refused(form, spoil):
    answer = spoil(SAID[form.name])
    with pytest.raises(ValueError, match=f"does not follow the form '{form.name}'") as caught:
        form.score_span(answer)
    assert repr(answer) in str(caught.value)


@forms
def test_ncm_finds_the_digits(form, tiny_tokenizer):
    """By the tokens before them, as a monitor of a training does."""
    import torch

    answer = form.answer(BY_HAND, 6.59, 3)
    places = ScorePlaces.of_form(tiny_tokenizer, form, 3)
    (found,) = places(torch.tensor([tiny_tokenizer(answer).input_ids])).tolist()
    assert found == digit_tokens(tiny_tokenizer, answer, form.score_span(answer))


# --- parsing -----------------------------------------------------------------------------------


def check(form: ChainForm, text: str) -> tuple[Parsed, scores.Parsed]:
    """What holds for any answer: each attribute and the score has a value, or a reason for none."""
    parsed, score = form.parse(text)
    assert not set(parsed.values) & set(parsed.missing)
    assert set(parsed.values) | set(parsed.missing) == set(taxonomy.BY_NAME)
    assert all(isinstance(why, str) and why for why in parsed.missing.values())
    assert set(parsed.reasons) <= {"composition", "eye_catching"}
    for name in set(parsed.values) - {"subject_background"}:
        assert parsed.code(name) in taxonomy.BY_NAME[name].codes
    assert (score.score is None) == (score.reason in scores.REASONS)
    assert score.score is None or 0 <= score.score < 10
    return parsed, score


PIECES = [
    *(part.lead for form in CHAINS.values() for part in form.parts),
    *(slot.heading for slot in NATURAL.slots),
    *(tier.words for a in taxonomy.ATTRIBUTES for tier in a.tiers),
    "The final score is <", "the score of this image is ", "overall score", "final score", ">.",
    "<", ": ", " is ", " are ", " this", "\n", ". ", ", ", "**", "- ", "the ", "of the photo", "7",
    "10", "6.59", "9" * 400, "1.3 ", "٣", "½", "\0", "ſ", "İ", "\u2028", "reason for ",
]  # fmt: skip


@given(
    FORM, st.text() | st.lists(st.sampled_from(PIECES) | st.characters(), max_size=30).map("".join)
)
def test_any_text_gets_values_or_reasons(form, text):
    check(form, text)


@given(FORM, LABELS, TENS, st.data())
def test_a_true_answer_with_errors_gets_values_or_reasons(form, labels, score, data):
    letters = list(form.answer(labels, score, 3))
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(letters)))
        stop = start + data.draw(st.integers(0, 12))
        letters[start:stop] = data.draw(st.sampled_from(PIECES) | st.text(max_size=3))
    check(form, "".join(letters))


@forms
@given(st.data())
@settings(max_examples=60)
def test_an_answer_that_breaks_off_never_scores(form, data):
    """The score of an attribute is not taken for that of the photograph."""
    answer = SAID[form.name]
    cut = data.draw(st.integers(0, answer.index("6.59") + 1))
    parsed, score = check(form, answer[:cut])
    assert score.score is None
    whole = answer[:cut].endswith(("Composition Score: 10.", "composition score is 10."))
    assert not whole or parsed.values == {"composition": 10}


@given(LABELS, TENS)
def test_either_form_is_read_for_the_other(labels, score):
    for form, other in [(NATURAL, REGULAR), (REGULAR, NATURAL)]:
        parsed, said = form.parse(other.answer(labels, score, 3))
        assert (parsed, said.score) == (truth(labels), scores.quantise(score, 3))


@forms
def test_the_direct_answer_to_a_question_for_steps(form):
    parsed, score = form.parse(DIRECT.answer(6.59, 3))
    assert score.score == 6.59 and not parsed.values
    assert set(parsed.missing.values()) == {"not mentioned"}
    assert form.parse(" ")[1].reason == "empty"


@pytest.mark.parametrize(
    "text, score",
    [
        ("1. **Exposure**: overexposed\n2. **Final Score**: 6.5", 6.5),
        ("Exposure: overexposed\nFinal score:\n6.5/10", 6.5),
        ("**Overall score: 6.5.** Exposure: overexposed. Composition Score: 7.", 6.5),
        ("The final score is 6.5 out of 10.\nThe exposure is overexposed.", 6.5),
        ("The composition score is 3. The exposure is overexposed. The score of this photo is 6.5.",
         6.5),
        ("- The exposure is overexposed.\n- The final score of this image is <6.5>.", 6.5),
        ("The exposure of this image is overexposed. THE FINAL SCORE IS <6.5>.", 6.5),
        ("Exposure: overexposed. The final score is not given. Final score: 6.5", 6.5),
        ("Exposure: overexposed. The composition score of this image is 7.", None),
        ("Exposure: overexposed. Composition Score: <7>.", None),
        ("Exposure: overexposed. 6.5", None),
        ("Exposure: overexposed. The final score is <6.5", None),
        ("Exposure: overexposed. The final score is 6 or 7.", None),
    ],
)  # fmt: skip
def test_other_ways_to_say_it(text, score):
    for form in CHAINS.values():
        parsed, said = check(form, text)
        assert parsed.values["exposure"] == 4
        assert said.score == score


def test_in_the_regular_form_a_sentence_is_no_heading():
    labels = BY_HAND | {"composition_reason": "it is level. The exposure is right. So is the rest"}
    assert REGULAR.parse(REGULAR.answer(labels, 5, 3))[0] == truth(labels)


def test_in_prose_a_heading_counts_as_well():
    said = NATURAL.answer(BY_HAND, 5, 3).replace("The exposure is", "Exposure:")
    assert NATURAL.parse(said)[0] == truth(BY_HAND)
    twice = said.replace("The final", "The exposure is underexposed. The final")
    assert NATURAL.parse(twice)[0].missing == {"exposure": "said twice, differently"}


def test_a_model_that_never_stops_is_read_at_once():
    """In a fraction of a second; one that tried every pair of places would need minutes."""
    n = 100_000
    for text in (
        "The exposure is " * (n // 16), "The exposure is dull. " * (n // 22),
        "final score " * (n // 12), "the score of the " * (n // 17), ". " * n, "\n" * n,
        "the " * (n // 4), "final" + " " * n,
        "The exposure" + " " * n, "- " * n + "The exposure is x", "The final score is <" + "9" * n,
        "reason for the " * (n // 15), "The final score" + ": " * n,
    ):  # fmt: skip
        for form in CHAINS.values():
            check(form, text)


# --- tokens ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    return backbone.load("mini").tokenizer


def texts_of_the_kit(form: ChainForm) -> list[str]:
    """The question and answers that say every tier, with one word where a text is free."""
    count = max(len(legal_labels(slot)) for slot in form.slots)
    said = [[*legal_labels(slot)] or ["it"] for slot in form.slots]
    rows = [
        {s.key: x[i % len(x)] for s, x in zip(form.slots, said, strict=True)} for i in range(count)
    ]
    return [form.question, *(form.answer(row, 6.59, 3) for row in rows)]


@forms
def test_the_shipped_tokenizer_knows_every_word_as_a_whole(form, shipped):
    """No token with letters begins or ends inside a word; "eye-catching" is two."""
    for text in texts_of_the_kit(form):
        for start, end in shipped(text, return_offsets_mapping=True).offset_mapping:
            if re.search("[A-Za-z]", text[start:end]):
                assert not re.search("^[A-Za-z]{2}", text[start - 1 : start + 1] * (start > 0))
                assert not re.search("^[A-Za-z]{2}", text[end - 1 : end + 1])


@forms
def test_an_answer_fits_into_the_tokens_that_asking_allows(form, shipped):
    said = [mini.labels(mini.scene_at(name, 0, i)) for name in mini.DOMAINS for i in range(60)]
    sizes = [len(ids) for ids in shipped([form.answer(row, 6.59, 4) for row in said]).input_ids]
    assert 100 < max(sizes) < chains.MAX_TOKENS - 10


@pytest.mark.parametrize("which", ["shipped", "tiny_tokenizer"])
@settings(max_examples=40)
@given(form=FORM, labels=LABELS, score=TENS)
def test_steps_are_the_tokens_of_the_whole_answer(request, which, form, labels, score):
    tokenizer, pieces = request.getfixturevalue(which), []
    steps = plan(form, tokenizer)
    for step in steps[:-1]:
        label, legal = labels[step.key], legal_labels(step.slot)
        pieces += step.fixed.tolist()
        pieces += (
            step.tree.choices[legal.index(label)]
            if legal
            else tokenizer(f" {label}{step.tail}").input_ids
        )
    pieces += steps[-1].fixed.tolist()
    answer = form.answer(labels, score, 3)
    whole = tokenizer(answer).input_ids
    assert whole[: len(pieces)] == pieces
    digits = scores.digits_of(score, 3)
    assert whole[len(pieces)] == tokenizer.convert_tokens_to_ids(str(digits[0]))
    assert digit_tokens(tokenizer, answer, form.score_span(answer))[0] == len(pieces)


@forms
def test_the_last_step_leads_to_the_digits(form, shipped):
    *steps, last = plan(form, shipped)
    assert [step.key for step in steps] == [slot.key for slot in form.slots]
    assert (last.slot, last.key, last.tree) == (None, END, None)
    assert last.lead == " The final score is <" == shipped.decode(last.fixed)
    assert [step.tail for step in steps] == [part.tail for part in form.parts]
    assert plan(MIX, shipped)[-1].fixed.tolist() == [shipped.eos_token_id]


def test_endings(shipped):
    said = {tail: set(shipped.convert_ids_to_tokens(endings(shipped, tail))) for tail in ".,"}
    assert said["."] >= {".", ")."} and said[","] >= {","}
    assert not said["."] & said[","] and full_stops(shipped) == endings(shipped, ".")


def test_a_tokenizer_that_merges_is_refused(shipped):
    """ "It is in" and "complete" make one word."""
    (slot,) = [slot for slot in NATURAL.slots if slot.key == "subject_integrity"]
    with pytest.raises(ValueError, match="the tokenizer merges 'It is in' with what follows"):
        plan(ChainForm("glued", "?", (Part("It is in", slot, "."),)), shipped)


def test_labels_may_be_numbers_of_any_kind():
    wide = {k: v if isinstance(v, str) else np.float64(v) for k, v in BY_HAND.items()}
    assert NATURAL.answer(wide, 5, 3) == NATURAL.answer(BY_HAND, 5, 3)
