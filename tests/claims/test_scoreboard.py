"""All claims, and what they cost, from the files of results."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from realqa_utils.claims import comparison, paper, scoreboard
from realqa_utils.claims.scoreboard import NOT_RUN
from realqa_utils.plotting import scoreboard_plots
from realqa_utils.profiles import get_profile
from realqa_utils.records import results


@pytest.fixture
def figures(root: Path) -> Path:
    """Results of `mini` and `photos`: three claims, one of them on both."""
    facts = {"n": 400, "seeds": (0, 1, 2)}
    claim = results.record_claim
    claim("mini", "T4-two-extra-digits", notebook="05", estimate=0.1, low=0.05, high=0.15, **facts,
          measured="mini-koniq, greedy")  # fmt: skip
    claim("photos", "T4-two-extra-digits", notebook="05", estimate=0.0, low=-0.02, high=0.02,
          n=1160, seeds=(0, 1))  # fmt: skip
    claim("mini", "S46-next-token-vs-regression", notebook="07", estimate=-0.1, low=-0.2,
          high=-0.05, **facts)  # fmt: skip
    claim("mini", "F5-ncm-falls", notebook="06", estimate=2.9, low=2.8, high=3.0, **facts)
    return root / "figures"


def record(folder: Path, stem: str, **facts) -> None:
    base = {"peak_memory_mib": 100.0, "cpus": 2, "date": "2025-01-02T03:04:05+00:00"}
    results.write_json(folder / f"{stem}.json", base | facts)


def test_every_claim_of_the_paper_is_on_the_board():
    assert set(scoreboard.CLAIMS) == set(paper.CLAIMS)
    titles = [title for title, _, _ in scoreboard.CLAIMS.values()]
    assert len(set(titles)) == len(titles)


def test_board_has_every_claim_and_profile(figures):
    board = scoreboard.board(("mini", "photos"), figures)
    assert len(board) == 22 and board["verdict"].value_counts()[NOT_RUN] == 18
    digits = board[board["claim"] == "T4-two-extra-digits"].set_index("profile")
    assert digits["verdict"].to_dict() == {"mini": "holds", "photos": "undecided"}
    assert digits.loc["photos", ["estimate", "low", "n", "seeds"]].tolist() == [
        0,
        -0.02,
        1160,
        "0 1",
    ]
    missing = board[board["verdict"] == NOT_RUN]
    assert missing["estimate"].isna().all() and missing["n"].isna().all()
    assert missing["statement"].equals(missing["claim"].map(paper.CLAIMS))


def test_claims_judged_with_longer_trainings_have_a_row_more(figures):
    claim = {"notebook": "07", "n": 400, "seeds": (0, 1, 2), "longer": True}
    results.record_claim(
        "mini", "S46-next-token-vs-regression", estimate=0.1, low=0.05, high=0.2, **claim
    )
    board = scoreboard.board(("mini", "photos"), figures)
    assert len(board) == 23
    longer = board[board["profile"] == "mini" + scoreboard.LONGER]
    assert longer["verdict"].tolist() == ["holds"] and longer["title"].notna().all()
    assert board.query("profile == 'mini' and verdict == 'fails'")["claim"].tolist() == [
        "S46-next-token-vs-regression"
    ]
    shown = scoreboard.shown(board)
    assert shown.columns.tolist() == ["mini", "mini, longer", "photos"]
    assert shown["mini, longer"].value_counts()[""] == 10
    said = scoreboard.summary(board)
    assert "mini, longer: holds 1, fails 0, undecided 0 of 1 claims." in said.splitlines()
    figure = scoreboard_plots.forest(board)
    plt.close(figure)
    assert scoreboard.profiles_with_claims("mini", figures) == ("mini", "photos")


def test_without_any_result_all_is_not_run_and_nothing_is_made(tmp_path):
    folder = tmp_path / "figures"
    assert scoreboard.profiles_with_claims("smoke", folder) == ("smoke",)
    board = scoreboard.board(("smoke",), folder)
    assert set(board["verdict"]) == {NOT_RUN} and len(board) == 11
    assert "not run 11 of 11" in scoreboard.summary(board)
    assert scoreboard.costs("smoke", folder).index.tolist() == ["all"]
    assert not folder.exists()


def test_profiles_with_claims_come_after_the_one_asked_for(figures):
    (figures / "smoke").mkdir()
    (figures / "smoke" / "claims.csv").write_text("")
    (figures / "gpu24").mkdir()  # without claims
    assert scoreboard.profiles_with_claims("photos", figures) == ("photos", "mini")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("T4-two-extra-digits", "T4-two-digits", "unknown claim 'T4-two-digits': did you mean"),
        ("holds", "hold", "unknown verdict 'hold': did you mean 'holds'"),
        ("estimate,", "mean,", "lacks the columns estimate"),
    ],
)
def test_a_damaged_file_of_claims_is_named(figures, old, new, message):
    path = figures / "mini" / "claims.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=rf"mini.claims\.csv: .*{message}"):
        scoreboard.board(("mini",), figures)


def test_shown_and_summary_say_what_was_found(figures):
    board = scoreboard.board(("mini", "photos"), figures)
    shown = scoreboard.shown(board)
    assert shown.index.tolist() == list(scoreboard.CLAIMS)
    assert shown.columns.tolist() == ["mini", "photos"]
    assert shown.loc["T4-two-extra-digits", "mini"] == "holds +0.100 [+0.050, +0.150]"
    assert shown.loc["F5-ncm-falls"].tolist() == ["holds +2.90 [+2.80, +3.00]", NOT_RUN]
    said = scoreboard.summary(board).splitlines()
    assert said[0] == "mini: holds 2, fails 1, undecided 0, not run 8 of 11 claims."
    assert said[1] == "  fails: Digits beat regression (Sec. 4.6), -0.100 [-0.200, -0.050]"
    assert said[2].startswith("photos: holds 0, fails 0, undecided 1")


def test_costs_take_the_last_reading_of_a_notebooks_clock(tmp_path):
    folder = tmp_path / "mini"
    record(folder, "02_attribute_extraction", wall_seconds=60.0, energy_joules=5e3)
    record(folder, "02_attribute_extraction_transfer", wall_seconds=91.0, energy_joules=8e3)
    record(folder, "05_digit_count", wall_seconds=30.0, workers=4, peak_memory_mib=None,
           energy_joules=2e3)  # fmt: skip
    record(folder, "11_scoreboard", wall_seconds=999.0)
    record(folder, "training_speed", wall_seconds=999.0)
    table = scoreboard.costs("mini", tmp_path)
    assert table.index.tolist() == ["02_attribute_extraction", "05_digit_count", "all"]
    assert table["minutes"].tolist() == [1.5, 0.5, ""]
    assert table["core minutes"].tolist() == [3.0, 2.0, 5.0]  # the second by four processes
    assert table["peak memory, MiB"].tolist() == [100.0, "", 100.0]
    assert table["energy, kJ"].tolist() == [8.0, 2.0, 10.0]
    assert table["recorded"].tolist() == ["2025-01-02", "2025-01-02", ""]


def test_energy_that_a_machine_does_not_tell_is_not_measured(tmp_path):
    record(tmp_path / "mini", "02_a", wall_seconds=60.0, energy_joules=5e3)
    record(tmp_path / "mini", "03_b", wall_seconds=60.0, energy_joules=None)
    record(tmp_path / "mini", "05_c", wall_seconds=60.0)
    energy = scoreboard.costs("mini", tmp_path)["energy, kJ"]
    assert energy.tolist() == [5.0, "not measured", "not measured", "not measured"]


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "02_a.json").write_text("{")
    with pytest.raises(ValueError, match=r"02_a\.json: not JSON .*; right is a record"):
        scoreboard.costs("mini", tmp_path)


# --- the picture ---------------------------------------------------------------------------------


@pytest.fixture
def drawn(figures):
    def draw(*profiles: str):
        return scoreboard_plots.forest(scoreboard.board(profiles, figures))

    yield draw
    plt.close("all")


def words(axis) -> list[str]:
    return [text.get_text() for text in axis.texts]


def test_units_that_differ_have_an_axis_each(drawn):
    ranks, squared = drawn("mini").axes
    assert "SRCC" in ranks.get_xlabel() and squared.get_xlabel() == "squared points"
    titles = [title for title, _, _ in scoreboard.CLAIMS.values()]
    there = [[word for word in words(axis) if word in titles] for axis in (ranks, squared)]
    assert there == [titles[:-2], ["NCM falls", "NCM* falls"]]


def test_every_estimate_stands_where_its_numbers_say(drawn):
    ranks, squared = drawn("mini", "photos").axes
    points = [line.get_xdata()[0] for bar in ranks.containers for line in [bar.lines[0]]]
    assert points == [0.1, 0.0, -0.1]
    assert [bar.lines[0].get_xdata()[0] for bar in squared.containers] == [2.9]
    assert {"+0.100 [+0.050, +0.150]", "-0.100 [-0.200, -0.050]"} < set(words(ranks))
    ends = [line.get_xdata()[0] for line in ranks.containers[0].lines[1]]
    assert sorted(ends) == pytest.approx([0.05, 0.15])


def test_what_was_not_run_is_listed(drawn):
    one, two = drawn("mini"), drawn("mini", "photos")
    for figure in (one, two):  # eight claims on neither profile
        assert sum(words(axis).count(NOT_RUN) for axis in figure.axes) == 8
    empty = drawn("smoke")
    assert all(axis.get_xlim() == (-1, 1) and not axis.containers for axis in empty.axes)


def test_what_was_not_run_takes_no_room(drawn, figures):
    def height(*names: str) -> float:
        return drawn(*names).get_figheight()

    assert height("mini") == height("mini", "photos") == height("mini", "photos", "paper")
    for name in ("gpu24", "paper"):
        shutil.copytree(figures / "photos", figures / name)
    four = drawn("mini", "photos", "gpu24", "paper")
    assert four.get_figheight() > height("mini")
    said = [word for word in words(four.axes[0]) if "undecided" in word]
    assert [word[0] for word in said] == ["◆", "■", "▲"]  # the marker of each profile
    (axis, _) = four.axes
    y = [bar.lines[0].get_ydata()[0] for bar in axis.containers]
    assert np.diff(y[:4]) == pytest.approx([1 / 4] * 3)  # of the one claim that all have
    assert np.mean(y[:4]) == list(scoreboard.CLAIMS).index("T4-two-extra-digits")


def test_a_verdict_of_one_training_has_a_star(drawn, figures):
    claim, found = "S47-video-zero-shot", {"estimate": 0.7, "low": 0.6, "high": 0.8, "n": 200}
    note = "* one training: the interval says nothing of how trainings differ."
    for seeds, star in (((0, 1, 2), ""), ((0,), " *")):
        results.record_claim("mini", claim, notebook="10", **found, seeds=seeds)
        board = scoreboard.board(("mini", "photos"), figures)
        cell = "+0.700 [+0.600, +0.800]" + star
        assert scoreboard.shown(board).loc[claim, "mini"] == f"holds {cell}"
        assert (note in scoreboard.summary(board).splitlines()) == bool(star)
        figure = drawn("mini", "photos")
        assert cell in words(figure.axes[0])
        assert figure.legends[0].get_texts()[-1].get_text().endswith("* one training") == bool(star)
    stars = [word for axis in figure.axes for word in words(axis) if word.endswith("*")]
    assert stars == [cell]  # what was not run has none


def test_texts_lie_within_the_picture_and_apart(drawn, figures):
    found = {"estimate": 0.123, "low": -0.123, "high": 0.423, "n": 200, "seeds": (0,)}
    for profile, longer in (("photos", False), ("mini", True)):  # the longest line, widest legend
        results.record_claim(profile, "T4-two-extra-digits", notebook="05", **found, longer=longer)
    figure = drawn("mini", "photos")
    figure.canvas.draw()
    texts = [*(text for axis in figure.axes for text in axis.texts), *figure.legends[0].get_texts()]
    assert texts[-1].get_text().endswith("* one training")
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    canvas = figure.bbox
    assert all(canvas.x0 <= box.x0 and box.x1 <= canvas.x1 for box in boxes)
    pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 :]]
    assert not any(a.overlaps(b) for a, b in pairs)


# --- what is written -----------------------------------------------------------------------------


def test_results_of_other_profiles_stay_out_of_the_files(figures):
    board = scoreboard.board(("mini", "photos"), figures)
    tables = {number: comparison.beside(number, "mini", figures) for number in paper.READABLE}
    figure = scoreboard_plots.forest(board)
    arguments = (get_profile("mini"), board, tables, figure, figures, results.Stopwatch())
    assert scoreboard.save(*arguments) == "mini"
    folder = figures / "mini"
    written = {
        path.name: path.read_bytes() for path in folder.glob("11_*") if path.suffix != ".json"
    }
    assert set(written) == {"11_scoreboard.csv", "11_scoreboard.png", "11_scoreboard_tables.csv"}
    table = pd.read_csv(folder / "11_scoreboard.csv").set_index("claim")
    assert table.index.tolist() == list(scoreboard.CLAIMS) and set(table["dataset"]) == {"mini"}
    assert table.loc["T4-two-extra-digits", ["model", "metric", "verdict"]].tolist() == [
        "mini-koniq, greedy", scoreboard.DIFFERENCE, "holds"]  # fmt: skip
    assert math.isnan(table.loc["S47-video-zero-shot", "estimate"])
    assert len(pd.read_csv(folder / "11_scoreboard_tables.csv")) == 168
    facts = json.loads((folder / "11_scoreboard.json").read_text())
    assert facts["n"] == 3 and list(facts["data_hashes"]) == ["claims.csv"]
    scoreboard.save(*arguments)  # again, with its own files there: the same to the byte
    assert {name: (folder / name).read_bytes() for name in written} == written
    plt.close("all")
