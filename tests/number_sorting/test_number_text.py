"""Number text is what it says, teaches the language side alone, and is paid for once."""

from __future__ import annotations

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from realqa_utils.claims import comparison
from realqa_utils.experiments import granularity, trials
from realqa_utils.images.views import View
from realqa_utils.measures import statistics
from realqa_utils.model import backbone as backbones
from realqa_utils.number_sorting import number_sorters, number_text, sorting, sorting_claim
from realqa_utils.number_sorting.number_text import Course
from realqa_utils.plotting import sorting_plots
from realqa_utils.profiles import get_profile
from realqa_utils.records import results
from realqa_utils.scoring.endpoints import Endpoint
from realqa_utils.training import batches, pretraining

SMOKE = get_profile("smoke", train_images=12, test_images=10, seeds=(4, 7), resamples=60, workers=1)


# --- the text ------------------------------------------------------------------------------------


def given(question: str) -> list[str]:
    return question.split(": ")[1].split()


def test_lists_grow_from_pairs_to_those_of_the_probe():
    rng = np.random.default_rng(0)
    lengths = [[number_text.length_at(share, rng) for _ in range(200)] for share in (0, 0.5, 1)]
    assert set(lengths[0]) == {2} and max(lengths[2]) == number_text.LONGEST
    assert np.mean(lengths[0]) < np.mean(lengths[1]) < np.mean(lengths[2])


@pytest.mark.parametrize(("grows", "first"), [(True, {2}), (False, set(range(3, 11)))])
def test_lists_of_a_course_grow_or_have_any_length(fresh, described, monkeypatch, grows, first):
    lengths = []
    monkeypatch.setattr(
        number_text, "lines", lambda _, length, *__: lengths.append(length) or (["3 1"], ["1 3"])
    )
    number_text.train(fresh(), Course("sorting", 40, captions=1, grows=grows), described)
    assert len(lengths) == 40 and max(lengths) > 5
    assert set(lengths[:4]) <= first and min(lengths) == min(first)


def test_the_learning_rate_rises_stays_and_falls():
    rates = [number_text.rate(100, step) for step in range(100)]
    assert rates[0] == 0.5 and set(rates[1:71]) == {1.0}
    assert rates[-1] == pytest.approx(1 / 30) and np.all(np.diff(rates[70:]) < 0)
    assert [number_text.rate(1, 0), number_text.rate(4, 0)] == [1.0, 1.0]


@pytest.mark.parametrize("task", ["sorting", "copying"])
def test_lines_are_questions_about_lists_and_their_answers(task):
    questions, answers = number_text.lines(Course(task), 5, np.random.default_rng(1))
    assert len(questions) == len(answers) == Course().numbers // 5
    for question, answer in zip(questions, answers, strict=True):
        assert question.startswith(number_text.QUESTIONS[task])
        numbers = given(question)
        assert len(numbers) == 5
        assert answer.split() == (sorted(numbers, key=float) if task == "sorting" else numbers)


def test_sorting_is_asked_for_as_in_the_probe():
    questions, _ = number_text.lines(Course("sorting"), 10, np.random.default_rng(1))
    assert questions[0] == sorting.question(sorting.parse(questions[0]))


def test_no_list_of_the_probe_is_taught():
    drawn, _ = number_text.lines(Course("sorting"), 2, np.random.default_rng(1))
    forbidden = frozenset(tuple(given(question)) for question in drawn[:5])
    taken = Course("sorting"), 2, np.random.default_rng(1), forbidden
    questions, answers = number_text.lines(*taken)
    assert questions == drawn[5:] and len(answers) == len(questions)


# --- training ------------------------------------------------------------------------------------


@pytest.fixture
def fresh(tiny_backbone):
    """A copy whose weights may change."""

    def make():
        model = copy.deepcopy(tiny_backbone.model)
        return backbones.Backbone(model, tiny_backbone.tokenizer, tiny_backbone.image_processor)

    return make


@pytest.fixture
def described(root):
    """Photographs with labels, for captions."""
    return granularity.split(SMOKE).train


@pytest.fixture
def taught(described):
    def teach(backbone, *course):
        number_text.train(backbone, Course(*course), described)
        return backbone.model.state_dict()

    return teach


def test_a_course_follows_from_task_steps_and_seed(fresh, taught):
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    first, again, *others = (
        taught(fresh(), *course)[name]
        for course in (("sorting", 2), ("sorting", 2), ("copying", 2), ("sorting", 3),
                       ("sorting", 2, 1), ("sorting", 2, 0, 20), ("sorting", 2, 0, 50, 4),
                       ("sorting", 2, 0, 50, 8, False), ("sorting", 2, 0, 50, 8, True, True))
    )  # fmt: skip
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    assert not any(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("muon", [False, True])
def test_the_tower_stays_and_the_language_side_learns(fresh, taught, tiny_backbone, muon):
    before = tiny_backbone.model.state_dict()
    after = taught(fresh(), "sorting", 2, 0, 50, 8, True, muon)
    same = {name: torch.equal(before[name], after[name]) for name in before}
    assert all(same[name] for name in same if "visual" in name)
    assert not any(same[name] for name in same if "proj.weight" in name and "visual" not in name)


def test_text_that_is_taught_becomes_likelier(fresh, taught):
    backbone = fresh()
    rng = np.random.default_rng(8)
    held_out = number_text.lines(Course("sorting"), 3, rng)
    before = float(number_text.text_loss(backbone, *held_out))
    taught(backbone, "sorting", 40)
    assert float(number_text.text_loss(backbone, *held_out)) < before / 2


def test_captions_are_taught_along(fresh, taught, described):
    backbone = fresh()
    tokens, _ = batches.frozen_tokens(backbone, batches.Photographs(described, View()))
    labels = described.frame.to_dict("records")
    pairs = [pretraining.conversation(row, np.random.default_rng(5)) for row in labels]
    before = float(pretraining.caption_loss(backbone, tokens, pairs))
    taught(backbone, "sorting", 20)
    assert float(pretraining.caption_loss(backbone, tokens, pairs)) < 0.8 * before


def test_the_loss_is_that_of_the_model_itself(tiny_backbone):
    from realqa_utils.model.encoding import encode

    questions, answers = (
        ["Sort from low to high: 3 1.5", "Sort from low to high: 9"],
        ["1.5 3", "9"],
    )
    batch = encode(tiny_backbone, questions, answers, [None, None])
    with torch.no_grad():
        expected = tiny_backbone.model(**batch).loss
        found = number_text.text_loss(tiny_backbone, questions, answers)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


# --- models and answers, kept on disk ------------------------------------------------------------


@pytest.fixture
def small(root, tiny_backbone, tmp_path_factory):
    """A profile whose model is a folder with the tiny backbone."""
    folder = tmp_path_factory.mktemp("backbone")
    with backbones.quiet():
        tiny_backbone.save(folder, torch.float32)
    return get_profile("smoke", model=str(folder), seeds=(4, 7), train_images=12, test_images=10,
                       resamples=60, workers=1)  # fmt: skip


def test_models_are_made_once_and_load(small, monkeypatch):
    lists = number_text.probe_lists(small, seed=0)
    places = number_text.models(small, lists)
    assert list(places) == [course.name for course in number_text.courses(small)]
    assert places["as shipped"] == [small.model] * 2
    flat = [place for runs in places.values() for place in runs]
    assert len(flat) == 10 and len(set(flat)) == 9  # a text of its own for every seed
    tower = "model.visual.blocks.0.attn.proj.weight"
    states = [backbones.load(place).model.state_dict() for place in flat]
    assert all(torch.equal(state[tower].half(), states[-1][tower].half()) for state in states)
    monkeypatch.setattr(number_text, "train", lambda *_: pytest.fail("trained again"))
    assert number_text.models(small, lists) == places


def test_other_lists_to_be_kept_out_make_another_model(small, monkeypatch):
    made = []
    monkeypatch.setattr(
        number_text, "train", lambda backbone, course, described, forbidden: made.append(course)
    )
    number_text.models(small, number_text.probe_lists(small, seed=0))
    number_text.models(small, number_text.probe_lists(small, seed=1))
    assert len(made) == 16 and {course.seed for course in made} == {4, 7}


def test_answers_are_asked_for_once_and_stand_beside_the_baselines(small, monkeypatch):
    lists = sorting.lists(count=6, length=4, seed=2)
    asked = []

    def checkpoint(backbone, max_new_tokens):
        asked.append(backbone.name)
        return lambda questions: [f"1 2 3 {len(q)}" for q in questions]

    monkeypatch.setattr(number_sorters, "checkpoint", checkpoint)
    places = {"a": [small.model] * 2}
    found = number_text.answers(small, places, lists)
    assert list(found) == [*number_text.BASELINES, "a"]
    assert found["a"]["said"].str.startswith("1 2 3 ").all()
    assert found["a"]["run"].tolist() == [0] * 6 + [1] * 6
    again = number_text.answers(small, places, lists)
    pd.testing.assert_frame_equal(again["a"], found["a"])
    assert asked == [small.model]
    number_text.answers(small, places, lists[:5])
    assert len(asked) == 2


def test_a_model_behind_an_endpoint_sorts_the_same_lists(small, monkeypatch):
    lists = sorting.lists(count=3, length=4, seed=2)
    endpoint = Endpoint("http://localhost/v1", "some-model", "no-key-here")
    monkeypatch.setattr(Endpoint, "from_environment", lambda: endpoint)
    monkeypatch.setattr(
        number_sorters, "at_endpoint", lambda endpoint, cache: number_sorters.copied
    )
    ((model, frame),) = number_text.asked_at_endpoint(small, lists).items()
    assert model == "some-model" and frame["recall"].tolist() == [1.0] * 3


def test_all_models_are_fine_tuned_alike(small, monkeypatch):
    seen = []

    def run_all(todo, cache, workers):
        seen.extend(todo)
        return list(range(len(todo)))

    monkeypatch.setattr(trials, "run_all", run_all)
    data = number_text.splits(small)
    found = number_text.scores(small, {"a": ["x", "X"], "b": ["y", "Y"]}, data)
    assert found == {"a": [0, 1], "b": [2, 3]}
    assert [(t.model, t.recipe.seed) for t in seen] == [("x", 4), ("X", 7), ("y", 4), ("Y", 7)]
    assert len({(t.recipe.steps, t.recipe.learning_rate, t.view) for t in seen}) == 1


def test_sizes_follow_the_profile():
    mini, photos = get_profile("mini"), get_profile("photos")
    assert [c.steps for c in number_text.courses(mini)] == [400, 400, 400, 100, 0]
    assert [len(rows) for rows in number_text.probe_lists(mini, 0).values()] == [200, 200]
    assert [len(rows[0]) for rows in number_text.probe_lists(mini, 0).values()] == [10, 3]
    assert len(number_text.seeds(mini)) == 3 and len(number_text.seeds(photos)) == 2


# --- the claim -----------------------------------------------------------------------------------

SKILL = {
    "sorting, 8 steps": 0.9,
    "copying, 8 steps": 0.3,
    "captions, 8 steps": 0.1,
    "sorting, 2 steps": 0.5,
    "as shipped": 0.0,
}


def sorter(skill: float, seed: int):
    """Says each number in its place with the probability `skill`, else an invented one."""

    def answer(questions):
        rng = np.random.default_rng(seed)
        right = [sorting.in_order(sorting.parse(question)) for question in questions]
        return [" ".join(n if rng.uniform() < skill else "99" for n in row) for row in right]

    return answer


@pytest.fixture(scope="module")
def answers():
    """Of two runs each, the second of which sorts a little worse."""
    lists = sorting.lists(count=40, length=6)

    def asked(skill: float, seed: int) -> pd.DataFrame:
        both = [sorting.probe(sorter(s, seed), lists) for s in (skill, 0.8 * skill)]
        return pd.concat([frame.assign(run=run) for run, frame in enumerate(both)])

    return {model: asked(skill, i) for i, (model, skill) in enumerate(SKILL.items())}


def scored(noise: float, seed: int) -> pd.DataFrame:
    """Made-up readings of 80 photographs."""
    truth, rng = np.random.default_rng(0).uniform(2, 8, 80), np.random.default_rng(seed)
    said = {name: truth + rng.normal(scale=noise, size=80) for name in ("greedy", "expected")}
    return pd.DataFrame({"id": [str(i) for i in range(80)], "target": truth, **said})


@pytest.fixture(scope="module")
def scores():
    """The better a model sorts, the better it scores."""
    return {m: [scored(3 - 3 * skill, seed) for seed in (4, 7)] for m, skill in SKILL.items()}


@pytest.fixture
def data(root):
    return number_text.splits(SMOKE)


def test_points_are_fine_tunings(answers, scores):
    found = sorting_claim.points(answers, scores)
    assert len(found) == 10
    row, frame = found.iloc[1], scores["sorting, 8 steps"][1]
    assert row["greedy"] == pytest.approx(stats.spearmanr(frame["target"], frame["greedy"])[0])
    own = answers["sorting, 8 steps"].query("run == 1")
    assert row["position"] == pytest.approx(own["position"].mean())
    assert row["position"] < found["position"][0]


def test_foresight_is_a_rank_correlation_over_models(answers, scores, data):
    found = sorting_claim.points(answers, scores)
    rows = sorting_claim.foresight(SMOKE, data, found, seed=0)
    greedy = rows[rows["metric"] == "srcc with greedy"].set_index("model")
    expected = stats.spearmanr(found["position"], found["greedy"]).statistic
    assert greedy.loc["position", "estimate"] == pytest.approx(expected) and expected > 0.8
    expected = stats.spearmanr(-found["hallucination"], found["greedy"]).statistic
    assert greedy.loc["hallucination", "estimate"] == pytest.approx(expected)
    assert (rows["low"] <= rows["estimate"] + 1e-9).all()
    assert (rows["estimate"] <= rows["high"] + 1e-9).all()


def test_one_model_ranks_nothing(answers, scores, data):
    found = sorting_claim.points(answers, scores)
    rows = sorting_claim.foresight(SMOKE, data, found[found["model"] == "as shipped"], seed=0)
    assert rows["estimate"].isna().all()


def test_ends_are_chosen_by_sorting_among_courses_of_equal_length(answers):
    models = number_text.comparable(SMOKE)
    assert models == ["sorting, 8 steps", "copying, 8 steps", "captions, 8 steps"]
    assert sorting_claim.ends(answers, models) == ("sorting, 8 steps", "captions, 8 steps")
    assert sorting_claim.ends(answers, models[::-1]) == ("sorting, 8 steps", "captions, 8 steps")
    alike = {model: answers["as shipped"] for model in models}
    assert len(set(sorting_claim.ends(alike, models))) == 2


@pytest.fixture
def judged(answers, scores, data):
    return sorting_claim.verdicts(SMOKE, data, answers, scores, seed=0)


def test_the_best_sorter_is_compared_with_the_worst_and_then_the_others(judged, answers, scores):
    best, worst = "sorting, 8 steps", "captions, 8 steps"
    others = [worst, "copying, 8 steps", "sorting, 2 steps", "as shipped"]
    assert judged["model"].tolist() == [f"{best} minus {m}" for m in others for _ in range(3)]
    assert judged["metric"].tolist() == ["position", "srcc, greedy", "srcc, expected"] * 4
    gap = answers[best]["position"].mean() - answers[worst]["position"].mean()
    assert judged["estimate"][0] == pytest.approx(gap)
    means = [
        np.mean([statistics.srcc(f["target"], f["greedy"]) for f in scores[m]])
        for m in (best, worst)
    ]
    assert judged["estimate"][1] == pytest.approx(means[0] - means[1])
    assert set(judged["verdict"]) == {"holds"} and sorting_claim.decide(judged) == "holds"


def test_a_gap_in_sorting_is_that_of_a_plain_bootstrap(answers):
    a, b = answers["sorting, 8 steps"], answers["sorting, 2 steps"]
    found = sorting_claim.sorting_gap(a, b, seed=0, resamples=4000)
    gaps = (a["position"] - b["position"]).to_numpy().reshape(2, 40)
    rows = np.random.default_rng(3).integers(40, size=(4000, 40))
    ends = np.quantile(gaps[:, rows].mean(2), (0.025, 0.975))  # over both runs
    assert (found.low, found.high) == pytest.approx(ends, abs=0.01)
    assert (found.estimate, found.n) == (pytest.approx(gaps.mean()), 40)


def test_sorters_that_cannot_be_told_apart_decide_nothing(answers, scores, data):
    alike = {model: answers["as shipped"] for model in scores}
    judged = sorting_claim.verdicts(SMOKE, data, alike, scores, seed=0)
    assert judged["estimate"][0] == 0 and sorting_claim.decide(judged) == "undecided"


def test_a_better_sorter_that_scores_worse_makes_the_claim_fail(answers, scores, data):
    upside_down = dict(zip(scores, reversed(scores.values()), strict=True))
    judged = sorting_claim.verdicts(SMOKE, data, answers, upside_down, seed=0)
    assert sorting_claim.decide(judged) == "fails"


def test_everything_is_shown_saved_and_said(answers, scores, data, judged):
    short = {m: sorting.probe(sorter(s, 0), sorting.lists(9, 2)) for m, s in SKILL.items()}
    table = sorting_claim.table({6: answers, 2: short}, 0, 0, SMOKE.resamples)
    shown = sorting_claim.shown(table)
    assert shown.loc[("the paper's, not comparable", "Qwen2-VL-7B"), "accuracy"] == "0.968"
    assert shown.loc[("ours", "as shipped"), "position"].startswith("0.000 [")
    found = sorting_claim.points(answers, scores)
    foreseen = sorting_claim.foresight(SMOKE, data, found, seed=0)
    by_model = sorting_claim.scores_table(SMOKE, data, scores, seed=0)
    assert len(by_model) == 10 and set(by_model["reading"]) == {"greedy", "expected"}
    figures = {"": sorting_plots.plot_sorters(table),
               "scatter": sorting_plots.plot_foresight(found, table, by_model)}  # fmt: skip
    tables = {"": table, "scores": by_model, "foresight": foreseen, "verdicts": judged}
    sorting_claim.save(SMOKE, data, tables, figures, results.Stopwatch())
    folder = results.figure_dir("smoke")
    names = {path.name for path in folder.glob("04_*")}
    assert {"04_number_sorting.png", "04_number_sorting_scatter.png"} <= names and len(names) == 12
    kinds = [set(pd.read_csv(folder / f"04_number_sorting{part}.csv")["dataset"])
             for part in ("", "_short")]  # fmt: skip
    assert kinds == [{"40 lists of 6 decimals"}, {"9 lists of 2 decimals"}]
    assert len(comparison.beside(3, "smoke", folder.parent)) > 18
    record = json.loads((folder / "04_number_sorting.json").read_text())
    assert record["n"] == 40 and record["seeds"] == [4, 7]
    (claim,) = results.claims("smoke").itertuples()
    assert (claim.claim, claim.notebook, claim.verdict) == (sorting_claim.CLAIM, "04", "holds")
    assert claim.estimate == pytest.approx(judged["estimate"][1], rel=1e-5)
    text = sorting_claim.summary(table, judged, foreseen)
    assert "The claim: holds." in text and "Rank correlation of position" in text
