"""Captions can be read back, and number texts are true."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import cache
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realqa_utils.datasets import scenes, subjects
from realqa_utils.forms import captions, taxonomy
from realqa_utils.forms.captions import (
    PHRASES,
    TOPICS,
    caption,
    guided_caption,
    number_text,
    phrase_index,
    read_caption,
    word_text,
)
from realqa_utils.forms.conversations import ALL_SETS

SUBJECTS = [name for painters in subjects.PAINTERS.values() for name in painters]
BACKGROUNDS = [name for names in scenes.BACKGROUNDS.values() for name in names]


def _values(name: str) -> st.SearchStrategy:
    attribute = taxonomy.BY_NAME[name]
    if attribute.kind == "score":
        return st.integers(1, 10)
    return st.integers(0, len(attribute.tiers) - 1)


REASONS = {"eye_catching_reason": "It stands out", "composition_reason": "It is centred"}
LABELS = st.fixed_dictionaries(
    {name: _values(name) for name in taxonomy.SCORED}
    | {"subject": st.sampled_from(SUBJECTS), "background": st.sampled_from(BACKGROUNDS)}
)


def phrases_of(labels: dict) -> dict[str, int]:
    return {name: phrase_index(name, labels[name]) for name in PHRASES}


# --- captions ----------------------------------------------------------------------------------


def test_a_caption_by_hand():
    labels = dict.fromkeys(taxonomy.SCORED, 1)
    text = caption(labels | {"subject": "a castle", "background": "the sea"})
    assert text == (
        "A photo of a castle and the sea. The details are slightly blurry. The light is slightly "
        "underexposed. The colours are moderate. The horizon is level. The outline is partially "
        "complete. The front is moderately cluttered. The surroundings are moderately cluttered. "
        "The effect is lost. The position is bad."
    )


def test_every_scored_attribute_has_a_phrase_for_each_tier_or_fifth():
    assert set(PHRASES) == set(taxonomy.SCORED)
    for name, phrases in PHRASES.items():
        attribute = taxonomy.BY_NAME[name]
        assert len(phrases) == (5 if attribute.kind == "score" else len(attribute.tiers))


def test_a_score_is_described_by_its_fifth():
    assert [phrase_index("composition", s) for s in range(1, 11)] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_no_phrase_hides_in_another_or_in_a_name():
    phrases = [p for group in PHRASES.values() for p in group]
    assert not [(a, b) for a, b in permutations(phrases, 2) if a in b]
    opening = " ".join(SUBJECTS + BACKGROUNDS + ["A photo of and."])
    assert not [p for p in phrases if p in opening]


@given(LABELS)
def test_round_trip(labels):
    assert read_caption(caption(labels)) == phrases_of(labels)


@given(LABELS, st.integers(0, 2**32))
def test_a_guided_caption_says_just_what_was_asked_for_in_that_order(labels, seed):
    question, text = guided_caption(labels, np.random.default_rng(seed))
    found, truth = read_caption(text), phrases_of(labels)
    asked = re.findall(r"the (\w+)", question)
    names = [name for topic in asked for name, (noun, _) in TOPICS.items() if noun == topic]
    assert len(names) == len(asked) == len(set(names)) > 0
    assert text == " ".join(PHRASES[name][truth[name]] for name in names)
    assert found == {name: truth[name] for name in names}


def test_guided_captions_ask_for_every_topic_in_every_number():
    labels = dict.fromkeys(taxonomy.SCORED, 1)
    rng = np.random.default_rng(0)
    asked = [re.findall(r"the (\w+)", guided_caption(labels, rng)[0]) for _ in range(900)]
    assert {len(names) for names in asked} == set(range(1, 10))
    firsts = [names[0] for names in asked]
    for noun, _ in TOPICS.values():  # sd of the share is 0.01
        assert firsts.count(noun) / 900 == pytest.approx(1 / 9, abs=0.045)


def test_requests_are_english():
    labels = dict.fromkeys(taxonomy.SCORED, 1)
    rng = np.random.default_rng(0)
    by_count = {q.count("the "): q for q, _ in (guided_caption(labels, rng) for _ in range(200))}
    noun = r"the [a-z]+"
    assert re.fullmatch(rf"Describe {noun} of this photo\.", by_count[1])
    assert re.fullmatch(rf"Describe {noun} and {noun} of this photo\.", by_count[2])
    assert re.fullmatch(rf"Describe {noun}, {noun} and {noun} of this photo\.", by_count[3])


def test_the_first_mention_counts_and_silence_is_no_answer():
    text = "The details are clear. The horizon is tilted. The details are blurry."
    assert read_caption(text) == {"image_clarity": 2, "level_shot": 0}
    assert read_caption("A photo of a bed and the sea.") == {}


def test_titles_questions_and_forms_are_left_for_training_to_teach():
    labels = dict.fromkeys(taxonomy.SCORED, 1) | {"subject": "a bed", "background": "the sea"}
    labels |= REASONS | {"subject_background": "a bed and the sea"}
    pair = guided_caption(labels, np.random.default_rng(0))
    phrases = [p for group in PHRASES.values() for p in group]
    said = " ".join([*phrases, captions.QUESTION, *pair]).lower()
    for attribute in taxonomy.ATTRIBUTES:
        assert attribute.title.lower() not in said
    for form in ALL_SETS:
        assert form.question.lower() not in said
        assert form.answer(labels).lower() not in said


# --- number text -------------------------------------------------------------------------------

NUMBER = r"(\d+(?:\.\d+)?)"
KINDS = {
    "less": rf"{NUMBER} is less than {NUMBER}\.",
    "more": rf"{NUMBER} is more than {NUMBER}\.",
    "same": rf"{NUMBER} is the same as {NUMBER}\.",
    "sort": r"Sort ([\d. ]+): ([\d. ]+)\.",
    "larger": rf"The larger of {NUMBER} and {NUMBER} is {NUMBER}\.",
    "after": rf"After {NUMBER} comes {NUMBER}\.",
    "between": rf"{NUMBER} lies between {NUMBER} and {NUMBER}\.",
}


def read(text: str) -> tuple[str, list[str]]:
    """The kind of a line and its parts; fails unless it is of exactly one kind."""
    matches = {kind: re.fullmatch(pattern, text) for kind, pattern in KINDS.items()}
    (found,) = [(kind, list(m.groups())) for kind, m in matches.items() if m]
    return found


@cache
def lines() -> list[tuple[str, list[str], str]]:
    rng = np.random.default_rng(0)
    texts = [number_text(rng) for _ in range(4000)]
    return [(*read(text), text) for text in texts]


def of_kind(kind: str) -> list[tuple[list[str], str]]:
    return [(parts, text) for k, parts, text in lines() if k == kind]


def test_every_kind_and_every_precision_occurs():
    assert {kind for kind, _, _ in lines()} == set(KINDS)
    decimals = {len(parts[0].partition(".")[2]) for kind, parts, _ in lines() if kind != "sort"}
    assert decimals == {0, 1, 2, 3}


def test_numbers_lie_from_0_to_10():
    values = [Decimal(n) for _, _, text in lines() for n in re.findall(NUMBER, text)]
    assert min(values) >= 0 and max(values) <= 10


@pytest.mark.parametrize(
    "kind, holds",
    [
        ("less", lambda a, b: a < b),
        ("more", lambda a, b: a > b),
        ("same", lambda a, b: a == b),
        ("larger", lambda a, b, c: c == max(a, b)),
        ("between", lambda a, low, high: low <= a <= high and low % 1 == 0 and high == low + 1),
    ],
)
def test_statements_are_true(kind, holds):
    found = of_kind(kind)
    assert found
    assert not [text for parts, text in found if not holds(*map(Decimal, parts))]


def test_the_number_after_is_one_unit_of_the_last_decimal_further():
    found = of_kind("after")
    assert found
    for (before, after), text in found:
        unit = Decimal(1).scaleb(Decimal(before).as_tuple().exponent)
        assert Decimal(after) == Decimal(before) + unit, text
        assert len(after.partition(".")[2]) == len(before.partition(".")[2]), text


def test_sorted_lists_are_sorted_and_hold_the_same_numbers():
    found = of_kind("sort")
    assert found
    for (given_, answered), text in found:
        numbers = answered.split()
        assert sorted(given_.split()) == sorted(numbers) and len(numbers) == 5, text
        values = [Decimal(n) for n in numbers]
        assert all(a <= b for a, b in zip(values, values[1:], strict=False)), text


def test_texts_follow_from_the_generator():
    def first(seed):
        return [number_text(np.random.default_rng([seed, i])) for i in range(20)]

    assert first(3) == first(3) != first(4)


def test_the_question_asks_for_no_score():
    assert "score" not in captions.QUESTION.lower() and "rate" not in captions.QUESTION.lower()


# --- word text ---------------------------------------------------------------------------------


def test_words_are_said_twice_and_titles_are_explained():
    words = ["sharp", "Score", "Eye-Catching"]
    rng = np.random.default_rng(0)
    said, explained = set(), set()
    for _ in range(400):
        line = word_text(words, rng)
        if match := re.fullmatch(r"Say (.+): (.+)\.", line):
            assert match[1] == match[2]
            said.update(match[1].split())
        else:
            match = re.fullmatch(r"(?P<t>.+) is about the (?P<n>\w+)\.|The (\w+): (.+)\.", line)
            title, noun = (match["t"], match["n"]) if match["t"] else (match[4], match[3])
            (name,) = [n for n in TOPICS if taxonomy.BY_NAME[n].title == title]
            assert TOPICS[name][0] == noun
            explained.add(name)
    assert said == set(words) and explained == set(TOPICS)
