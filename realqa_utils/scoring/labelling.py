"""A model labels photographs: ask in the forms of stage 1, parse what it answers.

Answers are free-running and greedy. What cannot be parsed is kept with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from realqa_utils.forms import taxonomy
from realqa_utils.forms.conversations import STAGE_1, AttributeForm, Parsed
from realqa_utils.model import decoder
from realqa_utils.model.backbone import Backbone

#: Most tokens of an answer of the mini backbone; the longest true one has about 110.
MAX_TOKENS = 130


def ask(
    backbone: Backbone,
    images: Sequence[Image.Image] | Sequence[Callable[[], Image.Image]],
    question: str,
    max_new_tokens: int = MAX_TOKENS,
    batch_size: int = 128,
    progress: bool = False,
) -> list[str]:
    """Free-running greedy answers to one question about each photograph, in their order."""
    starts = range(0, len(images), batch_size)
    answers: list[str] = []
    for start in tqdm(starts, "asking", disable=not progress, leave=False):
        part = images[start : start + batch_size]
        opened = [image() if callable(image) else image for image in part]
        answers += decoder.generate(backbone, [question] * len(opened), opened, max_new_tokens)
    return answers


def label(
    backbone: Backbone,
    images: Sequence[Image.Image] | Sequence[Callable[[], Image.Image]],
    granularity: str = "mix",
    **options,
) -> list[Parsed]:
    """What a model says of every attribute, asked in the forms of a granularity of stage 1."""
    return merge(
        [(form, ask(backbone, images, form.question, **options)) for form in STAGE_1[granularity]]
    )


def merge(answered: Sequence[tuple[AttributeForm, Sequence[str]]]) -> list[Parsed]:
    """Answers (n,) to several forms about the same photographs, as one `Parsed` for each.

    Of an attribute that several forms ask for, the last answer that has a value counts.
    """
    out = [Parsed() for _ in answered[0][1]]
    for form, answers in answered:
        for whole, answer in zip(out, answers, strict=True):
            part = form.parse(answer)
            whole.values.update(part.values)
            whole.reasons.update(part.reasons)
            whole.missing.update(part.missing)
            for name in whole.values:
                whole.missing.pop(name, None)
    return out


def as_frame(parsed: Sequence[Parsed], ids: Sequence[str]) -> pd.DataFrame:
    """Tidy: id, attribute, said (code, NaN where there is none) and why not, scored ones only."""
    rows = [
        {"id": identity, "attribute": name, "said": p.code(name), "why": p.missing.get(name, "")}
        for identity, p in zip(ids, parsed, strict=True)
        for name in taxonomy.SCORED
    ]
    return pd.DataFrame(rows)


def true_codes(frame: pd.DataFrame) -> pd.DataFrame:
    """Codes (n, 9) of a table's own labels (scores, tier indices)."""
    return pd.DataFrame(
        {n: np.array([taxonomy.code(n, v) for v in frame[n]], float) for n in taxonomy.SCORED}
    ).set_axis(frame["id"])
