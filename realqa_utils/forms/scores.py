"""Scores as digits (Sec. 3.2): MOS scales, the grid of M digits, writing and reading a score.

A score of M digits is one integer digit and M - 1 decimals, so the grid is
{k / 10^(M-1) : k = 0 .. 10^M - 1}: `3.99` has M = 3. A MOS reaches it by the affine map of its
dataset's `Scale` to 0..10 and by rounding.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import numpy as np

MAX_DIGITS = 6


@dataclass(frozen=True)
class Scale:
    """The MOS range of a dataset and its affine map to 0..10.

    Raises ValueError unless `low` < `high` and both are finite.

    >>> Scale(1, 5).to_ten(3.5), Scale(1, 5).from_ten(6.25)
    (6.25, 3.5)
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"Scale({self.low}, {self.high}): needs finite low < high")

    def to_ten(self, mos: float | np.ndarray) -> float | np.ndarray:
        """`low`..`high` to 0..10, not clipped; a number or an array of any shape."""
        values = np.asarray(mos, dtype=float)
        return _unwrap((values - self.low) * 10 / (self.high - self.low))

    def from_ten(self, score: float | np.ndarray) -> float | np.ndarray:
        """0..10 to `low`..`high`, the inverse of `to_ten`."""
        values = np.asarray(score, dtype=float)
        return _unwrap(self.low + values * (self.high - self.low) / 10)


#: The range that a set's raters (or its authors' rescaling) could use, not the range that occurs:
#: a range taken from data would change with the split. In brackets: what occurs.
SCALES: dict[str, Scale] = {
    "koniq": Scale(1, 5),  # mean of five-point ratings, `MOS` in koniq10k_scores.csv (1.13..4.36)
    "koniq_zscore": Scale(
        0, 100
    ),  # z-scores, rescaled by the authors to a 100-point range (3.9..88.4)
    "spaq": Scale(0, 100),  # continuous slider 0..100 (2..96)
    "livec": Scale(0, 100),  # continuous slider, worst 0 to best 100 (3.42..92.43)
    "ava": Scale(1, 10),  # mean of ratings 1..10 (2.0..8.4 in 19,987 photographs)
    "tad66k": Scale(0, 10),  # published on the ten-point scale already (1.13..9.46)
    "konvid": Scale(1, 5),  # mean of five-point ratings (1.22..4.64)
}


def largest(digits: int) -> float:
    """Largest grid value, 10 - 10^(1-M).

    >>> [largest(m) for m in (1, 2, 3)]
    [9.0, 9.9, 9.99]
    """
    _check_digits(digits)
    return (10**digits - 1) / 10 ** (digits - 1)


def grid(digits: int) -> np.ndarray:
    """All grid values, ascending, shape (10^M,)."""
    _check_digits(digits)
    return np.arange(10**digits) / 10 ** (digits - 1)


def place_values(digits: int) -> np.ndarray:
    """w = (1, 0.1, ..., 10^(1-M)), shape (M,)."""
    _check_digits(digits)
    return 1 / 10.0 ** np.arange(digits)


def quantise(score: float | np.ndarray, digits: int) -> float | np.ndarray:
    """Nearest value of the M-digit grid; the shape stays, and a number gives a float.

    A half goes up, decided on the shortest decimal that denotes the score (so 3.985, which binary
    floating point holds as 3.98499.., is 3.99). Values outside the grid go to its ends: rounding
    never produces 10.

    Raises ValueError for NaN or infinity, named by its index, and for M outside 1..6.

    >>> quantise(3.9845, 2), quantise(3.9845, 3), quantise(3.985, 3), quantise(9.995, 3)
    (4.0, 3.98, 3.99, 9.99)
    """
    top = largest(digits)
    scores = np.asarray(score)
    if not np.issubdtype(scores.dtype, np.floating):
        scores = scores.astype(float)
    _check_finite(scores)
    unit = Decimal(1).scaleb(1 - digits)
    # str() and not float(): a float32 of 3.985 is 3.985 too, and not its widening to 3.9849998.
    clipped = np.clip(scores, 0, 10).ravel()
    rounded = [float(Decimal(str(x)).quantize(unit, ROUND_HALF_UP)) for x in clipped]
    return _unwrap(np.minimum(np.array(rounded, dtype=float).reshape(scores.shape), top))


def digits_of(score: float | np.ndarray, digits: int) -> np.ndarray:
    """The digits of a score, quantised first, most significant first: shape (..., M), int64.

    >>> digits_of(3.9845, 3)
    array([3, 9, 8])
    """
    k = np.rint(np.asarray(quantise(score, digits)) * 10 ** (digits - 1)).astype(np.int64)
    return k[..., None] // 10 ** np.arange(digits - 1, -1, -1) % 10


def format_score(score: float, digits: int) -> str:
    """A score as the model writes it, quantised first.

    >>> [format_score(3.9845, m) for m in (1, 2, 3)]
    ['4', '4.0', '3.98']
    """
    return f"{quantise(float(score), digits):.{digits - 1}f}"


@dataclass(frozen=True)
class Parsed:
    """A model's answer as read: a `score` in [0, 10), or the `reason` why there is none.

    `text` is the number as written, where one was singled out. `reason` is one of `REASONS`.
    """

    score: float | None
    text: str | None = None
    reason: str | None = None


REASONS = ("empty", "no number", "several numbers", "out of range", "truncated")

# [0-9] and not \d, which takes the digits of every script; as a neighbour \d is welcome, since a
# number beside a foreign digit, a letter or an underscore (mp4, IMG_20) is not a number of its own.
# 1.2.3 is matched as one literal, so that its parts are not.
_NUMBER = re.compile(r"(?<![A-Za-z_\d.])[-+\u2212]?[0-9]++(?:\.[0-9]++)*+(?!\.?\d|[A-Za-z_])")
_OUT_OF_TEN = re.compile(r"(?<=[0-9])\s*(?:/|out of)\s*10(?:\.0+)?(?!\.?\d)", re.IGNORECASE)
_BRACKETS = re.compile(r"<([^<>]*[0-9][^<>]*)>")
_OPEN_BRACKET = re.compile(r"<\s*([-+\u2212]?[0-9.]*)$")
_SCORE_IS = re.compile(r"\bscore\b[^.!?\n]{0,200}?\bis\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s)|\n")


def parse_score(text: str, digits: int | None = None) -> Parsed:
    """Read the score out of a model's answer; never raises on a str.

    The number is sought, in this order: in the last <...> that has digits; in the sentence of the
    last "score ... is" that has a number; in the whole answer. Where it is sought there must be
    exactly one number, not counting the 10 of "7/10" or "7 out of 10". A comma is no decimal
    point. Valid scores lie in [0, 10).

    An answer that breaks off inside its number is "truncated": an open "<6.5", and a final "3."
    without decimals. The latter is also how a sentence with an integer ends: pass the `digits`
    that were asked for, and a number at the very end is truncated just when decimals are missing.

    >>> parse_score("The final score is <6.59>.").score
    6.59
    >>> parse_score("The score of this image is 4.", digits=1).score
    4.0
    >>> parse_score("between 3 and 4").reason
    'several numbers'
    """
    answer = text.strip()
    if not answer:
        return Parsed(None, reason="empty")
    answer = _OUT_OF_TEN.sub(" /", answer)  # leaves a mark: a number before it is complete
    opened = _OPEN_BRACKET.search(answer)
    if opened and _breaks_off(opened[1].rstrip("."), "", digits or MAX_DIGITS):
        return Parsed(None, opened[1] or None, "truncated")
    return _read(answer, *_where(answer), digits)


def _where(answer: str) -> tuple[int, int]:
    """Start and end of the part of the answer in which the score stands."""
    brackets = list(_BRACKETS.finditer(answer))
    if brackets:
        return brackets[-1].span(1)
    for phrase in reversed(list(_SCORE_IS.finditer(answer))):
        stop = _SENTENCE_END.search(answer, phrase.end())
        end = stop.start() if stop else len(answer)
        if _NUMBER.search(answer, phrase.end(), end):
            return phrase.end(), end
    return 0, len(answer)


def _read(answer: str, start: int, end: int, digits: int | None) -> Parsed:
    found = [m for m in _NUMBER.finditer(answer, start, end) if m[0].count(".") < 2]
    if len(found) != 1:
        return Parsed(None, reason="several numbers" if found else "no number")
    literal, rest = found[0][0], answer[found[0].end() :]
    if literal[0] in "-\u2212" or not float(literal) < 10:
        return Parsed(None, literal, "out of range")
    if _breaks_off(literal, rest, digits):
        return Parsed(None, literal + rest[:1], "truncated")
    return Parsed(float(literal), literal)


def _breaks_off(literal: str, rest: str, digits: int | None) -> bool:
    """Does the answer end inside the number? `rest` is what follows the literal."""
    if rest.strip("."):
        return rest.startswith(".>")
    decimals = len(literal.partition(".")[2])
    if digits is None:
        return decimals == 0 and rest != ""
    # After decimals, a full stop closes the number; after an integer it may be the decimal point.
    return decimals < digits - 1 and (rest == "" or decimals == 0)


def digit_ids(tokenizer: Any) -> list[int]:
    """Token ids of '0'..'9' of a Hugging Face tokenizer that writes every digit as its own token.

    Needs `encode(text, add_special_tokens=False)` and `convert_ids_to_tokens(ids)`. Every number
    of three digits is tried, alone, in brackets and after a space, and every pair of digits.

    Raises ValueError, naming the text and its tokens, where digits are merged with each other, with
    a space or with a full stop, or where a digit has more than one id.
    """
    known = []
    for digit in "0123456789":
        ids = _digit_tokens(tokenizer, digit)
        if tokenizer.convert_ids_to_tokens(ids) != [digit]:
            raise _merged(tokenizer, digit)
        known += ids
    for sample in _samples():
        expected = [known[int(c)] for c in sample if c.isdigit()]
        if _digit_tokens(tokenizer, sample) != expected:
            raise _merged(tokenizer, sample)
    return known


def _samples() -> list[str]:
    numbers = [f"{k / 100:.2f}" for k in range(1000)]
    pairs = [f"{k:02d}" for k in range(100)]
    contexts = [form.format(n) for n in numbers[::37] for form in ("<{}>", "The score is {}.")]
    return pairs + numbers + contexts


def _digit_tokens(tokenizer: Any, text: str) -> list[int]:
    """Ids of the tokens that hold an ASCII digit (a lone space marker, as of Llama's, does not)."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    tokens = tokenizer.convert_ids_to_tokens(ids)
    return [i for i, token in zip(ids, tokens, strict=True) if re.search("[0-9]", token)]


def _merged(tokenizer: Any, text: str) -> ValueError:
    tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False))
    return ValueError(
        f"tokenizer does not write digits one by one: {text!r} became {tokens}. Scores need one "
        f"token per digit, with the same id everywhere ({list(text)}), as the tokenizer of "
        f"Qwen2-VL has; choose a backbone whose tokenizer splits digits"
    )


def _unwrap(values: np.ndarray) -> float | np.ndarray:
    return float(values) if np.ndim(values) == 0 else values


def _check_digits(digits: int) -> None:
    if not isinstance(digits, int | np.integer) or not 1 <= digits <= MAX_DIGITS:
        raise ValueError(f"digits is {digits!r}; must be an integer from 1 to {MAX_DIGITS}")


def _check_finite(scores: np.ndarray) -> None:
    bad = np.argwhere(~np.isfinite(scores))
    if len(bad):
        index = tuple(int(i) for i in bad[0])
        where = f" at index {index[0] if len(index) == 1 else index}" if index else ""
        raise ValueError(f"score{where} is {scores[index]}; must be finite")
