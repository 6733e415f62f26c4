"""Where the digits of the score stand in a batch of labels, for any answer that holds one.

Full stops cannot tell: a chain of thought has many, and other numbers besides. So the few tokens
that stand right before the number in the known answer are sought, or a regular expression is.

Labels are (batch, n) token ids, `IGNORED` where nothing is trained on. A place is a column of
labels: `labels[:, c]` is what `logits[:, c - 1]` predict. A row without a score has -1 throughout.
"""

from __future__ import annotations

import bisect
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product, takewhile

import torch
from torch.nn import functional as F  # noqa: N812

from realqa_utils.forms.conversations import Form
from realqa_utils.forms.scores import digit_ids, place_values
from realqa_utils.model.encoding import IGNORED

ANCHOR = 4  # tokens before the number by which it is found, at most
_FRONTS = ("", "A sharp photo, 2 people. ", "A sharp photo.\n", "(")  # text before a known answer
# Roles of tokens, as bits: each has one of the first three; the k-th of the anchor _ANCHOR << k.
_DIGIT, _POINT, _OTHER, _ANCHOR, _ANY = 1, 2, 4, 8, -1
_digit_ids = lru_cache(maxsize=8)(digit_ids)  # tries a thousand texts


class ScorePlaces:
    """Find a score of M digits by the tokens that stand before it; called with labels.

    `before` and `after` are the text around the number, at least the words next to it: any text
    may come earlier in an answer. The anchor is what the last `ANCHOR` tokens of `before` are
    whatever stands in front of them and whichever digit follows. The last place in a row where a
    digit follows the anchor is its score, provided that the number has M digits, with a point
    after the first, and does not go on behind them. With an empty `before` the answer begins with
    the number.

    Raises ValueError for a tokenizer that merges digits, and where the number cannot be told by
    the tokens before it.

    >>> from transformers import AutoTokenizer
    >>> from realqa_utils.model.backbone import MINI_FOLDER
    >>> tokenizer = AutoTokenizer.from_pretrained(MINI_FOLDER)
    >>> places = ScorePlaces(tokenizer, 3, before="The final score is <", after=">.")
    >>> places.anchor_text
    ' final score is <'
    >>> answer = "Sharp: 2.50. The final score is <6.59>."
    >>> places(torch.tensor([tokenizer(answer).input_ids]))
    tensor([[16, 18, 19]])
    """

    def __init__(self, tokenizer, digits: int, *, before: str, after: str = ""):
        self.digits, self.digit_ids = digits, _digit_ids(tokenizer)
        self.columns = [0, *range(2, len(place_values(digits)) + 1)]  # from the first digit on
        if re.search(r"[0-9]\.?$", before) or re.match(r"\.?[0-9]", after):
            raise ValueError(f"a digit touches the number in {before + '3.99' + after!r}")
        examples = list(_examples(tokenizer, digits, before, after, self.digit_ids))
        anchor = _common_end([[IGNORED, *ids[:first]] for ids, first in examples])[-ANCHOR:]
        if not anchor:
            raise ValueError(
                f"the token before the number changes with the text in front of {before!r}: "
                "`before` must hold more of the answer, such as 'The final score is <'"
            )
        self.anchor_text = tokenizer.decode([i for i in anchor if i != IGNORED])
        self._point = _point(tokenizer, self.digit_ids)
        self._roles = self._roles_of_tokens(anchor)  # (ids,)
        head = [*(_ANCHOR << k for k in range(len(anchor))), _DIGIT]
        rest = [_POINT, *[_DIGIT] * (digits - 1)] if digits > 1 else []
        ends = ([_OTHER, _ANY], [_POINT, _POINT | _OTHER])  # of 9.99, neither 9.991 nor 9.99.1
        self._patterns = torch.tensor([[*head, *rest, *end] for end in ends], dtype=torch.int16)
        self._head = self._patterns[0, : len(head)]
        self._steps = torch.arange(self._patterns.shape[1])
        self._within = torch.tensor(self.columns) + len(anchor)
        for ids, first in examples:
            expected = [first + 1 + column for column in self.columns]
            if self(torch.tensor([[IGNORED, *ids]])).tolist() != [expected]:
                raise ValueError(
                    f"the number is not found where it stands in {tokenizer.decode(ids)!r}: what "
                    f"is before it, {self.anchor_text!r}, may not come again before a digit"
                )

    @classmethod
    def of_form(cls, tokenizer, form: Form | str, digits: int) -> ScorePlaces:
        """From a form, or a template that has {} for the number: 'The final score is <{}>.'."""
        if isinstance(form, str):
            if form.count("{}") != 1:
                raise ValueError(f"template {form!r} must hold {{}} once, in place of the number")
            before, after = form.split("{}")
        else:
            before, after = form.before, form.after
        return cls(tokenizer, digits, before=before, after=after)

    def __call__(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels (batch, n) -> columns (batch, M), on their device and without asking the host."""
        start, roles = self._read(labels)
        found = (roles[:, None] & self._patterns).all(-1).any(1, keepdim=True)
        return torch.where(found, start + self._within, -1)

    def explain(self, labels: torch.Tensor) -> str:
        """What stands at the anchor in each row, counted, in words: why there is no score."""
        start, roles = self._read(labels)
        anchored = (roles[:, : len(self._head)] & self._head).all(1, keepdim=True)
        starts = torch.where(anchored, start + self._within[0], -1)[:, 0]
        scored = (self(labels) >= 0).all(1).tolist()
        said = Counter(
            "with a score" if known else self._say(row, start)
            for row, start, known in zip(labels.tolist(), starts.tolist(), scored, strict=True)
        )
        return "; ".join(f"{count} {what}" for what, count in said.most_common())

    def _say(self, row: list[int], start: int) -> str:
        if start < 0:
            where = f"after {self.anchor_text!r}" if self.anchor_text else "at the beginning"
            return f"without a digit {where}"
        signs = {token: str(digit) for digit, token in enumerate(self.digit_ids)}
        signs[self._point] = "."
        text = "".join(signs[token] for token in takewhile(signs.__contains__, row[start:]))
        end = start + len(text)
        count = sum(sign.isdigit() for sign in text)
        if count < self.digits and (end == len(row) or row[end] == IGNORED):
            return f"cut off inside the number ({count} of {self.digits} digits)"
        if re.fullmatch(r"[0-9](\.[0-9]+)?\.?", text):
            return f"with a score of {count} digits, not {self.digits}"
        wanted = "9.".ljust(self.digits + 1, "9") if self.digits > 1 else "9"
        return f"with a number that is not written like {wanted}"

    def _roles_of_tokens(self, anchor: Sequence[int]) -> torch.Tensor:
        """Of each token id; the last is that of `IGNORED`, the one before it of all others."""
        largest = max(*self.digit_ids, self._point, *anchor)
        roles = torch.full((largest + 3,), _OTHER, dtype=torch.int16)
        roles[self.digit_ids], roles[self._point] = _DIGIT, _POINT
        for k, token in enumerate(anchor):
            roles[max(token, -1)] |= _ANCHOR << k
        return roles

    def _read(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the last anchor with a digit behind it begins (batch, 1), and roles from there.

        The first column where there is none.
        """
        if self._roles.device != labels.device:
            for name in ("_roles", "_patterns", "_head", "_steps", "_within"):
                setattr(self, name, getattr(self, name).to(labels.device))
        padded = F.pad(labels, (0, len(self._steps)), value=IGNORED)
        roles = self._roles[padded.clamp(-1, len(self._roles) - 2)]
        heads = (roles.unfold(1, len(self._head), 1) & self._head).all(-1)
        start = heads.cumsum(1).argmax(1, keepdim=True)  # the first of the largest counts
        return start, roles.gather(1, start + self._steps)


def _examples(
    tokenizer, digits: int, before: str, after: str, known: Sequence[int]
) -> Iterator[tuple[list[int], int]]:
    """Tokens of answers with every digit and various text in front; the index of the number."""
    for front, digit in product(_FRONTS if before else _FRONTS[:1], range(10)):
        number = f"{digit}.{str(digit) * (digits - 1)}".removesuffix(".")
        start = len(front + before)
        text = front + before + number + after
        coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = coded["input_ids"], coded["offset_mapping"]
        ends = (i for i, (_, end) in enumerate(offsets) if end == start + 1)
        first = next((i for i in ends if ids[i] == known[digit]), None)
        if first is None:
            tokens = tokenizer.convert_ids_to_tokens(ids)
            raise ValueError(f"the first digit of {text!r} has no token of its own: {tokens}")
        yield ids, first


def _common_end(lists: Sequence[list[int]]) -> list[int]:
    """The longest list with which all of them end."""
    return os.path.commonprefix([line[::-1] for line in lists])[::-1]


def _point(tokenizer, known: Sequence[int]) -> int:
    """The token id of the decimal point."""
    ids = tokenizer.encode("3.9", add_special_tokens=False)
    between = ids[ids.index(known[3]) + 1 : ids.index(known[9])]
    if len(between) != 1:
        tokens = tokenizer.convert_ids_to_tokens(ids)
        raise ValueError(f"the decimal point must be one token, but '3.9' became {tokens}")
    return between[0]


# --- by a regular expression -------------------------------------------------------------------


def by_pattern(
    tokenizer, labels: torch.Tensor, pattern: str | re.Pattern[str], digits: int
) -> torch.Tensor:
    """Columns (batch, M) of the score that the one group of `pattern` matches; the last one counts.

    The pattern is sought in the decoded answer. Decodes on the host, row by row: for formats that
    `ScorePlaces` cannot tell. `functools.partial(by_pattern, tokenizer, pattern=..., digits=...)`
    is a function of labels alone.

    Raises ValueError for a tokenizer that merges digits and a pattern without its one group.
    """
    pattern = re.compile(pattern)
    if pattern.groups != 1:
        raise ValueError(f"pattern {pattern.pattern!r} must have one group: the number")
    decimals = len(place_values(digits)) - 1
    literal = rf"[0-9]\.[0-9]{{{decimals}}}" if decimals else "[0-9]"
    number = re.compile(rf"(?<![0-9])(?<![0-9]\.){literal}(?!\.?[0-9])")
    known, nothing = _digit_ids(tokenizer), [-1] * digits
    rows = [_match(tokenizer, row, pattern, number, known) or nothing for row in labels.tolist()]
    return torch.tensor(rows, device=labels.device).reshape(-1, digits)


def _match(tokenizer, row, pattern: re.Pattern, number: re.Pattern, known) -> list[int] | None:
    columns = [column for column, token in enumerate(row) if token != IGNORED]
    ids = [row[column] for column in columns]

    def text_of(count: int) -> str:
        return tokenizer.decode(ids[:count], clean_up_tokenization_spaces=False)

    def complete(index: int) -> int:
        """Characters of the text up to a token, without one that the next token completes."""
        return len(text_of(index + 1).rstrip("\ufffd"))

    text = text_of(len(ids))
    matches = list(pattern.finditer(text))
    start, end = matches[-1].span(1) if matches else (0, 0)
    found = number.match(text, start)
    if not found or found.end() != end:
        return None
    digits = [place for place in range(start, end) if text[place] != "."]
    tokens = [bisect.bisect_right(range(len(ids)), place, key=complete) for place in digits]
    whole = [ids[token] for token in tokens] == [known[int(text[place])] for place in digits]
    return [columns[t] for t in tokens] if whole and columns[tokens[0]] > 0 else None
