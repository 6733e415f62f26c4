"""Questions and answers (Sec. 3.3, Fig. 1c): render a conversation, find the values in an answer.

Stage 1 asks for attributes: one at a time (9 sets), those of a level (3), all of them (1, in two
orders). Stage 2 asks for a score. One definition renders and parses a form, so nothing ever looks
for a score by counting full stops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from realqa_utils.forms import answers, taxonomy
from realqa_utils.forms.answers import Parsed
from realqa_utils.forms.scores import format_score
from realqa_utils.forms.taxonomy import BY_NAME, Attribute

# --- stage 2: a score --------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """One way to ask for a score; the answer is `before`, the digits, `after`."""

    name: str
    question: str
    before: str
    after: str

    def answer(self, score: float, digits: int) -> str:
        """The full answer for a score on the 0..10 scale, written with `digits` digits."""
        return f"{self.before}{format_score(score, digits)}{self.after}"

    def score_span(self, answer: str) -> tuple[int, int]:
        """Characters [start, end) of the number in an answer of this form.

        Raises ValueError when the answer does not follow the form.
        """
        if not (answer.startswith(self.before) and answer.endswith(self.after)):
            raise ValueError(f"answer {answer!r} does not follow the form {self.name!r}")
        return len(self.before), len(answer) - len(self.after)


#: Q1-R1. The authors' exact question is not known; it asks for the score and states its range.
DIRECT = Form(
    "direct",
    "Rate the quality and aesthetics of this image with a score from 0 to 10.",
    "The score of this image is ",
    ".",
)
FORMS: dict[str, Form] = {form.name: form for form in (DIRECT,)}

# --- stage 1: attributes -----------------------------------------------------------------------


@dataclass(frozen=True)
class Slot:
    """A place in an answer: the value of an attribute, or the reason for its score."""

    attribute: Attribute
    is_reason: bool = False

    @property
    def key(self) -> str:
        """The column of a table of labels that fills the slot."""
        return f"{self.attribute.name}_reason" if self.is_reason else self.attribute.name

    @property
    def heading(self) -> str:
        title = self.attribute.title
        title += " Score" if self.attribute.kind == "score" else ""
        return f"Reason for {title}" if self.is_reason else title

    def say(self, label: object) -> str:
        """A label in words: a score, the words of a tier index, a text.

        Raises ValueError for a label that the attribute does not have.
        """
        tiers, scored = self.attribute.tiers, self.attribute.kind == "score"
        if self.is_reason or self.attribute.kind == "text":
            if isinstance(label, str):
                return label
            raise ValueError(f"{self.key}: {label!r} is no text")
        legal = range(1, 11) if scored else range(len(tiers))
        if label not in legal:
            raise ValueError(f"{self.key}: {label!r} is none of {legal[0]} to {legal[-1]}")
        return str(int(label)) if scored else tiers[int(label)].words


@dataclass(frozen=True)
class AttributeForm:
    """One way to ask for attributes; the answer is `heading: value.` for each slot in turn."""

    name: str
    question: str
    attributes: tuple[Attribute, ...]

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Reason before score, as in the paper's Fig. 1c."""
        with_reason = ((a.kind == "score", a) for a in self.attributes)
        pairs = ((Slot(a, True), Slot(a)) if reason else (Slot(a),) for reason, a in with_reason)
        return tuple(slot for pair in pairs for slot in pair)

    def answer(self, labels: Mapping[str, object]) -> str:
        """The full answer for a row of labels.

        Raises KeyError for a label that lacks, ValueError for one that cannot be; both name it.
        """
        return " ".join(f"{slot.heading}: {slot.say(labels[slot.key])}." for slot in self.slots)

    @property
    def instruction(self) -> str:
        """The question for a model that never saw the form: with its layout and the choices."""
        lines = (f"{slot.heading}: {_choices(slot)}." for slot in self.slots)
        layout = "\n".join(lines)
        return f"{self.question} Answer in exactly this form, one line each:\n{layout}"

    def parse(self, answer: str) -> Parsed:
        """The values in whatever a model answered; never raises.

        Headings are found in any order, whatever the case, numbering or markup around them. An
        answer to a question about one attribute may be the bare value.
        """
        segments = answers.segments(answer)
        if not segments and len(self.attributes) == 1:
            segments = {(self.attributes[0].name, False): [answer]}
        return answers.read(self.slots, segments)


def _choices(slot: Slot) -> str:
    attribute = slot.attribute
    if slot.is_reason or attribute.kind == "text":
        return "<a few words>"
    if attribute.kind == "score":
        return "<a whole number from 1 to 10>"
    return "<" + " | ".join(tier.words for tier in attribute.tiers) + ">"


# --- the sets ----------------------------------------------------------------------------------


def _question(attribute: Attribute) -> str:
    title = attribute.title.lower()
    if attribute.kind == "score":
        return f"Rate the {title} of this image: a reason, then a score from 1 to 10."
    return f"What is the {title} of this image?"


_LEVELS = {level: taxonomy.of_level(level) for level in taxonomy.LEVELS}
#: Sets of stage 1 by granularity. `mix` goes from the high level to the low one.
GRANULARITIES: dict[str, tuple[AttributeForm, ...]] = {
    "attributes": tuple(
        AttributeForm(name, _question(BY_NAME[name]), (BY_NAME[name],)) for name in taxonomy.SCORED
    ),
    "levels": tuple(
        AttributeForm(f"{level}_level", f"Describe the {level} level of this image.", attributes)
        for level, attributes in _LEVELS.items()
    ),
    "mix": (
        AttributeForm(
            "mix",
            "Describe all levels of this image, from high to low.",
            tuple(a for level in taxonomy.LEVELS for a in _LEVELS[level]),
        ),
    ),
    "mix_low_first": (
        AttributeForm(
            "mix_low_first",
            "Describe all levels of this image, from low to high.",
            tuple(a for level in reversed(taxonomy.LEVELS) for a in _LEVELS[level]),
        ),
    ),
}
#: The 13 sets of the paper's final row: every granularity, high level first.
ALL_SETS: tuple[AttributeForm, ...] = (
    *GRANULARITIES["attributes"], *GRANULARITIES["levels"], *GRANULARITIES["mix"],
)  # fmt: skip
#: What stage 1 can be trained on, by name: one granularity, or all 13 sets.
STAGE_1: dict[str, tuple[AttributeForm, ...]] = GRANULARITIES | {"all": ALL_SETS}
ATTRIBUTE_FORMS: dict[str, AttributeForm] = {
    form.name: form for forms in GRANULARITIES.values() for form in forms
}
(MIX,) = GRANULARITIES["mix"]


def vocabulary_texts() -> list[str]:
    """Every fixed text that a conversation can hold: what a tokenizer of our own must know."""
    texts = [DIRECT.question, DIRECT.answer(3.99, 3)]
    texts += [
        "Rate the aesthetics and quality of this image step by step.",
        "Rate the aesthetics and quality of this image step by step with the regular form.",
        "The final score is <6.59>.",
        "system\nYou are a helpful assistant.\nuser\nassistant\n",
    ]
    for form in ATTRIBUTE_FORMS.values():
        texts += [form.question, *(f" {slot.heading}: 7." for slot in form.slots)]
    for number, attribute in enumerate(taxonomy.ATTRIBUTES, 1):
        texts.append(f"{number}. Reason for {attribute.title} Score: {attribute.title} Score: 7,")
        texts += [f" {attribute.title}: {t.words}." for t in attribute.tiers]
        texts += [f"The {attribute.title.lower()} is {t.words}." for t in attribute.tiers]
    return texts
