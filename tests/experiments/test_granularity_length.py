"""Table 2 with longer trainings: which are run, and what stands beside what."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.figure import Figure

from realqa_utils import cli
from realqa_utils.experiments import granularity, granularity_length, training_length, trials
from realqa_utils.experiments.granularity import ASKED, TITLES
from realqa_utils.forms import taxonomy
from realqa_utils.forms.conversations import STAGE_1
from realqa_utils.measures import statistics
from realqa_utils.plotting import comparison_plots
from realqa_utils.profiles import get_profile
from realqa_utils.records import results
from realqa_utils.scoring import labelling

PROFILE = get_profile("smoke", train_images=12, test_images=20, seeds=(4, 7), resamples=20)
STEPS = PROFILE.stage_1.steps


def answers(trial: trials.Trial) -> pd.DataFrame:
    """True labels, of which every k-th photograph's is the first one's: less, the more steps."""
    truth, wrong = labelling.true_codes(trial.split.test.frame), 2 + trial.recipe.steps // STEPS
    said = truth.copy()
    said.iloc[trial.recipe.seed % 2 :: wrong] = truth.iloc[0].to_numpy()
    part = said.reset_index().melt("id", var_name="attribute", value_name="said").assign(why="")
    return pd.concat([part.assign(asked=asked) for asked in trial.asked])


@pytest.fixture
def calls(root, monkeypatch) -> list:
    """Trainings are not run; every call for them is noted."""
    noted = []

    def run_all(todo, cache, workers):
        noted.append(list(todo))
        return [answers(trial) for trial in todo]

    monkeypatch.setattr(trials, "run_all", run_all)
    return noted


def test_equal_epochs_are_as_many_times_the_steps_as_there_are_forms():
    said = {"attributes": 9, "levels": 3, "mix": 1, "mix_low_first": 1, "all": 13}
    assert said == granularity_length.EPOCHS
    assert len(STAGE_1["all"]) == granularity_length.MOST == 13


def test_where_the_notebook_has_equal_epochs_there_is_nothing_to_do(capsys):
    assert cli.main(["lengths", "granularity", "--profile", "paper"]) == 2
    assert "on paper notebook 03 has equal epochs already" in capsys.readouterr().err


def test_all_trainings_run_side_by_side_and_the_longest_first(calls):
    found = granularity_length.readings(PROFILE)
    first = [(t.recipe.form, t.recipe.steps // STEPS) for t in calls[0]]
    assert [times for _, times in first] == sorted((t for _, t in first), reverse=True)
    wanted = {(name, times) for name in ASKED for times in (1, 13)} | {
        ("levels", 3),
        ("attributes", 9),
    }
    assert set(first) == wanted and len(first) == 2 * len(wanted)
    later = [trial for todo in calls[1:] for trial in todo]
    assert {*map(trials.key, later)} == {*map(trials.key, calls[0])}  # nothing is trained besides
    assert {times: sorted({name for name, _ in some}) for times, some in found.items()} == {
        1: sorted(ASKED), 3: ["levels"], 9: ["attributes"], 13: sorted(ASKED),
    }  # fmt: skip


def test_differences_are_between_trainings_of_the_right_length(calls):
    found = granularity_length.readings(PROFILE)
    table = granularity_length.table(PROFILE, found, seed=0)
    truth = labelling.true_codes(granularity.split(PROFILE).test.frame)

    def mean(times: int, name: str) -> float:
        found_srcc = []
        for one in found[times][name, ASKED[name][0]]:
            said = one.pivot(index="id", columns="attribute", values="said").loc[truth.index]
            found_srcc += [statistics.srcc(truth[key], said[key]) for key in taxonomy.SCORED]
        return sum(found_srcc) / len(found_srcc)

    differences = training_length.differences(table).set_index(["row", "steps"])["estimate"]
    for name, times in (("attributes", 9), ("levels", 3), ("mix", 1)):
        words = f"{TITLES['all']} minus {TITLES[name]}"
        epochs = differences[f"{words}, equal epochs", 13 * STEPS]
        assert epochs == pytest.approx(mean(13, "all") - mean(times, name))
        for equal in (1, 13):
            steps = differences[f"{words}, equal steps", equal * STEPS]
            assert steps == pytest.approx(mean(equal, "all") - mean(equal, name), abs=1e-12)
    assert differences[f"{words}, equal epochs", 13 * STEPS] > 0.05  # the mixed question is behind
    models = training_length.models(table)
    assert sorted(set(models["steps"])) == [t * STEPS for t in (1, 3, 9, 13)]
    figure = comparison_plots.lengths(models)
    (axis,) = figure.axes
    assert [line.get_label() for line in axis.lines] == list(dict.fromkeys(models["row"]))
    assert list(axis.lines[0].get_xdata()) == [STEPS, 9 * STEPS, 13 * STEPS]  # single questions


def test_the_claim_is_judged_at_equal_epochs_against_the_best_of_the_others(calls):
    table = granularity_length.table(PROFILE, granularity_length.readings(PROFILE), seed=0)
    granularity_length.save(PROFILE, table, Figure(), results.Stopwatch())
    (row,) = results.claims(PROFILE, longer=True).to_dict("records")
    judged = table[table["metric"] == "srcc, equal epochs"]
    assert row["claim"] == granularity.CLAIM and row["notebook"] == "03"
    assert row["estimate"] == pytest.approx(judged["estimate"].min(), rel=1e-5)
    assert row["statement"].endswith(f"equal epochs, {13 * STEPS} steps]")
    assert results.claims(PROFILE).empty
