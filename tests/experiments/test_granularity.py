"""The experiment of notebook 03, on made-up answers."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from realqa_utils.claims import paper
from realqa_utils.experiments import attribute_scores, granularity, trials
from realqa_utils.experiments.granularity import ASKED, TITLES
from realqa_utils.forms import taxonomy as tx
from realqa_utils.plotting import plots
from realqa_utils.profiles import get_profile
from realqa_utils.records import hashes, results
from realqa_utils.scoring import labelling

SMOKE = get_profile("smoke", train_images=12, test_images=10, seeds=(4, 7), resamples=20)
WRONG = {"attributes": 0.9, "levels": 0.5, "mix": 0.4, "mix_low_first": 0.6, "all": 0.1}
KEYS = [(name, asked) for name in ASKED for asked in ASKED[name]]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REALQA_ROOT", str(tmp_path_factory.mktemp("root")))
        yield granularity.split(SMOKE)


def answers(trial: trials.Trial) -> pd.DataFrame:
    """Labels in which a share is drawn at random, as they come back from a file."""
    truth, parts = labelling.true_codes(trial.split.test.frame), []
    for number, asked in enumerate(trial.asked):
        rng = np.random.default_rng([trial.recipe.seed, number])
        part = truth.reset_index().melt("id", var_name="attribute", value_name="said")
        drawn = [rng.choice(tx.BY_NAME[name].codes) for name in part["attribute"]]
        part["said"] = part["said"].where(
            rng.uniform(size=len(part)) > WRONG[trial.recipe.form], drawn
        )
        parts.append(part.assign(why="", asked=asked))
    text = pd.concat(parts).to_csv(index=False)
    return pd.read_csv(io.StringIO(text), dtype={"id": str})


@pytest.fixture(scope="module")
def calls(data):
    """Trainings are not run; every call for them is noted."""
    noted = []

    def run_all(todo, cache, workers):
        noted.append((todo, cache, workers))
        return [answers(trial) for trial in todo]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "run_all", run_all)
        patch.setattr(hashes, "of_model", lambda source: "0" * 16)
        yield noted


@pytest.fixture(scope="module")
def found(calls, data):
    return granularity.readings(SMOKE, data)


@pytest.fixture(scope="module")
def table(found, data):
    return granularity.table(SMOKE, data, found, seed=0)


@pytest.fixture(scope="module")
def judged(found, data):
    return granularity.verdicts(SMOKE, data, found, seed=0)


# --- trainings ---------------------------------------------------------------------------------


def test_every_row_is_trained_alike_once_a_seed(calls, data, root):
    granularity.readings(SMOKE, data)
    todo, cache, workers = calls[-1]
    assert cache == root / "runs" / "smoke" / "trials" and workers == SMOKE.workers
    assert [(t.recipe.form, t.recipe.seed) for t in todo] == [(n, s) for n in ASKED for s in (4, 7)]
    for field in ("steps", "batch_size", "learning_rate", "optimiser", "language", "vision"):
        assert {getattr(t.recipe, field) for t in todo} == {getattr(SMOKE.stage_1, field)}
    assert all(t.split is data and t.view == SMOKE.view and t.model == "mini" for t in todo)
    assert [t.asked for t in todo] == [ASKED[t.recipe.form] for t in todo]
    kept = [(t.recipe.form, t.recipe.seed) for t in todo if t.keep]
    assert kept == [("mix", 4), ("mix", 7)]


@pytest.mark.parametrize("name", ["gpu24", "paper"])
def test_at_the_papers_size_every_row_has_two_epochs_of_its_conversations(name, data):
    profile, photographs = get_profile(name), 13_712
    steps = {row: granularity.recipe(profile, row).steps for row in ASKED}
    for row, forms in (("attributes", 9), ("levels", 3), ("mix", 1), ("mix_low_first", 1)):
        assert steps[row] * 64 == pytest.approx(2 * photographs * forms, rel=2e-3)
    assert steps["all"] == profile.stage_1.steps == 5570
    rows = [granularity.trial(profile, data, row, 0) for row in ASKED]
    assert [t.recipe.form for t in rows if t.keep] == ["all"]  # what labels, as in the paper
    assert granularity.teacher(profile, data, 0) == rows[-1]
    assert granularity.TOLD in rows[-1].asked


def test_readings_are_apart_by_what_was_asked_and_in_the_order_of_the_seeds(found, data):
    assert list(found) == KEYS
    for (name, form), runs in found.items():
        assert len(runs) == 2
        for seed, run in zip(SMOKE.seeds, runs, strict=True):
            whole = answers(granularity.trial(SMOKE, data, name, seed))
            expected = whole[whole["asked"] == form]["said"].tolist()
            assert run["said"].tolist() == expected and set(run["asked"]) == {form}
    assert not found["all", "mix"][0]["said"].equals(found["all", "mix"][1]["said"])


def test_one_row_can_be_trained_alone(calls, data):
    found = granularity.readings(SMOKE, data, ["all"])
    assert list(found) == [("all", form) for form in ASKED["all"]]
    assert len(calls[-1][0]) == 2
    shown = granularity.shown(granularity.table(SMOKE, data, found, seed=0))
    assert list(shown.index) == [(TITLES["all"], form) for form in ASKED["all"]]


def test_photographs_of_the_two_sides_differ(data):
    assert (data.name, len(data.train), len(data.test)) == ("mini-koniq", 12, 10)
    assert not set(data.train.frame["id"]) & set(data.test.frame["id"])


# --- the table ---------------------------------------------------------------------------------


def test_the_table_has_every_attribute_of_every_row(table, found, data):
    assert len(table) == 7 * 2 * 10
    assert set(results.TABLE_COLUMNS) | {"attribute", "asked", "unparsed"} == set(table)
    rows = table.groupby(["model", "asked"], sort=False).size()
    assert list(rows.index) == [(TITLES[name], form) for name, form in KEYS]
    assert (rows == 20).all() and set(table["seeds"]) == {(4, 7)}
    one = table.query("attribute == 'composition' and metric == 'srcc' and asked == 'levels'")
    truth = labelling.true_codes(data.test.frame)
    by_hand = [
        truth["composition"].corr(
            run[run["attribute"] == "composition"].set_index("id")["said"], "spearman"
        )
        for run in found["levels", "levels"]
    ]
    assert one["estimate"].iloc[0] == pytest.approx(np.mean(by_hand), abs=1e-9)


def test_what_is_shown_stands_beside_the_papers_own(table):
    shown = granularity.shown(table)
    assert list(shown.index) == [(TITLES[name], form) for name, form in KEYS]
    assert list(shown.columns) == ["plcc", "srcc", "srcc interval", "paper's srcc", "paper's plcc"]
    assert shown["paper's srcc"].tolist() == [0.541, 0.567, 0.570, 0.564, 0.588, 0.588, 0.588]
    average = table.query("attribute == 'average' and metric == 'srcc'").iloc[-1]
    last = shown.loc[(TITLES["all"], "attributes")]
    assert last["srcc"] == round(average["estimate"], 3)
    assert last["srcc interval"] == f"{average['low']:.3f} .. {average['high']:.3f}"


# --- the claim ---------------------------------------------------------------------------------


def test_verdicts_compare_all_sets_and_then_the_mixed_one_with_other_rows(judged, found, data):
    pairs = [("all", name) for name in ASKED if name != "all"]
    pairs += [("mix", "attributes"), ("mix", "levels")]
    assert list(judged["model"]) == [f"{TITLES[a]} minus {TITLES[b]}" for a, b in pairs]
    truth = labelling.true_codes(data.test.frame)
    for (name, other), row in zip(pairs, judged.itertuples(), strict=True):
        pair = found[name, "mix"], found[other, other]
        interval = attribute_scores.difference(*pair, truth, 0, SMOKE.resamples)
        assert (row.estimate, row.low, row.high) == (interval.estimate, interval.low, interval.high)
        assert row.verdict == paper.verdict(row.low, row.high)
    assert judged["verdict"].iloc[0] == "holds"  # one in ten answers drawn, against nine in ten


def test_the_summary_says_what_the_verdicts_say():
    rows = [
        ("all minus one", 0.1, 0.05, 0.2, "holds"),
        ("all minus two", -0.1, -0.2, -0.05, "fails"),
        ("all minus three", 0.01, -0.1, 0.1, "undecided"),
    ]
    judged = pd.DataFrame(rows, columns=["model", "estimate", "low", "high", "verdict"])
    first, second, third = granularity.summary(judged).splitlines()
    assert first == "all is better than one: +0.100 [+0.050, +0.200]."
    assert "worse than two: -0.100" in second
    assert "not told apart from three" in third


def test_saving_writes_tables_figure_record_and_claim(table, judged, data, root):
    figure = plots.granularity(table)
    assert isinstance(figure, Figure)
    granularity.save(SMOKE, data, table, judged, figure, results.Stopwatch())
    folder = results.figure_dir("smoke")
    assert (folder / "03_training_granularity.png").stat().st_size > 5000
    assert len(pd.read_csv(folder / "03_training_granularity.csv")) == len(table)
    assert len(pd.read_csv(folder / "03_training_granularity_verdicts.csv")) == 6
    record = json.loads((folder / "03_training_granularity.json").read_text())
    assert record["seeds"] == [4, 7] and record["n"] == 10
    hashes = {"mini-koniq, train": data.train.ids_hash, "mini-koniq, test": data.test.ids_hash}
    assert record["data_hashes"] == hashes and len(set(hashes.values())) == 2
    (claim,) = results.claims("smoke").itertuples()
    against = judged.head(4)  # of the model on all sets
    hardest = against.loc[against["estimate"].idxmin()]
    assert claim.claim == "T2-mixed-granularity-best" and claim.notebook == "03"
    assert claim.statement == f"{paper.CLAIMS[claim.claim]} [{hardest['model']}]"
    assert claim.estimate == pytest.approx(hardest["estimate"], rel=1e-5)
    assert claim.verdict == hardest["verdict"] and claim.seeds == "4 7"
