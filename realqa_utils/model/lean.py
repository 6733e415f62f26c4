"""Decoding with the weights of a Qwen2-VL, without the library's work per step.

A cache that is allocated once, in which every row is packed without padding or gaps, a table of
rotary embeddings, and products that are laid out for a CPU (`products`). Exact to 1e-5 (tested).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from realqa_utils.model import language
from realqa_utils.model.products import Product, in_pairs, rotate, turns, unit

ROOM = 128  # columns that a cache has free behind the prompts at first
POSITIONS = 512  # of text, in the table at first


def knows(base: nn.Module) -> bool:
    """Whether a model is one for `Lean`: the library's Qwen2-VL, in full on the CPU."""
    if not language.known(base) or base.device.type != "cpu":
        return False
    text = base.config.text_config
    plain = text.rope_parameters["rope_type"] == "default" and not text.use_sliding_window
    return plain and not any(hasattr(part, "_hf_hook") for part in base.modules())


@torch.no_grad()
def begin(
    base: nn.Module, batch: dict, seen: torch.Tensor, columns: int
) -> tuple[Lean, torch.Tensor]:
    """The state behind prompts, and the logits (rows, columns, vocabulary) behind their ends.

    `batch` is that of `encoding.encode`, padded on the left; `seen` (tokens, width) are the image
    tokens of all photographs in turn. What all rows open with is run once.
    """
    side, (rows, width) = Language(base), batch["input_ids"].shape
    shared = min(language.shared_columns(batch), width - columns)
    state = Lean(side, rows, width + ROOM)
    ids, positions = batch["input_ids"], batch["position_ids"]
    if shared:
        opening = Lean(side, 1, shared)
        turn = turns(side.rotary, positions[:, 0, :shared])
        opening.run(side.embed(ids[0, :shared]), turn, torch.arange(shared)[None], last=0)
        state.cache[:, :, :shared] = opening.cache
        state.advance(torch.full((rows,), shared))
    real = batch["attention_mask"][:, shared:].bool()
    hidden = side.embed(ids[:, shared:][real])
    hidden[batch["mm_token_type_ids"][:, shared:][real] == 1] = seen.to(hidden.dtype)
    turn, order = turns(side.rotary, positions[:, :, shared:][:, real]), real.cumsum(1) - 1
    where = None if real.all() else real
    hidden = state.run(hidden, turn, order[:1] if where is None else order, where, last=columns)
    state.advance(real.sum(1))
    state.position = positions[0, :, -1] + 1
    return state, side.logits(hidden).view(rows, columns, -1)


class Lean:
    """Half-written answers of a batch: keys and values of every token taken, packed."""

    def __init__(self, side: Language, rows: int, columns: int):
        self.side = side
        shape = (2 * len(side.layers), rows, columns, side.kv_heads, side.head_dim)
        # what is hidden has weight 0, which only numbers survive: zeros, not whatever was there
        self.cache = torch.zeros(shape, dtype=side.dtype)
        self.length = self.position = torch.zeros(rows, dtype=torch.long)  # taken; of the next
        self.open, self.longest, self.even = 0, 0, True

    def step(
        self,
        tokens: torch.Tensor,
        depth: torch.Tensor | None = None,
        sees: torch.Tensor | None = None,
        where: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits (rows, n, vocabulary) behind n more tokens (rows, n) of every row.

        `depth` (n,) or (rows, n) is their position behind the last one taken, and `sees` (n, open
        + n), also of each row, tells which of the open tokens and these each sees; if not given,
        they stand in a row. With `where` (rows, n) only those are run: (tokens, vocabulary).
        """
        rows, n = tokens.shape
        order = torch.arange(self.open, self.open + n)
        positions = (self.position[:, None] + (order if depth is None else depth)).expand(rows, n)
        if where is not None:
            tokens, positions = tokens[where], positions[where]
        turn = self.side.text_turn(positions.flatten())
        hidden = self.run(self.side.embed(tokens.flatten()), turn, order[None], where, sees)
        self.open += n
        logits = self.side.logits(hidden)
        return logits.view(rows, n, -1) if where is None else logits

    def take(self, counts: torch.Tensor, columns: torch.Tensor | None = None) -> None:
        """Keep of the open tokens of each row the first `counts` (rows,), and forget the others.

        With `columns` (rows, n): the first of those named, in the order of their depth.
        """
        if columns is not None:
            start, flat = self._starts()[:, None], self.cache.flatten(1, 2)
            moved = flat.index_select(1, (start + columns).flatten())
            flat.index_copy_(1, (start + torch.arange(columns.shape[1])).flatten(), moved)
        self.open = 0
        self.advance(counts)

    def advance(self, counts: torch.Tensor) -> None:
        """Count so many more tokens (rows,) as taken."""
        self.length, self.position = self.length + counts, self.position + counts
        self.longest = int(self.length.max())
        self.even = bool((self.length == self.longest).all())

    def select(self, rows: torch.Tensor) -> None:
        """Go on with these rows (n,) alone; one may occur often."""
        self.cache = self.cache.index_select(1, rows)
        self.length, self.position = self.length[rows], self.position[rows]
        self.advance(torch.zeros(len(rows), dtype=torch.long))

    def run(
        self,
        hidden: torch.Tensor,
        turn: torch.Tensor,
        order: torch.Tensor,
        where: torch.Tensor | None = None,
        sees: torch.Tensor | None = None,
        last: int | None = None,
    ) -> torch.Tensor:
        """Embeddings (tokens, width) through all layers, their keys and values into the cache.

        `order` (rows or 1, n) is the place of each behind the tokens taken. With `last`, only the
        last so many columns come out: of the others nothing more than keys and values is needed.
        """
        side, n = self.side, order.shape[1]
        top = self.longest + (int(order.max()) + 1 if sees is None else sees.shape[-1])
        self._make_room(top)
        mask = self._mask(order, sees, top)
        at = (self._starts()[:, None] + order).flatten()
        places = None if where is None else where.flatten().nonzero().flatten()
        at = at if places is None else at[places]
        caches = self.cache.unflatten(0, (-1, 2))
        for layer, (keys, values) in zip(side.layers, caches, strict=True):
            qkv = layer.before(hidden).view(len(at), -1, side.head_dim)
            turned = rotate(qkv[:, : -side.kv_heads], turn)
            q = turned[:, : side.heads]
            keys.flatten(0, 1).index_copy_(0, at, turned[:, side.heads :])
            values.flatten(0, 1).index_copy_(0, at, qkv[:, -side.kv_heads :])
            if last is not None and layer is side.layers[-1]:
                if not last:
                    break
                wanted, n = _last(where, len(self.length), n, last), last
                q, hidden, places = q[wanted], hidden[wanted], None
                mask = mask if mask is None else mask[:, :, -last:]
            mixed = self._attend(q, keys[:, :top], values[:, :top], mask, places, n)
            hidden = layer.after(hidden, mixed)
        return hidden

    def _attend(self, q, keys, values, mask, places, n: int) -> torch.Tensor:
        """Attention of q (tokens, heads, head_dim) within rows -> (tokens, heads x head_dim)."""
        rows, (heads, head_dim) = len(keys), q.shape[1:]
        if places is not None:
            q = q.new_zeros(rows * n, heads, head_dim).index_copy_(0, places, q)
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)
        if n == 1:  # heads that share their keys take the place of columns
            q = q.reshape(rows, self.side.kv_heads, -1, head_dim)
            mixed = F.scaled_dot_product_attention(q, keys, values, mask).reshape(rows, -1)
        else:
            q = q.reshape(rows, n, heads, head_dim).transpose(1, 2)
            mixed = F.scaled_dot_product_attention(q, keys, values, mask, enable_gqa=True)
            mixed = mixed.transpose(1, 2).reshape(rows * n, -1)
        return mixed if places is None else mixed[places]

    def _mask(self, order, sees, top: int) -> torch.Tensor | None:
        """What is added to scores (rows or 1, 1, n, top); None where everything is seen."""
        if self.even and sees is None and order.numel() == 1:
            return None
        length = self.length[:1] if self.even else self.length
        behind = (torch.arange(top) - length[:, None])[:, None]  # from 0: the open ones
        if sees is None:
            return bias(behind <= order.clamp(min=0)[..., None], self.side.dtype)[:, None]
        sees = sees if sees.dim() == 3 else sees[None]
        rows, (n, size) = max(len(sees), len(behind)), sees.shape[1:]
        place = behind.clamp(0, size - 1).expand(rows, n, -1)
        open_ones = sees.expand(rows, n, size).gather(2, place) & (behind < size)
        return bias((behind < 0) | open_ones, self.side.dtype)[:, None]

    def _starts(self) -> torch.Tensor:
        """Where in the flattened cache the open tokens of each row begin."""
        return torch.arange(len(self.length)) * self.cache.shape[2] + self.length

    def _make_room(self, columns: int) -> None:
        if columns > self.cache.shape[2]:
            self.cache = F.pad(self.cache, (0, 0, 0, 0, 0, columns + ROOM - self.cache.shape[2]))


def bias(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where something is visible, and the least number where it is not."""
    seen = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return seen.masked_fill_(~visible, torch.finfo(dtype).min)


def _last(where: torch.Tensor | None, rows: int, n: int, count: int) -> torch.Tensor:
    """Which of the tokens are those of the last columns, (rows x count,)."""
    places = (torch.arange(rows)[:, None] * n + torch.arange(n - count, n)).flatten()
    return places if where is None else where.flatten().cumsum(0)[places] - 1


# --- weights -------------------------------------------------------------------------------------


class Language:
    """The language side of a Qwen2-VL, laid out for decoding."""

    def __init__(self, base: nn.Module):
        side, config = base.model.language_model, base.config.text_config
        self.embed, self.rotary = side.embed_tokens, side.rotary_emb
        self.epsilon = side.norm.variance_epsilon
        self.layers = [_Layer(layer) for layer in side.layers]
        self.head = Product(base.lm_head, scale=side.norm.weight)
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.dtype = config.hidden_size // self.heads, base.dtype
        self.turns = turns(self.rotary, torch.arange(POSITIONS).expand(3, -1))  # of text

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head(unit(hidden, self.epsilon))

    def text_turn(self, positions: torch.Tensor) -> torch.Tensor:
        """The same for text, whose three positions (tokens,) are one."""
        if (highest := int(positions.max())) >= len(self.turns):
            self.turns = turns(self.rotary, torch.arange(2 * highest).expand(3, -1))
        return self.turns[positions]


class _Layer:
    """A decoder layer as four products."""

    def __init__(self, layer: nn.Module):
        attend, mlp = layer.self_attn, layer.mlp
        first, second = layer.input_layernorm, layer.post_attention_layernorm
        self.epsilons, self.act = (first.variance_epsilon, second.variance_epsilon), mlp.act_fn
        keys = attend.config.num_key_value_heads
        order = in_pairs(attend.num_heads + 2 * keys, attend.num_heads + keys, attend.head_dim)
        linears = attend.q_proj, attend.k_proj, attend.v_proj
        self.qkv = Product(*linears, scale=first.weight, order=order)
        self.out, self.down = Product(attend.o_proj), Product(mlp.down_proj)
        self.gate_and_up = Product(mlp.gate_proj, mlp.up_proj, scale=second.weight)

    def before(self, hidden: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values (tokens, heads of all x head_dim)."""
        return self.qkv(unit(hidden, self.epsilons[0]))

    def after(self, hidden: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """What follows attention; changes `hidden` (tokens, width) in place."""
        self.out.add_to(hidden, mixed)
        gate, up = self.gate_and_up(unit(hidden, self.epsilons[1])).chunk(2, 1)
        return self.down.add_to(hidden, self.act(gate).mul_(up))
