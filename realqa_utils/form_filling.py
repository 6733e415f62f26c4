"""Fill in a form of stage 1: its fixed words are given, only the slots are decoded.

A slot with choices (tiers, scores 1..10) is read as a tree of tokens: one forward pass sees the
words before it and all branches, and gives the exact probability of every choice. Texts are free.
Nothing in the cache is moved: columns of branches not taken, and of rows that wait for others, are
hidden row by row. Whether the model, left to itself, would have written the same is told too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from realqa_utils import answers, language
from realqa_utils.answers import Parsed
from realqa_utils.backbone import Backbone
from realqa_utils.conversations import AttributeForm
from realqa_utils.encoding import encode
from realqa_utils.form_steps import Step, Tree, full_stops, legal_labels, plan, token_ids

MAX_TEXT_TOKENS = 64  # of a free text without its full stop; the mini world's have up to 13


@dataclass(frozen=True)
class Filled:
    """A form as filled in for one photograph.

    `probabilities` has, by attribute, those of its tiers or of 1..10, summing to 1; `expected` is
    the mean code under them; `off_format` the probability of anything else in the slot. `left` is
    the key of the first slot whose heading or value free greedy decoding writes otherwise ("end":
    it goes on after the last), and empty where it writes exactly this.
    """

    text: str
    parsed: Parsed
    probabilities: dict[str, np.ndarray]
    expected: dict[str, float]
    off_format: dict[str, float]
    left: str

    @property
    def follows(self) -> bool:
        """Would the model, left to itself, have written exactly this?"""
        return not self.left


def fill(
    backbone: Backbone,
    images: Sequence[Image.Image] | Sequence[Callable[[], Image.Image]],
    form: AttributeForm,
    max_text_tokens: int = MAX_TEXT_TOKENS,
    batch_size: int = 64,
    progress: bool = False,
) -> list[Filled]:
    """The form filled in for each photograph, in their order; functions are called to open them.

    A text that does not end by itself is cut after `max_text_tokens`. Results do not depend on
    `batch_size` beyond float rounding. Raises ValueError for a tokenizer that merges words of the
    form with what is written in it.
    """
    out: list[Filled] = []
    starts = range(0, len(images), batch_size)
    for start in tqdm(starts, "filling in", disable=not progress, leave=False):
        part = images[start : start + batch_size]
        opened = [image() if callable(image) else image for image in part]
        out += fill_batch(backbone, opened, form, max_text_tokens)
    return out


@torch.no_grad()
def fill_batch(
    backbone: Backbone,
    images: Sequence[Image.Image],
    form: AttributeForm,
    max_text_tokens: int = MAX_TEXT_TOKENS,
) -> list[Filled]:
    """The form filled in for a batch of photographs, all in the same forward passes."""
    if max_text_tokens < 1:
        raise ValueError(f"max_text_tokens={max_text_tokens}: at least 1")
    backbone.model.eval()
    steps = plan(form, backbone.tokenizer)
    writer = _Writer(backbone, images, form.question, steps[0])
    for step, following in pairwise(steps):
        if step.tree is None:
            writer.write_text(step.key, following, max_text_tokens)
        else:
            writer.read(following, writer.pending, following.fixed)
    return [_filled(writer, steps[:-1], row) for row in range(len(images))]


def _filled(writer: _Writer, steps: Sequence[Step], row: int) -> Filled:
    parsed, chances, expected, off_format = Parsed(), {}, {}, {}
    for step in steps:
        attribute, name = step.slot.attribute, step.slot.attribute.name
        if step.tree is None:
            text = answers.bare(writer.texts[step.key][row])
            if step.slot.is_reason and text:
                parsed.reasons[name] = text
            elif not step.slot.is_reason:
                (parsed.values if text else parsed.missing)[name] = text or "empty"
            continue
        labels, mass = legal_labels(step.slot), writer.masses[step.key][row]
        tiers = attribute.tiers
        codes = labels if attribute.kind == "score" else [tiers[label].code for label in labels]
        parsed.values[name] = labels[writer.chosen[step.key][row]]
        chances[name] = mass.softmax(0).numpy()
        expected[name] = float(chances[name] @ np.array(codes))
        off_format[name] = max(0.0, 1 - float(mass.exp().sum()))
    text = writer.tokenizer.decode(writer.answers[row], skip_special_tokens=True)
    return Filled(text, parsed, chances, expected, off_format, writer.left[row])


# --- writing -----------------------------------------------------------------------------------


class _Writer:
    """The answers of a batch as they grow; one row is one photograph."""

    def __init__(self, backbone: Backbone, images: Sequence[Image.Image], question: str, at: Step):
        self.backbone, self.tokenizer = backbone, backbone.tokenizer
        self.end, self.stops = self.tokenizer.eos_token_id, full_stops(self.tokenizer)
        known = backbone.model.generation_config.eos_token_id
        known = known if isinstance(known, list) else [self.end if known is None else known]
        self.ends = torch.tensor([self.end, *known])
        self.answers: list[list[int]] = [[] for _ in images]  # tokens
        self.left = [""] * len(images)
        self.texts: dict[str, list[str]] = {}  # (rows,) by key of the slot
        self.chosen: dict[str, torch.Tensor] = {}  # (rows,) indices of choices
        self.masses: dict[str, torch.Tensor] = {}  # (rows, choices) logarithms of probabilities
        self.rows = torch.arange(len(images))
        self.nothing = torch.zeros(len(images), 0, dtype=torch.long)
        self.pending = self.nothing  # (rows, 1) the ends of choices: written, still to be read
        self._prefill(images, question, at)

    def _prefill(self, images: Sequence[Image.Image], question: str, at: Step) -> None:
        pixels, grids = self.backbone.pixels(images)
        rows, n = len(images), len(at.fixed)
        batch = encode(self.backbone, [question] * rows, [at.lead] * rows, grids, end=False)
        del batch["labels"]
        batch["pixel_values"] = pixels.to(self.backbone.model.dtype)
        width = batch["input_ids"].shape[1]
        columns = torch.arange(width - n - 1, width)
        out = language.forward(self.backbone.model, batch, columns, use_cache=True)
        self.cache = out.past_key_values
        self.seen = batch["attention_mask"].bool()  # (rows, columns of the cache)
        self.position = batch["position_ids"][0, :, -1] + 1  # (rows,) of the next token
        self.logits = out.logits[:, -1]  # (rows, vocabulary) of the next token
        self._note((self._likeliest(out.logits[:, :-1]) != at.fixed).any(1), at.key)
        self._write(at.fixed, torch.full((rows,), n))
        if at.tree:
            self.read(at, self.nothing, at.fixed[:0])

    def _look(self, tokens: torch.Tensor, depth: torch.Tensor, sees: torch.Tensor) -> torch.Tensor:
        """Logits (rows, n, vocabulary) at n more columns; `sees` (n, n) is their own mask."""
        rows, n = tokens.shape
        before = self.seen[:, None].expand(-1, n, -1)
        hidden = ~torch.cat((before, sees.expand(rows, n, n)), 2)[:, None]
        dtype = self.backbone.model.dtype
        mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)
        return self.backbone.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=(self.position[:, None] + depth).expand(3, -1, -1),
            past_key_values=self.cache,
            use_cache=True,
        ).logits

    def _likeliest(self, logits: torch.Tensor) -> torch.Tensor:
        best = logits.argmax(-1)
        return best.masked_fill(torch.isin(best, self.ends), self.end)

    def _note(self, left: torch.Tensor, key: str) -> None:
        for row in left.nonzero().flatten().tolist():
            self.left[row] = self.left[row] or key

    def _write(self, tokens: torch.Tensor, counts: torch.Tensor) -> None:
        for row, count in enumerate(counts.tolist()):
            self.answers[row] += tokens[: max(count, 0)].tolist()

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
        logits = self._look(*_columns(before, fixed, at.tree))
        logits = torch.cat((self.logits[:, None], logits), 1)  # of the token in each column
        agreed = (self._likeliest(logits[:, a:n]) == fixed).long().cumprod(1).sum(1)
        back = active & (agreed < len(fixed)) & (agreed <= room)
        self._note(active & ~back & (agreed < len(fixed)), at.key)
        taken = torch.where(back, agreed, n) * active
        self._write(fixed, taken - a)
        self.logits = torch.where(active[:, None], logits[self.rows, taken], self.logits)
        self.position = self.position + taken
        keep = torch.arange(n) < taken[:, None]
        if at.tree:
            keep = torch.cat((keep, self._choose(at, logits[:, n:], active & ~back)), 1)
        self.seen = torch.cat((self.seen, keep), 1)
        return agreed * back

    def _choose(self, at: Step, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Take the likeliest branch at every node; (rows, nodes) which of them are on the way."""
        tree, key = at.tree, at.key
        scores = logits[:, tree.parent, tree.token]  # (rows, edges)
        apart = tree.parent[:, None] != tree.parent
        best = scores[:, None].masked_fill(apart, -torch.inf).amax(2) == scores
        chosen = (best[:, None] | ~tree.paths).all(2).int().argmax(1)
        free = self._likeliest(logits)[:, tree.parent] == tree.token
        self._note(rows & ~(free | ~tree.paths[chosen]).all(1), key)
        chances = scores.double() - logits.float().logsumexp(-1)[:, tree.parent]
        mass = chances @ tree.paths.T.double()
        last = torch.tensor([choice[-1] for choice in tree.choices])[chosen, None]
        if key in self.chosen:  # of rows that did not wait for these
            chosen = torch.where(rows, chosen, self.chosen[key])
            mass = torch.where(rows[:, None], mass, self.masses[key])
            last = torch.where(rows[:, None], last, self.pending)
        self.chosen[key], self.masses[key], self.pending = chosen, mass, last
        for row in rows.nonzero().flatten().tolist():
            self.answers[row] += tree.choices[chosen[row]]
        way = tree.ways[chosen] & rows[:, None]
        self.position = self.position + way.sum(1)
        return way

    def write_text(self, key: str, following: Step, limit: int) -> None:
        """Write a free text and what follows it; a heading only begun belongs to the text."""
        said: list[list[int]] = [[] for _ in self.answers]
        active = self.rows >= 0
        while active.any():
            room = self._write_up_to(int(following.fixed[0]), key, said, active, limit)
            taken = self.read(following, self.nothing, following.fixed, active, room)
            for row, count in enumerate(taken.tolist()):
                said[row] += following.fixed[:count].tolist()
            active = taken > 0
        self.texts[key] = self.tokenizer.batch_decode(said, skip_special_tokens=True)

    def _write_up_to(self, door: int, key: str, said, active, limit: int) -> torch.Tensor:
        """Write until every `active` row has a full stop and `door` is likeliest, or it must end.

        Returns (rows,) how many tokens more a text may have, -1 where it is over in any case.
        """
        room, writing, cut = torch.full_like(self.rows, -1), active.clone(), set()
        while True:
            tokens = self._likeliest(self.logits)
            for row in writing.nonzero().flatten().tolist():
                likely, text = int(tokens[row]), said[row]
                token = self._next(text, likely, door, row in cut or len(text) >= limit)
                if token is None:
                    writing[row] = False
                    room[row] = limit - len(text) if likely == door and row not in cut else -1
                    continue
                if token != likely:
                    cut.add(row)
                    self.left[row] = self.left[row] or key
                tokens[row] = token
                text.append(token)
                self.answers[row].append(token)
            if not writing.any():
                return room
            logits = self._look(tokens[:, None], torch.zeros(1).long(), torch.ones(1, 1) > 0)
            self.logits = torch.where(writing[:, None], logits[:, 0], self.logits)
            self.position = self.position + writing
            self.seen = torch.cat((self.seen, writing[:, None]), 1)

    def _next(self, text: list[int], likely: int, door: int, over: bool) -> int | None:
        """The next token of a text; None where it is complete."""
        over = over or likely == self.end
        if text and text[-1] in self.stops and (over or likely == door):
            return None
        if over and likely not in self.stops:
            return token_ids(self.tokenizer, "." if text else " .")[0]
        return likely


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
