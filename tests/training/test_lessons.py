"""Lessons: which question a row is asked, and what a batch then teaches."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from realqa_utils.datasets import mini
from realqa_utils.forms import taxonomy
from realqa_utils.forms.chains import CHAINS, STAGE_2
from realqa_utils.forms.conversations import ALL_SETS, ATTRIBUTE_FORMS, DIRECT, MIX, STAGE_1
from realqa_utils.forms.scores import format_score
from realqa_utils.images.views import View
from realqa_utils.model import backbone
from realqa_utils.model.encoding import IGNORED
from realqa_utils.scoring import labelling
from realqa_utils.training import lessons
from realqa_utils.training.fine_tuning import Collator, train
from realqa_utils.training.lessons import AttributeLesson, ScoreLesson
from realqa_utils.training.recipes import Recipe

RECIPE = Recipe(steps=1, form="all", language="full", vision="full")
BY_QUESTION = {form.question: form for form in ATTRIBUTE_FORMS.values()}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return mini.build("mini-koniq", 12, 0, tmp_path_factory.mktemp("world"))


def without(table, *columns):
    return replace(table, frame=table.frame.drop(columns=list(columns)))


# --- which question ----------------------------------------------------------------------------


def test_the_questions_follow_from_the_seed_and_the_rows(table):
    first, again, other = (AttributeLesson(table, ALL_SETS, seed) for seed in (3, 3, 4))
    rows = [5, 0, 7, 2, 11, 4]
    questions, answers = first.conversations(rows)
    first.conversations([1, 2])  # what was asked in between changes nothing
    np.random.seed(0)
    assert first.conversations(rows) == again.conversations(rows) == (questions, answers)
    assert again.conversations(np.array(rows)) == (questions, answers)
    assert other.conversations(rows)[0] != questions
    assert first.conversations(rows[::-1])[0] != questions[::-1]  # the batch decides, not the row


def test_forms_come_up_evenly(table):
    """Five standard deviations of a binomial count on either side."""
    lesson, rng = AttributeLesson(table, ALL_SETS, 0), np.random.default_rng(0)
    batches = [rng.permutation(12)[:8] for _ in range(300)]
    counts = Counter(q for rows in batches for q in lesson.conversations(rows)[0])
    assert set(counts) == {form.question for form in ALL_SETS}
    mean = 300 * 8 / 13
    assert all(abs(count - mean) < 5 * np.sqrt(mean) for count in counts.values())


def test_every_answer_tells_the_labels_of_its_own_row(table):
    lesson = AttributeLesson(table, ALL_SETS, 1)
    for start in range(6):
        rows = list(range(start, 12, 2))
        for row, question, answer in zip(rows, *lesson.conversations(rows), strict=True):
            form, labels = BY_QUESTION[question], table.frame.iloc[row]
            parsed = form.parse(answer)
            assert parsed.missing == {}
            assert parsed.values == {a.name: labels[a.name] for a in form.attributes}
            assert parsed.reasons == {
                a.name: labels[f"{a.name}_reason"] for a in form.attributes if a.kind == "score"
            }


@pytest.mark.parametrize("name", list(STAGE_1))
def test_a_recipe_names_its_forms(table, name):
    lesson = lessons.of(replace(RECIPE, form=name, seed=8), table)
    assert isinstance(lesson, AttributeLesson) and lesson.seed == 8
    assert lesson.forms == STAGE_1[name]
    assert len(STAGE_1["all"]) == 13


def test_a_score_is_asked_in_one_form(table):
    lesson = lessons.of(replace(RECIPE, form="direct", digits=2), table)
    assert isinstance(lesson, ScoreLesson)
    questions, answers = lesson.conversations([2, 0])
    targets = table.targets[[2, 0]]
    assert len(set(questions)) == 1
    assert [
        abs(float(a.split()[-1][:3]) - t) <= 0.05 for a, t in zip(answers, targets, strict=True)
    ]


# --- chains of thought -------------------------------------------------------------------------

BY_STEPS = {form.question: form for form in (DIRECT, *CHAINS.values())}


@pytest.mark.parametrize("name", list(STAGE_2))
def test_a_recipe_names_the_forms_of_a_score(table, name):
    lesson = lessons.of(replace(RECIPE, form=name, seed=8, digits=2), table)
    assert isinstance(lesson, ScoreLesson) and (lesson.seed, lesson.digits) == (8, 2)
    assert lesson.forms == STAGE_2[name]
    asked = {q for start in range(12) for q in lesson.conversations(range(start, 12))[0]}
    assert asked == {form.question for form in STAGE_2[name]}


def test_chains_tell_the_labels_and_the_score_of_their_own_row(table):
    lesson = ScoreLesson(table, STAGE_2["direct_and_cot"], 3, seed=1)
    for start in range(6):
        rows = list(range(start, 12, 2))
        for row, question, answer in zip(rows, *lesson.conversations(rows), strict=True):
            form, labels = BY_STEPS[question], table.frame.iloc[row]
            score = format_score(table.targets[row], 3)
            assert answer[slice(*form.score_span(answer))] == score
            if form is not DIRECT:
                parsed, said = form.parse(answer)
                assert parsed.missing == {} and said.text == score
                assert parsed.values == {a.name: labels[a.name] for a in taxonomy.ATTRIBUTES}
                assert parsed.reasons["composition"] == labels["composition_reason"]


def test_forms_of_a_score_follow_from_the_seed_and_come_up_evenly(table):
    """Five standard deviations of a binomial count on either side."""
    lesson, again, other = (
        ScoreLesson(table, STAGE_2["direct_and_cot"], 3, seed) for seed in (0, 0, 1)
    )
    rng = np.random.default_rng(0)
    batches = [rng.permutation(12)[:8] for _ in range(300)]
    questions = [lesson.conversations(rows)[0] for rows in batches]
    counts = Counter(question for batch in questions for question in batch)
    assert set(counts) == set(BY_STEPS)
    mean = 300 * 8 / 3
    assert all(abs(count - mean) < 5 * np.sqrt(mean * 2 / 3) for count in counts.values())
    assert [again.conversations(rows)[0] for rows in batches] == questions
    assert [other.conversations(rows)[0] for rows in batches] != questions


@pytest.mark.parametrize("name", ["cot_natural", "cot_regular", "direct_and_cot"])
@pytest.mark.parametrize("lost", [None, np.nan])
def test_without_all_labels_a_photograph_is_asked_directly(table, name, lost):
    frame = table.frame.astype({"exposure": object, "composition_reason": object})
    frame.loc[[2, 7], "exposure"] = lost
    frame.loc[7, "composition_reason"] = lost
    frame.loc[9, "composition_reason"] = lost
    lesson = lessons.of(replace(RECIPE, form=name), replace(table, frame=frame))
    asked = [set() for _ in range(12)]
    for start in range(20):
        rows = [(start + row) % 12 for row in range(12)]
        for row, question in zip(rows, lesson.conversations(rows)[0], strict=True):
            asked[row].add(question)
    whole = {form.question for form in STAGE_2[name]}
    assert all(
        asked[row] == ({DIRECT.question} if row in (2, 7, 9) else whole) for row in range(12)
    )


@pytest.mark.parametrize("name", ["cot_natural", "cot_regular", "direct_and_cot"])
def test_chains_need_labels(table, name):
    recipe = replace(RECIPE, form=name)
    with pytest.raises(ValueError, match=r"mini-koniq .*chain of thought: .*'exposure'.* missing"):
        lessons.of(recipe, without(table, "exposure"))
    blank = replace(table, frame=table.frame.assign(saturation=np.nan))
    with pytest.raises(ValueError, match="mini-koniq: no photograph has all labels"):
        lessons.of(recipe, blank)
    wrong = replace(table, frame=table.frame.assign(saturation=3))
    with pytest.raises(ValueError, match="mini-koniq/0/000000': saturation: 3 is none of 0 to 2"):
        lessons.of(recipe, wrong)
    lessons.of(replace(recipe, form="direct"), blank)


@pytest.mark.parametrize("digits", [1, 3, 4])
@pytest.mark.parametrize("name", list(STAGE_2))
def test_digit_places_are_where_the_digits_are(tiny_backbone, table, name, digits):
    collator = Collator(tiny_backbone, table, replace(RECIPE, form=name, digits=digits), View())
    rows, decode = [4, 9, 1, 0, 7, 11], tiny_backbone.tokenizer.decode
    batch = collator(rows)
    assert batch["targets"].tolist() == table.targets[rows].tolist()
    questions, answers = collator.lesson.conversations(rows)
    for i, (row, question, answer) in enumerate(zip(rows, questions, answers, strict=True)):
        form, places = BY_STEPS[question], batch["digit_places"][i]
        number = format_score(table.targets[row], digits)
        assert [decode([t]) for t in batch["input_ids"][i, places]] == list(number.replace(".", ""))
        assert (batch["labels"][i, places] == batch["input_ids"][i, places]).all()
        before, after = batch["input_ids"][i, : places[0]], batch["input_ids"][i, places[-1] + 1 :]
        assert decode(before).endswith(answer[: form.score_span(answer)[0]])
        assert decode(after).startswith(f"{form.after}<|im_end|>")
    if name == "direct_and_cot":
        assert len(set(questions)) == 3
        assert len(set(batch["digit_places"][:, 0].tolist())) > 2


@pytest.mark.parametrize("name", list(STAGE_2))
def test_two_steps_in_every_form(tiny_tokenizer, table, tmp_path, name):
    """With each term of the loss that looks at digits, wherever they are."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = backbone.new_mini(tiny_tokenizer)
        before = {key: value.clone() for key, value in fresh.model.state_dict().items()}
        recipe = Recipe(
            2, form=name, batch_size=6, learning_rate=1e-3, language="full", vision="frozen",
            opinion_spread=0.5, expectation_weight=0.1, number_token_weight=0.1,
        )  # fmt: skip
        trained = train(fresh, table, recipe, View(), tmp_path)
    moved = [
        key for key, value in trained.model.state_dict().items() if (value != before[key]).any()
    ]
    assert moved and all(value.isfinite().all() for value in trained.model.state_dict().values())


# --- tables that lack labels -------------------------------------------------------------------


def test_a_table_without_a_label_is_refused_by_name(table):
    with pytest.raises(ValueError, match=r"mini-koniq .*\['exposure', 'level_shot'\] are missing"):
        AttributeLesson(without(table, "level_shot", "exposure"), STAGE_1["mix_low_first"], 0)
    with pytest.raises(ValueError, match="composition_reason"):
        lessons.of(RECIPE, without(table, "composition_reason"))


@pytest.mark.parametrize(
    ("column", "label", "message"),
    [
        ("exposure", 5, "exposure: 5 is none of 0 to 4"),
        ("composition", np.nan, "composition: nan is none of 1 to 10"),
        ("subject_background", np.nan, "subject_background: nan is no text"),
    ],
)
def test_a_label_that_cannot_be_is_refused_before_training(table, column, label, message):
    labels = table.frame[column].astype(object)
    labels[7] = label
    wrong = replace(table, frame=table.frame.assign(**{column: labels}))
    with pytest.raises(ValueError, match=f"mini-koniq/0/000007': {message}"):
        AttributeLesson(wrong, STAGE_1["mix"], 0)
    AttributeLesson(wrong, [ATTRIBUTE_FORMS["saturation"]], 0)


def test_only_what_the_forms_ask_for_is_needed(table):
    low = without(table, *(name for name in taxonomy.SCORED[:-3]), "subject_background")
    lesson = AttributeLesson(low, [ATTRIBUTE_FORMS["low_level"]], 0)
    (answer,) = lesson.conversations([0])[1]
    assert answer.startswith("Image Clarity: ")
    lessons.of(replace(RECIPE, form="direct"), low)


# --- batches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(STAGE_1))
def test_labels_are_the_answer_and_its_end(tiny_backbone, table, name):
    collator = Collator(tiny_backbone, table, replace(RECIPE, form=name), View())
    rows = [4, 9, 1, 0]
    batch = collator(rows)
    assert "digit_places" not in batch and "targets" not in batch
    asked = batch["input_ids"].masked_fill(batch["labels"] != IGNORED, 0)
    for row, question, answer in zip(range(4), *collator.lesson.conversations(rows), strict=True):
        labels = batch["labels"][row]
        said = tiny_backbone.tokenizer.decode(labels[labels != IGNORED])
        assert said == f"{answer}<|im_end|>"
        assert question in tiny_backbone.tokenizer.decode(asked[row])
    again = collator(rows)
    assert all((batch[key] == again[key]).all() for key in batch)


def test_every_form_can_be_taught_in_the_tokens_that_asking_allows(tiny_backbone, table):
    """An answer cut off would lose its last attributes."""
    tokenizer = backbone.load("mini").tokenizer
    answers = [MIX.answer(row) for _, row in table.frame.iterrows()]
    assert max(map(len, tokenizer(answers).input_ids)) < labelling.MAX_TOKENS
