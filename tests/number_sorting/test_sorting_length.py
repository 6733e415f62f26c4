"""Models that were taught to sort for longer: what they are taught, and what is kept of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from realqa_utils import cli
from realqa_utils.experiments import training_length, trials
from realqa_utils.number_sorting import number_text, sorting, sorting_claim, sorting_length
from realqa_utils.profiles import get_profile
from realqa_utils.records import provenance, results

PROFILE = get_profile("smoke", seeds=(4, 7), resamples=40, train_images=12, test_images=40)
SORTING, CAPTIONS = (f"{task}, 24 steps" for task in ("sorting", "captions"))
SHIPPED = "as shipped"
#: Model -> the share of places that it gets right, and the noise of its scores.
MADE_UP = {SORTING: (0.8, 0.5), CAPTIONS: (0.1, 2.0), SHIPPED: (0.0, 0.2)}


def test_courses_are_longer_and_their_steps_larger_than_those_of_the_notebook():
    mini = get_profile("mini")
    first, control, shipped = sorting_length.courses(mini)
    own = number_text.courses(mini)[0]
    assert first.steps == 3 * own.steps and first.muon and not own.muon
    assert (first.numbers, first.captions) == (4 * own.numbers, 4 * own.captions)
    assert control == replace(first, task="captions") and shipped.name == SHIPPED


def test_where_no_model_is_taught_the_command_says_so(capsys):
    assert cli.main(["lengths", "sorting", "--profile", "paper"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "takes models as they come" in line and "mini and photos" in line


@pytest.fixture
def found(root, monkeypatch) -> tuple[dict, pd.DataFrame]:
    """The tables of models that are made up, none of them trained."""

    def says(source: str, seed: int, questions) -> list[str]:
        rng = np.random.default_rng([seed, *source.encode()])
        right = [sorting.in_order(sorting.parse(question)) for question in questions]
        keep = MADE_UP[source][0]
        return [" ".join(n if rng.uniform() < keep else "99" for n in row) for row in right]

    def scored(todo, cache, workers):
        truth = np.random.default_rng(0).uniform(2, 8, 40)
        frames = []
        for trial in todo:
            rng = np.random.default_rng([trial.recipe.seed, *trial.model.encode()])
            said = truth + rng.normal(scale=MADE_UP[trial.model.split("/")[0]][1], size=40)
            frames.append(pd.DataFrame({"id": range(40), "target": truth, "greedy": said,
                                        "expected": said, "answers": 1, "parsed": 1}))  # fmt: skip
        return frames

    def models(profile, lists, taken):
        assert [c.name for c in taken] == list(MADE_UP)
        return {c.name: [f"{c.name}/{seed}" for seed in PROFILE.seeds] for c in taken}

    monkeypatch.setattr(number_text, "models", models)
    monkeypatch.setattr(trials, "run_all", scored)
    monkeypatch.setattr(
        number_text, "_texts",
        lambda questions, cache, source: says(source.split("/")[0], int(source[-1]), questions),
    )  # fmt: skip
    return sorting_length.tables(PROFILE, seed=0)


def test_the_best_sorter_is_compared_with_the_others_of_its_length(found):
    judged = found[0]["verdicts"].set_index(["model", "metric"])
    assert judged.index[0] == (f"{SORTING} minus {CAPTIONS}", "position")
    gap, srcc = judged.iloc[0], judged.iloc[1]
    assert gap["estimate"] == pytest.approx(0.7, abs=0.05) and gap["verdict"] == "holds"
    table = found[0][""].query("metric == 'srcc' and reading == 'greedy'").set_index("model")
    own = table["estimate"]
    assert srcc["estimate"] == pytest.approx(own[SORTING] - own[CAPTIONS])
    assert (f"{SORTING} minus {SHIPPED}", "srcc, greedy") in judged.index


def test_a_row_says_what_a_model_sorts_and_scores(found):
    table = found[0][""]
    shown = sorting_length.shown(table)
    assert list(shown.index) == [*number_text.BASELINES, *MADE_UP]
    assert list(shown.columns) == [*sorting_length.SAID.values(), "SRCC, greedy", "SRCC, expected"]
    first = table.query("model == @SORTING and metric == 'position'").iloc[0]
    assert first["dataset"].endswith("10 decimals")
    assert shown.loc[SORTING, "places right"].startswith(f"{first['estimate']:.3f} [")
    assert shown.loc["random order", "SRCC, greedy"] == ""
    judged = sorting_length.shown_verdicts(found[0]["verdicts"])
    assert list(judged.columns) == ["position", "srcc, greedy", "srcc, expected"]
    assert judged.iloc[0, 0].startswith("+0.") and judged.iloc[0, 0].endswith(" holds")
    nothing = training_length.kept(PROFILE, sorting_length.STEM)
    assert sorting_length.shown(nothing).startswith("no model was taught to sort")
    assert sorting_length.shown_verdicts(nothing) == ""


def test_the_claim_is_judged_beside_that_of_the_notebook(found, monkeypatch):
    monkeypatch.setattr(provenance, "home", results.root)
    path = sorting_length.save(PROFILE, found[0], Figure(), results.Stopwatch())
    (row,) = results.claims(PROFILE, longer=True).to_dict("records")
    assert row["claim"] == sorting_claim.CLAIM and row["notebook"] == "04"
    assert row["estimate"] == pytest.approx(found[0]["verdicts"]["estimate"][1], rel=1e-5)
    assert row["statement"].endswith(f"{SORTING} minus {CAPTIONS}, greedy]")
    assert results.claims(PROFILE).empty
    kept = training_length.kept(PROFILE, sorting_length.STEM)
    pd.testing.assert_frame_equal(kept, pd.read_csv(path))
    assert sorting_length.shown(kept).shape == sorting_length.shown(found[0][""]).shape
    assert len(training_length.kept(PROFILE, f"{sorting_length.STEM}_verdicts")) == 6
    assert json.loads(path.with_suffix(".json").read_text())["seeds"] == [4, 7]


@pytest.mark.slow
def test_the_command_teaches_asks_and_scores(root, monkeypatch, capsys):
    monkeypatch.setenv("REALQA_SEEDS", "3")
    monkeypatch.setattr(sorting_length, "TIMES", 1)
    assert cli.main(["lengths", "sorting", "--profile", "smoke"]) == 0
    said = capsys.readouterr().out
    assert "captions, 8 steps" in said and "places right" in said and "sorting_length.csv" in said
    assert (root / "figures/smoke/sorting_length.png").exists()
