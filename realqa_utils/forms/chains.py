"""Chains of thought (Sec. 3.3, Fig. 1c): all ten attributes, then the score; Q2-R2 and Q3-R3.

The natural form tells them in prose, the regular one as a numbered list. In both the high level
comes first, and the reason for a score before the score.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from realqa_utils.forms import answers, scores, taxonomy
from realqa_utils.forms.conversations import DIRECT, Form, Slot
from realqa_utils.forms.scores import format_score, parse_score
from realqa_utils.forms.taxonomy import BY_NAME

#: Most tokens of an answer of the mini backbone; the longest true one has about 170.
MAX_TOKENS = 200


@dataclass(frozen=True)
class Part:
    """A sentence or an item: the words before a slot, the slot, and what closes it."""

    lead: str
    slot: Slot
    tail: str

    def say(self, label: object) -> str:
        """The part with a label filled in. Raises ValueError for one that cannot be."""
        return f"{self.lead}{self.slot.say(label)}{self.tail}"


@dataclass(frozen=True)
class ChainForm:
    """One way to ask for a score step by step: the parts, then `before`, the digits, `after`."""

    name: str
    question: str
    parts: tuple[Part, ...]
    before: str = "The final score is <"
    after: str = ">."
    prose: bool = False  # parts are sentences, not headed items

    @property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(part.slot for part in self.parts)

    def answer(self, labels: Mapping[str, object], score: float, digits: int) -> str:
        """The full answer for a row of labels and a score on the 0..10 scale.

        Raises KeyError for a label that lacks, ValueError for one that cannot be; both name it.
        """
        said = (part.say(labels[part.slot.key]) for part in self.parts)
        return " ".join((*said, f"{self.before}{format_score(score, digits)}{self.after}"))

    def score_span(self, answer: str) -> tuple[int, int]:
        """Characters [start, end) of the number in an answer of this form.

        Raises ValueError when the answer does not follow the form.
        """
        at, end = answer.rfind(self.before), len(answer) - len(self.after)
        start = at + len(self.before)
        begun = at > 0 and answer.startswith(self.parts[0].lead) and answer.endswith(self.after)
        if not (begun and re.fullmatch(r"[0-9](\.[0-9]+)?", answer[start:end])):
            raise ValueError(f"answer {answer!r} does not follow the form {self.name!r}")
        return start, end

    def parse(self, answer: str, digits: int | None = None) -> tuple[answers.Parsed, scores.Parsed]:
        """The attributes and the score in whatever a model answered; never raises.

        Attributes are read as by `AttributeForm.parse`; in prose, a sentence that begins with "The
        exposure is" is a heading as well, and where an answer has no headings it is taken as prose.
        The score must be called that, "final score" or "the score of this image": neither that of
        an attribute nor the number of an item passes for it.
        """
        mentions = list(_SCORE.finditer(answer))
        if mentions:
            start, end = mentions[-1].span()
            score = parse_score(answer[start:end], digits)
            answer = f"{answer[:start]}\n{answer[end:]}"
        else:
            score = scores.Parsed(None, reason="no number" if answer.strip() else "empty")
        found = answers.segments(answer, self.prose) or answers.segments(answer, prose=True)
        return answers.read(self.slots, found), score


# A mention goes on to the end of its sentence, at the earliest behind the word that follows it.
_SCORE = re.compile(
    r"\b(?:(?:the\s+)?(?:final|overall)\s+score|"
    r"the\s+score\s+of\s+th(?:is|e)\s+(?:image|photo(?:graph)?|picture))\b"
    r"[\s:=*_]*(?:is\b)?[\s:=*_]*.*?(?:[.!?](?=[*_]*\s)|\n|\Z)",
    re.IGNORECASE | re.DOTALL,
)

# --- the two forms -----------------------------------------------------------------------------

_HIGH = (BY_NAME["composition"], BY_NAME["eye_catching"])  # the order of Fig. 1c
_ORDER = (*_HIGH, *taxonomy.of_level("middle"), *taxonomy.of_level("low"))
_SLOTS = tuple(
    slot for a in _ORDER for slot in ((Slot(a, True), Slot(a)) if a in _HIGH else (Slot(a),))
)


def _sentence(slot: Slot) -> Part:
    attribute = slot.attribute
    title = attribute.title.lower() + (" score" if attribute.kind == "score" else "")
    if slot.is_reason:
        return Part(f"The reason for the {title} is this: ", slot, ".")
    return Part(f"The {title} {'are' if attribute.kind == 'text' else 'is'} ", slot, ".")


def _items() -> Iterator[Part]:
    """Numbered by level; a comma keeps a reason and its score together."""
    for level, name in enumerate(taxonomy.LEVELS, 1):
        slots = [slot for slot in _SLOTS if slot.attribute.level == name]
        for number, slot in enumerate(slots, 1):
            yield Part(f"{level}.{number} {slot.heading}: ", slot, "," if slot.is_reason else ".")


#: Q2-R2 and Q3-R3. All fixed words are whole tokens of the mini backbone's tokenizer.
NATURAL = ChainForm(
    "cot_natural",
    "Rate the aesthetics and quality of this image step by step.",
    tuple(map(_sentence, _SLOTS)),
    prose=True,
)
REGULAR = ChainForm(
    "cot_regular",
    "Rate the aesthetics and quality of this image step by step with the regular form.",
    tuple(_items()),
)
CHAINS: dict[str, ChainForm] = {form.name: form for form in (NATURAL, REGULAR)}
#: What stage 2 can be trained on, by name; the paper trains on all three forms.
STAGE_2: dict[str, tuple[Form | ChainForm, ...]] = {
    "direct": (DIRECT,),
    **{name: (form,) for name, form in CHAINS.items()},
    "direct_and_cot": (DIRECT, NATURAL, REGULAR),
}
