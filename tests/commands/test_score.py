"""`realqa score`: what it refuses, what it writes, what it tells."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from realqa_utils.commands import score as score_command
from realqa_utils.commands import train as train_command
from realqa_utils.images.views import PRESETS, View
from realqa_utils.measures import composite
from realqa_utils.model import adapters, backbone, taught
from realqa_utils.model.backbone import Backbone
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
        "digits": 1, "view": View(56, 80, 2), "attributes": "cot_regular", "composite": weights,
        "calibration": curve, "batch_size": 7, "page": False,
    }  # fmt: skip


@pytest.mark.parametrize("model", [[], ["--model", "mini"], ["--model", str(backbone.MINI_FOLDER)]])
def test_a_model_that_has_not_learnt_to_score_is_refused_with_advice(album, tmp_path, model):
    with pytest.raises(
        ValueError, match=r"has not learnt to score.*realqa train scores.*--model FOLDER"
    ):
        score_command.main([str(album), "--out", str(tmp_path / "out"), *model])
    assert not (tmp_path / "out").exists()


# --- models that were trained here ----------------------------------------------------------------


@pytest.fixture
def given(monkeypatch) -> dict:
    """The model and the options that would score."""
    found = {}

    def score(model, photos, out, **options):
        found.update(options, model=model)

    monkeypatch.setattr(folders, "score", score)
    return found


def _run(album: Path, folder: Path, *more: str) -> int:
    out = str(folder.parent / "out")
    return score_command.main([str(album), "--model", str(folder), "--out", out, *more])


def test_a_model_that_was_trained_here_is_asked_as_it_was_taught(album, root, given, capsys):
    """`realqa train`, then `realqa score` with the folder that it tells."""
    assert train_command.main(["scores", "--profile", "smoke", "--digits", "2"]) == 0
    told = capsys.readouterr().out
    folder = Path(next(line for line in told.splitlines() if "weights:" in line).split()[1])
    assert _run(album, folder) == 0
    assert given["digits"] == 2 and given["view"] == View()
    assert _run(album, folder, "--digits", "1", "--size", "56", "--short", "80") == 0
    assert given["digits"] == 1 and given["view"] == View(56, 80)
    known = taught.read(folder)
    replace(known, view=View(56, 80, 3, random=True)).save(folder)
    assert _run(album, folder) == 0
    assert given["view"] == View(56, 80, 3, random=True)
    assert _run(album, folder, "--pixels", "repo") == 0
    assert given["view"] == PRESETS["repo"]
    replace(known, form="direct_and_cot").save(folder)
    for more, form in (
        ([], ""), (["--attributes"], "cot_regular"), (["--attribute-form", "mix"], "mix")
    ):  # fmt: skip
        assert _run(album, folder, *more) == 0
        assert given["attributes"] == form
    replace(known, form="mix").save(folder)
    with pytest.raises(ValueError, match=f"{folder.name} was taught the form 'mix', not to answer"):
        _run(album, folder)
    replace(known, objective="regression").save(folder)
    with pytest.raises(ValueError, match="was taught regression, not to write digits"):
        _run(album, folder)
    (folder / taught.FILE).write_text('{"model": "mini"}')
    with pytest.raises(ValueError, match=r"realqa\.json is not as a training wrote it: .*'view'"):
        _run(album, folder)


def test_attributes_of_a_model_that_was_taught_none_are_refused(
    model, album, tmp_path, given, monkeypatch
):
    """It would fill in any form, with words that mean nothing."""
    shutil.copytree(model, tmp_path / "model")
    told = taught.Taught("", "next_token", "direct", 3, View())
    told.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"model was taught scores and no attributes.*train chain"):
        _run(album, tmp_path / "model", "--attributes")
    assert _run(album, tmp_path / "model", "--attribute-form", "cot_natural") == 0
    assert given["attributes"] == "cot_natural"
    composite.fit(np.eye(12, 9), np.arange(12.0), seed=0).save(tmp_path / "weights.json")
    with pytest.raises(ValueError, match="was taught scores and no attributes"):
        _run(album, tmp_path / "model", "--composite", str(tmp_path / "weights.json"))


def test_an_adapter_goes_on_the_model_that_it_is_for(tiny_backbone, model, album, tmp_path, given):
    """An adapter alone, as a training keeps it: its folder names the model."""
    lora = adapters.prepare(
        Backbone(copy.deepcopy(tiny_backbone.model), tiny_backbone.tokenizer,
                 tiny_backbone.image_processor, model), rank=2,
    )  # fmt: skip
    with torch.no_grad():
        for name, tensor in lora.model.named_parameters():
            if "lora_B" in name:
                tensor.normal_(generator=torch.Generator().manual_seed(0))
    folder = tmp_path / "adapter"
    lora.model.save_pretrained(folder)
    with pytest.raises(ValueError, match="holds an adapter and does not say what it goes on"):
        _run(album, folder)
    about = taught.Taught(model, "next_token", "direct_and_cot", 1, PRESETS["clean"])
    about.save(folder)
    trained = dict(lora.model.eval().named_parameters())
    for arguments in ([str(folder)], [model, "--adapter", str(folder)]):
        assert _run(album, Path(arguments[0]), *arguments[1:]) == 0
        assert given["digits"] == 1 and given["view"] == PRESETS["clean"]
        loaded = dict(given["model"].model.named_parameters())
        assert trained.keys() == loaded.keys()
        for name, tensor in trained.items():  # the model below was saved in float16
            torch.testing.assert_close(loaded[name], tensor, rtol=1e-2, atol=1e-3)


def test_windows_and_pixels_of_a_whole_photograph_exclude_each_other(album, model, tmp_path):
    with pytest.raises(ValueError, match="--pixels is for whole photographs: leave out --grid"):
        _run(album, tmp_path / "some", "--pixels", "repo", "--grid", "2")


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
    usual = {"out": Path("out"), "photographs": 9, "scored_now": 9, "unparsed": 0, "off_form": 0}
    return folders.Summary(**usual | {"problems": ()} | more)


def test_many_problems_are_counted_and_names_cannot_command_the_terminal():
    problems = [("a\x1b[2J\n.png", "empty"), *((f"{n}.png", "damaged") for n in range(60))]
    told = score_command.report(summary(photographs=100, problems=tuple(problems)), 3).splitlines()
    assert told[:2] == ["39 of 100 photographs have a score.", "Without a score:"]
    assert told[2] == "  a\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}.png: empty"
    assert len(told) == 2 + score_command.SHOWN + 1
    assert told[-1] == "  and 11 more, in the column problem of the tables"


def test_a_model_that_would_have_said_something_else_is_told():
    told = score_command.report(summary(unparsed=4), 2)
    assert "would have answered 4 of 9 in another form" in told and "trained for 2 digits" in told
    told = score_command.report(summary(off_form=3), 2)
    assert "would have written the attributes of 3 of 9 in another way" in told
    assert "another" not in score_command.report(summary(), 2)
