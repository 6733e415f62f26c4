"""The sorting probe on hand-made answers, by brute force, and on whatever a model may write."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import web_endpoint
from hypothesis import example, given
from hypothesis import strategies as st
from web_endpoint import KEY, at, completion, refuses

from realqa_utils.number_sorting import number_sorters, sorting
from realqa_utils.number_sorting.sorting import canonical, measure, parse, question
from realqa_utils.records import results

serve = web_endpoint.serve  # a real server that plays a script

GIVEN = ["3.5", "1", "10", "2.25", "7.07"]
RIGHT = ["1", "2.25", "3.5", "7.07", "10"]
NUMBERS = st.integers(100, 1000).map(lambda n: canonical(f"{n / 100:.2f}"))
LISTS = st.lists(NUMBERS, min_size=1, max_size=12)


# --- the lists -----------------------------------------------------------------------------------


def test_lists_are_decimals_from_1_to_10_as_they_are_written():
    made = sorting.lists(count=300, length=10, seed=3)
    flat = [number for row in made for number in row]
    assert len(made) == 300 and {len(row) for row in made} == {10}
    assert all(1 <= float(n) <= 10 and n == f"{float(n):g}" for n in flat)
    assert max(len(n.partition(".")[2]) for n in flat) == 2
    assert len(set(flat)) > 850  # of 901: all are drawn from, evenly
    assert np.mean([float(n) for n in flat]) == pytest.approx(5.5, abs=0.15)


def test_lists_follow_from_the_seed():
    assert sorting.lists(seed=1) == sorting.lists(seed=1) != sorting.lists(seed=2)
    assert len(sorting.lists()) == 200


def test_the_question_is_the_papers():
    assert question(["3.5", "1"]) == "Sort from low to high: 3.5 1"


# --- what an answer says -------------------------------------------------------------------------

WRITTEN = {
    "commas": "1, 2.25, 3.5, 7.07, 10",
    "no blanks": "1,2.25,3.5,7.07,10",
    "blanks": "1 2.25 3.5 7.07 10",
    "a sentence": "The sorted list is 1, 2.25, 3.5, 7.07 and 10.",
    "a closing full stop": "1 2.25 3.5 7.07 10.",
    "lines": "1\n2.25\n3.5\n7.07\n10\n",
    "lines apart": "1\n\n2.25\n\n3.5\n\n7.07\n\n10",
    "windows lines": "1\r\n2.25\r\n3.5\r\n7.07\r\n10",
    "brackets": "[1, 2.25, 3.5, 7.07, 10]",
    "quotes": "['1', \"2.25\", '3.5', `7.07`, “10”]",
    "signs of order": "1 < 2.25 <= 3.5 ≤ 7.07 → 10",
    "latex": r"$1 \leq 2.25 \leq 3.5 < 7.07 \le 10$",
    "boxed": r"\boxed{1, 2.25, 3.5, 7.07, 10}",
    "bold": "**1**, **2.25**, **3.5**, **7.07**, **10**",
    "italics": "_1_ _2.25_ _3.5_ _7.07_ _10_",
    "semicolons": "1; 2.25; 3.5; 7.07; 10;",
    "pipes": "| 1 | 2.25 | 3.5 | 7.07 | 10 |",
    "hyphens": "1-2.25-3.5-7.07-10",
    "bullets": "- 1\n- 2.25\n- 3.5\n- 7.07\n- 10",
    "bullets that touch": "-1\n-2.25\n-3.5\n-7.07\n-10",
    "numbered": "1. 1\n2. 2.25\n3. 3.5\n4. 7.07\n5. 10",
    "numbered in brackets": "(1) 1\n(2) 2.25\n(3) 3.5\n(4) 7.07\n(5) 10",
    "two places": "1.00, 2.25, 3.50, 7.07, 10.00",
    "zeros before": "01.0, 02.25, 03.5, 07.07, 10",
    "a code fence": "```\n1, 2.25, 3.5, 7.07, 10\n```",
    "code and its output": "```python\nprint(sorted([3.5, 1, 10, 2.25, 7.07]))\n```\n"
    "Output:\n```\n[1, 2.25, 3.5, 7.07, 10]\n```",
    "json": '{"sorted": [1, 2.25, 3.5, 7.07, 10]}',
    "the question restated": "Sorting 3.5, 1, 10, 2.25, 7.07 gives 1, 2.25, 3.5, 7.07, 10.",
    "restated without a word": "3.5 1 10 2.25 7.07\n\n1 2.25 3.5 7.07 10",
    "restated in brackets": "[3.5, 1, 10, 2.25, 7.07]\n[1, 2.25, 3.5, 7.07, 10]",
    "restated in other zeros": "3.50 1.00 10.00 2.25 7.07 -> 1.00 2.25 3.50 7.07 10.00",
    "restated at the end": "1, 2.25, 3.5, 7.07, 10\nThe original list: 3.5, 1, 10, 2.25, 7.07",
    "a remark after": "1, 2.25, 3.5, 7.07, 10. The smallest is 1, the largest 10.",
    "a count before": "Here are the 5 numbers sorted: 1, 2.25, 3.5, 7.07, 10",
    "steps": "Step 1: 1, 3.5, 10, 2.25, 7.07\nStep 2: 1, 2.25, 10, 3.5, 7.07\n"
    "Final: 1, 2.25, 3.5, 7.07, 10",
    "thoughts": "<think>10, 7.07, 3.5, 2.25, 1? No: 1, 2, 3, 4, 5, 6</think>1 2.25 3.5 7.07 10",
    "thoughts whose beginning is lost": "so 10 7.07 3.5 2.25 1 1 1\n</think>\n1 2.25 3.5 7.07 10",
    "thoughts in capitals": "<THINKING>9 9 9 9 9 9 9</THINKING> 1 2.25 3.5 7.07 10",
}


@pytest.mark.parametrize("answer", WRITTEN.values(), ids=WRITTEN)
def test_the_same_list_however_it_is_written(answer):
    assert parse(answer, GIVEN) == RIGHT


@pytest.mark.parametrize(
    ("answer", "said"),
    {
        "": [],
        "I cannot sort these.": [],
        "the 1st, v2 and 3.2.1": [],
        "<think>1, 2.25, 3.5": [],
        "1, 2.25 <think>or 3": ["1", "2.25"],
        "the smallest is 1": ["1"],
        "3.5, 1, 10, 2.25, 7.07": GIVEN,  # merely copied
        "3.5, 1, 10, 2.25": GIVEN[:4],
        "3.5 1 10 2.25 7.07 8.8": ["8.8"],
        ".5 and 0.50 and 1.": ["0.5", "0.5", "1"],
        "1,5": ["1", "5"],
        "٣ ５": [],  # digits of other scripts
    }.items(),
)
def test_what_is_answered_when_it_is_not_the_list(answer, said):
    assert parse(answer, GIVEN) == said


def test_a_given_list_that_is_sorted_already_is_an_answer():
    assert parse("Sorting 1, 2, 3 gives: 1, 2, 3", ["1", "2", "3"]) == ["1", "2", "3"]
    assert parse("1, 2, 3, 4", ["1", "2", "3"]) == ["1", "2", "3", "4"]


@given(LISTS, st.sampled_from([" ", ", ", ",", "; ", "\n", "\n- ", " < ", " and ", " | "]))
def test_every_list_comes_back(numbers, between):
    for text in (between.join(numbers), f"Sorted: [{between.join(numbers)}]\nDone."):
        assert parse(text) == numbers


@given(LISTS, st.integers(0, 99))
def test_a_restated_question_before_the_answer_never_counts(numbers, seed):
    shuffled = random.Random(seed).sample(numbers, len(numbers))
    right = sorting.in_order(numbers)
    for between in (" gives ", "] -> ["):
        assert parse(" ".join(shuffled) + between + " ".join(right), shuffled) == right
    if shuffled != right:  # else it cannot be told from a list that is too long
        assert parse(" ".join(shuffled + right), shuffled) == right


BITS = st.sampled_from(
    ["1", "2.5", "10.", ".", ",", " ", "\n", "[", "]", "```", "<think>", "</think>", "and", "1.\t",
     "-", "_", "x", "(3) ", "é", "٣", "²", "\0", "=", "e9"]
)  # fmt: skip


@given(
    st.one_of(st.text(), st.lists(BITS).map("".join), st.from_regex(sorting._LABEL)),
    st.one_of(LISTS, st.lists(st.text(max_size=4), max_size=0)),
)
@example("9" * 5000 + "." + "9" * 5000, ["1"])
@example("1. " * 5000, ["1"])
@example("<think>" * 5000, ["1"])
def test_nothing_that_a_model_writes_raises(text, numbers):
    said = parse(text, numbers)
    assert all(canonical(number) == number and float(number) >= 0 for number in said)
    if numbers:
        found = measure(numbers, said)
        assert all(0 <= found[name] <= 1 for name in ("accuracy", "position", "recall"))
        assert 0 <= found["invented"] <= found["answered"] == len(said)


def test_a_long_answer_takes_no_long_time():
    text = "1.5, " * 200_000
    assert len(parse(text, ["1.5"] * 10)) == 200_000


# --- measures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (RIGHT, (1, 1, 1, 5, 0)),
        (GIVEN, (0, 0, 1, 5, 0)),  # a copy: 3.5 1 10 2.25 7.07 against 1 2.25 3.5 7.07 10
        (RIGHT[::-1], (0, 0.2, 1, 5, 0)),  # the one in the middle
        ([], (0, 0, 0, 0, 0)),
        (RIGHT[:3], (0, 0.6, 0.6, 3, 0)),
        (RIGHT[1:], (0, 0, 0.8, 4, 0)),  # all one place too early
        ([*RIGHT, "11"], (0, 1, 1, 6, 1)),
        (["1", "2.25", "3.6", "7.07", "10"], (0, 0.8, 0.8, 5, 1)),
        (["1", "1", "1", "1", "1"], (0, 0.2, 0.2, 5, 0)),  # repeated, but given
        (["8", "9"], (0, 0, 0, 2, 2)),
    ],
)
def test_an_answer_by_hand(said, expected):
    found = measure(GIVEN, said)
    names = ("accuracy", "position", "recall", "answered", "invented")
    assert tuple(found[name] for name in names) == pytest.approx(expected)


def test_a_number_given_twice_must_appear_twice():
    given_twice = ["2", "1", "2", "3"]
    assert measure(given_twice, ["1", "2", "3"])["recall"] == 0.75
    assert measure(given_twice, ["1", "2", "2", "3"])["accuracy"] == 1


@given(LISTS, st.lists(NUMBERS, max_size=15))
def test_measures_by_brute_force(given_list, said):
    found = measure(given_list, said)
    left, hits = list(given_list), 0
    for number in said:
        if number in left:
            left.remove(number)
            hits += 1
    assert found["recall"] == pytest.approx(hits / len(given_list))
    assert found["invented"] == len([n for n in said if n not in set(given_list)])
    assert found["accuracy"] == (
        Counter(said) == Counter(given_list) and said == sorted(said, key=float)
    )


# --- probe and table -----------------------------------------------------------------------------


def perfect(questions):
    return [" ".join(sorting.in_order(parse(q))) for q in questions]


def test_any_callable_can_be_probed():
    made = sorting.lists(count=20, length=6)
    frame = sorting.probe(perfect, made)
    assert frame["accuracy"].tolist() == [1.0] * 20
    assert frame["given"].tolist() == [" ".join(row) for row in made]
    assert frame["said"].tolist() == frame["text"].tolist()


def test_an_answer_is_due_to_every_question():
    with pytest.raises(ValueError, match="1 answers to 3 questions"):
        sorting.probe(lambda questions: ["1"], sorting.lists(count=3))


@pytest.fixture(scope="module")
def answers():
    made = sorting.lists(count=50, length=5, seed=1)
    rng = np.random.default_rng(0)

    def sloppy(questions):
        texts = perfect(questions)
        return [t if rng.uniform() < 0.5 else t[:-3] + " 11 12" for t in texts]

    sorters = {"perfect": perfect, "sloppy": sloppy, "silent": lambda q: [""] * len(q)}
    return {name: sorting.probe(answer, made) for name, answer in sorters.items()}


def test_the_table_is_tidy_with_intervals_over_lists(answers):
    found = sorting.table(answers, list_seed=1, seed=0, resamples=200)
    assert list(found.columns) == list(results.TABLE_COLUMNS)
    assert len(found) == 3 * 4 and set(found["dataset"]) == {"50 lists of 5 decimals"}
    assert set(found["n"]) == {50} and set(found["seeds"]) == {(1,)}
    rows = found.set_index(["model", "metric"])
    assert rows.loc[("perfect", "accuracy"), ["estimate", "low", "high"]].tolist() == [1, 1, 1]
    sloppy = rows.loc["sloppy"]
    assert ((sloppy["low"] < sloppy["estimate"]) & (sloppy["estimate"] < sloppy["high"])).all()
    frame = answers["sloppy"]
    assert sloppy.loc["position", "estimate"] == pytest.approx(frame["position"].mean())
    share = frame["invented"].sum() / frame["answered"].sum()
    assert sloppy.loc["hallucination", "estimate"] == pytest.approx(share)


def test_an_interval_is_that_of_a_plain_bootstrap(answers):
    frame = answers["sloppy"]
    rng = np.random.default_rng(5)
    rows = rng.integers(50, size=(4000, 50))
    for metric in ("recall", "hallucination"):
        top = frame["invented" if metric == "hallucination" else metric].to_numpy()
        below = frame["answered"].to_numpy() if metric == "hallucination" else np.ones(50)
        ends = np.quantile(top[rows].sum(1) / below[rows].sum(1), (0.025, 0.975))
        found = sorting.estimate(frame, metric, seed=0, resamples=4000)
        assert (found.low, found.high) == pytest.approx(ends, abs=0.015)


def test_a_silent_model_invents_nothing_that_could_be_counted(answers):
    found = sorting.estimate(answers["silent"], "hallucination", seed=0, resamples=50)
    assert np.isnan([found.estimate, found.low, found.high]).all() and found.dropped == 50
    assert sorting.estimate(answers["silent"], "recall", seed=0, resamples=50).estimate == 0


# --- who sorts -----------------------------------------------------------------------------------


def test_baselines_give_back_what_was_given():
    made = sorting.lists(count=30, length=6, seed=5)
    copied = sorting.probe(number_sorters.copied, made)
    assert copied["said"].tolist() == copied["given"].tolist()
    shuffled = sorting.probe(number_sorters.shuffled(1), made)
    assert (shuffled["recall"] == 1).all() and (shuffled["invented"] == 0).all()
    assert shuffled["position"].mean() == pytest.approx(1 / 6, abs=0.1)
    assert (shuffled["said"] != shuffled["given"]).mean() > 0.9
    again = sorting.probe(number_sorters.shuffled(1), made)
    assert again["said"].equals(shuffled["said"])


def test_a_checkpoint_answers_as_its_own_generation_does(tiny_backbone):
    questions = [sorting.question(row) for row in sorting.lists(count=3, length=3)]
    said = number_sorters.checkpoint(tiny_backbone, max_new_tokens=5, batch_size=2)(questions)
    assert len(said) == 3
    for asked, text in zip(questions, said, strict=True):
        messages = [{"role": "user", "content": asked}]
        tokens = tiny_backbone.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = tiny_backbone.model.generate(**tokens, max_new_tokens=5, do_sample=False)
        new = out[0, tokens["input_ids"].shape[1] :]
        assert tiny_backbone.tokenizer.decode(new, skip_special_tokens=True) == text


def sorts(handler, request):
    question = request["messages"][0]["content"]
    numbers = sorting.in_order(question.removeprefix(sorting.QUESTION).split())
    handler.reply(200, completion(f"<think>{numbers[0]}?</think> [{', '.join(numbers)}]"))


@pytest.fixture
def quick():
    return {"sleep": lambda seconds: None, "retries": 1}


def test_an_endpoint_is_asked_in_text_and_only_once(serve, tmp_path, quick):
    made = sorting.lists(count=4, length=3)
    server = serve(*[sorts] * 4)
    answer = number_sorters.at_endpoint(at(server), tmp_path / "cache", **quick)
    assert sorting.probe(answer, made)["accuracy"].tolist() == [1.0] * 4
    path, request = server.requests[0]
    assert path == "/v1/chat/completions" and server.keys == [f"Bearer {KEY}"] * 4
    assert isinstance(request["messages"][0]["content"], str) and request["temperature"] == 0
    assert {r["messages"][0]["content"] for _, r in server.requests} == set(map(question, made))
    again = sorting.probe(answer, made)
    assert again["accuracy"].tolist() == [1.0] * 4 and len(server.requests) == 4


def test_what_an_endpoint_refuses_is_no_answer_and_is_asked_again(serve, tmp_path, quick):
    made = sorting.lists(count=3, length=3)
    server = serve(sorts, refuses(503), refuses(503), sorts, sorts, sorts)
    answer = number_sorters.at_endpoint(at(server), tmp_path, concurrency=1, **quick)
    with pytest.raises(ConnectionError, match="1 of 3 questions have no answer.*503"):
        answer([question(row) for row in made])
    assert sorting.probe(answer, made)["accuracy"].tolist() == [1.0] * 3
    assert len(server.requests) == 5  # two were kept


def test_a_key_never_reaches_a_kept_answer(serve, tmp_path, quick):
    server = serve(lambda handler, request: handler.reply(200, completion(f"1 {KEY} 2")))
    answer = number_sorters.at_endpoint(at(server), tmp_path, **quick)
    assert KEY not in answer(["Sort from low to high: 2 1"])[0]
    (kept,) = tmp_path.glob("*.json")
    assert KEY not in kept.read_text()
