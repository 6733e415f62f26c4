"""Curves: every form reads as the same table, faults are named, the band is scipy's."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from scipy import stats
from transformers import TrainerState

from realqa_utils.ncm import curves
from realqa_utils.ncm.curves import band, read
from realqa_utils.records import results

HISTORY = [
    {"loss": 2.5, "grad_norm": 1.25, "epoch": 0.5, "step": 10},
    {"ncm": 8.5, "ncm_star": float("nan"), "epoch": 0.5, "step": 10},
    {"eval_loss": 2.25, "eval_ncm": 8.0, "epoch": 0.5, "step": 10},
    {"loss": 1.5, "grad_norm": 0.75, "epoch": 1.0, "step": 20},
    {"ncm": 4.125, "ncm_star": 6.0, "epoch": 1.0, "step": 20},
]
VALUES = [
    (10, "held-out", "loss", 2.25),
    (10, "held-out", "ncm", 8.0),
    (10, "train", "grad_norm", 1.25),
    (20, "train", "grad_norm", 0.75),
    (10, "train", "loss", 2.5),
    (20, "train", "loss", 1.5),
    (10, "train", "ncm", 8.5),
    (20, "train", "ncm", 4.125),
    (10, "train", "ncm_star", np.nan),
    (20, "train", "ncm_star", 6.0),
]
TIDY = pd.DataFrame(VALUES, columns=["step", "split", "metric", "value"])
WIDE = """step,epoch,grad_norm,loss,eval_loss,eval_ncm,ncm,ncm_star,note
10,0.5,1.25,2.5,2.25,8.0,8.5,nan,warm-up
20,1.0,0.75,1.5,,,4.125,6,
"""


def expected(run: str, group: str | None = None) -> pd.DataFrame:
    return TIDY.assign(run=run, group=group or run)[list(curves.COLUMNS)]


def same(found: pd.DataFrame, wanted: pd.DataFrame) -> bool:
    assert_frame_equal(found, wanted, check_exact=True)
    return True


def write_state(path: Path, history: list = HISTORY, steps: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    TrainerState(log_history=history, global_step=steps).save_to_json(str(path))
    return path


def write(path: Path, text: str) -> Path:
    return results.write_text(path, text)


def curve(values: dict[int, float], metric: str = "ncm") -> list[dict]:
    return [{"step": step, metric: value} for step, value in values.items()]


# --- forms -------------------------------------------------------------------------------------


def test_a_log_history_and_a_trainer_state_and_both_csvs_give_the_same_table(tmp_path):
    assert same(read(HISTORY), expected("run"))
    assert same(read(write_state(tmp_path / "base" / "trainer_state.json")), expected("base"))
    assert same(read(str(results.write_table(tmp_path / "a.csv", TIDY))), expected("a"))
    assert same(read(write(tmp_path / "b.csv", WIDE)), expected("b"))


def test_the_history_of_a_trainer_state_in_memory_is_a_source(tmp_path):
    path = write_state(tmp_path / "trainer_state.json")
    state = TrainerState.load_from_json(str(path))
    assert same(read(state.log_history), expected("run"))


def test_a_checkpoint_is_named_after_the_folder_of_its_run(tmp_path):
    path = write_state(tmp_path / "base" / "checkpoint-20" / "trainer_state.json")
    assert same(read(path), expected("base"))


@pytest.mark.parametrize(
    "table", [TIDY, pd.DataFrame({"step": [10], "ncm": [8.5], "eval_ncm": [8.0]})]
)
def test_tables_are_sources_and_what_was_read_can_be_read_again(table):
    once = read(table)
    assert len(once) and same(read(once), once)


def test_a_table_of_several_groups_survives_a_csv(tmp_path):
    once = read({"a": [HISTORY, HISTORY], "b": [HISTORY, HISTORY]})
    assert same(read(results.write_table(tmp_path / "all.csv", once)), once)


def test_files_of_a_spreadsheet_are_read(tmp_path):
    path = tmp_path / "sheet.csv"
    path.write_bytes(b"\xef\xbb\xbf,step,ncm\r\n0,1.0, 2.5 \r\n1,2.0,3\r\n")
    assert read(path)[["step", "metric", "value"]].values.tolist() == [
        [1, "ncm", 2.5],
        [2, "ncm", 3.0],
    ]


def test_a_wide_table_may_say_the_split_in_a_column(tmp_path):
    path = write(tmp_path / "a.csv", "step,split,ncm\n1,train,2\n1,held-out,3\n")
    assert read(path).set_index("split")["value"].to_dict() == {"train": 2.0, "held-out": 3.0}


def test_text_and_truth_values_and_nothing_are_no_metrics():
    entry = {"step": 1, "epoch": 1, "note": "1.5", "done": True, "lr": None, "ncm": np.float32(2)}
    assert read([entry])[["metric", "value"]].values.tolist() == [["ncm", 2.0]]


def test_an_empty_cell_was_not_logged_but_a_tidy_one_is_nan(tmp_path):
    wide = read(write(tmp_path / "wide.csv", "step,ncm\n1,\n2,nan\n3,5\n"))
    assert wide["step"].tolist() == [2, 3] and np.isnan(wide["value"][0])
    tidy = write(tmp_path / "tidy.csv", "step,split,metric,value\n1,train,ncm,\n")
    assert np.isnan(read(tidy)["value"]).tolist() == [True]


def test_a_step_logged_twice_counts_as_logged_last(tmp_path):
    history = curve({1: 5.0, 2: 4.0}) + curve({2: 3.0, 3: np.nan}) + curve({3: 2.0})
    wanted = {1: 5.0, 2: 3.0, 3: 2.0}
    assert read(history).set_index("step")["value"].to_dict() == wanted
    text = "step,ncm\n" + "".join(f"{row['step']},{row['ncm']}\n" for row in history)
    assert read(write(tmp_path / "a.csv", text)).set_index("step")["value"].to_dict() == wanted


NAMES = st.sampled_from(["ncm", "eval_ncm", "loss", "eval_", "eval_eval_x", "digit_ce_1"])
NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(2**60), 2**60)
ENTRIES = st.builds(
    lambda step, values: {"step": step, **values},
    st.integers(0, 5),
    st.dictionaries(NAMES, NUMBERS, min_size=1),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(ENTRIES, min_size=1, max_size=8))
def test_any_history_reads_as_a_plain_loop_over_it_and_in_every_form(tmp_path, history):
    wanted = {}
    for entry in history:
        for name, value in entry.items():
            held_out = name in ("eval_ncm", "eval_eval_x")
            split, metric = ("held-out", name[5:]) if held_out else ("train", name)
            if name != "step":
                wanted[split, metric, entry["step"]] = float(value)
    table = read(history)
    assert table.set_index(["split", "metric", "step"])["value"].index.tolist() == sorted(wanted)
    np.testing.assert_array_equal(table["value"], [wanted[key] for key in sorted(wanted)])
    folder = tmp_path / "run"
    assert same(read(write_state(folder / "trainer_state.json", history)), table)
    table.drop(columns=["run", "group"]).to_csv(folder / "run.csv", na_rep="nan")
    assert same(read(folder / "run.csv"), table)


# --- groups and folders ------------------------------------------------------------------------


def test_a_mapping_groups_runs_of_any_form(tmp_path):
    path = write_state(tmp_path / "first" / "trainer_state.json")
    table = read({"pretrained": [path, HISTORY, TIDY], "random": HISTORY})
    runs = table[["group", "run"]].drop_duplicates().values.tolist()
    assert runs == [
        ["pretrained", "first 0"],
        ["pretrained", "run 1"],
        ["pretrained", "run 2"],
        ["random", "random"],
    ]
    assert same(table[table["group"] == "random"].reset_index(drop=True), expected("random"))


def test_a_list_of_files_is_a_group_each(tmp_path):
    paths = [write(tmp_path / f"{name}.csv", WIDE) for name in "ba"]
    assert same(read(paths), pd.concat([expected("b"), expected("a")], ignore_index=True))


def test_a_folder_is_a_run_a_folder(tmp_path):
    write_state(tmp_path / "x" / "seed 0" / "checkpoint-10" / "trainer_state.json", HISTORY[:2])
    write_state(tmp_path / "x" / "seed 0" / "checkpoint-20" / "trainer_state.json")
    write_state(tmp_path / "x" / "seed 0" / "checkpoint-9" / "trainer_state.json", HISTORY[:1])
    write(tmp_path / "y" / "curves.csv", WIDE)
    write(tmp_path / ".cache" / "z" / "curves.csv", WIDE)
    write(tmp_path / "y" / "predictions.csv", "id,score\na,3.5\n")
    write(tmp_path / "y" / "config.json", "{")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = read(tmp_path)
    assert same(table, pd.concat([expected("x/seed 0"), expected("y")], ignore_index=True))
    assert set(read({"all": tmp_path})["group"]) == {"all"}


def test_a_checkpoint_that_is_the_folder_is_a_run_of_its_own(tmp_path):
    path = write_state(tmp_path / "checkpoint-20" / "trainer_state.json")
    assert same(read(path.parent), expected("checkpoint-20"))


def test_a_folder_that_is_a_run_gives_its_name(tmp_path, monkeypatch):
    write_state(tmp_path / "base" / "trainer_state.json")
    assert same(read(tmp_path / "base"), expected("base"))
    monkeypatch.chdir(tmp_path / "base")
    assert same(read("."), expected("base"))
    assert same(read("trainer_state.json"), expected("base"))


def test_a_state_and_a_csv_beside_it_are_one_run_and_the_state_counts(tmp_path):
    write_state(tmp_path / "a" / "trainer_state.json", curve({1: 0.123456789}))
    write(tmp_path / "a" / "ncm.csv", "step,ncm,ncm_star\n1,0.123457,7\n2,0.1,6\n")
    table = read(tmp_path / "a")
    assert set(table["run"]) == {"a"}
    assert table[["metric", "step", "value"]].values.tolist() == [
        ["ncm", 1, 0.123456789],
        ["ncm", 2, 0.1],
        ["ncm_star", 1, 7.0],
        ["ncm_star", 2, 6.0],
    ]


def test_csvs_of_one_folder_are_one_run_unless_they_log_the_same_steps(tmp_path):
    write(tmp_path / "parts" / "train.csv", "step,ncm\n1,5\n")
    write(tmp_path / "parts" / "test.csv", "step,eval_ncm\n1,6\n")
    for seed in (0, 1):
        write(tmp_path / "seeds" / f"seed{seed}.csv", f"step,ncm\n1,{seed}\n")
    table = read(tmp_path)
    runs = table.groupby("run")["value"].apply(list).to_dict()
    assert runs == {"parts": [6.0, 5.0], "seeds/seed0": [0.0], "seeds/seed1": [1.0]}


def test_a_csv_of_several_runs_keeps_them_apart_in_a_folder(tmp_path):
    write(tmp_path / "a" / "all.csv", "run,step,ncm\nx,1,5\ny,2,6\n")
    write_state(tmp_path / "a" / "trainer_state.json", curve({1: 7.0}))
    assert read(tmp_path / "a")["run"].tolist() == ["a/x", "a/y", "a"]


def test_a_folder_reports_what_cannot_be_read_and_goes_on(tmp_path):
    write(tmp_path / "a" / "trainer_state.json", "{")
    write(tmp_path / "b" / "curves.csv", "step,ncm\n1,two\n2,3\n")
    write_state(tmp_path / "c" / "trainer_state.json", [])
    write_state(tmp_path / "d" / "trainer_state.json")
    with pytest.warns(UserWarning, match="left out") as caught:
        table = read(tmp_path)
    assert same(table, expected("d"))
    for name, warning in zip("abc", caught, strict=True):
        assert str(tmp_path / name) in str(warning.message)
        assert warning.filename == __file__


def test_a_folder_without_a_run_says_why(tmp_path):
    with pytest.raises(ValueError, match="no run that can be read"):
        read(tmp_path)
    path = write(tmp_path / "trainer_state.json", "[]")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="1 left out") as caught:
        read(tmp_path)
    assert f"{path}: no list under the key 'log_history'" in str(caught.value)


# --- faults ------------------------------------------------------------------------------------


def fault(source, kind: type[Exception] = ValueError) -> str:
    with pytest.raises(kind) as caught:
        read(source)
    message = str(caught.value)
    assert "right" in message and "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "malformed JSON"),
        ('{"log_history": [', "malformed JSON"),
        ("{}", "no list under the key 'log_history'"),
        ('{"log_history": {"step": 1}}', "no list under the key 'log_history'"),
        ('{"log_history": []}', "no metric in log_history"),
        ('{"log_history": [{"step": 1, "epoch": 2.0}]}', "no metric in log_history"),
        ('{"log_history": [{"step": 1, "ncm": 1}, {"ncm": 2}]}', "entry 1 of log_history"),
        ('{"log_history": [{"step": 1.5, "ncm": 1}]}', "whole number under the key 'step'"),
        ('{"log_history": [{"step": NaN, "ncm": 1}]}', "whole number under the key 'step'"),
        ('{"log_history": [{"step": true, "ncm": 1}]}', "whole number under the key 'step'"),
        ('{"log_history": [7]}', "entry 0 of log_history, 7"),
    ],
)
def test_a_faulty_state_is_named_with_the_key(tmp_path, text, reason):
    path = write(tmp_path / "trainer_state.json", text)
    message = fault(path)
    assert message.startswith(f"{path}: ") and reason in message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", ": malformed CSV"),
        ("step,ncm\n1,2,3\n", ": malformed CSV"),
        ("step,ncm\n1,2\n1,2,3\n", ": malformed CSV"),
        ('step,ncm\n1,"2\n', ": malformed CSV"),
        ("Step,ncm\n1,2\n", ": no column 'step'"),
        ("step,metric,value\n1,ncm,2\n", ": no column 'split'"),
        ("step,ncm\n", ": no metric in any column beside 'step'"),
        ("step,note\n1,good\n", ": no metric in any column beside 'step'"),
        ("step,ncm\n1,2\nx,3\n", ", row 2: step 'x' is not a number"),
        ("step,ncm\n1,2\n,3\n", ", row 2: step '' is no step"),
        ("step,ncm\n-1,2\n", ", row 1: step '-1' is no step"),
        ("step,ncm\n1,2\n2,3.1.4\n", ", row 2: ncm '3.1.4' is not a number"),
        ("step,split,metric,value\n1,eval,ncm,2\n", ", row 1: split 'eval' is unknown"),
        ("step,split,metric,value\n1,train,,2\n", ", row 1: metric '' is empty"),
        ("step,split,metric,value\n1,train,ncm,x\n", ", row 1: value 'x' is not a number"),
    ],
)
def test_a_faulty_csv_is_named_with_row_and_column(tmp_path, text, reason):
    path = write(tmp_path / "curves.csv", text)
    assert fault(path).startswith(f"{path}{reason}")


def test_a_source_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "none.json"
    assert fault(path, FileNotFoundError).startswith(f"{path}: no such file or folder")
    assert "neither .json nor .csv" in fault(write(tmp_path / "log.txt", "step"))
    assert "7 of type int" in fault(7)
    assert "an empty mapping" in fault({})
    assert "[] of type list" in fault([])
    assert "a: None of type NoneType" in fault({"a": None})
    assert "a[1]: 3 of type int" in fault({"a": [HISTORY, 3]})
    assert "a: entry 1 of log_history" in fault({"a": [HISTORY[0], "x"]})


def test_bytes_that_are_no_text_are_refused(tmp_path):
    for name in ("a.csv", "trainer_state.json"):
        (tmp_path / name).write_bytes(b"step,\xff\xfe\n1,2\n")
        assert str(tmp_path / name) in fault(tmp_path / name)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.text(st.sampled_from('step,ncm\n01.-"e '), max_size=40), st.booleans())
def test_any_csv_gives_a_table_or_one_error_that_names_it(tmp_path, text, headed):
    path = tmp_path / "curves.csv"
    path.write_text("step,ncm\n" + text if headed else text)
    try:
        table = read(path)
    except ValueError as error:
        assert str(error).startswith(str(path))
    else:
        assert list(table) == list(curves.COLUMNS) and len(table)
        assert not table.duplicated(["run", *curves.KEY]).any()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.sampled_from(["", "step"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["step", "log_history", "ncm"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(JSON, st.booleans())
def test_any_json_gives_a_table_or_one_error_that_names_it(tmp_path, content, wrapped):
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"log_history": content} if wrapped else content))
    try:
        assert len(read(path))
    except ValueError as error:
        assert str(error).startswith(str(path))


# --- bands -------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.integers(3, 6), st.integers(0, 2**32 - 1))
def test_the_band_of_three_runs_or_more_is_the_t_interval_of_scipy(runs, seed):
    values = np.random.default_rng(seed).normal(5, 2, (runs, 4))
    histories = [curve(dict(enumerate(row.tolist()))) for row in values]
    table = band(read({"g": histories}))
    low, high = stats.t.interval(0.95, runs - 1, values.mean(0), stats.sem(values, axis=0))
    assert table["step"].tolist() == [0, 1, 2, 3] and set(table["runs"]) == {runs}
    np.testing.assert_allclose(table["mean"], values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(table["low"], low, rtol=1e-9)
    np.testing.assert_allclose(table["high"], high, rtol=1e-9)


def test_the_band_of_two_is_their_range_and_one_run_is_itself():
    table = band(read({"two": [curve({1: 3.0}), curve({1: 5.0})], "one": curve({1: 7.0})}))
    assert table[["group", "mean", "low", "high", "runs"]].values.tolist() == [
        ["two", 4.0, 3.0, 5.0, 2],
        ["one", 7.0, 7.0, 7.0, 1],
    ]


def test_steps_count_where_two_runs_logged_them():
    runs = [curve({1: 1.0, 2: 2.0, 3: 3.0}), curve({1: 3.0, 3: 5.0, 4: 9.0}), curve({3: 4.0})]
    table = band(read({"g": runs}))
    assert table[["step", "mean", "runs"]].values.tolist() == [[1, 2, 2], [3, 4, 3]]


def test_values_that_are_not_finite_leave_the_mean_and_make_a_gap_where_one_is_left():
    runs = [curve({1: 1.0, 2: np.nan}), curve({1: 3.0, 2: 3.0}), curve({1: np.inf})]
    table = band(read({"g": runs, "single": curve({1: np.nan, 2: 4.0})}))
    assert table["runs"].tolist() == [2, 1, 0, 1]
    np.testing.assert_array_equal(table["mean"], [2.0, np.nan, np.nan, 4.0])
    np.testing.assert_array_equal(table["low"], [1.0, np.nan, np.nan, 4.0])
    np.testing.assert_array_equal(table["high"], [3.0, np.nan, np.nan, 4.0])


def test_runs_that_share_no_step_are_left_out_with_a_warning():
    frame = read({"odd": [curve({1: 1.0}), curve({2: 2.0})], "one": curve({1: 7.0})})
    with pytest.warns(UserWarning, match="group 'odd': its runs share no step of 'ncm', train"):
        table = band(frame)
    assert table["group"].tolist() == ["one"]


def test_groups_splits_and_metrics_have_bands_of_their_own():
    table = band(read({"a": [HISTORY, HISTORY, HISTORY], "b": HISTORY}))
    assert len(table) == 2 * len(TIDY)
    both = table.groupby("group")["mean"].apply(list)
    np.testing.assert_array_equal(both["a"], TIDY["value"])
    np.testing.assert_array_equal(both["b"], TIDY["value"])
