"""Does a model know numbers? The number-sorting probe of Table 3.

A model is asked to sort lists of ten decimals from low to high. The paper names three measures and
defines none; ours, per list of n given numbers:

- `accuracy`: 1 where the answer is the sorted list, number by number, with nothing before or after;
- `position`: share of the n places of the sorted list at which the answer has the right number;
- `recall`: share of the given numbers that appear; one given twice must appear twice;
- `hallucination`: share of the answered numbers that were not given, over all lists together, so
  that an answer without a number weighs nothing. Saying a given number too often is none.

Numbers are compared by value: 3.50 is 3.5.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from realqa_utils.measures import evaluation
from realqa_utils.measures.resampling import draw_counts
from realqa_utils.measures.statistics import Interval

#: As in the paper; the numbers follow, with blanks between them.
QUESTION = "Sort from low to high: "
MEASURES = ("accuracy", "position", "recall", "hallucination")
Answerer = Callable[[Sequence[str]], Sequence[str]]  # questions -> texts

# --- the lists -----------------------------------------------------------------------------------


def lists(count: int = 200, length: int = 10, seed: int = 0) -> list[list[str]]:
    """Lists of random decimals from 1 to 10 as they are written: two places at most, no zero last.

    All 901 numbers are equally likely, and one may come twice in a list.

    >>> lists(count=1, length=4)
    [['8.66', '6.73', '5.6', '3.43']]
    """
    return draw(np.random.default_rng(seed), count, length)


def draw(rng: np.random.Generator, count: int, length: int) -> list[list[str]]:
    """The same from a generator of one's own."""
    hundredths = rng.integers(100, 1001, (count, length))
    return [[canonical(f"{number / 100:.2f}") for number in row] for row in hundredths]


def question(numbers: Sequence[str]) -> str:
    return QUESTION + " ".join(numbers)


def in_order(numbers: Sequence[str]) -> list[str]:
    return sorted(numbers, key=float)


# --- what an answer says -------------------------------------------------------------------------

# No sign: all numbers of the probe are positive, so a hyphen is a bullet or stands between two.
# Not in words ("3rd", "v2"), nor in versions and dates ("3.2.1").
_NUMBER = re.compile(
    r"(?<![^\W_])(?<![0-9]\.)(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?![^\W_])(?!\.[0-9])"
)
_WORD = re.compile(r"[^\W\d_]+|```|[\])}]")  # or a closing bracket or fence: ends a list
_JOINING = {"and", "then", "le", "leq", "lt"}
_LABEL = re.compile(r"^[ \t]*\(?([0-9]{1,3})[.):][ \t]+", re.MULTILINE)
_THOUGHT, _THINKING = (re.compile(rf"<{slash}think(?:ing)?>", re.I) for slash in ("/", ""))


def parse(answer: str, given: Sequence[str] = ()) -> list[str]:
    """The list of numbers that an answer gives, canonical; empty where there is none. Never raises.

    - Thoughts up to the last `</think>` are left out, and all after a `<think>` without an end.
    - A list is a run of numbers with signs, brackets, line breaks, "and" or "then" between them; a
      word, a closing bracket or a code fence ends it. A comma parts numbers, it is no decimal mark.
    - Of several lists the last counts that is at least half as long as the longest: reasoning and
      the question come before the answer, remarks after it are short.
    - A list that is `given` in its own order is the question restated, and does not count where
      there is another. Where it runs on into a longer one, only what follows counts.
    - Line numbers 1, 2, 3, .. are no answers.

    >>> parse("Of 3.5, 1 and 2.25 the smallest is 1. Sorted: **1.00**, 2.25, 3.5.")
    ['1', '2.25', '3.5']
    """
    given = [canonical(number) for number in given]
    text = _THINKING.split(_THOUGHT.split(answer)[-1])[0]
    runs = _runs(_without_labels(text))
    if not runs:
        return []
    long = [run for run in runs if 2 * len(run) >= max(map(len, runs))]
    if given and given != in_order(given):
        long = [run for run in long if run != given] or long
        start = len(given)
        long = [r[start:] if len(r) > start and r[:start] == given else r for r in long]
    return long[-1]


def _runs(text: str) -> list[list[str]]:
    runs, end = [], None
    for found in _NUMBER.finditer(text):
        if end is None or _parts(text[end : found.start()]):
            runs.append([])
        runs[-1].append(canonical(found[0]))
        end = found.end()
    return runs


def _parts(between: str) -> bool:
    return any(word.lower() not in _JOINING for word in _WORD.findall(between))


def _without_labels(text: str) -> str:
    labels = [int(label) for label in _LABEL.findall(text)]
    counted = all(b in (1, a + 1) for a, b in zip([0, *labels], labels, strict=False))
    return _LABEL.sub("", text) if counted else text


def canonical(number: str) -> str:
    """A positive decimal as it is written shortest: 3.50 -> 3.5, 07. -> 7, .5 -> 0.5."""
    whole, _, places = number.partition(".")
    whole, places = whole.lstrip("0") or "0", places.rstrip("0")
    return f"{whole}.{places}" if places else whole


# --- measures ------------------------------------------------------------------------------------


def measure(given: Sequence[str], said: Sequence[str]) -> dict[str, float]:
    """What one answer is worth: accuracy, position, recall; numbers answered, and invented ones.

    `given` holds at least one number, `said` any; both canonical.
    """
    right = in_order(given)
    found = Counter(given) & Counter(said)
    return {
        "accuracy": float(list(said) == right),
        "position": sum(a == b for a, b in zip(right, said, strict=False)) / len(given),
        "recall": found.total() / len(given),
        "answered": len(said),
        "invented": sum(number not in given for number in said),
    }


def probe(answer: Answerer, lists: Sequence[Sequence[str]]) -> pd.DataFrame:
    """Ask all lists at once: a row per list with given, text, said and what `measure` says.

    `answer` takes the questions and gives one text for each, in their order. Raises ValueError for
    another number of texts.
    """
    texts = list(answer([question(numbers) for numbers in lists]))
    if len(texts) != len(lists):
        raise ValueError(f"{len(texts)} answers to {len(lists)} questions; right is one for each")
    rows = []
    for given, text in zip(lists, texts, strict=True):
        said = parse(text, given)
        row = {"given": " ".join(given), "text": text, "said": " ".join(said)}
        rows.append(row | measure(given, said))
    return pd.DataFrame(rows)


def table(
    answers: Mapping[str, pd.DataFrame], list_seed: int, seed: int, resamples: int = 1000
) -> pd.DataFrame:
    """Every measure of every model, tidy; `answers` are frames of `probe` over the same lists.

    Runs of a model stand one below the other, told apart by a column `run`. 95 % percentile
    bootstrap over lists, the same draws for all models, pooled over runs.
    """
    rows = []
    for model, frame in answers.items():
        for metric in MEASURES:
            interval = estimate(frame, metric, seed, resamples)
            rows.append(evaluation.row(interval, lists_name(frame), model, metric, [list_seed]))
    return pd.DataFrame(rows)


def lists_name(frame: pd.DataFrame) -> str:
    """What a frame of `probe` was asked: "200 lists of 10 decimals"."""
    first = runs(frame)[0]
    return f"{len(first)} lists of {len(first['given'].iloc[0].split())} decimals"


def runs(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """A frame of `probe` by its column `run`; all of it, where there is none."""
    return [part for _, part in frame.groupby("run")] if "run" in frame else [frame]


def estimate(frame: pd.DataFrame, metric: str, seed: int, resamples: int = 1000) -> Interval:
    """One measure over the lists of a frame of `probe`, the mean of its runs.

    NaN where it is undefined: in all runs, or at its ends in half of the resamples.
    """
    parts = [_parts_of(run, metric) for run in runs(frame)]
    count = len(parts[0][0])
    drawn = draw_counts(np.random.default_rng(seed), resamples, np.arange(count))
    counts = np.concatenate(list(drawn))
    values = np.concatenate([_ratio(counts @ top, counts @ below) for top, below in parts])
    sums = [(top.sum(keepdims=True), below.sum(keepdims=True)) for top, below in parts]
    exact = np.concatenate([_ratio(*sides) for sides in sums])
    exact, defined = exact[np.isfinite(exact)], values[np.isfinite(values)]
    ends = np.quantile(defined, (0.025, 0.975)) if 2 * len(defined) >= len(values) else [np.nan] * 2
    mean = float(exact.mean()) if len(exact) else np.nan
    return Interval(mean, *map(float, ends), count, dropped=len(values) - len(defined))


def _parts_of(frame: pd.DataFrame, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """A measure is a sum over lists, divided by another."""
    if metric == "hallucination":
        return frame["invented"].to_numpy(float), frame["answered"].to_numpy(float)
    return frame[metric].to_numpy(float), np.ones(len(frame))


def _ratio(top: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(top, below, out=np.full(len(top), np.nan), where=below > 0)
