"""Claims and verdicts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realqa_utils.paper import CLAIMS, VERDICTS, verdict

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(low=finite, high=finite)
def test_swapping_the_sides_swaps_the_verdict(low, high):
    low, high = sorted((low, high))
    opposite = {"holds": "fails", "fails": "holds", "undecided": "undecided"}
    assert verdict(-high, -low) == opposite[verdict(low, high)]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.01, 0.2, "holds"),
        (-0.2, -0.01, "fails"),
        (-0.1, 0.1, "undecided"),
        (0.0, 0.1, "undecided"),  # zero itself is no difference
        (-0.1, 0.0, "undecided"),
        (math.nan, math.nan, "undecided"),
    ],
)
def test_verdict_asks_whether_the_interval_excludes_zero(low, high, expected):
    assert verdict(low, high) == expected
    assert expected in VERDICTS


def test_every_claim_has_a_statement_of_its_own():
    assert len(CLAIMS) == len(set(CLAIMS.values())) == 11
    assert all(CLAIMS.values())
