"""Questions and answers: what is asked, what is answered, and where the score stands in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realqa_utils import scores, taxonomy
from realqa_utils.conversations import DIRECT, FORMS, Form, vocabulary_texts

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


def test_vocabulary_holds_every_fixed_word():
    known = "\n".join(vocabulary_texts())
    for form in FORMS.values():
        assert form.question in known and form.before in known
    for attribute in taxonomy.ATTRIBUTES:
        assert attribute.title in known
        assert all(tier.words in known for tier in attribute.tiers)
