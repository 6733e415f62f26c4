"""Questions and answers: what is asked, what is answered, and where the score stands in it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realqa_utils.datasets import mini
from realqa_utils.forms import answers, scores, taxonomy
from realqa_utils.forms.conversations import (
    ALL_SETS,
    ATTRIBUTE_FORMS,
    DIRECT,
    FORMS,
    GRANULARITIES,
    MIX,
    STAGE_1,
    AttributeForm,
    Form,
    Parsed,
    Slot,
    vocabulary_texts,
)
from realqa_utils.forms.taxonomy import Attribute

TENS = st.floats(0, 10, allow_nan=False)
FORM = st.sampled_from(list(FORMS.values()))


def test_the_direct_answer_by_hand():
    assert DIRECT.answer(3.9845, 3) == "The score of this image is 3.98."
    assert DIRECT.answer(3.9845, 2) == "The score of this image is 4.0."
    assert DIRECT.answer(3.9845, 1) == "The score of this image is 4."


def test_the_direct_question_asks_for_the_score_and_states_its_range():
    assert "score" in DIRECT.question and "from 0 to 10" in DIRECT.question


def test_forms_are_known_by_their_own_names():
    assert all(FORMS[name].name == name for name in FORMS)


@given(FORM, TENS, st.integers(1, 4))
def test_round_trip_through_the_span(form, score, digits):
    answer = form.answer(score, digits)
    start, end = form.score_span(answer)
    assert answer[start:end] == scores.format_score(score, digits)
    assert answer[:start] + answer[end:] == form.before + form.after


@given(FORM, TENS, st.integers(1, 4))
def test_round_trip_through_the_parser(form, score, digits):
    parsed = scores.parse_score(form.answer(score, digits), digits)
    assert parsed.score == scores.quantise(score, digits), parsed.reason


def test_the_span_is_found_by_the_form_and_not_by_full_stops_or_digits():
    form = Form("steps", "?", "1. Clarity: 7, level 2.5. The final score is <", ">.")
    answer = form.answer(6.59, 3)
    assert answer[slice(*form.score_span(answer))] == "6.59"


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "6.59",
        "The score of this image is 6.59",
        "The score of this photo is 6.59.",
        " The score of this image is 6.59.",
    ],
)
def test_an_answer_of_another_form_is_refused(answer):
    with pytest.raises(ValueError, match=r"does not follow the form 'direct'") as caught:
        DIRECT.score_span(answer)
    assert repr(answer) in str(caught.value)


# --- stage 1: rendering ------------------------------------------------------------------------

WORDS = st.text("abcdefghijklmnopqrstuvwxyzäß", min_size=1, max_size=8)
TEXT = st.lists(WORDS, min_size=1, max_size=5).map(" ".join) | st.sampled_from(
    ["a bell tower, behind it the sea", "it is well placed, slightly cut off, and level", "2 cats"]
)
ANY_FORM = st.sampled_from(list(ATTRIBUTE_FORMS.values()))


def _labels(attribute: Attribute) -> st.SearchStrategy:
    if attribute.kind == "text":
        return TEXT
    scored = attribute.kind == "score"
    return st.integers(1, 10) if scored else st.integers(0, len(attribute.tiers) - 1)


LABELS = st.fixed_dictionaries(
    {a.name: _labels(a) for a in taxonomy.ATTRIBUTES}
    | {f"{a.name}_reason": TEXT for a in taxonomy.of_level("high")}
)
BY_HAND = {
    "eye_catching": 7,
    "eye_catching_reason": "it stands out, in vivid colours, and is large",
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


def asked(form: AttributeForm) -> set[str]:
    return {attribute.name for attribute in form.attributes}


def assert_true(form: AttributeForm, parsed: Parsed, labels: dict) -> None:
    assert not parsed.missing
    assert parsed.values == {name: labels[name] for name in asked(form)}
    high = asked(form) & {"eye_catching", "composition"}
    assert parsed.reasons == {name: labels[f"{name}_reason"] for name in high}


def test_answers_by_hand():
    assert ATTRIBUTE_FORMS["exposure"].answer(BY_HAND) == "Exposure: slightly overexposed."
    assert ATTRIBUTE_FORMS["composition"].answer(BY_HAND) == (
        "Reason for Composition Score: it is well placed, whole, and level. Composition Score: 10."
    )
    assert ATTRIBUTE_FORMS["middle_level"].answer(BY_HAND) == (
        "Subject and Background: a castle, behind it the sea. "
        "Subject Integrity: partially complete (slightly cut off or slightly obscured). "
        "Subject Clutter: cluttered. Background Clutter: moderately cluttered. Level Shot: level."
    )


@given(ANY_FORM, LABELS)
def test_what_is_answered_is_parsed(form, labels):
    assert_true(form, form.parse(form.answer(labels)), labels)


@pytest.mark.parametrize("name", taxonomy.SCORED)
def test_every_label_of_an_attribute_is_parsed_and_coded(name):
    attribute, form = taxonomy.BY_NAME[name], ATTRIBUTE_FORMS[name]
    legal = range(1, 11) if attribute.kind == "score" else range(len(attribute.tiers))
    for label in legal:
        parsed = form.parse(form.answer(BY_HAND | {name: label}))
        assert parsed.values == {name: label}
        assert parsed.code(name) == taxonomy.code(name, label)


def test_what_is_missing_has_no_code():
    assert math.isnan(MIX.parse("").code("exposure"))


def test_there_are_thirteen_sets_and_one_more_order():
    assert [len(GRANULARITIES[g]) for g in ("attributes", "levels", "mix")] == [9, 3, 1]
    assert len(ALL_SETS) == len({form.name for form in ALL_SETS}) == 13
    assert {form.name for form in ALL_SETS} == set(ATTRIBUTE_FORMS) - {"mix_low_first"}
    assert all(ATTRIBUTE_FORMS[name].name == name for name in ATTRIBUTE_FORMS)
    assert {**GRANULARITIES, "all": ALL_SETS} == STAGE_1


def test_no_two_forms_ask_the_same_question():
    assert len({form.question for form in ATTRIBUTE_FORMS.values()}) == len(ATTRIBUTE_FORMS)


def test_sets_ask_for_what_their_name_says():
    for name in taxonomy.SCORED:
        assert asked(ATTRIBUTE_FORMS[name]) == {name}
    for level in taxonomy.LEVELS:
        assert ATTRIBUTE_FORMS[f"{level}_level"].attributes == taxonomy.of_level(level)
    assert MIX.attributes == taxonomy.ATTRIBUTES
    low_first = ATTRIBUTE_FORMS["mix_low_first"].attributes
    assert [a.level for a in low_first] == ["low"] * 3 + ["middle"] * 5 + ["high"] * 2
    assert set(low_first) == set(MIX.attributes)


def test_a_reason_stands_right_before_its_score():
    for form in ATTRIBUTE_FORMS.values():
        scores_at = [i for i, s in enumerate(form.slots) if s.attribute.kind == "score"]
        pairs = [form.slots[i : i + 2] for i in scores_at[::2]]
        assert all(a == Slot(b.attribute, True) and not b.is_reason for a, b in pairs)
        assert len(scores_at) == 2 * len(asked(form) & {"eye_catching", "composition"})


def test_a_label_that_lacks_is_named():
    with pytest.raises(KeyError, match="composition_reason"):
        MIX.answer({k: v for k, v in BY_HAND.items() if k != "composition_reason"})


@pytest.mark.parametrize(
    "key, label, message",
    [
        ("composition", 11, "composition: 11 is none of 1 to 10"),
        ("composition", 7.5, "composition: 7.5 is none of 1 to 10"),
        ("eye_catching", 0, "eye_catching: 0 is none of 1 to 10"),
        ("exposure", 5, "exposure: 5 is none of 0 to 4"),
        ("level_shot", -1, "level_shot: -1 is none of 0 to 1"),
        ("saturation", float("nan"), "saturation: nan is none of 0 to 2"),
        ("subject_background", float("nan"), "subject_background: nan is no text"),
        ("composition_reason", None, "composition_reason: None is no text"),
    ],
)
def test_a_label_that_cannot_be_is_refused(key, label, message):
    with pytest.raises(ValueError, match=message):
        MIX.answer(BY_HAND | {key: label})


def test_labels_may_be_numbers_of_any_kind():
    wide = {k: v if isinstance(v, str) else np.float64(v) for k, v in BY_HAND.items()}
    assert MIX.answer(wide) == MIX.answer(BY_HAND)
    small = {k: v if isinstance(v, str) else np.int8(v) for k, v in BY_HAND.items()}
    assert MIX.answer(small) == MIX.answer(BY_HAND)


def test_a_scene_of_the_mini_world_is_answered_and_parsed():
    for index in range(5):
        labels = mini.labels(mini.scene_at("mini-ava", 0, index))
        for form in ATTRIBUTE_FORMS.values():
            assert_true(form, form.parse(form.answer(labels)), labels)


# --- stage 1: the question for a model that never saw the form ---------------------------------


def filled(slot: Slot, layout: str, label: object) -> str:
    """A line of the layout with its choice made."""
    heading, _, choices = layout.partition(": <")
    assert heading == slot.heading
    if slot.attribute.kind == "tier":
        assert choices.removesuffix(">.").split(" | ") == [t.words for t in slot.attribute.tiers]
    if slot.attribute.kind == "score" and not slot.is_reason:
        assert "whole number from 1 to 10" in choices
    return f"{heading}: {slot.say(label)}"


@given(ANY_FORM, LABELS, st.sampled_from(["", ".", " ", " <br>"]))
def test_an_answer_in_the_layout_of_the_instruction_is_parsed(form, labels, end):
    question, *lines = form.instruction.split("\n")
    assert question.startswith(form.question)
    pairs = zip(form.slots, lines, strict=True)
    said = [filled(slot, line, labels[slot.key]) + end for slot, line in pairs]
    parsed = form.parse("\n".join(said))
    if end == " <br>":  # stays in a text, does no harm to the rest
        scored = {k: v for k, v in parsed.values.items() if k in taxonomy.SCORED}
        assert scored == {n: labels[n] for n in asked(form) if n in taxonomy.SCORED}
    else:
        assert_true(form, parsed, labels)


@pytest.mark.parametrize("form", ATTRIBUTE_FORMS.values(), ids=lambda form: form.name)
def test_the_instruction_repeated_is_no_answer(form):
    values = form.parse(form.instruction).values
    assert set(values) <= {"subject_background"}


# --- stage 1: parsing --------------------------------------------------------------------------


def check(form: AttributeForm, text: str) -> Parsed:
    """What holds for any answer: each attribute has a legal value, or a reason for none."""
    parsed = form.parse(text)
    assert not set(parsed.values) & set(parsed.missing)
    assert set(parsed.values) | set(parsed.missing) == asked(form)
    assert all(isinstance(why, str) and why for why in parsed.missing.values())
    assert set(parsed.reasons) <= asked(form) & {"eye_catching", "composition"}
    assert all(isinstance(text, str) and text for text in parsed.reasons.values())
    for name, value in parsed.values.items():
        if name == "subject_background":
            assert isinstance(value, str) and value
        else:
            assert type(value) is int
            assert parsed.code(name) in taxonomy.BY_NAME[name].codes
    return parsed


@given(ANY_FORM, st.text())
def test_any_text_gets_values_or_reasons(form, text):
    check(form, text)


HEADINGS = [slot.heading for slot in MIX.slots] + list(taxonomy.BY_NAME)
PIECES = [
    *HEADINGS, *(tier.words for a in taxonomy.ATTRIBUTES for tier in a.tiers), "reason for ",
    ": ", ":", "：", " ", "\n", ". ", ", ", "**", "\"", "{", "|", "- ", "#", "score", "the ", "1",
    "7", "10", "11", "7.5", "8/10", "1 to 10", "1.3 ", "-", "9" * 400, "٣", "²", "½", "\0",
    "ſ", "İ", "ı", "\u2028", "image",
]  # fmt: skip


@given(ANY_FORM, st.lists(st.sampled_from(PIECES) | st.characters(), max_size=30).map("".join))
def test_any_heap_of_pieces_gets_values_or_reasons(form, text):
    check(form, text)


@given(ANY_FORM, LABELS, st.data())
def test_a_true_answer_with_errors_gets_values_or_reasons(form, labels, data):
    letters = list(form.answer(labels))
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(letters)))
        stop = start + data.draw(st.integers(0, 12))
        letters[start:stop] = data.draw(st.sampled_from(PIECES) | st.text(max_size=3))
    check(form, "".join(letters))


#: How general models write a heading and its value; the place of the slot is {n}.
LINES = [
    "{h}: {v}.", "{h}: {v}", "**{h}**: {v}", "**{h}:** {v}", "### {h}: {v}", "- {h}: {v}",
    "* **{h}:** {v}.", "• {h}: {v}", "{n}. {h}: {v}", "{n}. **{h}**: {v}", "{n}) {h}: {v}",
    "({n}) {h}: {v}", "1.{n} {h}: {v}", "1.{n}. {h}: {v}.", "`{h}`: `{v}`", "__{h}__: _{v}_",
    "{h}：{v}", "{h} : {v}", "{h} = {v}", "| {h}: | {v} |", "\t{h}:\n\t{v}\n", "{h}: <{v}>",
    '"{h}": "{v}",', "'{h}': '{v}',", "{h}: {v};", "  {h}:  {v}  \r",
]  # fmt: skip
CASES = [str, str.upper, str.lower]


@pytest.mark.parametrize("line", LINES)
@given(form=ANY_FORM, labels=LABELS, case=st.sampled_from(CASES), rng=st.randoms())
@settings(max_examples=20)
def test_headings_are_found_in_any_order_case_and_markup(line, form, labels, case, rng):
    slots = list(enumerate(form.slots, 1))
    rng.shuffle(slots)
    said = [line.format(h=case(s.heading), v=s.say(labels[s.key]), n=n) for n, s in slots]
    assert_true(form, form.parse("Here it is:\n" + "\n".join(said)), labels)


INLINE = ["{h}: {v}. ", "1.{n} {h}: {v}, ", "{n}. {h}: {v}; ", "**{h}**: {v}. ", '"{h}": "{v}", ']


@pytest.mark.parametrize("part", INLINE)
@given(form=ANY_FORM, labels=LABELS)
@settings(max_examples=20)
def test_headings_are_found_within_a_line(part, form, labels):
    slots = enumerate(form.slots, 1)
    said = [part.format(h=s.heading, v=s.say(labels[s.key]), n=n) for n, s in slots]
    assert_true(form, form.parse("".join(said)), labels)


@given(ANY_FORM, LABELS, st.sampled_from([None, 2]))
def test_json_by_columns_is_read(form, labels, indent):
    said = {slot.attribute.name: slot.say(labels[slot.key]) for slot in form.slots}
    said |= {n: labels[n] for n in said if n in ("eye_catching", "composition")}  # as numbers
    parsed = form.parse(json.dumps(said, indent=indent, ensure_ascii=False))
    assert parsed.values == {name: labels[name] for name in asked(form)}


def test_the_regular_form_of_the_paper_is_read():
    answer = (
        "1.1 Reason for Composition Score: the lines lead to it, 1.2 Composition Score: 7, "
        "1.3 Reason for Eye-Catching Score: 2 people in red, 1.4 Eye-Catching Score: 6. "
        "The final score is <6.59>."
    )
    parsed = ATTRIBUTE_FORMS["high_level"].parse(answer)
    assert parsed.values == {"composition": 7, "eye_catching": 6}
    assert parsed.reasons == {
        "composition": "the lines lead to it",
        "eye_catching": "2 people in red",
    }


@given(st.sampled_from(taxonomy.SCORED), LABELS, st.sampled_from(["{}", "{}.", " **{}** ", '"{}"']))
def test_one_question_may_be_answered_by_the_bare_value(name, labels, around):
    form = ATTRIBUTE_FORMS[name]
    parsed = form.parse(around.format(form.slots[-1].say(labels[name])))
    assert parsed == Parsed({name: labels[name]})


@pytest.mark.parametrize(
    "name, answer, value",
    [
        ("composition", "8/10", 8),
        ("composition", "8 / 10.", 8),
        ("composition", "10/10", 10),
        ("composition", "I would give it a 6 out of 10.", 6),
        ("composition", "On a scale of 1 to 10 it is a 7.", 7),
        ("composition", "The subject is well placed. 8", 8),
        ("composition", "well placed, 8", 8),
        ("composition", "Score: 8.0", 8),
        ("composition", "7, because there are 2 or 3 subjects.", 7),
        ("composition", "Composition Score: **7**/10", 7),
        ("composition", "Composition: 7", 7),
        ("composition", "Composition score: ７", 7),
        ("composition", "Composition Score:\n\n7\n", 7),
        ("composition", "Composition Score: 7. Composition Score: 7.", 7),
        ("composition", "Composition: 7. In short: composition score = 7/10", 7),
        ("composition", "composition: 7 exposure: fine", 7),
        ("image_clarity", "Clear.", 2),
        ("image_clarity", "clear, but a little soft at the edges", 2),
        ("image_clarity", "slightly blurry", 1),
        ("image_clarity", "Slightly  Blurry!", 1),
        ("image_clarity", "BLURRY", 0),
        ("image_clarity", "Image Clarity: clear. The exposure is right.", 2),
        ("image_clarity", '"image_clarity": "clear"', 2),
        ("image_clarity", "IMAGE-CLARITY: CLEAR", 2),
        ("image_clarity", "| Image Clarity: | clear | because of its edges |", 2),
        ("image_clarity", "图片 Image Clarity：clear。", 2),
        ("subject_clutter", "cluttered", 0),
        ("subject_clutter", "moderately cluttered", 1),
        ("subject_clutter", "uncluttered", 2),
        ("subject_integrity", "incomplete", 0),
        ("subject_integrity", "Partially complete", 1),
        ("subject_integrity", "partially complete (the feet lack)", 1),
        ("subject_integrity", "complete", 2),
        ("exposure", "slightly overexposed", 3),
        ("exposure", "expoſure: overexposed", 4),
    ],
)
def test_awkward_answers_with_a_value(name, answer, value):
    assert check(ATTRIBUTE_FORMS[name], answer).values == {name: value}


@pytest.mark.parametrize(
    "name, answer, why",
    [
        ("composition", "11", "outside 1 to 10: 11"),
        ("composition", "0", "outside 1 to 10: 0"),
        ("composition", "-3", "outside 1 to 10: -3"),
        ("composition", "80/100", "outside 1 to 10: 80"),
        ("composition", "1" * 400, "outside 1 to 10: " + "1" * 40),
        ("composition", "7.5", "not a whole number: 7.5"),
        ("composition", "Composition Score: 7.5", "not a whole number: 7.5"),
        ("composition", "Composition Score: 7,5 of 10.", "not a whole number: 7,5"),
        ("composition", "Composition Score: 7.5 Exposure: fine", "not a whole number: 7.5"),
        ("composition", "eight", "no number in 'eight'"),
        ("composition", "Composition Score: N/A.", "no number in 'N/A'"),
        ("composition", "from 1 to 10", "no number in 'from 1 to 10'"),
        ("composition", "I cannot see the image.", "no number in 'I cannot see the image'"),
        ("composition", "7-8", "several numbers in '7-8'"),
        ("composition", "I say 7-8.", "several numbers in 'I say 7-8'"),
        ("composition", "7 or 8 out of 10", "several numbers in '7 or 8 out of 10'"),
        ("composition", "The 2 dogs are good: 7", "several numbers in 'The 2 dogs are good: 7'"),
        ("composition", "", "empty"),
        ("composition", " \n", "empty"),
        ("composition", "Composition Score:", "empty"),
        ("composition", "Composition Score:\n2. Exposure: fine", "empty"),
        ("composition", "Reason for Composition Score: level", "not mentioned"),
        ("composition", "Composition: 7. Composition Score: 8.", "said twice, differently"),
        ("composition", "Composition: 7. Composition Score: good.", "no number in 'good'"),
        ("image_clarity", "very clear", "no tier: 'very clear'"),
        ("image_clarity", "not clear", "no tier: 'not clear'"),
        ("image_clarity", "clearly blurry", "no tier: 'clearly blurry'"),
        ("image_clarity", "the exposure is right", "no tier: 'the exposure is right'"),
        ("image_clarity", "Exposure: overexposed.", "not mentioned"),
        ("image_clarity", "I cannot see the image.", "no tier: 'I cannot see the image'"),
        ("image_clarity", "blurry | clear", "no tier: 'blurry | clear'"),
        ("image_clarity", "清晰", "no tier: '清晰'"),
        ("image_clarity", "x" * 100, "no tier: '" + "x" * 40 + "'"),
        ("subject_clutter", "fairly cluttered", "no tier: 'fairly cluttered'"),
        ("level_shot", "levelled", "no tier: 'levelled'"),
    ],
)  # fmt: skip
def test_awkward_answers_without_a_value(name, answer, why):
    assert check(ATTRIBUTE_FORMS[name], answer).missing == {name: why}


def test_several_questions_are_not_answered_by_a_bare_value():
    low = ATTRIBUTE_FORMS["low_level"]
    for answer in ("clear", "", "I cannot see the image."):
        assert set(low.parse(answer).missing.values()) == {"not mentioned"}


def test_a_title_inside_a_reason_is_no_heading():
    labels = BY_HAND | {"composition_reason": "the exposure is right, the level shot too"}
    assert_true(MIX, MIX.parse(MIX.answer(labels)), labels)
    longer = "Recomposition: 3. Composition Score: 7."
    assert ATTRIBUTE_FORMS["composition"].parse(longer).values == {"composition": 7}


def test_the_first_reason_counts_and_an_empty_one_is_none():
    form = ATTRIBUTE_FORMS["composition"]
    said = "Reason for Composition Score: a. Reasons for the composition: b. Composition: 3."
    assert form.parse(said) == Parsed({"composition": 3}, {"composition": "a"})
    empty = "Reason for Composition Score: . Composition Score: 3."
    assert form.parse(empty) == Parsed({"composition": 3})


N = 100_000
LONG = {
    "blank lines": "Exposure:" + "\n" * N + "x. Saturation: dull",
    "spaces after a title": "exposure" + " " * N + "x",
    "spaces inside a title": "Image" + " " * N + "x",
    "spaces after a reason": "reason for" + " " * N + "x",
    "reasons": "reason for the " * (N // 15),
    "numbering": "Exposure: " + "1." * (N // 2) + "x Saturation: dull",
    "stops": "Exposure: " + ". " * (N // 2) + "Saturation: dull",
    "bullets": "Exposure:" + "\n- " * (N // 3) + "x Saturation: dull",
    "headings": "Exposure: overexposed. " * (N // 23),
    "empty headings": "Exposure:" * (N // 9),
    "digits": "Composition Score: " + "9" * N,
    "numbers": "Composition Score: x " + "7 " * (N // 2),
    "scales": "Composition Score: " + "1 " * (N // 2) + "to 10",
    "slashes": "Composition Score: 7" + "/ " * (N // 2),
    "choices": "Image Clarity: " + "clear | " * (N // 8) + "x",
    "markup": "Composition Score" + '*_ "' * (N // 4) + "x",
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_a_model_that_never_stops_is_read_once(text, monkeypatch):
    """Each character goes through the later steps a fixed number of times, however many headings.

    The steps themselves pass over their text; one that tried every pair of places in it would
    need minutes here.
    """
    read = []
    for name in ("_unnumbered", "_value", "bare"):
        step = getattr(answers, name)
        count = lambda *a, step=step: read.append(len(a[-1])) or step(*a)  # noqa: E731
        monkeypatch.setattr(answers, name, count)
    check(MIX, text)
    assert sum(read) <= 3 * len(text)


# --- words for a tokenizer ---------------------------------------------------------------------


def test_vocabulary_holds_every_fixed_word():
    known = "\n".join(vocabulary_texts())
    for form in FORMS.values():
        assert form.question in known and form.before in known
    for form in ATTRIBUTE_FORMS.values():
        assert form.question in known
        assert all(f" {slot.heading}:" in known for slot in form.slots)
    for attribute in taxonomy.ATTRIBUTES:
        assert attribute.title in known
        assert all(f"{attribute.title}: {tier.words}." in known for tier in attribute.tiers)
