"""The writer of figures/ and runs/."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from realqa_utils.claims.paper import CLAIMS
from realqa_utils.profiles import get_profile
from realqa_utils.records import results

TABLE = pd.DataFrame(
    {
        "digits": [1, 3],
        "dataset": "mini-koniq",
        "model": ["integer", "two decimals"],
        "metric": "srcc",
        "estimate": [0.8123456789, 1 / 3],
        "low": [0.75, 1e-7],
        "high": [0.85, 0.5],
        "n": [500, 500],
        "seeds": [(0, 1, 2)] * 2,
    }
)
ABOUT = {
    "seeds": (0, 1, 2),
    "n": 500,
    "n_parsed": 498,
    "interval": "95 % bootstrap over test images, pooled over seeds",
    "data_hashes": {"mini-koniq": "12ab"},
    "model_hash": "34cd",
}
CLAIM = {"notebook": "05_digit_count", "n": 500, "seeds": (0, 1)}


def _figure() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], [1, 0])
    return figure


def _names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- files ---------------------------------------------------------------------------------------


def test_folders_belong_to_one_profile(root):
    assert results.figure_dir("mini") == root / "figures" / "mini"
    assert results.run_dir(get_profile("photos"), "05", "seed0") == root / "runs/photos/05/seed0"
    assert (root / "runs/photos/05/seed0").is_dir()
    with pytest.raises(ValueError, match="unknown profile 'minni': did you mean 'mini'"):
        results.figure_dir("minni")
    assert _names(root / "figures") == ["mini"]


def test_a_failing_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "weights.bin"
    results.write_bytes(path, b"old")

    def half(temporary):
        temporary.write_bytes(b"ne")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        results.write_atomically(path, half)
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["weights.bin"]


def test_a_failing_folder_leaves_the_old_one_and_no_other(tmp_path):
    path = tmp_path / "model"
    assert results.write_folder(path, lambda part: (part / "a").write_text("old")) == path

    def half(part):
        assert part.is_dir() and part != path and _names(path) == ["a"]
        (part / "b").write_text("ne")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        results.write_folder(path, half)
    assert _names(tmp_path) == ["model"] and _names(path) == ["a"]
    with pytest.raises(RuntimeError, match="disk full"):
        results.write_folder(tmp_path / "other", lambda part: half(part))
    assert _names(tmp_path) == ["model"]


def test_a_new_folder_takes_the_place_of_the_old_one_whole(tmp_path):
    path = tmp_path / "deep" / "model"
    for name in ("a", "b"):
        results.write_folder(path, lambda part, name=name: (part / name).write_text(name))
        assert _names(path) == [name] and (path / name).read_text() == name
        assert _names(path.parent) == ["model"]


def test_a_reader_never_meets_half_a_file(tmp_path):
    path = tmp_path / "file.txt"
    texts = [letter * 100_000 for letter in "ab"]
    results.write_text(path, texts[0])
    with ThreadPoolExecutor(2) as pool:
        writes = [pool.submit(results.write_text, path, texts[i % 2]) for i in range(40)]
        while not all(write.done() for write in writes):
            assert path.read_text() in texts
        assert [write.result() for write in writes] == [path] * 40
    assert _names(tmp_path) == ["file.txt"]


def test_of_several_who_want_a_file_one_makes_it(tmp_path):
    path, made = tmp_path / "out" / "a.txt", []
    path.parent.mkdir()

    def make() -> None:
        made.append(1)
        time.sleep(0.2)  # the others come meanwhile
        results.write_text(path, "a")

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: results.once(path, make).read_text(), range(4)))
    assert found == ["a"] * 4 and made == [1]


def test_who_waited_for_one_that_failed_makes_the_file(tmp_path):
    path, made = tmp_path / "a.txt", []

    def make() -> None:
        made.append(1)
        if len(made) == 1:
            raise OSError("no room")
        results.write_text(path, "a")

    with pytest.raises(OSError):
        results.once(path, make)
    assert results.once(path, make).read_text() == "a"


def test_files_are_readable_by_whoever_the_umask_allows(tmp_path):
    reference = tmp_path / "reference"
    reference.write_text("")
    assert results.write_text(tmp_path / "new", "").stat().st_mode == reference.stat().st_mode


def test_json_takes_numpy_and_refuses_nan(tmp_path):
    content = {"n": np.int64(3), "curve": np.arange(2), "share": np.float64(0.5), "word": "é"}
    path = results.write_json(tmp_path / "a.json", content)
    assert json.loads(path.read_text("utf-8")) == {
        "n": 3, "curve": [0, 1], "share": 0.5, "word": "é",
    }  # fmt: skip
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            results.write_json(tmp_path / "a.json", {"share": wrong})


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    first = results.save_figure(_figure(), tmp_path / "a.png").read_bytes()
    second = results.save_figure(_figure(), tmp_path / "b.png").read_bytes()
    assert first == second
    assert first.startswith(b"\x89PNG")
    assert b"matplotlib" not in first.lower()


# --- save ----------------------------------------------------------------------------------------


def test_csv_has_the_contract_first_and_six_digits(root):
    path = results.save("05_digit_count", "mini", TABLE, started=time.perf_counter(), **ABOUT)
    assert path.read_text() == (
        "dataset,model,metric,estimate,low,high,n,seeds,digits\n"
        "mini-koniq,integer,srcc,0.812346,0.75,0.85,500,0 1 2,1\n"
        "mini-koniq,two decimals,srcc,0.333333,1e-07,0.5,500,0 1 2,3\n"
    )


def test_json_beside_it_says_where_the_numbers_come_from(root):
    watch = results.Stopwatch(time.perf_counter() - 5)
    figures = {"": _figure(), "ceiling": _figure()}
    results.save("05_digit_count", "mini", TABLE, started=watch, figures=figures, **ABOUT)
    folder = root / "figures" / "mini"
    pictures = ["05_digit_count.png", "05_digit_count_ceiling.png"]
    assert _names(folder) == ["05_digit_count.csv", "05_digit_count.json", *pictures]

    record = json.loads((folder / "05_digit_count.json").read_text())
    assert {key: record[key] for key in ABOUT} == ABOUT | {"seeds": [0, 1, 2]}
    assert record["figures"] == pictures
    assert record["profile"] == "mini"
    assert 5 <= record["wall_seconds"] < 60
    assert record["code"]["source_hash"] == results.source_hash()
    assert {"versions", "python", "cpus", "threads", "peak_memory_mib", "date"} <= set(record)


def test_numpy_seeds_and_unknown_counts(root):
    table = TABLE.assign(n=[500.0, np.nan], seeds=np.int64(4))
    path = results.save("00_x", "mini", table, started=0.0, **ABOUT | {"seeds": np.int64(4)})
    assert list(pd.read_csv(path, dtype=str)["n"].fillna("")) == ["500", ""]
    assert list(pd.read_csv(path)["seeds"]) == [4, 4]
    assert json.loads(path.with_suffix(".json").read_text())["seeds"] == [4]


@pytest.mark.parametrize(
    ("stem", "table", "message"),
    [
        ("a", TABLE.drop(columns=["low", "seeds"]), "a: the table lacks the columns low, seeds$"),
        ("a", TABLE.assign(low=[0.1, 0.9]), "a: row 1: low 0.9 exceeds high 0.5"),
        ("../a", TABLE, "letters, digits and _ only"),
        ("", TABLE, "letters, digits and _ only"),
    ],
)
def test_a_table_against_the_contract_is_refused(root, stem, table, message):
    with pytest.raises(ValueError, match=message):
        results.save(stem, "mini", table, started=0.0, **ABOUT)
    assert not (root / "figures").exists()


# --- claims --------------------------------------------------------------------------------------


def test_one_row_per_claim_sorted_and_updated(root):
    for claim, low in (("T4-two-extra-digits", -0.1), ("F5-ncm-falls", 0.2)):
        results.record_claim("mini", claim, estimate=0.3, low=low, high=0.4, **CLAIM)
    path = root / "figures" / "mini" / "claims.csv"
    before = path.read_text()
    assert before.splitlines()[0] == ("claim,notebook,statement,estimate,low,high,n,seeds,verdict")
    table = results.claims("mini")
    assert list(table["claim"]) == ["F5-ncm-falls", "T4-two-extra-digits"]
    assert list(table["verdict"]) == ["holds", "undecided"]
    assert list(table["statement"]) == [CLAIMS[claim] for claim in table["claim"]]
    assert list(table["seeds"]) == ["0 1", "0 1"]

    again = {"estimate": -0.3, "low": -0.4, "high": -0.2, "measured": "on a, b"} | CLAIM
    assert results.record_claim("mini", "T4-two-extra-digits", **again) == "fails"
    lines, old = path.read_text().splitlines(), before.splitlines()
    assert lines[:2] == old[:2]
    assert lines[2] == (
        f'T4-two-extra-digits,05_digit_count,"{CLAIMS["T4-two-extra-digits"]} [on a, b]",'
        "-0.3,-0.4,-0.2,500,0 1,fails"
    )


def test_what_longer_trainings_say_of_a_claim_stands_apart(root):
    claim = "F5-ncm-falls"
    results.record_claim("mini", claim, estimate=1, low=-1, high=3, **CLAIM)
    results.record_claim("mini", claim, estimate=2, low=1, high=3, **CLAIM, longer=True)
    assert list(results.claims("mini")["verdict"]) == ["undecided"]
    assert list(results.claims("mini", longer=True)["verdict"]) == ["holds"]
    assert (root / "figures" / "mini" / "claims_longer.csv").exists()


def test_a_claim_that_could_not_be_measured_stays_undecided_when_others_are_added(root):
    nothing = {"estimate": np.nan, "low": np.nan, "high": np.nan}
    assert results.record_claim("mini", "F5-ncm-falls", **nothing, **CLAIM) == "undecided"
    results.record_claim("mini", "T4-two-extra-digits", estimate=1, low=0.5, high=2, **CLAIM)
    table = results.claims("mini")
    assert list(table["verdict"]) == ["undecided", "holds"]
    assert list(table["estimate"].isna()) == [True, False]


def test_notebooks_side_by_side_lose_no_claim(root):
    def record(claim):
        results.record_claim("mini", claim, estimate=0, low=-1, high=1, **CLAIM)

    with ThreadPoolExecutor(len(CLAIMS)) as pool:
        list(pool.map(record, CLAIMS))
    assert list(results.claims("mini")["claim"]) == sorted(CLAIMS)


@pytest.mark.parametrize(
    ("claim", "change", "message"),
    [
        ("T4-two-extra-digit", {}, "unknown claim .*did you mean 'T4-two-extra-digits'"),
        ("F5-ncm-falls", {"verdict": "hold"}, "unknown verdict 'hold': did you mean 'holds'"),
        ("F5-ncm-falls", {"low": 2.0}, "F5-ncm-falls: low 2 exceeds high 1"),
    ],
)
def test_a_wrong_claim_is_refused(root, claim, change, message):
    arguments = {"estimate": 0.0, "low": -1.0, "high": 1.0} | CLAIM | change
    with pytest.raises(ValueError, match=message):
        results.record_claim("mini", claim, **arguments)
    assert not os.listdir(root)


def test_no_claims_yet(root):
    assert list(results.claims("smoke").columns) == list(results.CLAIM_COLUMNS)
