"""Who sorts numbers in the probe (`sorting.probe`): a checkpoint, an endpoint, two baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from realqa_utils.model.backbone import Backbone
from realqa_utils.model.encoding import encode
from realqa_utils.number_sorting import sorting
from realqa_utils.number_sorting.sorting import Answerer
from realqa_utils.scoring import endpoints
from realqa_utils.scoring.endpoints import Endpoint

MAX_TOKENS = 160  # of an answer: ten numbers of four digits with commas and some words
ENDPOINT_TOKENS = 2048  # of a general model, which may think aloud first

# --- baselines -----------------------------------------------------------------------------------


def copied(questions: Sequence[str]) -> list[str]:
    """The numbers as they were given."""
    return [question.removeprefix(sorting.QUESTION) for question in questions]


def shuffled(seed: int = 0) -> Answerer:
    """The given numbers in random order."""

    def answer(questions: Sequence[str]) -> list[str]:
        rng = np.random.default_rng([seed, 4])
        return [" ".join(rng.permutation(text.split())) for text in copied(questions)]

    return answer


# --- a local checkpoint --------------------------------------------------------------------------


def checkpoint(
    backbone: Backbone,
    max_new_tokens: int = MAX_TOKENS,
    batch_size: int = 100,
    progress: bool = False,
) -> Answerer:
    """Free-running greedy answers of a backbone, which is shown no photograph."""

    @torch.no_grad()
    def answer(questions: Sequence[str]) -> list[str]:
        backbone.model.eval()
        starts, said = range(0, len(questions), batch_size), []
        for start in tqdm(starts, "sorting", disable=not progress, leave=False):
            part = questions[start : start + batch_size]
            said += _generate(backbone, part, max_new_tokens)
        return said

    return answer


def _generate(backbone: Backbone, questions: Sequence[str], max_new_tokens: int) -> list[str]:
    batch = encode(backbone, questions, None, [None] * len(questions))
    del batch["labels"], batch["position_ids"]  # `generate` works them out for itself
    out = backbone.model.generate(
        **backbone.to_device(batch),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        repetition_penalty=1.0,  # some checkpoints bring another
    )
    answers = out[:, batch["input_ids"].shape[1] :]
    return backbone.tokenizer.batch_decode(answers, skip_special_tokens=True)


# --- an endpoint ---------------------------------------------------------------------------------


def at_endpoint(
    endpoint: Endpoint, cache: str | Path, max_tokens: int = ENDPOINT_TOKENS, **options
) -> Answerer:
    """The model behind an OpenAI-compatible endpoint; answers are kept in the folder `cache`.

    `options` are those of `endpoints.ask`. Asking raises ConnectionError where a question stays
    without an answer: that says nothing about the model. A rerun asks only what is missing.
    """

    def answer(questions: Sequence[str]) -> list[str]:
        jobs = [(question, None) for question in questions]
        answers = endpoints.ask(endpoint, jobs, cache, max_tokens=max_tokens, **options)
        problems = [answer.problem for answer in answers if answer.problem]
        if problems:
            raise ConnectionError(
                f"{len(problems)} of {len(answers)} questions have no answer (the first: "
                f"{problems[0]}); run again: the others are kept in {cache}"
            )
        return [answer.text for answer in answers]

    return answer
