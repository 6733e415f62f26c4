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

from realqa_utils import captions, taxonomy
from realqa_utils.captions import PHRASES, caption, number_text, phrase_index, read_caption
from realqa_utils.datasets import scenes, subjects

SUBJECTS = [name for painters in subjects.PAINTERS.values() for name in painters]
BACKGROUNDS = [name for names in scenes.BACKGROUNDS.values() for name in names]


def _values(name: str) -> st.SearchStrategy:
    attribute = taxonomy.BY_NAME[name]
    if attribute.kind == "score":
        return st.integers(1, 10)
    return st.integers(0, len(attribute.tiers) - 1)


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
    assert text.startswith("A photo of a castle and the sea. The details are soft. It is rather ")
    assert text.endswith("One hardly sees it. It stands in a bad place.")


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
def test_a_random_part_tells_no_lies(labels, seed):
    text = caption(labels, np.random.default_rng(seed))
    found = read_caption(text)
    assert found
    assert found.items() <= phrases_of(labels).items()
    assert text.startswith(f"A photo of {labels['subject']} and {labels['background']}.")


def test_random_parts_mention_each_attribute_in_some_six_tenths():
    labels = dict.fromkeys(taxonomy.SCORED, 1) | {"subject": "a bed", "background": "a plain wall"}
    rng = np.random.default_rng(0)
    found = [read_caption(caption(labels, rng)) for _ in range(600)]
    for name in PHRASES:  # sd of the share is 0.02
        assert np.mean([name in f for f in found]) == pytest.approx(0.6, abs=0.08)


def test_the_first_mention_counts_and_silence_is_no_answer():
    text = "The details are crisp. The camera leans. The details are soft."
    assert read_caption(text) == {"image_clarity": 2, "level_shot": 0}
    assert read_caption("A photo of a bed and the sea.") == {}


def test_captions_keep_the_words_of_the_tiers_for_training_to_teach():
    said = " ".join(p for group in PHRASES.values() for p in group).lower()
    for attribute in taxonomy.ATTRIBUTES:
        assert not [t.words for t in attribute.tiers if t.words in said]


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
