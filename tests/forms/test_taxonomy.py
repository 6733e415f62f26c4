"""The ten attributes: what the paper says of them, and codes that mean "better" when higher."""

from __future__ import annotations

import pytest

from realqa_utils.forms import taxonomy
from realqa_utils.forms.taxonomy import ATTRIBUTES, BY_NAME, SCORED, code, of_level

TIERED = [a for a in ATTRIBUTES if a.kind == "tier"]


def test_ten_attributes_in_three_levels():
    counts = {level: len(of_level(level)) for level in taxonomy.LEVELS}
    assert counts == {"high": 2, "middle": 5, "low": 3}
    assert [a for level in taxonomy.LEVELS for a in of_level(level)] == list(ATTRIBUTES)


def test_titles_are_those_of_the_paper():
    assert [a.title for a in ATTRIBUTES] == [
        "Eye-Catching",
        "Composition",
        "Subject and Background",
        "Subject Integrity",
        "Subject Clutter",
        "Background Clutter",
        "Level Shot",
        "Image Clarity",
        "Exposure",
        "Saturation",
    ]


def test_table_1_has_nine_columns_all_but_the_free_text():
    assert len(SCORED) == 9
    assert set(BY_NAME) - set(SCORED) == {"subject_background"}


def test_words_that_the_paper_prints():
    clutter = ["cluttered", "moderately cluttered", "uncluttered"]
    for name in ("subject_clutter", "background_clutter"):
        assert [t.words for t in BY_NAME[name].tiers] == clutter
    partial = "partially complete (slightly cut off or slightly obscured)"
    assert BY_NAME["subject_integrity"].tiers[1].words == partial


@pytest.mark.parametrize("attribute", TIERED, ids=lambda a: a.name)
def test_tiers_of_an_attribute_differ_in_words(attribute):
    words = [t.words for t in attribute.tiers]
    assert len(set(words)) == len(words) > 1


@pytest.mark.parametrize("attribute", TIERED, ids=lambda a: a.name)
def test_codes_are_consecutive_and_one_per_quality(attribute):
    codes = attribute.codes
    assert codes == tuple(range(codes[0], codes[0] + len(codes)))
    if attribute.name != "exposure":  # worst tier first: the index orders by quality too
        assert [t.code for t in attribute.tiers] == list(codes)


def test_exposure_is_best_in_the_middle():
    words = [t.words for t in BY_NAME["exposure"].tiers]
    assert [code("exposure", i) for i in range(5)] == [1, 2, 3, 2, 1]
    assert words.index("properly exposed") == 2
    assert all("under" in w for w in words[:2]) and all("over" in w for w in words[3:])


def test_a_score_is_its_own_code():
    for name in ("eye_catching", "composition"):
        assert [code(name, score) for score in range(1, 11)] == list(BY_NAME[name].codes)


def test_level_shot_is_coded_from_zero():
    assert BY_NAME["level_shot"].codes == (0, 1)


def test_unknown_level_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown level 'lowest'; one of high, middle, low"):
        of_level("lowest")
