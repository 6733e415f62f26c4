"""`realqa curves`: what is drawn, what is written beside it, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from realqa_utils import cli
from realqa_utils.commands import curves as curves_command
from realqa_utils.ncm import curves
from realqa_utils.plotting import curve_plots


def history(path: Path, shift: float = 0.0, **more: float) -> Path:
    """A log with NCM of both splits, and a loss."""
    entries = []
    for step in (1, 2, 3):
        entries.append({"step": step, "ncm": 9 / step + shift, "loss": 1 / step, **more})
        entries.append({"step": step, "eval_ncm": 10 / step + shift, "eval_ncm_star": 8.0 + shift})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"log_history": entries, "global_step": 3}))
    return path


def callback(path: Path, shift: float = 0.0) -> Path:
    """A CSV as NCMCallback writes it."""
    rows = [(s, "held-out", m, 4 / s + shift) for s in (1, 2, 3) for m in ("ncm", "digit_ce")]
    pd.DataFrame(rows, columns=["step", "split", "metric", "value"]).to_csv(path, index=False)
    return path


@pytest.fixture
def drawn(monkeypatch) -> list:
    """What was given to be drawn."""
    seen, draw = [], curve_plots.plot_ncm_curves

    def plot(frame, metrics, splits):
        seen.append((frame, list(metrics), splits))
        return draw(frame, metrics, splits)

    monkeypatch.setattr(curve_plots, "plot_ncm_curves", plot)
    return seen


def curve(frame: pd.DataFrame, group: str, metric: str = "ncm") -> list[float]:
    part = frame[(frame["group"] == group) & (frame["metric"] == metric)]
    return part[part["split"] == "held-out"]["value"].tolist()


def run(tmp_path: Path, *runs: object, out: str = "out/c.png") -> tuple[int, pd.DataFrame]:
    code = cli.main(["curves", "--out", str(tmp_path / out), *map(str, runs)])
    table = (tmp_path / out).with_suffix(".csv")
    return code, pd.read_csv(table) if table.exists() else None


def test_runs_of_several_forms_are_overlaid(tmp_path, drawn, capsys):
    state = history(tmp_path / "one" / "trainer_state.json")
    csv = callback(tmp_path / "two.csv", 1.0)
    code, table = run(tmp_path, state.parent, f"mine={csv}")
    assert code == 0 and list(table) == list(curves.COLUMNS)
    assert curve(table, "one") == pytest.approx([10, 5, 10 / 3], rel=1e-5)
    assert curve(table, "mine") == pytest.approx([5, 3, 7 / 3], rel=1e-5)
    assert set(table["metric"]) == {"ncm", "ncm_star", "digit_ce"}  # not the loss
    with Image.open(tmp_path / "out" / "c.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 300
    assert drawn[0][1] == ["ncm", "ncm_star", "digit_ce"]
    told = capsys.readouterr()
    assert told.out.splitlines()[0] == "2 runs" and told.err == ""


def test_runs_of_one_name_are_seeds(tmp_path, drawn):
    seeds = [callback(tmp_path / f"s{k}.csv", float(k)) for k in range(3)]
    code, table = run(tmp_path, *(f"mine={path}" for path in seeds))
    assert code == 0 and set(table["group"]) == {"mine"} and table["run"].nunique() == 3
    band = curves.band(drawn[0][0])
    first = band[(band["metric"] == "ncm") & (band["step"] == 1)]
    assert first[["mean", "runs"]].to_numpy().tolist() == [[5.0, 3]]


def test_metrics_and_splits_can_be_chosen(tmp_path, drawn):
    state = history(tmp_path / "one" / "trainer_state.json")
    _, table = run(tmp_path, state, "--metric", "loss", "ncm", "--split", "train")
    assert set(table["metric"]) == {"loss", "ncm"} and set(table["split"]) == {"train"}
    assert drawn[0][1:] == (["loss", "ncm"], ["train"])


def test_equal_folder_names_stay_apart(tmp_path):
    for shift, folder in enumerate("ab"):
        history(tmp_path / folder / "run" / "trainer_state.json", float(shift))
    code, table = run(tmp_path, tmp_path / "a" / "run", tmp_path / "b" / "run")
    assert code == 0 and table["group"].nunique() == 2


def test_a_path_with_an_equals_sign(tmp_path):
    csv = callback(tmp_path / "lr=1.csv")
    assert curves_command._sources([str(csv)]) == {"": [csv]}
    assert run(tmp_path, csv)[0] == 0


def test_what_cannot_be_read_of_a_folder_is_one_line_and_the_rest_is_drawn(tmp_path, capsys):
    history(tmp_path / "runs" / "one" / "trainer_state.json")
    (tmp_path / "runs" / "bad").mkdir()
    (tmp_path / "runs" / "bad" / "trainer_state.json").write_text("{")
    code, table = run(tmp_path, tmp_path / "runs")
    assert code == 0 and set(table["run"]) == {"one"}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("realqa curves: left out: ") and "malformed JSON" in line


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (["gone.csv"], "gone.csv: no such file or folder"),
        (["mine=gone.csv"], "gone.csv: no such file or folder"),
        (["two.csv", "--metric", "nmc"], "unknown metric in the"),
        (["two.csv", "--out", "c.pdf"], "right is a file that ends in .png"),
        (["two.csv", "--out", "two.png"], "would be, or be taken for, a run of two.csv"),
        (["one", "--out", "one/c.png"], "a run of one"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, runs, message):
    monkeypatch.chdir(tmp_path)
    before = callback(Path("two.csv")).read_bytes()
    history(Path("one") / "trainer_state.json")
    assert cli.main(["curves", *runs]) == 2
    told = capsys.readouterr().err
    assert told.startswith("realqa: ") and message in told and told.count("\n") == 1
    assert Path("two.csv").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two.csv"]
