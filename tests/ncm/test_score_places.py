"""Where a score stands in labels: by its anchor, by a pattern, against characters and by hand."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from realqa_utils.forms.conversations import DIRECT, MIX
from realqa_utils.model.backbone import MINI_FOLDER
from realqa_utils.model.encoding import IGNORED, digit_tokens
from realqa_utils.ncm.score_places import ANCHOR, ScorePlaces, by_pattern

torch.set_num_threads(1)
MINI = AutoTokenizer.from_pretrained(MINI_FOLDER)
FINAL = "The final score is <{}>."
FINAL_PATTERN = r"final score is <([0-9]+(?:\.[0-9]+)*)"


def labels_of(*answers: str, tokenizer=MINI, prompt: int = 3, end: bool = True) -> torch.Tensor:
    """Answers behind a masked prompt, padded on the right, with an end token."""
    closing = [tokenizer.eos_token_id] if end else []
    rows = [tokenizer(a, add_special_tokens=False).input_ids + closing for a in answers]
    width = max(map(len, rows))
    padded = [[IGNORED] * prompt + r + [IGNORED] * (width - len(r)) for r in rows]
    return torch.tensor(padded)


def read(labels: torch.Tensor, places: torch.Tensor, tokenizer=MINI) -> list[str]:
    """The tokens at the places of every row; empty where there is no score."""
    return [
        "".join(tokenizer.decode([row[c]]) for c in columns if c >= 0)
        for row, columns in zip(labels.tolist(), places.tolist(), strict=True)
    ]


@pytest.fixture(scope="module")
def final():
    return {m: ScorePlaces.of_form(MINI, FINAL, m) for m in (1, 2, 3, 4)}


# --- by the anchor -----------------------------------------------------------------------------


@pytest.mark.parametrize("digits", [1, 2, 3, 4])
def test_places_of_the_direct_form_are_those_of_its_characters(digits, tiny_tokenizer):
    for tokenizer in (MINI, tiny_tokenizer):
        places = ScorePlaces.of_form(tokenizer, DIRECT, digits)
        answers = [DIRECT.answer(score, digits) for score in (0, 3.9876, 5, 9.99999)]
        labels = labels_of(*answers, tokenizer=tokenizer)
        spans = [digit_tokens(tokenizer, a, DIRECT.score_span(a)) for a in answers]
        assert (places(labels) - 3).tolist() == spans


def test_the_anchor_decides_among_many_numbers(final):
    thought = (
        "1.2 Composition Score: 7. Sharpness 3.41 of 9.99, taken at 5.60 mm.\n"
        "The score is 2.22, says one; 8.88, says another. The final score is <6.59>. (1.23)"
    )
    labels = labels_of(thought, "6.59", MIX.instruction)
    assert read(labels, final[3](labels)) == ["659", "", ""]


def test_a_label_is_found_at_the_token_that_predicts_it(final):
    labels = labels_of("The final score is <6.59>.")
    (columns,) = final[3](labels).tolist()
    assert [labels[0, c].item() for c in columns] == MINI("659").input_ids
    assert MINI.decode([labels[0, columns[0] - 1]]) == " <"


def test_the_last_of_several_scores_counts(final):
    first = "The final score is <1.11>. No: the final score is <{}>."
    labels = labels_of(first.format("2.22"), first.format("2.2"), first.format("unknown"))
    # the last number is of two digits in the second row; in the third there is none after it
    assert read(labels, final[3](labels)) == ["222", "", "111"]


def test_a_number_of_another_length_is_no_score(final):
    numbers = ["7", "7.5", "7.53", "7.531", "7.5312", "75.3", "7.53.1", "75", "0.75.3"]
    labels = labels_of(*map(FINAL.format, numbers))
    expected = {1: [0], 2: [1], 3: [2], 4: [3]}
    for digits, right in expected.items():
        found = (final[digits](labels) >= 0).all(1).nonzero().flatten().tolist()
        assert found == right


def test_a_score_that_is_cut_off_is_no_score(final):
    whole = labels_of("The final score is <6.59", end=False)
    assert read(whole, final[3](whole)) == ["659"]  # all its digits are there
    for cut in range(1, whole.shape[1]):
        row = torch.cat((whole[:, :-cut], torch.full((1, 2), IGNORED)), 1)
        for labels in (row, whole[:, :-cut]):
            assert final[3](labels).tolist() == [[-1, -1, -1]]


def test_a_masked_digit_is_no_score(final):
    labels = labels_of("The final score is <6.59>.")
    labels[0, final[3](labels)[0, 1]] = IGNORED
    assert final[3](labels).tolist() == [[-1, -1, -1]]


def test_an_answer_that_is_the_number_alone():
    places = ScorePlaces.of_form(MINI, "{}", 2)
    labels = labels_of("6.5", " 6.5", "It is 6.5")
    assert read(labels, places(labels)) == ["65", "", ""]
    assert places(labels[:, 3:]).tolist() == [[-1, -1]] * 3  # no logits predict column 0
    assert places.explain(labels) == "2 without a digit at the beginning; 1 with a score"


def test_left_padding_and_narrow_labels(final):
    labels = labels_of("The final score is <6.59>.")
    left = torch.cat((torch.full((1, 5), IGNORED), labels), 1)
    torch.testing.assert_close(final[3](left), final[3](labels) + 5)
    for width in range(4):
        assert final[3](labels[:, :width]).tolist() == [[-1, -1, -1]]
    assert final[3](labels[:0]).shape == (0, 3)


def test_the_anchor_is_a_handful_of_tokens_next_to_the_number(final):
    assert final[3].anchor_text == " final score is <"
    long = ScorePlaces.of_form(MINI, "All in all, I would say that " + FINAL, 3)
    assert long.anchor_text == final[3].anchor_text
    assert len(MINI(long.anchor_text).input_ids) == ANCHOR


def test_a_template_and_a_form_are_the_same():
    labels = labels_of(DIRECT.answer(3.47, 3))
    template = DIRECT.before + "{}" + DIRECT.after
    form, text = (ScorePlaces.of_form(MINI, f, 3)(labels) for f in (DIRECT, template))
    torch.testing.assert_close(form, text)


def test_nothing_is_asked_of_the_host(final):
    """Tensors without values: whatever looks at one raises."""
    places = ScorePlaces.of_form(MINI, FINAL, 3)
    labels = torch.zeros(4, 30, dtype=torch.long, device="meta")
    assert places(labels).shape == (4, 3)


# --- tokenizers and templates that cannot work -------------------------------------------------


def character_tokenizer(prepend: bool) -> PreTrainedTokenizerFast:
    """As Llama's without merges: a space is '\u2581', and one may be put before every text.

    Characters that it does not know are written as bytes.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    signs = sorted({*"\u2581<>.:,", *"0123456789", *"abcdefghijklmnopqrstuvwxyz", *"TS"})
    known = ["<unk>", "</s>", *signs, *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {sign: i for i, sign in enumerate(known)}
    raw = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    steps = [normalizers.Replace(" ", "\u2581")]
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581")] * prepend + steps)
    spaces = decoders.Replace("\u2581", " ")
    raw.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="</s>")


@pytest.mark.parametrize("prepend", [False, True])
def test_a_tokenizer_with_marked_spaces(prepend):
    tokenizer = character_tokenizer(prepend)
    for template in ("The score is {}.", "score:{}"):
        places = ScorePlaces.of_form(tokenizer, template, 3)
        labels = labels_of(template.format("3.47"), "so 1.11", tokenizer=tokenizer)
        assert read(labels, places(labels), tokenizer) == ["347", ""]


def test_a_number_at_the_beginning_behind_a_marked_space():
    tokenizer = character_tokenizer(True)
    labels = labels_of("3.47", tokenizer=tokenizer)
    assert read(labels, ScorePlaces.of_form(tokenizer, "{}", 3)(labels), tokenizer) == ["347"]


def merging_tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models

    signs = [*"0123456789. <>abcdefghijklmnopqrstuvwxyzT", "99"]
    raw = Tokenizer(models.BPE({s: i for i, s in enumerate(signs)}, [("9", "9")]))
    return PreTrainedTokenizerFast(tokenizer_object=raw)


def test_a_tokenizer_that_merges_digits_is_refused():
    with pytest.raises(ValueError, match="does not write digits one by one: '99'"):
        ScorePlaces.of_form(merging_tokenizer(), FINAL, 3)
    with pytest.raises(ValueError, match="does not write digits one by one"):
        by_pattern(merging_tokenizer(), torch.zeros(1, 4), "<(.*)>", 3)


def test_a_digit_merged_with_what_stands_before_it_is_refused():
    from tokenizers import Tokenizer, decoders, models

    signs = [*"0123456789. <>:abcdefghijklmnopqrstuvwxyzTAS,-\n(", ":3"]
    raw = Tokenizer(models.BPE({s: i for i, s in enumerate(signs)}, [(":", "3")]))
    raw.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw)
    with pytest.raises(ValueError, match=r"first digit of 'score:3.33' has no token of its own"):
        ScorePlaces.of_form(tokenizer, "score:{}", 3)
    assert ScorePlaces.of_form(tokenizer, "score: {}", 3).anchor_text == "re: "


def test_an_anchor_that_changes_with_the_text_before_is_refused():
    tokens = [MINI.tokenize(front + "<6.5>")[-5] for front in ("", "is ")]
    assert tokens == ["<", "\u0120<"]
    with pytest.raises(ValueError, match="changes with the text in front of '<'"):
        ScorePlaces.of_form(MINI, "<{}>", 2)


@pytest.mark.parametrize("template", ["score: {}5", "score: {}.5", "score: 1{}", "score: 1.{}"])
def test_a_digit_may_not_touch_the_number(template):
    with pytest.raises(ValueError, match="a digit touches the number in 'score: "):
        ScorePlaces.of_form(MINI, template, 3)


def test_a_template_that_hides_its_number_is_refused():
    with pytest.raises(ValueError, match="'score: 0.00, not score: 2.00': what is before it"):
        ScorePlaces.of_form(MINI, "score: {}, not score: 2.00", 3)


@pytest.mark.parametrize("template", ["The score is 3.99.", "{} and {}"])
def test_a_template_must_hold_the_number_once(template):
    with pytest.raises(ValueError, match="must hold {} once"):
        ScorePlaces.of_form(MINI, template, 3)


@pytest.mark.parametrize("digits", [0, 7, 2.5])
def test_digits_must_be_possible(digits):
    with pytest.raises(ValueError, match="must be an integer from 1 to 6"):
        ScorePlaces.of_form(MINI, FINAL, digits)


# --- in words ----------------------------------------------------------------------------------


def test_explain_counts_what_is_there(final):
    answers = [FINAL.format(n) for n in ("7.5", "7.5", "7.5", "7.53", "75.3")]
    labels = labels_of(*answers, "nothing", "still nothing", end=False)
    cut = labels_of("The final score is <7.5", end=False)
    cut = torch.nn.functional.pad(cut, (0, labels.shape[1] - cut.shape[1]), value=IGNORED)
    assert final[3].explain(torch.cat((labels, cut))) == (
        "3 with a score of 2 digits, not 3; 2 without a digit after ' final score is <'; "
        "1 with a score; 1 with a number that is not written like 9.99; "
        "1 cut off inside the number (2 of 3 digits)"
    )


# --- by a pattern ------------------------------------------------------------------------------


def test_by_pattern_among_characters_of_many_bytes():
    """Each of these is two to four tokens of the mini tokenizer, and some break off."""
    answer = "Sehr sch\u00f6n, \u5f88\u597d \U0001f642! S\u00e7\u00f3re \u2248<7.25>\u2026 \u00e9"
    tokens = MINI(answer).input_ids
    assert len(tokens) > len(answer) + 10
    labels = labels_of(answer, "\U0001f642 \u2248<1.00> ja \u2248<9.25>")
    places = by_pattern(MINI, labels, "\u2248<([0-9.]+)>", 3)
    assert read(labels, places) == ["725", "925"]
    broken = labels_of("\U0001f642<7.25>")[:, 5:]  # begins inside a character
    assert "\ufffd" in MINI.decode(broken[0])
    assert read(broken, by_pattern(MINI, broken, "<([0-9.]+)>", 3)) == ["725"]


def test_by_pattern_behind_bytes_that_are_no_character_yet():
    """Here every byte of a character is decoded to a sign of its own until the last is there."""
    tokenizer = character_tokenizer(False)
    answers = ["\U0001f6427.25" + "x" * more for more in range(8)]
    labels = labels_of(*answers, tokenizer=tokenizer)
    assert tokenizer.decode(labels[0, 3:6]) == "\ufffd" * 3
    places = by_pattern(tokenizer, labels, "\U0001f642([0-9.]+)", 3)
    assert read(labels, places, tokenizer) == ["725"] * 8


def test_by_pattern_takes_whole_numbers_only():
    labels = labels_of("13.475", "3.47", "3.471", "3.47.1", "x3.47y", "1.3.47")
    places = by_pattern(MINI, labels, r"([0-9]\.[0-9][0-9])", 3)
    assert read(labels, places) == ["", "347", "", "", "347", ""]
    assert by_pattern(MINI, labels[:, 3:], r"([0-9]\.[0-9][0-9])", 3)[1].tolist() == [-1] * 3


def test_by_pattern_of_rows_that_cannot_match():
    labels = torch.full((2, 5), IGNORED)
    assert by_pattern(MINI, labels, "<(.*)>", 2).tolist() == [[-1, -1]] * 2
    assert by_pattern(MINI, labels[:0], "<(.*)>", 2).shape == (0, 2)
    optional = labels_of("no number")
    assert by_pattern(MINI, optional, "no(<[0-9]>)?", 1).tolist() == [[-1]]


@pytest.mark.parametrize("pattern", ["[0-9]", "(a)(b)"])
def test_a_pattern_has_one_group(pattern):
    with pytest.raises(ValueError, match="must have one group"):
        by_pattern(MINI, torch.zeros(1, 4), pattern, 3)


WORDS = st.sampled_from(
    [
        "1.2 Composition Score: 7. ",
        "\u5f88\u597d, 4.56! ",
        "3.47 ",
        "Sch\u00f6n.\n",
        "\U0001f642",
        "is <",
    ]
)
NUMBERS = st.sampled_from(["7", "7.5", "0.00", "9.99", "3.4712", "12.5", "1.2.3", "", "x"])
SCORES = NUMBERS.map(FINAL.format)
ANSWERS = st.lists(WORDS | SCORES | SCORES.map(str.lower), min_size=1, max_size=6).map("".join)


@given(st.lists(ANSWERS, min_size=1, max_size=3), st.sampled_from([1, 2, 3]), st.integers(0, 12))
def test_anchor_and_pattern_agree(final, answers, digits, cut):
    labels = labels_of(*answers)
    labels = labels[:, : max(1, labels.shape[1] - cut)]
    find = partial(by_pattern, MINI, pattern=FINAL_PATTERN, digits=digits)
    torch.testing.assert_close(final[digits](labels), find(labels))
