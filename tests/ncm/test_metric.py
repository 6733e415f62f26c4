"""NCM against plain loops in float64, by hand, over micro-batches and over two processes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from two_processes_ncm import BATCHES, DIGITS, IDS, measure, rows

from realqa_utils.forms.conversations import DIRECT
from realqa_utils.forms.scores import place_values
from realqa_utils.model.backbone import MINI_FOLDER
from realqa_utils.model.encoding import IGNORED, encode
from realqa_utils.ncm.metric import (
    NCM,
    READINGS,
    digit_contributions,
    expected_score,
    squared_errors,
    squared_errors_without_truth,
)
from realqa_utils.training import losses

torch.set_num_threads(1)
MINI = AutoTokenizer.from_pretrained(MINI_FOLDER)
FINAL = "The final score is <{}>."


# --- an independent implementation -------------------------------------------------------------


def brute(logits, labels, places, ids) -> dict[str, float]:
    """Everything by loops over Python floats; the means over the rows with a score."""
    each, counts = [], {"scored": 0, "skipped": 0, "not_finite": 0}
    for row, columns in enumerate(places.tolist()):
        if min(columns) < 0:
            counts["skipped"] += 1
            continue
        heard = [logits[row, c - 1].double().tolist() for c in columns]
        if not all(math.isfinite(x) for token in heard for x in token):
            counts["not_finite"] += 1
            continue
        counts["scored"] += 1
        digits = [ids.index(labels[row, c].item()) for c in columns]
        each.append(brute_row(heard, digits, ids))
    names = each[0] if each else {}
    return counts | {n: math.fsum(row[n] for row in each) / len(each) for n in names}


def brute_row(heard: list[list[float]], digits: list[int], ids: list[int]) -> dict[str, float]:
    errors, stars, published, entropies = [], [], [], []
    for level, (token, truth) in enumerate(zip(heard, digits, strict=True)):
        place = 10.0**-level
        top = max(token)
        mass = [math.exp(x - top) for x in token]
        entropies.append(math.log(math.fsum(mass)) + top - token[ids[truth]])
        z = [token[i] for i in ids]
        p = [math.exp(x - max(z)) for x in z]
        others = [z[d] for d in range(10) if d != truth]
        q = [math.exp(x - max(others)) for x in z]
        without = [d for d in range(10) if d != truth]
        errors.append(place * (sum(d * p[d] for d in range(10)) / sum(p) - truth))
        published.append(place * (sum(d * p[d] for d in without) / sum(p) - truth))
        stars.append(place * (sum(d * q[d] for d in without) / sum(q[d] for d in without) - truth))
    total = sum(errors)
    return {
        "ncm": total**2,
        "ncm_star": sum(stars) ** 2,
        "ncm_star_as_published": sum(published) ** 2,
        "digit_ce": sum(entropies) / len(digits),
        **{f"ncm_digit_{i}": total * e for i, e in enumerate(errors, 1)},
        **{f"digit_ce_{i}": e for i, e in enumerate(entropies, 1)},
    }


def assert_same(values, expected, tolerance: float = 1e-6) -> None:
    assert set(values) == set(expected)
    for name, value in expected.items():
        assert float(values[name]) == pytest.approx(float(value), abs=tolerance, rel=1e-9), name


def some_rows(digits: int, batch: int, scale: float, seed: int):
    """Logits (batch, M + 3, 23), labels, places (about one row in four without) and ids."""
    generator = torch.Generator().manual_seed(seed)
    n = digits + 3
    logits = scale * torch.randn(batch, n, 23, generator=generator)
    truth = torch.randint(10, (batch, digits), generator=generator)
    order = [torch.randperm(n - 1, generator=generator)[:digits] + 1 for _ in range(batch)]
    places = torch.stack(order).sort(1).values
    labels = torch.full((batch, n), 5).scatter(1, places, torch.tensor(IDS)[truth])
    places[torch.rand(batch, generator=generator) < 0.25] = -1
    return logits, labels, places, truth


@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.3, 3.0, 30.0]),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    st.integers(0, 2**32),
)
def test_the_metric_is_what_loops_give(digits, batch, scale, dtype, seed):
    logits, labels, places, _ = some_rows(digits, batch, scale, seed)
    logits = logits.to(dtype)
    metric = NCM(None, IDS, digits)
    metric.update(logits, labels, places)
    values, expected = metric.compute(), brute(logits, labels, places, IDS)
    if expected["scored"]:
        assert_same(values, expected)
    else:
        assert expected["skipped"] == batch == values["skipped"]
        assert all(math.isnan(values[name]) for name in metric.means)


@given(st.integers(1, 4), st.integers(1, 5), st.sampled_from([0.1, 3.0, 30.0]), st.integers(0, 99))
def test_the_functions_are_what_loops_give(digits, batch, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    z = scale * torch.randn(batch, digits, 10, generator=generator, dtype=torch.float64)
    truth = torch.randint(10, (batch, digits), generator=generator)
    expected = [
        brute_row(logits, row, list(range(10)))
        for logits, row in zip(z.tolist(), truth.tolist(), strict=True)
    ]
    parts = digit_contributions(z, truth)
    score = truth.double() @ torch.from_numpy(place_values(digits))
    results = {
        "ncm": [squared_errors(z, truth), parts.sum(1), (expected_score(z) - score).square()],
        "ncm_star": [squared_errors_without_truth(z, truth)],
        "ncm_star_as_published": [squared_errors_without_truth(z, truth, "as_published")],
        **{f"ncm_digit_{i + 1}": [parts[:, i]] for i in range(digits)},
    }
    for name, computed in results.items():
        for values in computed:
            np.testing.assert_allclose(values, [e[name] for e in expected], atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("reading", [None, *READINGS])
def test_the_functions_have_gradients(reading):
    z = torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = torch.tensor([[3, 4, 7], [0, 9, 9]])

    def squares(z):
        if reading is None:
            return squared_errors(z, truth)
        return squared_errors_without_truth(z, truth, reading)

    assert torch.autograd.gradcheck(squares, z.requires_grad_())


def test_single_precision_stays_single():
    z, truth = torch.zeros(2, 3, 10), torch.zeros(2, 3, dtype=torch.long)
    assert squared_errors(z, truth).dtype == torch.float32
    for reading in READINGS:
        assert squared_errors_without_truth(z, truth, reading).dtype == torch.float32


def test_an_unknown_reading_is_refused():
    with pytest.raises(ValueError, match="reading is 'literal'"):
        squared_errors_without_truth(torch.zeros(1, 1, 10), torch.zeros(1, 1).long(), "literal")


# --- worked by hand ----------------------------------------------------------------------------


def chances(*rows: dict[int, float]) -> torch.Tensor:
    """Logits (1, M, 10) under which the digits have these probabilities."""
    p = torch.zeros(1, len(rows), 10, dtype=torch.float64)
    for level, row in enumerate(rows):
        p[0, level, list(row)] = torch.tensor(list(row.values()), dtype=torch.float64)
    return p.log().clamp(min=-1e4)


@pytest.mark.parametrize(
    ("digits", "published"), [([3, 4, 7], 12.0409), ([0, 0, 0], 0), ([5, 0, 0], 25), ([5], 25)]
)
def test_a_perfect_model(digits, published):
    """As published, NCM* of a perfect model is the square of the score."""
    truth = torch.tensor([digits])
    z = chances(*({d: 1.0} for d in digits))
    assert squared_errors(z, truth).item() == 0
    result = squared_errors_without_truth(z, truth, "as_published")
    assert result.item() == pytest.approx(published, abs=1e-12)


def test_a_model_without_a_second_choice():
    """The other nine digits share equally: (45 - d) / 9 is their mean, whatever the model knew."""
    z, truth = chances({3: 1.0}, {4: 1.0}, {7: 1.0}), torch.tensor([[3, 4, 7]])
    expected = 42 / 9 + 0.1 * 41 / 9 + 0.01 * 38 / 9 - 3.47
    assert squared_errors_without_truth(z, truth).item() == pytest.approx(expected**2)


def test_neighbours_that_balance():
    """Mass on either side alike: without the truth the mean is the truth again."""
    z = chances({2: 0.25, 3: 0.5, 4: 0.25}, {3: 0.1, 4: 0.8, 5: 0.1}, {6: 0.2, 7: 0.6, 8: 0.2})
    truth = torch.tensor([[3, 4, 7]])
    assert squared_errors(z, truth).item() == pytest.approx(0, abs=1e-20)
    assert squared_errors_without_truth(z, truth).item() == pytest.approx(0, abs=1e-20)
    # 0.25 (2 + 4) + 0.1 x 0.1 (3 + 5) + 0.01 x 0.2 (6 + 8) = 1.608
    published = squared_errors_without_truth(z, truth, "as_published").item()
    assert published == pytest.approx((1.608 - 3.47) ** 2)


def test_neighbours_that_do_not_balance():
    z = chances({2: 0.1, 3: 0.6, 4: 0.3}, {3: 0.1, 4: 0.8, 5: 0.1}, {6: 0.2, 7: 0.6, 8: 0.2})
    truth = torch.tensor([[3, 4, 7]])
    assert squared_errors(z, truth).item() == pytest.approx(0.2**2)  # 0.1 x 2 + 0.6 x 3 + 0.3 x 4
    assert squared_errors_without_truth(z, truth).item() == pytest.approx(0.5**2)  # 1.4 / 0.4 = 3.5


def test_contributions_worked_by_hand():
    """4.01 for 3.99: errors +1, -0.9, -0.08 sum to 0.02, and each is weighed by that."""
    z, truth = chances({4: 1.0}, {0: 1.0}, {1: 1.0}), torch.tensor([[3, 9, 9]])
    np.testing.assert_allclose(digit_contributions(z, truth), [[0.02, -0.018, -0.0016]])
    assert squared_errors(z, truth).item() == pytest.approx(0.02**2)


# --- batches -----------------------------------------------------------------------------------


def test_micro_batches_and_their_order_do_not_matter():
    logits, labels, places = rows()
    whole = measure([list(range(10))])
    assert whole["scored"] == 8 and whole["skipped"] == 1 and whole["not_finite"] == 1
    assert_same(whole, brute(logits, labels, places, IDS))
    for batches in (BATCHES, [[i] for i in range(10)], [[9, 3, 5], [8, 0], [7, 6, 4, 2, 1]]):
        assert_same(measure(batches), whole, 1e-12)


def test_the_value_of_a_batch_and_a_reset():
    logits, labels, places = rows()
    metric = NCM(None, IDS, DIGITS)
    first = metric(logits[:3], labels[:3], places[:3])
    second = metric(logits[3:], labels[3:], places[3:])
    assert_same(first, measure([[0, 1, 2]]))
    assert_same(second, measure([list(range(3, 10))]))
    assert_same(metric.compute(), measure(BATCHES))
    metric.reset()
    metric.update(logits[:3], labels[:3], places[:3])
    assert_same(metric.compute(), first, 0)


def test_batches_that_are_put_by_are_worked_out_one_by_one():
    """Whatever is done to logits and labels in between; several at once say what each would say."""
    logits, labels, places = rows()
    metric, heard = NCM(None, IDS, DIGITS), []
    for part in (slice(0, 3), slice(3, 10)):
        given = logits[part].clone(), labels[part].clone(), places[part]
        heard.append(metric.hear(*given))
        given[0].zero_(), given[1].zero_()
    assert metric.numbers()["scored"] == 0
    first, second = metric.numbers_of(*metric.sums_of(heard))
    assert_same(first, measure([[0, 1, 2]]), 0)
    assert_same(second, measure([list(range(3, 10))]))


def test_contributions_sum_to_ncm():
    values = measure(BATCHES)
    assert sum(values[f"ncm_digit_{i}"] for i in (1, 2, 3)) == pytest.approx(values["ncm"])
    assert sum(values[f"digit_ce_{i}"] for i in (1, 2, 3)) / 3 == pytest.approx(values["digit_ce"])


def test_logits_may_lack_their_last_column():
    logits, labels, places = rows()
    metric = NCM(None, IDS, DIGITS)
    metric.update(logits[:, :-1], labels, places)
    assert_same(metric.compute(), measure(BATCHES))


def test_only_the_columns_of_digits_are_read():
    logits, labels, places = rows()
    kept = torch.zeros(10, 9, dtype=torch.bool)
    kept[torch.arange(10)[:, None], places - 1] = True
    logits[~kept] = torch.nan
    metric = NCM(None, IDS, DIGITS)
    metric.update(logits.requires_grad_(), labels, places)
    assert_same(metric.compute(), measure(BATCHES))
    assert not metric.sums.requires_grad
    assert torch.isnan(logits).sum() == (~kept).sum() * 23 + 1  # and nothing is written


def test_nothing_is_asked_of_the_host():
    """Tensors without values: whatever looks at one raises, and the metric goes to their device."""
    metric = NCM.of(MINI, FINAL, 3)
    logits = torch.zeros(4, 30, 809, device="meta", dtype=torch.bfloat16)
    metric.update(logits, torch.zeros(4, 30, dtype=torch.long, device="meta"))
    assert metric.compute()["ncm"].device.type == "meta"


# --- with tokenizers and models ----------------------------------------------------------------


def answers_as_batch(answers: list[str], tokenizer=MINI):
    """Random logits and labels of answers, padded on the right."""
    ids = [tokenizer(answer).input_ids + [tokenizer.eos_token_id] for answer in answers]
    width = 2 + max(map(len, ids))
    labels = torch.tensor([[IGNORED] * 2 + i + [IGNORED] * (width - 2 - len(i)) for i in ids])
    logits = torch.randn(*labels.shape, 832, generator=torch.Generator().manual_seed(0))
    return logits, labels


@pytest.mark.parametrize("digits", [1, 2, 3, 4])
def test_thoughts_before_the_score(digits):
    numbers = {1: ["3", "0"], 2: ["3.5", "0.0"], 3: ["3.47", "0.00"], 4: ["3.471", "0.000"]}
    thought = "1. Sharpness: 7.53, for the sky is soft. 2. Light Score: 9. Sch\u00f6n \U0001f642!\n"
    answers = [thought * (2 - i) + FINAL.format(n) for i, n in enumerate(numbers[digits])]
    logits, labels = answers_as_batch([*answers, thought])
    metric = NCM.of(MINI, FINAL, digits)
    metric.update(logits, labels)
    ids = MINI.convert_tokens_to_ids(list("0123456789"))
    places = metric.places(labels)
    expected = brute(logits, labels, places, ids)
    assert expected["scored"] == 2 and expected["skipped"] == 1
    assert_same(metric.compute(), expected)
    known = labels[torch.arange(2)[:, None], places[:2]]
    assert MINI.batch_decode(known) == [n.replace(".", "") for n in numbers[digits]]


def test_a_vision_language_model(tiny_backbone):
    """The whole way: photographs, a model's logits, labels as for training."""
    scores = torch.tensor([3.47, 0.0, 9.99], dtype=torch.float64)
    answers = [DIRECT.answer(s, 3) for s in scores.tolist()]
    photographs = [Image.new("RGB", (112, 112), c) for c in ("red", "grey", "navy")]
    pixels, grids = tiny_backbone.pixels(photographs)
    batch = encode(tiny_backbone, [DIRECT.question] * 3, answers, grids)
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = tiny_backbone.model(**batch, pixel_values=pixels).logits
    metric = NCM.of(tiny_backbone.tokenizer, DIRECT, 3)
    metric.update(logits, labels)
    values = metric.compute()
    assert values["scored"] == 3
    z = losses.digit_logits(logits, metric.places(labels), tiny_backbone.digit_ids).double()
    expected = (losses.expectation(z) - scores).square().mean()
    assert values["ncm"].item() == pytest.approx(expected.item(), abs=1e-9)


# --- input that is bad -------------------------------------------------------------------------


def nothing_scored(answers: list[str], digits: int = 3, template: str = FINAL) -> tuple[dict, str]:
    logits, labels = answers_as_batch(answers)
    metric = NCM.of(MINI, template, digits)
    metric.update(logits, labels)
    values = {name: value.item() for name, value in metric.compute().items()}
    assert values["scored"] == 0 and values["skipped"] == len(answers)
    assert all(math.isnan(values[name]) for name in metric.means)
    return values, metric.explain()


def test_labels_without_any_score():
    _, why = nothing_scored(["A sharp photo.", "6.59, says the model."])
    assert why == (
        "none of 2 rows could be scored; 2 have no score of 3 digits in their labels; "
        "rows of the last batch: 2 without a digit after ' final score is <'"
    )


def test_labels_that_are_all_masked():
    metric = NCM.of(MINI, FINAL, 3)
    metric.update(torch.zeros(2, 7, 832), torch.full((2, 7), IGNORED))
    assert metric.compute()["skipped"] == 2 and metric.explain()


def test_a_score_that_is_cut_off():
    logits, labels = answers_as_batch([FINAL.format("6.59")])
    (columns,) = NCM.of(MINI, FINAL, 3).places(labels).tolist()
    metric = NCM.of(MINI, FINAL, 3)
    metric.update(logits[:, : columns[2]], labels[:, : columns[2]])
    assert metric.compute()["skipped"] == 1
    assert "1 cut off inside the number (2 of 3 digits)" in metric.explain()


@pytest.mark.parametrize(("asked", "seen"), [(3, "6.5"), (1, "6.5"), (2, "6.59")])
def test_another_number_of_digits_than_the_labels_have(asked, seen):
    _, why = nothing_scored([FINAL.format(seen)] * 2, asked)
    assert f"2 with a score of {len(seen) - 1} digits, not {asked}" in why


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["true digit", "other digit", "other token"])
def test_logits_that_are_not_finite(bad, where):
    logits, labels, places = rows()
    known = brute(logits, labels, places, IDS)
    true = labels[0, places[0, 1]].item()
    token = {"true digit": true, "other digit": next(i for i in IDS if i != true)}.get(where, 6)
    logits[0, places[0, 1] - 1, token] = bad
    metric = NCM(None, IDS, DIGITS)
    metric.update(logits, labels, places)
    values = metric.compute()
    # a token that the model cannot say, as some mask the tail of their vocabulary, does no harm
    counted = where != "other token" or bad != -math.inf
    assert values["not_finite"] == known["not_finite"] + counted
    assert values["scored"] == known["scored"] - counted
    assert all(math.isfinite(value) for value in values.values())
    if counted:
        assert_same(values, brute(logits, labels, places, IDS))


def test_no_row_with_finite_logits():
    logits, labels, places = rows()
    metric = NCM(None, IDS, DIGITS)
    metric.update(logits * math.nan, labels, places)
    values = metric.compute()
    assert values["not_finite"] == 9 and values["skipped"] == 1 and math.isnan(values["ncm"])
    assert "in 9 the logits at the digits are NaN or infinite" in metric.explain()


def test_explain_is_empty_where_something_was_scored():
    logits, labels, places = rows()
    metric = NCM(None, IDS, DIGITS)
    assert metric.explain() == "no row was given"
    metric.update(logits, labels, places)
    assert metric.explain() == ""


def test_a_tokenizer_that_merges_digits_is_refused():
    from tokenizers import Tokenizer, models

    signs = [*"0123456789. <>abcdefghijklmnopqrstuvwxyzT", "99"]
    raw = Tokenizer(models.BPE({s: i for i, s in enumerate(signs)}, [("9", "9")]))
    with pytest.raises(ValueError, match="does not write digits one by one: '99'"):
        NCM.of(PreTrainedTokenizerFast(tokenizer_object=raw), DIRECT, 3)


def test_places_that_hold_no_digit_are_skipped():
    logits, labels, places = rows()
    whole = measure(BATCHES)
    labels[0, places[0, 2]] = 5  # no digit
    places[1] += 9  # beyond the labels
    places[2, 0] = 0  # nothing predicts it
    metric = NCM(None, IDS, DIGITS)
    metric.update(logits, labels, places)
    values = metric.compute()
    assert values["skipped"] == whole["skipped"] + 3 and values["scored"] == whole["scored"] - 3
    left = places.clone()
    left[:3] = -1
    assert_same(values, brute(logits, labels, left, IDS))


def test_labels_of_one_column_are_predicted_by_nothing():
    metric = NCM(None, IDS, 1)
    metric.update(torch.zeros(2, 1, 23), torch.full((2, 1), IDS[3]), torch.zeros(2, 1).long())
    assert metric.compute()["skipped"] == 2


@pytest.mark.parametrize(
    ("logits", "labels", "places", "message"),
    [
        ((2, 7, 5), (2, 7), (2, 3), "over 5 tokens, but a digit has the id 22"),
        ((2, 7, 23), (2, 5), (2, 3), "labels are 2 x 5 where logits are 2 x 7"),
        ((2, 7, 23), (3, 7), (3, 3), "labels are 3 x 7 where logits are 2 x 7"),
        ((7, 23), (2, 7), (2, 3), "must be .batch, n, vocabulary. and .batch, n."),
        ((2, 7, 23), (2, 7), (2, 2), r"places are \(2, 2\); must be \(2, 3\)"),
        ((2, 7, 23), (2, 7), None, "places must be given"),
    ],
)
def test_shapes_that_do_not_fit(logits, labels, places, message):
    places = None if places is None else torch.zeros(places, dtype=torch.long)
    with pytest.raises(ValueError, match=message):
        NCM(None, IDS, 3).update(torch.zeros(logits), torch.zeros(labels, dtype=torch.long), places)


def test_a_way_to_find_places_that_gives_others():
    metric = NCM(lambda labels: labels[:, :2], IDS, 3)
    with pytest.raises(ValueError, match=r"places are \(2, 2\); must be \(2, 3\)"):
        metric.update(torch.zeros(2, 7, 23), torch.zeros(2, 7, dtype=torch.long))


def test_what_it_is_built_from():
    with pytest.raises(ValueError, match="ten different token ids"):
        NCM(None, [1] * 10, 3)
    with pytest.raises(ValueError, match="digits is 0"):
        NCM(None, IDS, 0)


# --- two processes -----------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path):
    script = Path(__file__).parents[1] / "helpers" / "two_processes_ncm.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NCM_OUT": str(tmp_path)}
    done = subprocess.run(
        [*command, str(script)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    one = measure(BATCHES)
    for rank in (0, 1):
        values = json.loads((tmp_path / f"{rank}.json").read_text())
        assert values.pop("world") == 2
        assert_same(values, one)


def test_plain_numbers_are_what_compute_gives():
    metric = NCM(lambda labels: torch.tensor([[1, 2]]), range(10), digits=2)
    assert math.isnan(metric.numbers()["ncm"]) and metric.numbers()["scored"] == 0
    labels = torch.tensor([[11, 7, 3, 10]])
    metric.update(torch.randn(1, 4, 12, generator=torch.Generator().manual_seed(0)), labels)
    expected = {name: float(value) for name, value in metric.compute().items()}
    assert metric.numbers() == pytest.approx(expected) and expected["scored"] == 1
