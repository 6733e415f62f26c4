"""Questions and answers of stage 2 (Sec. 3.3, Fig. 1c): render a conversation, find its score.

A `Form` knows its question and its answer with the place of the score in it, so nothing ever
looks for the score by counting full stops. Stage 1 and the chain-of-thought forms join later.
"""

from __future__ import annotations

from dataclasses import dataclass

from realqa_utils import taxonomy
from realqa_utils.scores import format_score


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


def vocabulary_texts() -> list[str]:
    """Every fixed text that a conversation can hold: what a tokenizer of our own must know."""
    texts = [DIRECT.question, DIRECT.answer(3.99, 3)]
    texts += [
        "Rate the aesthetics and quality of this image step by step.",
        "Rate the aesthetics and quality of this image step by step with the regular form.",
        "The final score is <6.59>.",
        "system\nYou are a helpful assistant.\nuser\nassistant\n",
    ]
    for number, attribute in enumerate(taxonomy.ATTRIBUTES, 1):
        texts.append(f"{number}. Reason for {attribute.title} Score: {attribute.title} Score: 7,")
        texts.append(f"Rate the {attribute.title.lower()} of this image. {attribute.level} level")
        texts += [f"The {attribute.title.lower()} is {t.words}." for t in attribute.tiers]
    return texts
