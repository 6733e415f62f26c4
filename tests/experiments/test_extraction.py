"""The experiment of notebook 02, on made-up answers."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest

from realqa_utils.claims import paper
from realqa_utils.datasets import mini
from realqa_utils.experiments import attribute_scores, extraction, granularity, trials
from realqa_utils.experiments.attribute_scores import AVERAGE
from realqa_utils.experiments.extraction import DESCRIBED, MAJORITY, OURS, UNTAUGHT
from realqa_utils.forms import captions, taxonomy
from realqa_utils.forms.conversations import MIX
from realqa_utils.plotting import plots
from realqa_utils.profiles import get_profile
from realqa_utils.records import hashes, results
from realqa_utils.scoring import endpoints, labelling
from realqa_utils.scoring.endpoints import Answer

SMOKE = get_profile("smoke", train_images=12, test_images=10, seeds=(0, 1), resamples=20)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REALQA_ROOT", str(tmp_path_factory.mktemp("root")))
        yield granularity.split(SMOKE)


def read_back(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame as a trial gives it: written to a file and read again."""
    return pd.read_csv(io.StringIO(frame.to_csv(index=False)), dtype={"id": str})


def answers(trial: trials.Trial) -> pd.DataFrame:
    """Every attribute told rightly, but one code in five drawn at random."""
    rng = np.random.default_rng(trial.recipe.seed)
    frame = labelling.true_codes(trial.split.test.frame).reset_index()
    frame = frame.melt("id", var_name="attribute", value_name="said")
    drawn = [rng.choice(taxonomy.BY_NAME[name].codes) for name in frame["attribute"]]
    frame["said"] = frame["said"].where(rng.uniform(size=len(frame)) < 0.8, drawn)
    parts = [frame.assign(why="", asked=asked) for asked in trial.asked]
    return read_back(pd.concat(parts))


@pytest.fixture(scope="module")
def untrained(data):
    """No training, and a backbone that knows captions but not the form."""

    def ask(backbone, images, question):
        opened = [image() for image in images]
        assert [image.size for image in opened] == [(mini.SIZE, mini.SIZE)] * 10
        if question == captions.QUESTION:
            return [captions.caption(row) for _, row in data.test.frame.iterrows()]
        assert question == MIX.question
        return ["A photo of a lamp."] * 5 + ["Exposure: bright."] * 5

    def run_all(todo, cache, workers):
        return [answers(trial) for trial in todo]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "run_all", run_all)
        patch.setattr(hashes, "of_model", lambda source: "0" * 16)
        patch.setattr(extraction.backbones, "load", lambda source: source)
        patch.setattr(labelling, "ask", ask)
        yield


@pytest.fixture(scope="module")
def found(untrained, data):
    return extraction.runs(SMOKE, data)


@pytest.fixture(scope="module")
def table(found, data):
    return extraction.table(SMOKE, data, found, seed=0)


# --- models ------------------------------------------------------------------------------------


def test_four_models_label_the_same_photographs(found, data):
    assert {model: len(frames) for model, frames in found.items()} == {
        OURS: 2, UNTAUGHT: 1, DESCRIBED: 1, MAJORITY: 1,
    }  # fmt: skip
    for frames in found.values():
        for frame in frames:
            assert sorted(frame["id"].unique()) == sorted(data.test.frame["id"])
            assert len(frame) == 90 and set(frame["attribute"]) == set(taxonomy.SCORED)
    assert set(found[OURS][0]["asked"]) == {"mix"}
    most = data.train.frame["saturation"].mode()[0] + 1
    said = found[MAJORITY][0].query("attribute == 'saturation'")["said"]
    assert (said == most).all()


def test_captions_are_read_of_the_mini_backbone_only(untrained, data):
    other = get_profile("smoke", model="Qwen/Qwen2-VL-2B-Instruct")
    assert list(extraction.untaught(other, data)) == [UNTAUGHT]


def test_a_caption_as_labels_by_hand():
    text = "A photo of a lamp. The details are blurry. The light is overexposed."
    text += " The effect is stunning."
    frame = extraction.described([text, "The position is decent."], ["a", "b"])
    first, second = (part.set_index("attribute") for _, part in frame.groupby("id"))
    said = first["said"].dropna().to_dict()
    assert said == {"image_clarity": 1, "exposure": 1, "eye_catching": 9.5}
    assert second["said"].dropna().to_dict() == {"composition": 5.5}
    for part in (first, second):
        assert ((part["why"] == "not mentioned") == part["said"].isna()).all()
        assert tuple(part.index) == taxonomy.SCORED


def test_captions_tell_every_code_and_half_a_point_of_the_scores(data):
    frame, truth = data.test.frame, labelling.true_codes(data.test.frame)
    texts = [captions.caption(row) for _, row in frame.iterrows()]
    said = extraction.described(texts, frame["id"]).pivot(
        index="id", columns="attribute", values="said"
    )
    error = (said.loc[truth.index, truth.columns] - truth).abs()
    assert (error[["eye_catching", "composition"]] == 0.5).all(axis=None)
    assert (error.drop(columns=["eye_catching", "composition"]) == 0).all(axis=None)


def test_a_model_behind_an_endpoint_is_told_the_form(data, root, monkeypatch):
    asked = []

    def ask(endpoint, jobs, cache):
        asked.extend(jobs)
        told = [MIX.answer(row) for _, row in data.test.frame.iterrows()]
        return [*map(Answer, told[:8]), Answer(problem="HTTP 500: out of order"), Answer("Nice!")]

    endpoint = endpoints.Endpoint("http://localhost/v1", "some-model", "no-key-here")
    monkeypatch.setattr(endpoints.Endpoint, "from_environment", lambda: endpoint)
    monkeypatch.setattr(endpoints, "ask", ask)
    found = extraction.asked_at_endpoint(SMOKE, data)
    assert asked == [(MIX.instruction, path) for path in data.test.frame["path"]]
    ((model, (frame,)),) = found.items()
    assert model == "some-model" and frame["said"].notna().sum() == 8 * 9
    why = extraction.reasons_why_not(found).loc[model, "why not"]
    assert why == "no answer (9), not mentioned (9)"
    assert "HTTP 500: out of order" in frame["why"].iloc[8 * 9]


# --- tables ------------------------------------------------------------------------------------


def test_why_there_is_no_answer_is_counted(found):
    """Where all can be read, as after training, there is nothing to count."""
    counted = extraction.reasons_why_not(found)
    assert counted["asked for"].to_dict() == {
        OURS: 180, UNTAUGHT: 90, DESCRIBED: 90, MAJORITY: 90,
    }  # fmt: skip
    assert counted["given"].to_dict() == {OURS: 180, UNTAUGHT: 0, DESCRIBED: 90, MAJORITY: 90}
    assert counted["why not"].to_dict() == {
        OURS: "", UNTAUGHT: "not mentioned (85), no tier (5)", DESCRIBED: "", MAJORITY: "",
    }  # fmt: skip


def test_the_table_has_every_attribute_of_every_model(table, found, data):
    assert len(table) == 4 * 2 * 10
    assert set(results.TABLE_COLUMNS) | {"attribute", "unparsed"} == set(table)
    seeds = {model: set(part["seeds"]) for model, part in table.groupby("model")}
    assert seeds == {OURS: {(0, 1)}, UNTAUGHT: {(0,)}, DESCRIBED: {(0,)}, MAJORITY: {(0,)}}
    estimates = table[table["metric"] == "srcc"].set_index(["model", "attribute"])["estimate"]
    assert estimates[UNTAUGHT].isna().all()  # N.A.
    assert estimates[MAJORITY][AVERAGE] == 0 and estimates[MAJORITY].drop(AVERAGE).isna().all()
    assert estimates[DESCRIBED][list(taxonomy.SCORED[2:])].tolist() == pytest.approx([1] * 7)
    truth = labelling.true_codes(data.test.frame)
    again = attribute_scores.table(
        found[OURS], truth, 0, SMOKE.resamples, dataset="", model="", seeds=()
    )
    columns = ["attribute", "metric", "estimate", "low", "high"]
    ours = table[table["model"] == OURS]
    pd.testing.assert_frame_equal(ours[columns], again[columns])


def test_what_is_shown_is_attributes_by_models(table):
    for metric in ("srcc", "plcc"):
        shown = extraction.shown(table, metric)
        assert list(shown.index) == [*taxonomy.SCORED, AVERAGE]
        assert list(shown.columns) == [OURS, UNTAUGHT, DESCRIBED, MAJORITY]
        rows = table.query("metric == @metric and model == @OURS").set_index("attribute")
        assert shown[OURS].tolist() == rows.loc[shown.index, "estimate"].round(3).tolist()


def test_the_papers_table_is_printed_as_it_is():
    printed = extraction.printed()
    assert list(printed.index) == [*taxonomy.SCORED, AVERAGE]
    assert printed.columns[0] == "Ours" and printed.at[AVERAGE, "Ours"] == 0.588
    assert printed.at["image_clarity", "GPT-4o"] == 0.625
    assert printed.at["level_shot", "Qwen2-VL-7B"] == "N.A."
    assert extraction.printed("plcc").at[AVERAGE, "Ours"] == 0.617


def test_confusion_by_hand(data):
    truth = labelling.true_codes(data.test.frame)
    ids, codes = truth.index, truth["exposure"]
    said = codes.where(codes != 3, [2.0, np.nan] * 5)  # of properly exposed ones, the even rows
    frame = pd.DataFrame({"id": ids, "attribute": "exposure", "said": said.to_numpy(), "why": ""})
    ((name, shares),) = extraction.confusion({OURS: [frame, frame]}, data).items()
    assert name == "exposure" and (shares.index == sorted(codes.unique())).all()
    for true in shares.index:
        assert shares.at[true, 2.0 if true == 3 else true] == 1


def test_rows_of_confusions_sum_to_one(found, data):
    shares = extraction.confusion(found, data)
    assert set(shares) == set(taxonomy.SCORED)
    truth = labelling.true_codes(data.test.frame)
    for name, part in shares.items():
        assert part.sum(axis=1).tolist() == pytest.approx([1] * len(part))
        assert set(part.index) == set(truth[name])


# --- cards -------------------------------------------------------------------------------------


def test_cards_say_what_the_model_says_and_mark_what_differs(data, monkeypatch):
    frame = data.test.frame.head(3)
    said = [MIX.parse(MIX.answer(row)) for _, row in frame.iterrows()]
    said[1].values["exposure"] = (frame["exposure"][1] + 1) % 5
    said[1].values["subject_background"] = "another, in words"
    said[2] = MIX.parse("Image Clarity: clear.")
    monkeypatch.setattr(labelling, "label", lambda model, images: said)
    images, texts = extraction.cards(None, data, 3)
    assert [image.size for image in images] == [(mini.SIZE, mini.SIZE)] * 3
    first, second, third = texts
    assert first[0] == ("Eye-Catching", str(frame["eye_catching"][0]))
    assert first[1] == ("", frame["eye_catching_reason"][0])
    assert len(first) == 12 and not any(value.endswith("†") for _, value in first)
    assert [heading for heading, value in second if value.endswith("†")] == ["Exposure"]
    assert ("Subject and Background", "another, in words") in second
    assert len(third) == 10 and [v for _, v in third].count("(no answer)") == 9


def test_the_model_of_the_cards_is_that_of_the_first_seed(data, root, monkeypatch):
    monkeypatch.setattr(trials, "trained", lambda trial, cache: (trial, cache))
    trial, cache = extraction.model(SMOKE, data)
    assert (trial.recipe.form, trial.recipe.seed, trial.keep) == ("mix", 0, True)
    assert cache == root / "runs" / "smoke" / "trials"


# --- the claim ---------------------------------------------------------------------------------


def test_verdicts_are_about_both_ways_of_the_untuned_backbone(found, data):
    judged = extraction.verdict(SMOKE, data, found, seed=0)
    assert list(judged["model"]) == [f"{OURS} minus {UNTAUGHT}", f"{OURS} minus {DESCRIBED}"]
    truth = labelling.true_codes(data.test.frame)
    interval = attribute_scores.difference(
        found[OURS], found[DESCRIBED] * 2, truth, 0, SMOKE.resamples
    )
    last = judged.iloc[-1]
    assert tuple(last[["estimate", "low", "high"]]) == (
        interval.estimate, interval.low, interval.high,
    )  # fmt: skip
    assert last["estimate"] < 0 < judged["estimate"].iloc[0]  # captions are perfect here
    assert judged["verdict"].iloc[0] == "holds"
    assert [paper.verdict(r.low, r.high) for r in judged.itertuples()] == list(judged["verdict"])


def test_saving_writes_tables_figures_record_and_claim(table, found, data, root):
    judged = extraction.verdict(SMOKE, data, found, seed=0)
    figures = {
        "": plots.attribute_profile(table),
        "confusion": plots.confusions(extraction.confusion(found, data)),
    }
    extraction.save(SMOKE, data, table, judged, figures, results.Stopwatch())
    plots.plt.close("all")
    folder = results.figure_dir("smoke")
    for name in ("02_attribute_extraction.png", "02_attribute_extraction_confusion.png"):
        assert (folder / name).stat().st_size > 5000
    assert len(pd.read_csv(folder / "02_attribute_extraction.csv")) == len(table)
    record = json.loads((folder / "02_attribute_extraction.json").read_text())
    assert record["n"] == 10 and record["model_hash"] == "0" * 16
    (claim,) = results.claims("smoke").itertuples()
    assert (claim.claim, claim.notebook) == ("T1-stage1-beats-zero-shot", "02")
    assert claim.statement.endswith(f"[{OURS} minus {UNTAUGHT}]")
    assert claim.estimate == pytest.approx(judged["estimate"].iloc[0], rel=1e-5)


def test_the_summary_names_the_hardest_and_the_easiest_attribute(data):
    rows = [(OURS, "srcc", "exposure", 0.5), (OURS, "srcc", "saturation", 0.9)]
    rows += [(OURS, "srcc", "level_shot", np.nan), (OURS, "srcc", AVERAGE, 0.7)]
    rows += [(OURS, "plcc", "composition", 0.1), (DESCRIBED, "srcc", "composition", 0.1)]
    table = pd.DataFrame(rows, columns=["model", "metric", "attribute", "estimate"])
    table = table.assign(low=table["estimate"] - 0.1, high=table["estimate"] + 0.1)
    judged = pd.DataFrame([{"model": "after stage 1 minus untuned, asked", "estimate": 0.2,
                            "low": 0.1, "high": 0.3, "verdict": "holds"}])  # fmt: skip
    assert extraction.summary(table, judged).splitlines() == [
        "After stage 1 the mean SRCC is 0.700 [0.600, 0.800].",
        "The hardest attribute is Exposure (0.500), the easiest Saturation (0.900).",
        "After stage 1 minus untuned, asked: +0.200 [+0.100, +0.300] (holds).",
    ]


def test_a_model_that_answers_nothing_goes_all_the_way(found, data, root):
    """As after the few steps of a rehearsal."""
    silent = [frame.assign(said=np.nan, why="not mentioned") for frame in found[OURS]]
    found = found | {OURS: silent}
    table = extraction.table(SMOKE, data, found, seed=0)
    shares = extraction.confusion(found, data)
    assert shares == {}
    assert len(plots.confusions(shares).axes) == 9
    plots.attribute_profile(table)
    plots.plt.close("all")
    judged = extraction.verdict(SMOKE, data, found, seed=0)
    assert extraction.summary(table, judged).startswith("After stage 1 the mean SRCC is nan")
    assert judged["estimate"].iloc[0] == 0  # against another that answers nothing
    assert extraction.reasons_why_not(found).loc[OURS, "why not"] == "not mentioned (180)"
