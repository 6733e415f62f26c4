"""What a model's answer about attributes says, however it is written.

Headings are found whatever their order, case, numbering or markup; each attribute gets a value or
a named reason why there is none, and nothing that a model writes raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING

from realqa_utils.forms import taxonomy
from realqa_utils.forms.taxonomy import BY_NAME, Attribute

if TYPE_CHECKING:
    from realqa_utils.forms.conversations import Slot


@dataclass(frozen=True)
class Parsed:
    """What an answer says. Every attribute asked for is in `values` or in `missing`.

    `values` holds scores 1..10, tier indices and texts; `missing` says why there is no value;
    `reasons` holds what was given for the high-level scores.
    """

    values: dict[str, int | str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def code(self, name: str) -> float:
        """Code of a scored attribute, NaN where there is no value."""
        if name not in self.values:
            return float("nan")
        return float(taxonomy.code(name, self.values[name]))


_MARKUP = " \t\r*_`\"'{}[]<>|,;."
_GAP = r"[\s_&/-]*(?:and[\s_-]*)?"  # "Eye-Catching", "eye_catching", "Subject and Background"
_TITLES = "|".join(f"(?P<{name}>{name.replace('_', _GAP)})" for name in BY_NAME)
# A colon is asked for: "the exposure is right" inside a reason is no heading.
_HEADING = re.compile(
    rf"(?<![^\W_])(?P<reason>reasons?[\s_]+for[\s_]+(?:the[\s_]+)?)?(?:{_TITLES})"
    r"(?:[\s_]+score)?[\s\"'*_`]*[:=：]",
    re.IGNORECASE,
)
# In prose a sentence that begins with a title is one: "The exposure is right."
_SENTENCE = re.compile(
    rf"(?:(?<=[.!?])\s+|^[ \t*#•-]*)(?:the\s+)?(?P<reason>reasons?\s+for\s+(?:the\s+)?)?"
    rf"(?:{_TITLES})(?:\s+score)?(?:\s+of\s+th(?:is|e)\s+\w+)?\s+(?:is|are)\b(?:\s+this\b)?:?",
    re.IGNORECASE | re.MULTILINE,
)
_NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)?")
_SCALE = re.compile(r"(?:/|\bout of\b|\b[01]\s*(?:to|and|-|–))\s*10\b", re.IGNORECASE)
_RANGE = re.compile(r"\d+\s*(?:to|or|-|–|~)\s*\d", re.IGNORECASE)


Segments = Mapping[tuple[str, bool], Sequence[str]]  # texts by attribute, and whether a reason


def segments(answer: str, prose: bool = False) -> dict[tuple[str, bool], list[str]]:
    """The texts behind the headings of an answer, by attribute and whether it is a reason.

    With `prose`, sentences that begin with "The exposure is" and the like are headings too.
    """
    found: dict[tuple[str, bool], list[str]] = {}
    headings = list(_HEADING.finditer(answer))
    if prose:
        headings = sorted([*headings, *_SENTENCE.finditer(answer)], key=re.Match.start)
    for heading, following in zip_longest(headings, headings[1:]):
        text = answer[heading.end() : following.start() if following else len(answer)]
        if following and following.re is _HEADING:
            text = _unnumbered(text)
        found.setdefault((heading.lastgroup, heading["reason"] is not None), []).append(text)
    return found


def read(slots: Iterable[Slot], found: Segments) -> Parsed:
    """What the texts found say of every slot: a value, or why there is none."""
    parsed = Parsed()
    for slot in slots:
        name, texts = slot.attribute.name, found.get((slot.attribute.name, slot.is_reason), [])
        if slot.is_reason:
            if texts and (reason := bare(texts[0])):
                parsed.reasons[name] = reason
            continue
        value, problem = one_value(slot.attribute, texts)
        if problem:
            parsed.missing[name] = problem
        else:
            parsed.values[name] = value
    return parsed


def _unnumbered(text: str) -> str:
    """A text without what belongs to the heading after it: "2. ", "1.3 " or "- "."""
    before, newline, line = text.rpartition("\n")
    rest = line.rstrip(_MARKUP + ")#-•").rstrip("0123456789.").rstrip("(")
    if newline and not rest.strip(_MARKUP + "#-•"):
        return before
    stopped = rest[-1:].isspace() and rest.rstrip().endswith((".", ",", ";"))
    return before + newline + rest if stopped else text


def bare(text: str) -> str:
    """A text without the markup around it and its closing punctuation."""
    return text.strip(_MARKUP + "\n")


def one_value(attribute: Attribute, texts: list[str]) -> tuple[int | str | None, str]:
    """The value that all texts agree on, and "", or None and the reason why there is none."""
    if not texts:
        return None, "not mentioned"
    found = [_value(attribute, text) for text in texts]
    problems = [problem for _, problem in found if problem]
    if problems:
        return None, problems[0]
    if len({value for value, _ in found}) > 1:
        return None, "said twice, differently"
    return found[0][0], ""


def _value(attribute: Attribute, text: str) -> tuple[int | str | None, str]:
    said = bare(text)
    if not said:
        return None, "empty"
    if attribute.kind == "text":
        return said, ""
    if attribute.kind == "score":
        return _score(said)
    return _tier(attribute, said)


def _score(said: str) -> tuple[int | None, str]:
    """The number that the text begins with, or else the only one; "/10" and the like left out."""
    text = _SCALE.sub("", said)
    first, numbers = _NUMBER.match(text), set(_NUMBER.findall(text))
    if not numbers:
        return None, f"no number in {said[:40]!r}"
    if _RANGE.match(text) or (first is None and len(numbers) > 1):
        return None, f"several numbers in {said[:40]!r}"
    number = first[0] if first else numbers.pop()
    value = float(number.replace(",", "."))
    if not 1 <= value <= 10:
        return None, f"outside 1 to 10: {number[:40]}"
    if not value.is_integer():
        return None, f"not a whole number: {number[:40]}"
    return int(value), ""


def _tier(attribute: Attribute, said: str) -> tuple[int | None, str]:
    """The tier whose words the text begins with; the part in brackets may be left out.

    The choices merely repeated, "blurry | clear", are none.
    """
    cells = [" ".join(cell.split()) for cell in said.lower().split("|")]
    found = {
        index
        for index, tier in enumerate(attribute.tiers)
        for cell in cells
        if re.match(rf"{re.escape(tier.words.split(' (')[0])}(?!\w)", cell)
    }
    return (found.pop(), "") if len(found) == 1 else (None, f"no tier: {said[:40]!r}")
