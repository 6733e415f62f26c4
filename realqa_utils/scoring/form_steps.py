"""A form as tokens: the words between its slots, and the trees of what may fill them.

A form of stage 1 goes to the end token, a chain of thought to where the digits of its score begin.
Cut where the tokenizer leaves seams, so that the pieces are the tokens of the whole answer: the
space before a word belongs to the word, that before a digit stands alone, and ")." may be one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from transformers import PreTrainedTokenizerBase

from realqa_utils.forms.chains import ChainForm, Part
from realqa_utils.forms.conversations import AttributeForm, Slot

END = "end"  # in place of a slot's key: what follows the last slot


@dataclass(frozen=True)
class Tree:
    """Choices as paths of tokens from a root; what a path ends with is a leaf and no node."""

    choices: tuple[tuple[int, ...], ...]
    nodes: torch.Tensor  # (nodes,) tokens
    depth: torch.Tensor  # (nodes,) 0 next to the root
    sees: torch.Tensor  # (nodes, nodes) whether the second is the first or on the way to it
    ways: torch.Tensor  # (choices, nodes) on the way to which leaf
    token: torch.Tensor  # (edges,)
    parent: torch.Tensor  # (edges,) 0 for the root, 1 + node
    paths: torch.Tensor  # (choices, edges) on the way to which leaf


def grow(choices: Sequence[Sequence[int]]) -> Tree:
    """The tree of choices. Raises ValueError where one is the beginning of another."""
    leaves = [tuple(choice) for choice in choices]
    edges = sorted({leaf[: n + 1] for leaf in leaves for n in range(len(leaf))})
    nodes = [edge for edge in edges if edge not in leaves]
    number = {node: i for i, node in enumerate([(), *nodes])}
    if len(set(leaves)) < len(leaves) or any(edge[:-1] not in number for edge in edges):
        raise ValueError(f"one choice begins with another: {leaves}")

    def on_the_way(ends: list, stations: list) -> torch.Tensor:
        found = [[end[: len(station)] == station for station in stations] for end in ends]
        return torch.tensor(found, dtype=torch.bool).reshape(len(ends), len(stations))

    return Tree(
        choices=tuple(leaves),
        nodes=torch.tensor([node[-1] for node in nodes], dtype=torch.long),
        depth=torch.tensor([len(node) - 1 for node in nodes], dtype=torch.long),
        sees=on_the_way(nodes, nodes),
        ways=on_the_way(leaves, nodes),
        token=torch.tensor([edge[-1] for edge in edges]),
        parent=torch.tensor([number[edge[:-1]] for edge in edges]),
        paths=on_the_way(leaves, edges),
    )


@dataclass(frozen=True)
class Step:
    """What stands between the value of one slot and that of the next, and the choices there."""

    slot: Slot | None  # None: the end of the answer, or of its fixed words before the score
    lead: str
    fixed: torch.Tensor  # (n,) tokens of `lead`
    tree: Tree | None = None  # of the values with their `tail`; None: a free text, or the end
    tail: str = ""  # what closes the value: a full stop, a comma

    @property
    def key(self) -> str:
        return END if self.slot is None else self.slot.key


@lru_cache(maxsize=64)
def plan(form: AttributeForm | ChainForm, tokenizer: PreTrainedTokenizerBase) -> tuple[Step, ...]:
    """The form in steps, each as the tokens that it has in a whole answer.

    The last step has no slot: the end token, or the words before the digits of a chain's score.
    Raises ValueError where the tokenizer merges words of the form with what is written in it.
    """
    steps = [_step(part, " " if i else "", tokenizer) for i, part in enumerate(_parts(form))]
    end = _end(form, tokenizer)
    for number in range(max(len(values) for _, values in steps)):
        labels, pieces = {}, []
        for step, values in steps:
            label, value = list(values.items())[number % len(values)]
            labels[step.key] = label
            pieces += step.fixed.tolist() + value
        pieces += end.fixed.tolist()
        if pieces != _whole(form, labels, number, tokenizer)[: len(pieces)]:
            raise ValueError(f"{form.name}: the tokenizer merges the end of a value with a heading")
    return (*(step for step, _ in steps), end)


def _parts(form: AttributeForm | ChainForm) -> tuple[Part, ...]:
    if isinstance(form, ChainForm):
        return form.parts
    return tuple(Part(f"{slot.heading}: ", slot, ".") for slot in form.slots)


def _end(form: AttributeForm | ChainForm, tokenizer) -> Step:
    if isinstance(form, ChainForm):
        lead = f" {form.before}"
        return Step(None, lead, torch.tensor(token_ids(tokenizer, lead)))
    return Step(None, "", torch.tensor([tokenizer.eos_token_id]))


def _whole(form: AttributeForm | ChainForm, labels: dict, digit: int, tokenizer) -> list[int]:
    """An answer with its end token; a chain's with a score of one digit."""
    score = (digit, 1) if isinstance(form, ChainForm) else ()
    return [*token_ids(tokenizer, form.answer(labels, *score)), tokenizer.eos_token_id]


def _step(part: Part, gap: str, tokenizer) -> tuple[Step, dict[object, list[int]]]:
    """A step and, by label, the tokens of each value with its tail (of one text if free)."""
    labels, before = legal_labels(part.slot), gap + part.lead
    whole = {x: token_ids(tokenizer, gap + part.say(x)) for x in labels or ["it"]}
    # the space: a token of its own, or the beginning of every value
    for lead in (before, before.rstrip()) if labels else (before.rstrip(),):
        fixed = token_ids(tokenizer, lead)
        if all(ids[: len(fixed)] == fixed for ids in whole.values()):
            break
    else:
        raise ValueError(f"the tokenizer merges {before.rstrip()!r} with what follows")
    values = {label: ids[len(fixed) :] for label, ids in whole.items()}
    tree = grow(list(values.values())) if labels else None
    return Step(part.slot, lead, torch.tensor(fixed), tree, part.tail), values


def legal_labels(slot: Slot) -> list[int]:
    """The labels to choose from; none for a text."""
    if slot.is_reason or slot.attribute.kind == "text":
        return []
    tiers = range(len(slot.attribute.tiers))
    return list(range(1, 11) if slot.attribute.kind == "score" else tiers)


def token_ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


@lru_cache(maxsize=8)
def endings(tokenizer: PreTrainedTokenizerBase, tail: str) -> frozenset[int]:
    """The tokens that end with the `tail` of a text: it may end with one of them."""
    return frozenset(i for token, i in tokenizer.get_vocab().items() if token.endswith(tail))


def full_stops(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end with a full stop."""
    return endings(tokenizer, ".")
