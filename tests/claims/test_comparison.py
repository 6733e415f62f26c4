"""Numbers of ours against printed ones."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realqa_utils.claims import comparison, paper
from realqa_utils.claims.comparison import Setting, compare
from realqa_utils.measures.statistics import Interval
from realqa_utils.profiles import PROFILES
from realqa_utils.records import results

PAPER = Setting("paper", "Qwen2-VL-7B", "RealQA test (1003)")
OURS = Interval(0.60, 0.57, 0.63, n=1003)


@pytest.mark.parametrize("printed", [0.57, 0.6, 0.63])
def test_reproduced_where_the_printed_value_lies_in_the_interval(printed):
    assert compare(printed, OURS, PAPER, PAPER).verdict == "reproduced"


@pytest.mark.parametrize(
    ("printed", "tolerance", "verdict"),
    [
        (0.71, 0.01, "close"),  # 0.71 - 0.70 is a little more than 0.01 in floating point
        (0.69, 0.01, "close"),
        (0.711, 0.01, "differs"),
        (0.711, 0.02, "close"),
        (0.689, 0.0, "differs"),
    ],
)
def test_close_within_the_tolerance_of_the_estimate(printed, tolerance, verdict):
    narrow = Interval(0.70, 0.699, 0.701, n=10_000)
    found = compare(printed, narrow, PAPER, PAPER, reason="other rounding", tolerance=tolerance)
    assert found.verdict == verdict
    assert f"within {tolerance:g}" in found.why if verdict == "close" else found.why


def test_without_an_interval_only_the_distance_counts():
    alone = Interval(0.60, math.nan, math.nan, n=1003)
    assert compare(0.60, alone, PAPER, PAPER).verdict == "close"
    assert compare(0.65, alone, PAPER, PAPER, reason="one seed").verdict == "differs"


@pytest.mark.parametrize("reason", ["", "  "])
def test_what_differs_needs_a_reason(reason):
    with pytest.raises(ValueError, match=r"ours is 0\.600 \[0\.570, 0\.630\], printed is 0\.7"):
        compare(0.7, OURS, PAPER, PAPER, reason)
    found = compare(0.7, OURS, PAPER, PAPER, "sampled at temperature 0.95")
    assert found == ("differs", "sampled at temperature 0.95")


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("profile", "mini", "profile mini, not paper"),
        ("checkpoint", "mini", "checkpoint mini, not Qwen2-VL-7B"),
        ("split", "KonIQ-10k", "split KonIQ-10k, not RealQA test (1003)"),
        ("fit", "logistic4", "fit logistic4, not none"),
    ],
)
def test_one_thing_that_is_another_makes_it_not_comparable(key, value, why):
    found = compare(0.60, OURS, replace(PAPER, **{key: value}), PAPER)
    assert found == ("not comparable", why)


def test_what_was_not_run_or_is_not_printed():
    other = replace(PAPER, profile="mini")
    assert compare(0.60, None, other, PAPER).verdict == "not run"
    assert compare(math.nan, OURS, PAPER, PAPER) == ("not comparable", "N.A. in the paper")


numbers = st.floats(-1, 1)


@given(printed=numbers, ends=st.tuples(numbers, numbers, numbers), ran=st.booleans(),
       profile=st.sampled_from(["mini", "paper"]))  # fmt: skip
def test_every_case_has_one_of_the_five_verdicts(printed, ends, ran, profile):
    low, estimate, high = sorted(ends)
    ours = Interval(estimate, low, high, n=9) if ran else None
    found = compare(printed, ours, replace(PAPER, profile=profile), PAPER, "a reason")
    assert found.verdict in comparison.VERDICTS and found.why
    assert (found.verdict == "not run") == (not ran)
    if ran and profile == "paper":
        assert (found.verdict == "reproduced") == (low <= printed <= high)


# --- whole tables --------------------------------------------------------------------------------

BACKBONE = PROFILES["paper"].model
TEST = "RealQA test (1003)"


def write(figures, profile: str, stem: str, rows: list[dict]) -> None:
    ends = {"low": math.nan, "high": math.nan, "n": 1003, "seeds": "0", "dataset": TEST}
    folder = figures / profile
    folder.mkdir(exist_ok=True)
    results.write_table(folder / f"{stem}.csv", pd.DataFrame([ends | row for row in rows]))


def estimate(model: str, value: float, half: float = 0.02, **more) -> dict:
    facts = {"model": model, "metric": "srcc", "attribute": "average"}
    return facts | {"estimate": value, "low": value - half, "high": value + half} | more


def verdict_of(lines: pd.DataFrame, row: str, column: str = "average", metric: str = "srcc"):
    found = lines[(lines["row"] == row) & (lines["column"] == column) & (lines["metric"] == metric)]
    return found.squeeze()


@pytest.mark.parametrize("table", paper.READABLE)
def test_without_results_every_printed_cell_is_not_run(tmp_path, table):
    lines = comparison.beside(table, "mini", tmp_path)
    assert set(lines["verdict"]) == {"not run"} and lines["estimate"].isna().all()
    assert lines["paper"].tolist() == pytest.approx(paper.printed(table)["value"], nan_ok=True)


def test_results_of_a_small_profile_stand_beside_but_are_not_compared(tmp_path):
    rows = [estimate("after stage 1", 0.588), estimate("majority", 0.0)]
    write(tmp_path, "mini", "02_attribute_extraction", rows)
    lines = comparison.beside(1, "mini", tmp_path)
    ours = verdict_of(lines, "Ours")
    assert ours["verdict"] == "not comparable" and ours["paper"] == ours["estimate"] == 0.588
    assert ours["why"] == f"profile mini, not paper; checkpoint mini, not {BACKBONE}"
    assert verdict_of(lines, "majority")["why"] == comparison.NO_CELL
    assert verdict_of(lines, "GPT-4o")["verdict"] == "not run"
    assert len(lines) == len(paper.printed(1)) + 1


def test_the_paper_profile_is_held_against_the_printed_numbers(tmp_path):
    rows = [
        estimate("after stage 1", 0.60),
        estimate("after stage 1", 0.61, half=0.001, metric="plcc"),
        estimate("after stage 1", 0.90, attribute="exposure"),
        estimate("untuned, asked", math.nan),
        estimate("untuned, asked", 0.2, metric="plcc"),
    ]
    write(tmp_path, "paper", "02_attribute_extraction", rows)
    with pytest.raises(ValueError, match=r"Table 1, Ours, exposure, srcc: ours is 0\.900"):
        comparison.beside(1, "paper", tmp_path)
    why = {("Ours", "exposure", "srcc"): "other tiers"}
    lines = comparison.beside(1, "paper", tmp_path, why)
    assert verdict_of(lines, "Ours")["verdict"] == "reproduced"
    assert verdict_of(lines, "Ours", metric="plcc")["verdict"] == "close"
    assert verdict_of(lines, "Ours", "exposure")[["verdict", "why"]].tolist() == [
        "differs", "other tiers"]  # fmt: skip
    assert verdict_of(lines, "Qwen2-VL-7B")["why"] == "N.A. in the paper"
    shown = comparison.shown(lines)
    assert shown.loc[("Ours", "after stage 1"), "srcc, ours"] == "0.600 [0.580, 0.620]"
    assert shown.loc[("Qwen2-VL-7B", "untuned, asked")].tolist() == [
        "N.A.", "N.A.", "N.A.", "0.200 [0.180, 0.220]"]  # fmt: skip


def test_a_model_asked_in_several_forms_has_a_line_for_each(tmp_path):
    row = "Mix+Levels+Attributes (high-middle-low)"
    rows = [
        estimate(row, value, 0.05, asked=asked, metric=metric)
        for value, asked in ((0.58, "mix"), (0.59, "levels"))
        for metric in ("srcc", "plcc")
    ]
    rows.append(estimate(row, 0.7, asked="mix", attribute="exposure"))  # Table 2 has averages only
    write(tmp_path, "paper", "03_training_granularity", rows)
    lines = comparison.beside(2, "paper", tmp_path)
    both = verdict_of(lines, row)
    assert both["verdict"].tolist() == ["reproduced"] * 2 and len(lines) == 12
    assert comparison.shown(lines).loc[row, "srcc, ours"].to_dict() == {
        "asked: mix": "0.580 [0.530, 0.630]",
        "asked: levels": "0.590 [0.540, 0.640]",
    }


def test_table_3_compares_a_model_under_its_own_name_only(tmp_path):
    lists = "200 lists of 10 decimals"
    rows = [
        estimate("Qwen2-VL-7B", 0.97, metric="accuracy", dataset=lists),
        estimate("number text x 1", 0.5, metric="accuracy", dataset="200 lists"),
    ]
    for row in rows:
        del row["attribute"]
    for profile in ("mini", "paper"):
        write(tmp_path, profile, "04_number_sorting", rows)
    lines = comparison.beside(3, "paper", tmp_path)
    assert verdict_of(lines, "number text x 1", "", "accuracy")["why"] == comparison.NO_CELL
    assert (comparison.counted(lines)["cells"]).sum() == 19
    assert lines["verdict"].value_counts()["not run"] == 17
    shown = comparison.shown(lines)
    assert shown.loc[("", "number text x 1"), "accuracy, ours"] == "0.500 [0.480, 0.520]"
    assert shown.loc[("", "number text x 1"), "accuracy, paper"] == ""
    assert verdict_of(comparison.beside(3, "mini", tmp_path), "Qwen2-VL-7B", "", "accuracy")[
        "why"] == f"profile mini, not paper; checkpoint mini, not {BACKBONE}"  # fmt: skip


def test_overview_says_what_can_be_read_and_what_was_run(tmp_path):
    write(tmp_path, "mini", "05_digit_count", [estimate("greedy", 0.7)])
    found = comparison.overview("mini", tmp_path)
    assert found.loc["Table 1", ["its numbers", "ours"]].tolist() == ["140 cells", "not run"]
    assert found.loc["Table 4", ["its numbers", "ours"]].tolist() == [
        paper.NOT_AVAILABLE, "1 estimates"]  # fmt: skip
    assert "figure" in found.loc["Fig. 2", "its numbers"]
