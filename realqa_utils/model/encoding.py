"""From conversations to token batches: chat template, image placeholders, positions, labels.

Labels are -100 everywhere but on the answer and its end token. Positions come from the model's
own rope index, computed once per distinct prompt, so a step does not loop over its rows for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

IGNORED = -100  # label of a token that is not trained on
Grid = tuple[int, int, int]  # frames, rows, columns of patches of one photograph


@dataclass(frozen=True)
class Prompt:
    """A question with its photograph's placeholders, up to where the answer begins."""

    ids: torch.Tensor  # (n,)
    positions: torch.Tensor  # (3, n): time, height, width
    kinds: torch.Tensor  # (n,) 1 on image placeholders, 0 on text
    following: int  # position of the first token of the answer


def encode_prompt(backbone, question: str, grid: Grid | None) -> Prompt:
    """Render and tokenise a question; with a grid, the photograph stands before it."""
    key = (question, grid)
    if key not in backbone.prompts:
        backbone.prompts[key] = _encode_prompt(backbone, question, grid)
    return backbone.prompts[key]


def _encode_prompt(backbone, question: str, grid: Grid | None) -> Prompt:
    tokenizer, config = backbone.tokenizer, backbone.model.config
    image = [{"type": "image"}] if grid else []
    message = {"role": "user", "content": [*image, {"type": "text", "text": question}]}
    text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    ids = torch.tensor(tokenizer(text, add_special_tokens=False).input_ids)
    if grid is None:
        positions = torch.arange(len(ids)).expand(3, -1)
        return Prompt(ids, positions, torch.zeros_like(ids), len(ids))
    (place,) = (ids == config.image_token_id).nonzero().flatten().tolist()
    count = grid[0] * grid[1] * grid[2] // backbone.image_processor.merge_size**2
    pads = torch.full((count,), config.image_token_id)
    ids = torch.cat((ids[:place], pads, ids[place + 1 :]))
    kinds = (ids == config.image_token_id).long()
    positions, delta = backbone.core.get_rope_index(
        ids[None], mm_token_type_ids=kinds[None], image_grid_thw=torch.tensor([grid])
    )
    return Prompt(ids, positions[:, 0], kinds, len(ids) + int(delta))


def encode(
    backbone,
    questions: Sequence[str],
    answers: Sequence[str] | None,
    grids: Sequence[Grid | None],
    end: bool = True,
) -> dict[str, torch.Tensor]:
    """A batch of conversations, padded on the right (training) or left (answers still to come).

    `answers` with `end=False` are the beginnings of answers, to be continued. Returns input_ids,
    attention_mask, mm_token_type_ids, labels (batch, n), position_ids (3, batch, n) and, where
    there are photographs, image_grid_thw (photographs, 3).
    """
    asked = list(questions if answers is None else zip(questions, answers, strict=True))
    rows = list(zip(asked, grids, strict=True))
    first: dict = {}  # many rows ask the same
    for i, row in enumerate(rows):
        first.setdefault(row, i)
    prompts = [encode_prompt(backbone, questions[i], grids[i]) for i in first.values()]
    said = None if answers is None else [answers[i] for i in first.values()]
    said = _answer_ids(backbone.tokenizer, said, len(first), end)
    batch = _padded(prompts, said, backbone.tokenizer.pad_token_id, answers is None or not end)
    if len(first) < len(rows):
        number = {row: i for i, row in enumerate(first)}
        where = torch.tensor([number[row] for row in rows])
        batch = {key: values.index_select(-2, where) for key, values in batch.items()}
    photographs = [g for g in grids if g]
    if photographs:
        batch["image_grid_thw"] = torch.tensor(photographs)
    return batch


def _padded(
    prompts: Sequence[Prompt], answers: Sequence[torch.Tensor], pad: int, left: bool
) -> dict[str, torch.Tensor]:
    """The tensors of `encode` for prompts and the tokens of their answers."""
    rows = len(prompts)
    width = max(len(p.ids) + len(a) for p, a in zip(prompts, answers, strict=True))
    batch = {
        "input_ids": torch.full((rows, width), pad),
        "attention_mask": torch.zeros(rows, width, dtype=torch.long),
        "mm_token_type_ids": torch.zeros(rows, width, dtype=torch.long),
        "labels": torch.full((rows, width), IGNORED),
        "position_ids": torch.zeros(3, rows, width, dtype=torch.long),
    }
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        size, middle = len(prompt.ids) + len(answer), len(prompt.ids)
        start = width - size if left else 0
        span, tail = slice(start, start + size), slice(start + middle, start + size)
        after = torch.arange(len(answer)).expand(3, -1) + prompt.following
        batch["input_ids"][row, span] = torch.cat((prompt.ids, answer))
        batch["attention_mask"][row, span] = 1
        batch["mm_token_type_ids"][row, start : start + middle] = prompt.kinds
        batch["position_ids"][:, row, span] = torch.cat((prompt.positions, after), 1)
        batch["labels"][row, tail] = answer
    return batch


def _answer_ids(tokenizer, answers, count: int, end: bool) -> list[torch.Tensor]:
    if answers is None:
        return [torch.zeros(0, dtype=torch.long)] * count
    closing = [tokenizer.eos_token_id] if end else []
    ids = [_tokens(tokenizer, answer)[0] for answer in answers]
    return [torch.tensor(i + closing, dtype=torch.long) for i in ids]


@lru_cache(maxsize=8192)
def _tokens(tokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """The tokens of a text, and the characters that each stands for.

    A training writes the same answer in every epoch, and many a score belongs to several rows.
    """
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return found.input_ids, found.offset_mapping


def digit_tokens(tokenizer, answer: str, span: tuple[int, int]) -> list[int]:
    """Indices, within the answer's tokens, of the digits inside the characters `span`."""
    offsets = _tokens(tokenizer, answer)[1]
    inside = [i for i, (a, b) in enumerate(offsets) if span[0] <= a and b <= span[1]]
    return [i for i in inside if answer[offsets[i][0] : offsets[i][1]].isdecimal()]
