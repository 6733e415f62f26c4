"""Self-labelling: parts that survive a kill, bad photographs, manifests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pandas as pd
import pytest

from realqa_utils.datasets import mini
from realqa_utils.experiments import self_labelling
from realqa_utils.forms.answers import Parsed
from realqa_utils.forms.conversations import MIX
from realqa_utils.forms.taxonomy import SCORED


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return mini.build("mini-koniq", 10, 0, tmp_path_factory.mktemp("world"))


@pytest.fixture
def truthful(table, monkeypatch):
    """A model that knows the labels by heart, in parts of 3; counts the photographs asked about."""
    asked = []
    rows = iter(table.frame.to_dict("records"))

    def label(backbone, images, granularity):
        said = [MIX.parse(MIX.answer(next(rows))) for _ in images]
        asked.append(len(images))
        return said

    monkeypatch.setattr(self_labelling.labelling, "label", label)
    monkeypatch.setattr(self_labelling, "PART", 3)
    return asked


def run(table, out, **more):
    return self_labelling.label_set(None, table, out, "weights", progress=False, **more)


def test_labels_are_what_the_model_said(table, truthful, tmp_path):
    frame = run(table, tmp_path)
    assert truthful == [3, 3, 3, 1]
    assert list(frame["id"]) == list(table.frame["id"])
    for name in (*SCORED, "subject_background", "composition_reason"):
        assert list(frame[name]) == list(table.frame[name])


def test_a_rerun_asks_only_for_what_is_missing(table, truthful, tmp_path):
    first = run(table, tmp_path)
    (tmp_path / "part-00001.jsonl").unlink()
    rows = iter(table.frame.iloc[3:6].to_dict("records"))
    self_labelling.labelling.label = lambda *_: [MIX.parse(MIX.answer(r)) for r in rows]
    pd.testing.assert_frame_equal(run(table, tmp_path), first)


def test_a_photograph_that_cannot_be_opened_is_a_row_with_its_problem(table, truthful, tmp_path):
    frame = table.frame.copy()
    frame.loc[4, "path"] = str(tmp_path / "gone.png")
    broken = type(table)(table.name, table.scale, frame)
    found = run(broken, tmp_path / "out")
    assert len(found) == 10 and truthful == [3, 2, 3, 1]
    assert "gone.png" in found["problem"][4] and found["exposure"][4] is None
    assert (found["problem"].drop(4) == "").all()


@pytest.mark.parametrize("change", [{"granularity": "levels"}, {"model_hash": "other"}])
def test_labels_of_another_run_are_refused_by_name(table, truthful, tmp_path, change):
    run(table, tmp_path)
    options = {"model_hash": "weights"} | change
    with pytest.raises(ValueError, match=next(iter(change))):
        self_labelling.label_set(None, table, tmp_path, progress=False, **options)


def test_a_folder_without_a_manifest_is_no_labels(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
        self_labelling.read(tmp_path)


KILLED = """
    import sys, time
    from pathlib import Path
    from realqa_utils.datasets import mini
    from realqa_utils.experiments import self_labelling
    from realqa_utils.forms.answers import Parsed

    table = mini.build("mini-koniq", 10, 0, Path(sys.argv[1]))
    self_labelling.PART = 1
    def label(backbone, images, granularity):
        time.sleep(0.15)
        return [Parsed(values={"exposure": 2}) for _ in images]
    self_labelling.labelling.label = label
    self_labelling.label_set(None, table, sys.argv[2], "weights", progress=False)
"""


def test_a_killed_run_goes_on_where_it_was(table, tmp_path, monkeypatch):
    world = os.path.dirname(os.path.dirname(table.frame["path"][0]))
    command = [sys.executable, "-c", textwrap.dedent(KILLED), world, str(tmp_path)]
    process = subprocess.Popen(command)
    while len(list(tmp_path.glob("part-*"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list(tmp_path.glob("part-*")))
    asked = []

    def label(backbone, images, granularity):
        asked.extend(images)
        return [Parsed(values={"exposure": 2}) for _ in images]

    monkeypatch.setattr(self_labelling, "PART", 1)
    monkeypatch.setattr(self_labelling.labelling, "label", label)
    self_labelling.label_set(None, table, tmp_path, "weights", progress=False)
    assert len(asked) == 10 - done < 10
    assert len(self_labelling.read(tmp_path)) == 10
