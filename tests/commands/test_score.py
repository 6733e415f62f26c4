"""`realqa score`: what it refuses, what it writes, what it tells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from realqa_utils.commands import score as score_command
from realqa_utils.images.views import View
from realqa_utils.measures import composite
from realqa_utils.model import backbone
from realqa_utils.scoring import calibration, folders

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def album(tmp_path_factory) -> Path:
    """Three photographs in two folders, and a file that is none."""
    folder = tmp_path_factory.mktemp("album")
    rng = np.random.default_rng(0)
    (folder / "deep" / "er").mkdir(parents=True)
    for name in ("a.png", "b.JPG", "deep/er/c.webp"):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / name)
    (folder / "deep" / "note.jpg").write_text("no photograph")
    return folder


def test_a_folder_is_scored(model, album, tmp_path, capsys):
    out = tmp_path / "out"
    more = ["--digits", "2", "--batch-size", "2"]
    assert score_command.main([str(album), "--model", model, "--out", str(out), *more]) == 0
    frame = pd.read_csv(out / "scores.csv")
    names = [Path(path).name for path in frame["path"]]
    assert names == ["a.png", "b.JPG", "c.webp", "note.jpg"]
    assert frame["score"].notna().tolist() == [True, True, True, False]
    assert "eye_catching" not in frame
    told = capsys.readouterr()
    assert told.out.splitlines()[0] == "3 of 4 photographs have a score."
    assert told.out.splitlines()[1:4] == [
        f"  {out / name}" for name in ("scores.csv", "scores.parquet", "index.html")
    ]
    last = told.out.splitlines()[-1]
    assert last.startswith(f"  {album / 'deep' / 'note.jpg'}: not a photo that can be read")
    assert "4/4" in told.err and "photo/s" in told.err
    record = json.loads((out / "scores.json").read_text())
    assert (record["photographs"], record["problems"], record["digits"]) == (4, 1, 2)
    assert score_command.main([str(album), "--model", model, "--out", str(out), *more]) == 0
    assert "photo/s" not in capsys.readouterr().err  # nothing was left to do


def test_everything_that_can_be_given_arrives(model, album, tmp_path, monkeypatch):
    codes = np.random.default_rng(0).integers(1, 4, (30, 9)).astype(float)
    weights = composite.fit(codes, codes.sum(axis=1), seed=0)
    curve = calibration.Calibration((5.0,), (2.0,), (0.9,), (0.5,), (1.0,), 0.1, 9, 9, 0)
    weights.save(tmp_path / "weights.json")
    curve.save(tmp_path / "curve.json")
    given = {}
    monkeypatch.setattr(folders, "score", lambda *_, **options: given.update(options))
    arguments = [str(album), "--model", model, "--out", str(tmp_path / "out"), "--attributes"]
    arguments += ["--composite", str(tmp_path / "weights.json"), "--no-html", "--digits", "1"]
    arguments += ["--calibration", str(tmp_path / "curve.json"), "--batch-size", "7"]
    arguments += ["--size", "56", "--short", "80", "--grid", "2"]
    assert score_command.main(arguments) == 0
    assert given == {
        "digits": 1, "view": View(56, 80, 2), "attributes": True, "composite": weights,
        "calibration": curve, "batch_size": 7, "page": False,
    }  # fmt: skip


@pytest.mark.parametrize("model", [[], ["--model", "mini"], ["--model", str(backbone.MINI_FOLDER)]])
def test_a_model_that_has_not_learnt_to_score_is_refused_with_advice(album, tmp_path, model):
    with pytest.raises(
        ValueError, match=r"has not learnt to score.*fine_tuning\.train.*Backbone\.save"
    ):
        score_command.main([str(album), "--out", str(tmp_path / "out"), *model])
    assert not (tmp_path / "out").exists()


def refused(error, message, monkeypatch, *arguments: str) -> None:
    """Refused without so much as loading the model."""
    with monkeypatch.context() as patch, pytest.raises(error, match=message):
        patch.setattr(backbone, "load", lambda *_: pytest.fail("the model was loaded"))
        score_command.main(list(arguments))


def test_bad_input_is_one_error_before_anything_runs(album, tmp_path, monkeypatch):
    out = ["--model", "some/model", "--out", str(tmp_path / "out")]
    (tmp_path / "empty").mkdir()
    refused(FileNotFoundError, "nowhere", monkeypatch, str(album), "nowhere", *out)
    refused(ValueError, "no photos in", monkeypatch, str(tmp_path / "empty"), *out)
    gone = str(tmp_path / "gone.json")
    refused(FileNotFoundError, "gone.json", monkeypatch, str(album), *out, "--composite", gone)
    refused(FileNotFoundError, "gone.json", monkeypatch, str(album), *out, "--calibration", gone)
    refused(ValueError, "short side 0", monkeypatch, str(album), *out, "--size", "56")
    assert not (tmp_path / "out").exists()
    missing = ["--model", str(tmp_path / "empty"), "--out", str(tmp_path / "out")]
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        score_command.main([str(album), *missing])


def test_it_is_a_failure_where_no_photograph_has_a_score(model, album, tmp_path, capsys):
    arguments = [str(album / "deep" / "note.jpg"), "--model", model, "--out", str(tmp_path)]
    assert score_command.main(arguments) == 1
    assert "0 of 1 photographs" in capsys.readouterr().out


def summary(**more) -> folders.Summary:
    return folders.Summary(**{"out": Path("out"), "photographs": 9, "scored_now": 9} | more)


def test_many_problems_are_counted_and_names_cannot_command_the_terminal():
    problems = [("a\x1b[2J\n.png", "empty"), *((f"{n}.png", "damaged") for n in range(60))]
    told = score_command.report(
        summary(photographs=100, unparsed=0, problems=tuple(problems)), 3
    ).splitlines()
    assert told[:2] == ["39 of 100 photographs have a score.", "Without a score:"]
    assert told[2] == "  a\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}.png: empty"
    assert len(told) == 2 + score_command.SHOWN + 1
    assert told[-1] == "  and 11 more, in the column problem of the tables"


def test_a_model_that_would_have_said_something_else_is_told():
    told = score_command.report(summary(unparsed=4, problems=()), 2)
    assert "would have answered 4 of 9 in another form" in told and "trained for 2 digits" in told
    assert "another form" not in score_command.report(summary(unparsed=0, problems=()), 2)
