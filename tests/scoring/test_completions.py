"""Whatever a server sends is a text or a fault, and any Retry-After is a number of seconds."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realqa_utils.scoring import completions

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["choices", "message", "content", "text"]), inner)
        | inner.map(lambda value: {"choices": [{"message": {"content": value}}]})
    ),
    max_leaves=8,
)


@settings(max_examples=50)
@given(json_values.map(json.dumps).map(str.encode) | st.binary())
def test_whatever_a_server_sends_is_a_text_or_a_fault(body):
    try:
        text, tokens = completions.read(body)
    except completions.Fault as fault:
        assert fault.again and str(fault)
    else:
        assert text.strip() and text.encode() and tokens == (0, 0)


@pytest.mark.parametrize("header", ["", "soon", "-5", "nan", "Mon, 01 Jan 1990 00:00:00 GMT"])
def test_a_retry_after_that_makes_no_sense_asks_for_no_wait(header):
    assert completions._retry_after(header) == 0


@settings(max_examples=50)
@given(st.text() | st.from_regex(r"\w{3}, \d+ \w{3} \d+ \d+:\d+:\d+ [+-]?\w+", fullmatch=True))
def test_any_retry_after_is_a_number_from_0(header):
    assert completions._retry_after(header) >= 0
