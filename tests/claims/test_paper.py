"""Claims and verdicts."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realqa_utils.claims.paper import (
    CLAIMS,
    READABLE,
    VERDICTS,
    printed,
    published,
    stated,
    verdict,
)
from realqa_utils.experiments import granularity
from realqa_utils.forms import taxonomy

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


def cells(table: int) -> pd.Series:
    return printed(table).set_index(["row", "column", "metric"])["value"]


def test_known_cells_of_table_1():
    known = {
        ("Ours", "average", "srcc"): 0.588,
        ("Ours", "average", "plcc"): 0.617,
        ("Ours", "image_clarity", "srcc"): 0.640,
        ("GPT-4o", "composition", "srcc"): 0.795,
        ("Qwen2-VL-72B", "background_clutter", "plcc"): 0.122,
    }
    assert cells(1)[list(known)].tolist() == list(known.values())


def test_table_1_has_every_attribute_and_metric_of_seven_models():
    table = printed(1)
    wide = table.pivot(index="row", columns=["column", "metric"], values="value")
    columns = {(c, m) for c in (*taxonomy.SCORED, "average") for m in ("srcc", "plcc")}
    assert set(wide.columns) == columns and len(wide) == 7 and len(table) == 7 * 20
    assert wide.isna().sum().sum() == 8  # N.A.: three attributes of one model, and its average
    assert table.loc[table["value"].isna(), "note"].str.startswith("N.A.").all()
    assert table["value"].dropna().between(-1, 1).all()


@pytest.mark.parametrize("metric", ["srcc", "plcc"])
def test_averages_of_table_1_are_means_of_its_attributes(metric):
    """To within the rounding of three digits: the columns were put in place by their order."""
    wide = (
        printed(1).query("metric == @metric").pivot(index="row", columns="column", values="value")
    )
    wide = wide.dropna()
    assert len(wide) == 6
    means = wide[list(taxonomy.SCORED)].mean(axis=1)
    assert (means - wide["average"]).abs().max() < 0.0016


def test_table_2_ends_with_the_model_of_table_1():
    values = cells(2)
    assert values["Mix+Levels+Attributes (high-middle-low)", "average", "srcc"] == 0.588
    assert values["Attributes", "average", "srcc"] == 0.541
    for metric in ("srcc", "plcc"):
        ours = cells(1)["Ours", "average", metric]
        assert values[granularity.TITLES["all"], "average", metric] == ours
        assert values[:, "average", metric].max() == ours


def test_rows_of_table_2_are_those_that_are_trained():
    assert set(printed(2)["row"]) == set(granularity.TITLES.values())
    assert len(printed(2)) == 10 and set(printed(2)["dataset"]) == {"RealQA test (1003)"}


def test_every_cell_says_where_it_comes_from():
    for table in READABLE:
        assert printed(table)[["row", "source", "grade"]].notna().all(axis=None)
        assert len(printed(table)) > 0


@pytest.mark.parametrize("table", [0, 4, 5])
def test_a_table_that_cannot_be_read_is_said_to_be_not_available(table):
    with pytest.raises(ValueError, match=f"Table {table}: not available: .* caption of Table 4"):
        printed(table)


def test_gains_of_the_text_stay_as_they_stand_there():
    said = stated().set_index("dataset")["value"]
    assert said["KonIQ-10k"] == "+1.8%" and said["KoNViD"] == "+36.4%" and len(said) == 3
    assert stated()[["row", "metric", "source", "grade", "note"]].notna().all(axis=None)


def test_rows_of_others_have_protocol_and_source():
    rows = published()
    assert not rows.duplicated(["method", "dataset", "protocol"]).any()
    assert rows[["method", "dataset", "protocol", "source"]].notna().all(axis=None)
    assert rows[["srcc", "plcc"]].stack().between(0, 1).all() and len(rows) == 50


def test_known_rows_of_others():
    values = published().set_index(["method", "dataset"])[["srcc", "plcc"]]
    assert values.loc[("Q-Align", "KonIQ-10k")].tolist() == [0.940, 0.941]
    assert values.loc[("Q-Align", "LIVE Challenge")].tolist() == [0.860, 0.853]
    assert values.loc[("OneAlign", "AVA")].tolist() == [0.823, 0.819]
