"""A key is cut out of any text, however it is spelt there."""

from __future__ import annotations

from functools import partial
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realqa_utils.scoring.redaction import one_line, redact

KEY = "sk-Test/0123+Secret=="
SPELLINGS = (str, str.lower, str.upper, partial(quote, safe=""), lambda k: k.replace("/", "\\/"))


@given(st.text(), st.text(), st.sampled_from(SPELLINGS))
def test_a_key_is_cut_out_of_any_text_and_nothing_else_is(before, after, spell):
    text = redact(before + spell(KEY) + after, KEY)
    assert text == f"{before}[key]{after}"


@pytest.mark.parametrize("place", range(270, 300))
def test_a_line_that_is_cut_short_has_no_half_of_the_key(place):
    line = one_line("x" * place + KEY + "y" * 100, KEY)
    assert len(line) == 300 and KEY[:4] not in line


def test_a_line_has_no_breaks():
    assert one_line(" two\n\tlines \n", KEY) == "two lines"
