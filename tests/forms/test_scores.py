"""The score grid, MOS scales, writing and reading of scores, digit token ids."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realqa_utils.forms import scores
from realqa_utils.forms.scores import SCALES, Parsed, Scale, digit_ids, parse_score, quantise

MS = st.integers(1, 4)
TENS = st.floats(0, 10, allow_nan=False)


# --- scales ------------------------------------------------------------------------------------


def test_scale_by_hand():
    assert SCALES["koniq"].to_ten(1) == 0
    assert SCALES["koniq"].to_ten(2) == 2.5
    assert SCALES["ava"].to_ten(5.5) == 5
    assert SCALES["livec"].from_ten(9.99) == pytest.approx(99.9)


def test_scale_keeps_shapes_and_types():
    out = Scale(1, 5).to_ten(np.array([[1, 5], [3, 2]]))
    np.testing.assert_array_equal(out, [[0, 10], [5, 2.5]])
    assert type(Scale(1, 5).to_ten(np.float32(3))) is float


@given(st.sampled_from(sorted(SCALES)), TENS)
def test_scale_round_trip(name, score):
    scale = SCALES[name]
    assert scale.to_ten(scale.from_ten(score)) == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize("low, high", [(5, 1), (2, 2), (math.nan, 1), (0, math.inf)])
def test_scale_refuses(low, high):
    with pytest.raises(ValueError, match="finite low < high"):
        Scale(low, high)


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name, path, column",
    [
        ("koniq", "koniq10k/koniq10k_scores.csv", "MOS"),
        ("koniq_zscore", "koniq10k/koniq10k_scores.csv", "MOS_zscore"),
        ("koniq_zscore", "koniq10k/koniq10k_distributions_sets.csv", "MOS"),
        ("tad66k", "tad66k/train.csv", "score"),
        ("konvid", "konvid1k/KoNViD_1k_attributes.csv", "MOS"),
    ],
)
def test_scales_hold_the_published_mos(real_file, name, path, column):
    score = SCALES[name].to_ten(pd.read_csv(real_file(path))[column].to_numpy())
    assert score.min() >= 0
    assert score.max() < 10
    # Much of the scale is in use: the z-scores and the means of KonIQ were not swapped.
    assert np.ptp(score) > 6


# --- grid --------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", range(1, 7))
def test_grid_values_are_the_floats_of_their_decimals(digits):
    values = scores.grid(digits)
    assert len(values) == 10**digits
    assert values[-1] == scores.largest(digits)
    step = max(1, 10**digits // 997)
    for k in range(0, 10**digits, step):
        assert values[k] == float(Fraction(k, 10 ** (digits - 1)))


@pytest.mark.parametrize(
    "score, digits, expected",
    [
        (3.9845, 2, 4.0),  # the paper's example
        (3.9845, 3, 3.98),
        (3.985, 3, 3.99),  # binary 3.98499..: rint(398.5) and round() both give 3.98
        (0.125, 3, 0.13),  # halves go up, not to even
        (2.5, 1, 3.0),
        (9.995, 3, 9.99),
        (9.5, 1, 9.0),
        (10, 4, 9.999),
        (1e300, 2, 9.9),
        (-0.2, 3, 0.0),
        (np.float32(3.985), 3, 3.99),
        (np.float64(3.9849999999), 3, 3.98),
    ],
)
def test_quantise_by_hand(score, digits, expected):
    assert quantise(score, digits) == expected


def test_quantise_keeps_shapes():
    out = quantise(np.array([[3.985, -1.0], [9.996, 4.004]]), 3)
    np.testing.assert_array_equal(out, [[3.99, 0], [9.99, 4]])
    assert quantise([], 3).shape == (0,)
    assert type(quantise(4, 1)) is float


@given(TENS, MS)
def test_quantise_is_nearest(score, digits):
    value, unit = quantise(score, digits), Fraction(1, 10 ** (digits - 1))
    assert value == scores.grid(digits)[np.searchsorted(scores.grid(digits), value)]
    assert quantise(value, digits) == value
    if score <= scores.largest(digits):
        # On the shortest decimal the half is exact; Fraction(str) holds it exactly.
        assert abs(Fraction(str(value)) - Fraction(str(score))) <= unit / 2
    else:
        assert value == scores.largest(digits)


@given(TENS, TENS, MS)
def test_quantise_is_monotonic(a, b, digits):
    low, high = sorted((a, b))
    assert quantise(low, digits) <= quantise(high, digits)


@given(TENS, MS)
def test_digits_and_place_values_give_the_score_back(score, digits):
    found = scores.digits_of(score, digits)
    assert found.shape == (digits,)
    assert ((found >= 0) & (found <= 9)).all()
    assert found @ scores.place_values(digits) == pytest.approx(quantise(score, digits), abs=1e-9)
    assert "".join(map(str, found)) == scores.format_score(score, digits).replace(".", "")


def test_digits_of_keeps_leading_axes():
    out = scores.digits_of(np.array([[3.99, 0.07], [9.999, 5]]), 3)
    np.testing.assert_array_equal(out, [[[3, 9, 9], [0, 0, 7]], [[9, 9, 9], [5, 0, 0]]])


def test_bad_scores_are_named_by_index():
    with pytest.raises(ValueError, match="score at index 2 is nan"):
        quantise([1, 2, math.nan], 3)
    with pytest.raises(ValueError, match=r"score at index \(1, 0\) is inf"):
        quantise(np.array([[1], [math.inf]]), 3)
    with pytest.raises(ValueError, match="score is nan"):
        scores.format_score(math.nan, 3)


@pytest.mark.parametrize("digits", [0, 7, -1, 2.0])
def test_digit_count_out_of_range(digits):
    with pytest.raises(ValueError, match="integer from 1 to 6"):
        quantise(3.0, digits)


# --- reading -----------------------------------------------------------------------------------


@given(TENS, MS, st.sampled_from(["{}", "The score of this image is {}.", "... is <{}>."]))
def test_what_is_written_is_read(score, digits, template):
    text = scores.format_score(score, digits)
    parsed = parse_score(template.format(text), digits)
    assert parsed == Parsed(quantise(score, digits), text)


FORM = "1.1 Reason: good, 1.2 Composition Score: 8. 1.4 Eye-Catching Score: 7. "


@pytest.mark.parametrize(
    "text, score",
    [
        (FORM + "The final score is <6.59>.", 6.59),
        ("The composition score is <7>. The final score is < 6.59 >.", 6.59),
        ("On a scale of 0 to 10, the score of this image is 3.98.", 3.98),
        ("The aesthetic score is 2.00. The overall SCORE would be, I think, is 3.98", 3.98),
        ("The score is 7.2. The final score is high.", 7.2),
        ("The score is 4. The photo has 3 people.", 4.0),
        ("7/10.", 7.0),
        ("I rate it 7.5 out of 10", 7.5),
        ("The score is **0.00**", 0.0),
        ("+3.5", 3.5),
        ("评分是7.5分", 7.5),
        ("mp4 of IMG_20, 4K: 6.1", 6.1),
        ("3.98<|im_end|>", 3.98),
        ("9.999999", 9.999999),
    ],
)
def test_read(text, score):
    assert parse_score(text).score == score


@pytest.mark.parametrize(
    "text, literal, reason",
    [
        ("", None, "empty"),
        (" \n", None, "empty"),
        ("I cannot rate this.", None, "no number"),
        ("1.2.3", None, "no number"),
        ("<1.2.3>", None, "no number"),
        (".5", None, "no number"),
        ("\u0663.\u0669\u0668", None, "no number"),  # Arabic-Indic
        ("\uff13.98", None, "no number"),  # a full-width 3 before the point
        ("3,99", None, "several numbers"),
        ("between 3 and 4", None, "several numbers"),
        ("The score is 3-4.", None, "several numbers"),
        ("3/5", None, "several numbers"),
        (FORM, None, "several numbers"),
        ("10", "10", "out of range"),
        ("The score is 75.", "75", "out of range"),
        ("<-3.5>", "-3.5", "out of range"),
        ("\u22121", "\u22121", "out of range"),
        ("9.99999999999999999999", "9.99999999999999999999", "out of range"),  # reads as 10.0
        ("9" * 400, "9" * 400, "out of range"),  # reads as infinity
        ("The score is 3.", "3.", "truncated"),
        ("<3.>", "3.", "truncated"),
        ("The final score is <6.5", "6.5", "truncated"),
        ("The final score is <", None, "truncated"),
    ],
)
def test_not_read(text, literal, reason):
    assert parse_score(text) == Parsed(None, literal, reason)


def test_the_number_asked_for_decides_what_is_truncated():
    assert parse_score("The score is 3.", digits=1).score == 3
    assert parse_score("The score is 3.", digits=3).reason == "truncated"
    assert parse_score("The score is 3", digits=3).reason == "truncated"
    assert parse_score("The score is 3.9", digits=3).reason == "truncated"
    assert parse_score("The score is 3.9.", digits=3).score == 3.9  # closed by its full stop
    assert parse_score("<6.59", digits=3).score == 6.59


ANSWERS = st.lists(
    st.sampled_from(["score", " is ", "<", ">", "3", ".", "99", "-", "/10", "\u0663", "\n", "x"])
)


@given(st.one_of(st.text(), ANSWERS.map("".join)), st.sampled_from([None, 1, 3]))
@example("score " * 2000, None)
def test_every_answer_is_a_score_or_a_reason(text, digits):
    parsed = parse_score(text, digits)
    if parsed.reason is None:
        assert 0 <= parsed.score < 10 and parsed.text in text
        assert float(parsed.text) == parsed.score
    else:
        assert parsed.score is None and parsed.reason in scores.REASONS


# --- tokenizers --------------------------------------------------------------------------------

CORPUS = [f"The final score is <{k / 100:.2f}>. The score is {k / 100:.2f}." for k in range(1000)]
QWEN2 = (  # the pattern of Qwen2's tokenizer: \p{N} splits digits one by one
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(pattern):
    """A byte-level BPE with the given pre-tokenizer pattern, trained on answers."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw)


def space_marked(vocabulary, prepend):
    """A Llama-like tokenizer without merges: spaces become '\u2581', a digit has one token each."""
    from tokenizers import Tokenizer, models, normalizers
    from transformers import PreTrainedTokenizerFast

    vocab = {token: i for i, token in enumerate(["<unk>", *vocabulary])}
    merges = [("\u2581", token[1:]) for token in vocabulary if len(token) == 2]
    raw = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>"))
    steps = [normalizers.Prepend("\u2581")] if prepend else []
    raw.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "\u2581")])
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")


CHARACTERS = [*"0123456789.<>\u2581", *sorted(set("The score is"))]


def test_digit_ids_of_a_tokenizer_like_qwen2():
    tokenizer = byte_level(QWEN2)
    ids = digit_ids(tokenizer)
    assert tokenizer.convert_ids_to_tokens(ids) == list("0123456789")
    assert len(tokenizer("The score is 3.99")["input_ids"]) < len("The score is 3.99")  # merges
    three, nine = ids[3], ids[9]
    assert tokenizer.encode("3.99") == [three, tokenizer.encode(".")[0], nine, nine]


@pytest.mark.parametrize(
    "pattern, shown",
    [
        (r"\p{N}{1,3}|[^\p{N}]+", r"'00' became \['00'\]"),  # as Llama 3: groups of three digits
        (r"[^\r\n\p{L}\p{N}]?\p{N}|[^\p{N}]+", "became"),  # the full stop or space joins a digit
    ],
)
def test_merged_digits_are_refused(pattern, shown):
    with pytest.raises(ValueError, match=shown) as error:
        digit_ids(byte_level(pattern))
    assert "one token per digit" in str(error.value)


def test_a_lone_space_marker_is_no_digit():
    tokenizer = space_marked(CHARACTERS, prepend=True)
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("3.9")) == ["\u2581", "3", ".", "9"]
    ids = digit_ids(tokenizer)
    assert tokenizer.convert_ids_to_tokens(ids) == list("0123456789")


@pytest.mark.parametrize("prepend", [True, False])
def test_a_digit_with_two_ids_is_refused(prepend):
    # '9' at the start or after a space is '\u25819', elsewhere '9'.
    with pytest.raises(ValueError, match="\u25819"):
        digit_ids(space_marked([*CHARACTERS, "\u25819"], prepend))


def test_a_tokenizer_without_a_digit_is_refused():
    with pytest.raises(ValueError, match="'7' became"):
        digit_ids(space_marked([c for c in CHARACTERS if c != "7"], prepend=False))
