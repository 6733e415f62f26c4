"""What a reader is told about a run, from hand-made states."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from realqa_utils.records import results
from realqa_utils.reproduction import graph, progress
from realqa_utils.reproduction.progress import Outcome


@pytest.fixture
def plan(root) -> dict:
    """01 is done from an earlier run; 11 reads 05 and 06."""
    results.write_text(graph.folder("smoke") / "01_a.0.json", "{}")
    expected = {"01_a": 60, "05_b": 600, "06_c": 1200, "11_d": 120}
    notebooks = {
        stem: {"stamp": f"{stem}.0.json", "expected": seconds, "cores": 4}
        | {"alone": False, "after": []}
        for stem, seconds in expected.items()
    }
    notebooks["11_d"]["after"] = ["05_b.0.json", "06_c.0.json"]
    return {"run": "now", "profile": "smoke", "notebooks": notebooks}


def _tell(stem: str, state: str, **facts) -> None:
    given = {"run": "now", "started": time.time() - 60, "seconds": 60.0}
    progress.tell("smoke", stem, given | {"state": state} | facts)


def test_states_are_those_of_this_run(plan):
    _tell("05_b", "running", cell=2, cells=9)
    _tell("06_c", "failed", run="earlier")
    assert list(progress.states(plan)) == ["05_b"]


def test_line_counts_what_is_done_and_what_is_left(plan):
    line = progress.line(plan, {}, cores=2)
    assert line == "1 of 4 done | about 16 min left"  # (600 + 1200 + 120) / 2 s
    _tell("05_b", "ok", seconds=600.0)
    _tell("06_c", "running", cell=3, cells=20, started=time.time() - 120)
    line = progress.line(plan, progress.states(plan), cores=2)
    # 06 has run for two minutes, of late on both cores: (1200 - 240 + 120) / 2 s
    assert line == "2 of 4 done | 06_c: cell 3 of 20, 2:00 | about 9 min left"
    _tell("06_c", "running", cell=3, cells=20, started=time.time() - 9999)
    assert progress.line(plan, progress.states(plan), 2).endswith("| about 1 min left")


def test_cores_are_left_over_when_fewer_notebooks_than_cores_are_left(plan):
    """01 is done, 05 and 06 run or could run, and 11 waits for them."""

    def left(cores: int) -> int:
        return progress.left_over(plan, progress.states(plan), cores)

    assert [left(cores) for cores in (1, 2, 4)] == [0, 0, 2]
    _tell("05_b", "running", cell=1, cells=9)
    assert left(4) == 2
    _tell("05_b", "ok")
    results.write_text(graph.folder("smoke") / "05_b.0.json", "{}")
    assert [left(cores) for cores in (1, 2, 4)] == [0, 1, 3]
    results.write_text(graph.folder("smoke") / "06_c.0.json", "{}")
    assert left(4) == 3  # 11 may begin
    _tell("11_d", "failed")
    assert left(4) == 4


def test_what_runs_alone_lends_nothing(plan):
    plan["notebooks"]["06_c"]["alone"] = True
    assert progress.left_over(plan, progress.states(plan), 4) == 3  # it waits until all have ended
    _tell("06_c", "running", cell=1, cells=9)
    assert progress.left_over(plan, progress.states(plan), 4) == 0


def test_time_left_goes_by_the_pace_of_the_run(plan):
    """05 took 150 s on one core where 600 were recorded: the pace is (150 + 300) / (600 + 300)."""
    _tell("05_b", "ok", seconds=150.0)
    line = progress.line(plan, progress.states(plan), cores=2)
    assert line == "2 of 4 done | about 6 min left"  # (1200 + 120) / 2 cores, halved: 330 s
    _tell("05_b", "failed", seconds=150.0)
    assert progress.line(plan, progress.states(plan), 2).endswith("| about 11 min left")


def test_line_tells_how_far_a_long_cell_is(plan):
    """24 trainings in a cell, 6 of them done in 5 minutes on one of two cores."""
    _tell("06_c", "running", cell=3, cells=20, started=time.time() - 1199)
    bar = {"title": "trainings", "total": 24, "started": time.time() - 300, "done": 6}
    results.write_json(progress.bar_of("smoke", "06_c"), bar)
    line = progress.line(plan, progress.states(plan), 2)
    # 900 s for the other 18, beside 600 + 120 core seconds: (900 + 720) / 2 s
    assert line.endswith("| 06_c: cell 3 of 20, trainings 6 of 24, 19:59 | about 14 min left")
    results.write_json(progress.bar_of("smoke", "06_c"), bar | {"done": 24})
    line = progress.line(plan, progress.states(plan), 2)
    assert line.endswith("| 06_c: cell 3 of 20, 19:59 | about 6 min left")


def test_a_notebook_that_never_ran_makes_the_time_left_a_lower_bound(plan):
    plan["notebooks"]["06_c"]["expected"] = None
    _tell("06_c", "running", cell=3, cells=20)
    assert progress.line(plan, progress.states(plan), 2).endswith("| at least 6 min left")
    bar = {"title": "trainings", "total": 4, "started": time.time() - 600, "done": 1}
    results.write_json(progress.bar_of("smoke", "06_c"), bar)
    assert progress.line(plan, progress.states(plan), 2).endswith("| at least 21 min left")
    _tell("06_c", "ok")
    assert progress.line(plan, progress.states(plan), 2).endswith("| about 6 min left")


def test_outcomes(plan):
    _tell("05_b", "ok")
    results.write_text(graph.folder("smoke") / "05_b.0.json", "{}")
    _tell("06_c", "failed", error="06_c.ipynb: cell [4] KeyError: 'mos'")
    assert progress.outcomes(plan) == [
        Outcome("01_a", "kept"),
        Outcome("05_b", "ok", 60.0),
        Outcome("06_c", "failed", 60.0, "06_c.ipynb: cell [4] KeyError: 'mos'"),
        Outcome("11_d", "not run: it reads 06_c"),
    ]


def test_a_job_that_still_runs_when_all_is_over_was_killed(plan):
    _tell("06_c", "running", cell=3, cells=20)
    error = "06_c.ipynb: killed in cell 3; perhaps memory ran out"
    assert progress.outcomes(plan)[2] == Outcome("06_c", "failed", 60.0, error)


def test_summary_has_one_line_per_notebook_and_errors_below():
    ends = [Outcome("05_digits", "ok", 61.26), Outcome("06_ncm", "failed", 2.0, "E: two\n  lines"),
            Outcome("07_x", "kept")]  # fmt: skip
    table, errors = progress.summary(ends).split("\n\n")
    assert [line.split(maxsplit=2) for line in table.splitlines()] == [
        ["notebook", "seconds", "status"],
        ["05_digits", "61.3", "ok"],
        ["06_ncm", "2.0", "failed"],
        ["07_x", "-", "kept"],
    ]
    assert errors == "E: two\n  lines"


@pytest.mark.parametrize("live", [False, True])
def test_follow_tells_each_end_once_and_what_is_left_over(
    plan, capsys, monkeypatch, tmp_path, live
):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: live, raising=False)
    monkeypatch.setattr(progress, "LOOK", 0.05)
    _tell("05_b", "ok", seconds=192.6)
    _tell("06_c", "running", cell=3, cells=20)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"])
    monkeypatch.setenv("REALQA_WORKERS", "4")
    progress.follow(process, plan, tmp_path / "spare")
    assert (tmp_path / "spare").read_text() == "3"  # than that of 06; 11 waits
    printed = capsys.readouterr().out
    assert printed.count("3:13  ok") == 1
    assert ("06_c: cell 3 of 20" in printed) == live  # a log gets a line a minute only
    assert printed.endswith("\n") or live
