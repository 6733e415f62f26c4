"""The language side of a Qwen2-VL in training on a CPU: every token once, and few passes over it.

The tokens of all rows lie one behind the other, without padding, and the words that all rows open
with are there once. Only attention puts them into rows, from the left, so that a causal mask is all
it needs. A norm and what it feeds are one product, of queries, keys and values, or gate and up, or
the vocabulary. Equal to the library's own call to rounding, and so are the gradients (tested).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.autograd import Function
from torch.nn import functional as F  # noqa: N812

from realqa_utils.model.products import is_plain, rotate, turns, unit_scale


def knows(base: nn.Module) -> bool:
    """Whether a Qwen2-VL is one for `logits`: all float32 and on the CPU, its layers plain."""
    text, side = base.config.text_config, base.model.language_model
    linears = [part for part in side.layers.modules() if hasattr(part, "in_features")]
    return (
        base.device.type == "cpu"
        and base.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and text.rope_parameters["rope_type"] == "default"
        and not text.use_sliding_window
        and not text.attention_dropout
        and text.hidden_act == "silu"
        and all(map(is_plain, [*linears, base.lm_head]))
    )


def logits(base: nn.Module, inputs: dict, columns: torch.Tensor, shared: int) -> torch.Tensor:
    """Logits (rows, len(columns), vocabulary) at `columns`, zero where a row has padding.

    `inputs` are those of `language.forward`; all rows open with the same `shared` tokens. Raises
    ValueError for photographs with more or fewer tokens than places.
    """
    side, rows = base.model.language_model, _Rows(inputs["attention_mask"].bool(), shared)
    hidden = _embedded(base, inputs, rows.once)
    turn = turns(side.rotary_emb, inputs["position_ids"][:, rows.once])
    asked = torch.zeros_like(rows.once)
    asked[:, columns] = rows.once[:, columns]
    wanted = asked[rows.once].nonzero().flatten()  # of the tokens
    for layer in side.layers:
        qkv, at, start = _Together.apply(_qkv(layer, hidden, turn), rows), rows.at, 0
        if layer is side.layers[-1]:  # of the other tokens just keys and values are used
            hidden = _Pick.apply(hidden, wanted)
            at, start = rows.behind(wanted)
        mixed = _Pick.apply(_attend(layer, qkv, start), at)
        hidden = _mlp(layer, torch.addmm(hidden, mixed, layer.self_attn.o_proj.weight.t()))
    found = _normed(side.norm, hidden, base.lm_head.weight, base.lm_head.bias)
    real = asked[:, columns]
    if not real.all():
        blank = found.new_zeros(real.numel(), found.shape[1])
        found = blank.index_copy(0, real.flatten().nonzero().flatten(), found)
    return found.view(*real.shape, -1)


def _embedded(base: nn.Module, inputs: dict, once: torch.Tensor) -> torch.Tensor:
    """The tokens that are run (tokens, width), with what the vision tower says in its places."""
    hidden = base.model.language_model.embed_tokens(inputs["input_ids"][once])
    seen = inputs.get("mm_encoder_outputs", {}).get("image")
    if seen is None and inputs.get("pixel_values") is not None:
        seen = base.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
    places = (inputs["mm_token_type_ids"][once] == 1).nonzero().flatten()
    given = torch.cat(tuple(seen.pooler_output)) if seen is not None else hidden[:0]
    if len(given) != len(places):
        raise ValueError(f"{len(places)} image tokens, but features of {len(given)}")
    return hidden.index_copy(0, places, given) if len(places) else hidden


def _qkv(layer: nn.Module, hidden: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Queries, keys and values (tokens, heads of all x head_dim), the first two rotated."""
    attend = layer.self_attn
    linears = attend.q_proj, attend.k_proj, attend.v_proj
    weight = torch.cat([_in_pairs(x.weight, attend.head_dim) for x in linears[:2]])
    bias = torch.cat([_in_pairs(x.bias, attend.head_dim) for x in linears[:2]])
    weight, bias = torch.cat((weight, linears[2].weight)), torch.cat((bias, linears[2].bias))
    qkv = _normed(layer.input_layernorm, hidden, weight, bias)
    return _Rotate.apply(qkv, turn, attend.num_heads + attend.num_key_value_heads)


def _in_pairs(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Outputs in the order of `products.in_pairs`: (heads x head_dim, ...)."""
    return weight.view(-1, 2, head_dim // 2, *weight.shape[1:]).transpose(1, 2).flatten(0, 2)


def _attend(layer: nn.Module, qkv: torch.Tensor, start: int) -> torch.Tensor:
    """Causal attention within rows, of their tokens from `start`.

    (rows, n, heads of all x head_dim) -> (rows x (n - start), width).
    """
    attend, n = layer.self_attn, qkv.shape[1]
    heads, keys = attend.num_heads, attend.num_key_value_heads
    q, k, v = qkv.unflatten(2, (-1, attend.head_dim)).transpose(1, 2).split((heads, keys, keys), 1)
    sees = torch.ones(n, n, dtype=torch.bool).tril()[start:] if start else None
    mixed = F.scaled_dot_product_attention(
        q[:, :, start:], k, v, sees, is_causal=not start, scale=attend.scaling, enable_gqa=True
    )
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1)


def _mlp(layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    gate_and_up = torch.cat((layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight))
    gated = _Gate.apply(_normed(layer.post_attention_layernorm, hidden, gate_and_up))
    return torch.addmm(hidden, gated, layer.mlp.down_proj.weight.t())


def _normed(norm: nn.Module, x: torch.Tensor, weight: torch.Tensor, bias=None) -> torch.Tensor:
    """A linear layer behind a root-mean-square norm."""
    return _NormedProduct.apply(x, weight * norm.weight, bias, norm.variance_epsilon)


class _Rows:
    """Where the tokens of a batch are: one behind the other, and in rows."""

    def __init__(self, real: torch.Tensor, shared: int):
        self.once = real.clone()  # (rows, columns): which are run
        self.once[1:, :shared] = False
        self.shared, self.shape = shared, (len(real), int(real.sum(1).max()))
        starts = torch.arange(len(real))[:, None] * self.shape[1]
        self.at = (starts + real.cumsum(1) - 1)[self.once]  # of each in the flattened rows

    def behind(self, wanted: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Where those tokens are in rows that are cut before the first of them, and where that is.

        Answers stand at the ends of rows.
        """
        n = self.shape[1]
        at = self.at[wanted]
        start = int((at % n).min()) if len(at) else 0
        return at - start * (at // n + 1), start


# --- functions with a backward pass of their own -------------------------------------------------


class _Together(Function):
    """Tokens (tokens, width) into rows (rows, n, width), each with what all open with."""

    @staticmethod
    def forward(ctx, tokens, rows: _Rows):
        ctx.rows = rows
        out = tokens.new_zeros(*rows.shape, tokens.shape[1])
        out.flatten(0, 1).index_copy_(0, rows.at, tokens)
        out[1:, : rows.shared] = tokens[: rows.shared]
        return out

    @staticmethod
    def backward(ctx, slope):
        rows = ctx.rows
        back = slope.flatten(0, 1).index_select(0, rows.at)
        back[: rows.shared] += slope[1:, : rows.shared].sum(0)
        return back, None


class _Pick(Function):
    """x (n, width) at different places (k,); `index_select` adds up slopes one by one."""

    @staticmethod
    def forward(ctx, x, places):
        ctx.save_for_backward(places)
        ctx.size = len(x)
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx, slope):
        (places,) = ctx.saved_tensors
        return slope.new_zeros(ctx.size, slope.shape[1]).index_copy_(0, places, slope), None


class _NormedProduct(Function):
    """x over its root mean square, times a matrix (outputs, inputs), plus a bias.

    With u = x r the slope of x is r (g - u mean(g u)), where g is that of u.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, epsilon: float):
        scale = unit_scale(x, epsilon)
        normed = x * scale
        ctx.save_for_backward(normed, scale, weight)
        ctx.has_bias = bias is not None
        return F.linear(normed, weight, bias)

    @staticmethod
    def backward(ctx, slope):
        normed, scale, weight = ctx.saved_tensors
        to_weight = slope.t() @ normed if ctx.needs_input_grad[1] else None
        back = slope @ weight
        along = torch.linalg.vecdot(back, normed)[:, None] / normed.shape[1]
        back = back.addcmul_(normed, along, value=-1).mul_(scale)
        return back, to_weight, slope.sum(0) if ctx.has_bias else None, None


class _Rotate(Function):
    """Rotary embedding of queries and keys in (tokens, heads of all x head_dim), in place."""

    @staticmethod
    def forward(ctx, qkv, turn, heads: int):
        ctx.save_for_backward(turn)
        ctx.heads = heads
        ctx.mark_dirty(qkv)
        return _rotated(qkv, turn, heads)

    @staticmethod
    def backward(ctx, slope):
        (turn,) = ctx.saved_tensors
        return _rotated(slope.clone(), turn.conj(), ctx.heads), None, None


def _rotated(qkv: torch.Tensor, turn: torch.Tensor, heads: int) -> torch.Tensor:
    rotate(qkv.unflatten(1, (-1, 2 * turn.shape[2]))[:, :heads], turn)
    return qkv


class _Gate(Function):
    """Gate and up (tokens, 2 x inner) -> silu(gate) x up."""

    @staticmethod
    def forward(ctx, both):
        gate, up = both.chunk(2, 1)
        opened = F.silu(gate)
        ctx.save_for_backward(both, opened)
        return opened * up

    @staticmethod
    def backward(ctx, slope):
        both, opened = ctx.saved_tensors
        gate, up = both.chunk(2, 1)
        back = torch.empty_like(both)
        to_gate, to_up = back.chunk(2, 1)
        torch.mul(slope, opened, out=to_up)
        torch.ops.aten.silu_backward(slope * up, gate, grad_input=to_gate)
        return back
