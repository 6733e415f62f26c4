"""Fill in a form of stage 1 or a chain of thought: its fixed words are given, slots are decoded.

A slot with choices (tiers, scores 1..10) is read as a tree of tokens: one forward pass sees the
words before it and all branches, and gives the exact probability of every choice. Texts are free.
Whether the model, left to itself, would have written the same is told too. The score at the end of
a chain is read as a tree of digits, as a direct answer's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from realqa_utils.forms import answers
from realqa_utils.forms.answers import Parsed
from realqa_utils.forms.chains import ChainForm
from realqa_utils.forms.conversations import AttributeForm
from realqa_utils.model import decoder
from realqa_utils.model.backbone import Backbone
from realqa_utils.model.decoder import likeliest
from realqa_utils.scoring import digit_tree
from realqa_utils.scoring.digit_tree import Reading
from realqa_utils.scoring.form_steps import Step, Tree, endings, legal_labels, plan, token_ids

MAX_TEXT_TOKENS = 64  # of a free text without its full stop; the mini world's have up to 13


@dataclass(frozen=True)
class Filled:
    """A form as filled in for one photograph.

    `probabilities` has, by attribute, those of its tiers or of 1..10, summing to 1; `expected` is
    the mean code under them; `off_format` the probability of anything else in the slot. `left` is
    the key of the first slot whose heading or value free greedy decoding writes otherwise ("end":
    it goes on after the last, or does not come to the score), and empty where it writes exactly
    this. `reading` is that of the score at the end of a chain.
    """

    text: str
    parsed: Parsed
    probabilities: dict[str, np.ndarray]
    expected: dict[str, float]
    off_format: dict[str, float]
    left: str
    reading: Reading | None = None

    @property
    def follows(self) -> bool:
        """Would the model, left to itself, have written exactly this?"""
        return not self.left


def fill(
    backbone: Backbone,
    images: Sequence[Image.Image] | Sequence[Callable[[], Image.Image]],
    form: AttributeForm | ChainForm,
    max_text_tokens: int = MAX_TEXT_TOKENS,
    batch_size: int | None = None,
    progress: bool = False,
    digits: int = 3,
    tree: bool = True,
) -> list[Filled]:
    """The form filled in for each photograph, in their order; functions are called to open them.

    A text that does not end by itself is cut after `max_text_tokens`. Of the score at the end of a
    chain the whole tree is read, or without `tree` the greedy digits (`digit_tree.read_batch`).
    Results do not depend on `batch_size` (None: what memory allows) beyond float rounding. Raises
    ValueError for a tokenizer that merges words of the form with what is written in it.
    """
    out: list[Filled] = []
    batch_size = batch_size or decoder.rows_at_once(
        backbone.model.config, backbone.model.device.type
    )
    starts = range(0, len(images), batch_size)
    for start in tqdm(starts, "filling in", disable=not progress, leave=False):
        part = images[start : start + batch_size]
        opened = [image() if callable(image) else image for image in part]
        out += fill_batch(backbone, opened, form, max_text_tokens, digits, tree)
    return out


@torch.no_grad()
def fill_batch(
    backbone: Backbone,
    images: Sequence[Image.Image],
    form: AttributeForm | ChainForm,
    max_text_tokens: int = MAX_TEXT_TOKENS,
    digits: int = 3,
    tree: bool = True,
) -> list[Filled]:
    """The form filled in for a batch of photographs, all in the same forward passes."""
    if max_text_tokens < 1:
        raise ValueError(f"max_text_tokens={max_text_tokens}: at least 1")
    backbone.model.eval()
    steps = plan(form, backbone.tokenizer)
    writer = _Writer(backbone, images, form.question, steps)
    for step, following in pairwise(steps):
        if step.tree is None:
            writer.write_text(step, following, max_text_tokens)
        else:
            writer.read(following, writer.pending, following.fixed)
    readings = [None] * len(images)
    if isinstance(form, ChainForm):
        state, logits = writer.state, writer.logits
        readings = digit_tree.read_tree(backbone, state, logits, form, digits, tree)
    return _filled(writer, steps, readings)


def _filled(writer: _Writer, steps: Sequence[Step], readings: Sequence) -> list[Filled]:
    """What was written, photograph by photograph."""
    rows = range(len(readings))
    said, read = [Parsed() for _ in rows], [({}, {}, {}) for _ in rows]
    for step in steps[:-1]:
        attribute, name = step.slot.attribute, step.slot.attribute.name
        if step.tree is None:
            for parsed, text in zip(said, map(answers.bare, writer.texts[step.key]), strict=True):
                if step.slot.is_reason:
                    parsed.reasons.update({name: text} if text else {})
                else:
                    (parsed.values if text else parsed.missing)[name] = text or "empty"
            continue
        labels, tiers = legal_labels(step.slot), attribute.tiers
        codes = labels if attribute.kind == "score" else [tiers[label].code for label in labels]
        mass = writer.masses[step.key]
        chances, rest = mass.softmax(1).numpy(), (1 - mass.exp().sum(1)).clamp(min=0).tolist()
        chosen, expected = writer.chosen[step.key].tolist(), (chances @ np.array(codes)).tolist()
        for row in rows:
            said[row].values[name] = labels[chosen[row]]
            found = chances[row], expected[row], rest[row]
            for values, value in zip(read[row], found, strict=True):
                values[name] = value
    texts, keys = writer.written.texts(), ["", *(step.key for step in steps)]
    left = [keys[number] for number in (writer.left + 1).tolist()]
    return [Filled(texts[r], said[r], *read[r], left[r], readings[r]) for r in rows]


# --- writing -----------------------------------------------------------------------------------


class _Written:
    """Texts of a batch as they grow: tokens, and which of them each row has written."""

    def __init__(self, tokenizer):
        self.tokenizer, self.parts = tokenizer, []

    def add(self, tokens: torch.Tensor, kept: torch.Tensor) -> None:
        """Tokens (n,) or (rows, n), and (rows, n) whether they were written."""
        self.parts.append((tokens.expand(kept.shape), kept))

    def texts(self) -> list[str]:
        tokens, kept = (torch.cat(part, 1) for part in zip(*self.parts, strict=True))
        return decoder.texts(self.tokenizer, tokens, kept)


class _Writer:
    """The answers of a batch as they grow; one row is one photograph."""

    def __init__(self, backbone: Backbone, images: Sequence[Image.Image], question: str, steps):
        self.tokenizer, self.steps = backbone.tokenizer, steps
        self.ends = decoder.end_tokens(backbone)
        self.end, at = int(self.ends[0]), steps[0]
        self.written = _Written(self.tokenizer)
        self.left = torch.full((len(images),), -1)  # number of the step where free decoding leaves
        self.texts: dict[str, list[str]] = {}  # (rows,) by key of the slot
        self.chosen: dict[str, torch.Tensor] = {}  # (rows,) indices of choices
        self.masses: dict[str, torch.Tensor] = {}  # (rows, choices) logarithms of probabilities
        self.rows = torch.arange(len(images))
        nothing = torch.zeros(len(images), 0, dtype=torch.long)
        self.pending = nothing  # (rows, 1) the ends of choices: written, still to be read
        n = len(at.fixed)
        asked, begun = [question] * len(images), [at.lead] * len(images)
        self.state, logits = decoder.begin(backbone, images, asked, begun, n + 1)
        self.logits = logits[:, -1]  # (rows, vocabulary) of the next token
        self._note((self._likeliest(logits[:, :-1]) != at.fixed).any(1), at)
        self.written.add(at.fixed, torch.ones(len(images), n) > 0)
        if at.tree:
            self.read(at, nothing, at.fixed[:0])

    def _likeliest(self, logits: torch.Tensor) -> torch.Tensor:
        best = likeliest(logits)
        for other in self.ends[1:]:
            best[best == other] = self.end
        return best

    def _hear(self, logits: torch.Tensor, rows: torch.Tensor) -> None:
        """Take the logits (rows, vocabulary) of the next token for some rows (rows,)."""
        self.logits = torch.where(rows.to(logits.device)[:, None], logits, self.logits)

    def _note(self, left: torch.Tensor, at: Step) -> None:
        self.left[left & (self.left < 0)] = self.steps.index(at)

    def read(
        self,
        at: Step,
        before: torch.Tensor,
        fixed: torch.Tensor,
        active: torch.Tensor | None = None,
        room: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Read `before` (rows, 0 or 1) and `fixed` (n,); with a tree, choose too. One pass.

        Rows that are not `active` (all are, if not given) wait. One that would write other words
        and has `room` (rows,) for those that agree takes only these; returns how many, else 0.
        """
        active = torch.ones_like(self.rows) > 0 if active is None else active
        room = torch.full_like(self.rows, -1) if room is None else room
        a, n = before.shape[1], before.shape[1] + len(fixed)
        logits = self.state.step(*_columns(before, fixed, at.tree))  # behind each column
        best = self._likeliest(logits[:, : n - 1]) if n > 1 else before[:, :0]
        if not a and n:
            best = torch.cat((self._likeliest(self.logits)[:, None], best), 1)
        agreed = (best == fixed).long().cumprod(1).sum(1)
        back = active & (agreed < len(fixed)) & (agreed <= room)
        self._note(active & ~back & (agreed < len(fixed)), at)
        taken = torch.where(back, agreed, n) * active
        self.written.add(fixed, torch.arange(len(fixed)) < (taken - a)[:, None])
        root, said = self.logits, logits[self.rows, taken - 1]
        self._hear(said, taken > 0)
        if at.tree:
            behind = logits[:, n - 1 :] if n else torch.cat((root[:, None], logits), 1)
            self._choose(at, behind, taken, active & ~back, n)
        else:
            self.state.take(taken)
        return agreed * back

    def _choose(self, at: Step, logits: torch.Tensor, taken, rows: torch.Tensor, n: int) -> None:
        """Take the likeliest branch at every node, in the `rows` that have come to the tree.

        `logits` (rows, 1 + nodes, vocabulary) are those behind n columns and behind each node.
        """
        tree, key = at.tree, at.key
        scores = logits[:, tree.parent, tree.token].float().cpu()  # (rows, edges)
        most, total = (f(logits.float(), 2).cpu() for f in (torch.amax, torch.logsumexp))
        apart = tree.parent[:, None] != tree.parent
        best = scores[:, None].masked_fill(apart, -torch.inf).amax(2) == scores
        chosen = (best[:, None] | ~tree.paths).all(2).int().argmax(1)
        free = scores == most[:, tree.parent]
        self._note(rows & ~(free | ~tree.paths[chosen]).all(1), at)
        chances = scores.double() - total[:, tree.parent]
        mass = chances @ tree.paths.T.double()
        choices, lengths = _padded(tree)
        last = choices.gather(1, lengths[:, None] - 1)[chosen]
        if key in self.chosen:  # of rows that did not wait for these
            chosen = torch.where(rows, chosen, self.chosen[key])
            mass = torch.where(rows[:, None], mass, self.masses[key])
            last = torch.where(rows[:, None], last, self.pending)
        self.chosen[key], self.masses[key], self.pending = chosen, mass, last
        size = torch.arange(choices.shape[1])
        self.written.add(choices[chosen], (size < lengths[chosen, None]) & rows[:, None])
        way = tree.ways.int().argsort(dim=1, descending=True, stable=True)[:, : len(size) - 1]
        columns = torch.cat((torch.arange(n).expand(len(rows), -1), n + way[chosen]), 1)
        self.state.take(taken + tree.ways[chosen].sum(1) * rows, columns)

    def write_text(self, at: Step, following: Step, limit: int) -> None:
        """Write a free text and what follows it; a heading only begun belongs to the text."""
        said, count = _Written(self.tokenizer), torch.zeros_like(self.rows)
        last, active = torch.full_like(count, self.end), self.rows >= 0
        while active.any():
            door = int(following.fixed[0])
            room = self._write_up_to(door, at, said, count, last, active, limit)
            taken = self.read(following, self.pending[:, :0], following.fixed, active, room)
            said.add(following.fixed, torch.arange(len(following.fixed)) < taken[:, None])
            count += taken
            active = taken > 0
            last[active] = following.fixed[taken[active] - 1]
        self.texts[at.key] = said.texts()

    def _write_up_to(self, door: int, at: Step, said, count, last, active, limit) -> torch.Tensor:
        """Write until every `active` row has its tail and `door` is likeliest, or it must end.

        `count` and `last` (rows,) are the length of each text so far and its last token. Returns
        (rows,) how many tokens more a text may have, -1 where it is over in any case.
        """
        stops = torch.zeros(self.logits.shape[1], dtype=torch.bool)
        stops[list(endings(self.tokenizer, at.tail))] = True
        tails = [token_ids(self.tokenizer, text)[0] for text in (f" {at.tail}", at.tail)]
        writing, cut = active.clone(), torch.zeros_like(active)
        room = torch.full_like(count, -1)
        while True:
            likely = self._likeliest(self.logits)
            over = cut | (count >= limit) | (likely == self.end)
            done = writing & (count > 0) & stops[last] & (over | (likely == door))
            room[done & ~cut & (likely == door)] = limit - count[done & ~cut & (likely == door)]
            writing = writing & ~done
            if not writing.any():
                return room
            tokens = torch.where(
                over & ~stops[likely], torch.tensor(tails)[(count > 0).long()], likely
            )
            cut |= writing & (tokens != likely)
            self._note(writing & (tokens != likely), at)
            for text in (said, self.written):
                text.add(tokens[:, None], writing[:, None])
            last[writing] = tokens[writing]
            count += writing
            logits = self.state.step(tokens[:, None])
            self.state.take(writing.long())
            self._hear(logits[:, 0], writing)


def _columns(before: torch.Tensor, fixed: torch.Tensor, tree: Tree | None):
    """Tokens (rows, n), depth (n,) and mask (n, n) of a chain of words and the tree behind it."""
    n = before.shape[1] + len(fixed)
    size = n + (len(tree.nodes) if tree else 0)
    tokens, depth = torch.cat((before, fixed.expand(len(before), -1)), 1), torch.arange(size)
    sees = torch.ones(size, size, dtype=torch.bool).tril()
    if tree:
        tokens = torch.cat((tokens, tree.nodes.expand(len(before), -1)), 1)
        depth[n:], sees[n:, n:] = n + tree.depth, tree.sees
    return tokens, depth, sees


def _padded(tree: Tree) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens (choices, longest) of all choices, and the length of each."""
    choices = [torch.tensor(choice) for choice in tree.choices]
    return pad_sequence(choices, batch_first=True), torch.tensor([len(c) for c in choices])
