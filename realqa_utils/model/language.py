"""The language side without the work that no one reads; exact, for many short conversations.

Two savings. All rows of a batch open with the same words (system prompt, begin of the user's
turn): they are run once and their keys and values shared. And in the last layer only the columns
that are asked for need a query and an MLP: of the others just keys and values are used. Where
nothing is cached and all layers are plain ones on a CPU, `packed` goes further.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.qwen2_vl.modeling_qwen2_vl import (
    Qwen2VLDecoderLayer,
    Qwen2VLForConditionalGeneration,
    apply_rotary_pos_emb,
)

from realqa_utils.model import packed

PER_COLUMN = ("input_ids", "mm_token_type_ids", "position_ids")  # the last axis is the columns


class SelectiveLayer(Qwen2VLDecoderLayer):
    """A decoder layer that answers for the columns `wanted` only."""

    wanted: torch.Tensor

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        past_key_values=None,
        position_embeddings=None,
        **_,
    ):
        attend, wanted = self.self_attn, self.wanted
        normed = self.input_layernorm(hidden_states)
        cos, sin = position_embeddings
        k, v = self._heads(attend.k_proj(normed)), self._heads(attend.v_proj(normed))
        k = _rotate(k, cos, sin)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, attend.layer_idx)
        hidden = hidden_states[:, wanted]
        if not len(wanted):
            return hidden
        q = self._heads(attend.q_proj(normed[:, wanted]))
        q = _rotate(q, cos[:, wanted], sin[:, wanted])
        if attention_mask is None:  # the library leaves out a mask that is merely causal
            before = k.shape[2] - hidden_states.shape[1]
            columns = torch.arange(k.shape[2], device=k.device)
            attention_mask = (columns <= wanted[:, None] + before)[None, None]
        else:
            attention_mask = attention_mask[:, :, wanted]
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=attention_mask, scale=attend.scaling, enable_gqa=True
        )
        hidden = hidden + attend.o_proj(mixed.transpose(1, 2).flatten(2))
        return hidden + self.mlp(self.post_attention_layernorm(hidden))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, columns, heads x head_dim) -> (batch, heads, columns, head_dim)."""
        return x.unflatten(2, (-1, self.self_attn.head_dim)).transpose(1, 2)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return apply_rotary_pos_emb(x, x[:, :1], cos, sin)[0]


def forward(
    model: nn.Module, inputs: dict, columns: torch.Tensor, **more
) -> CausalLMOutputWithPast:
    """The model's output with logits (batch, len(columns), vocabulary) at `columns` only.

    `inputs` are those of the model's own `forward` but for the labels, with input_ids,
    attention_mask, position_ids and mm_token_type_ids; `columns` ascend. The result is that of the
    plain call with `logits_to_keep=columns`, to rounding; with dropout, rows share what is dropped
    of the words they share. `past_key_values` of the result covers every column. Models of another
    class than Qwen2-VL, or with another attention than torch's, take the plain call.
    """
    base = base_of(model)
    if not known(base):
        return model(**inputs, **more, logits_to_keep=columns)
    shared = min(shared_columns(inputs), int(columns[0]))
    if not more.get("use_cache", True) and packed.knows(base):
        return CausalLMOutputWithPast(logits=packed.logits(base, inputs, columns, shared))
    columns = columns.to(inputs["input_ids"].device)
    inputs = inputs | more
    last = base.model.language_model.layers[-1]
    if shared:
        with _answering(last, columns[:0]):
            cache = _opening(base, inputs, shared)
        inputs |= {key: inputs[key][..., shared:] for key in PER_COLUMN}
        inputs |= {"past_key_values": cache, "use_cache": True}
    with _answering(last, columns - shared):
        return model(**inputs)


@contextmanager
def _answering(layer: Qwen2VLDecoderLayer, columns: torch.Tensor) -> Iterator[None]:
    """Let `layer` answer for `columns` only; parameters and their names stay."""
    layer.__class__, layer.wanted = SelectiveLayer, columns
    try:
        yield
    finally:
        layer.__class__ = Qwen2VLDecoderLayer
        del layer.wanted


def base_of(model: nn.Module) -> nn.Module:
    """The model itself, whether or not LoRA is wrapped around it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def known(base: nn.Module) -> bool:
    """Whether a model is the library's Qwen2-VL with torch's attention, all on one device."""
    return (
        type(base) is Qwen2VLForConditionalGeneration
        and type(base.model.language_model.layers[-1]) is Qwen2VLDecoderLayer
        and not hasattr(base.model.language_model.layers[-1], "_hf_hook")  # of several devices
        and base.config.text_config._attn_implementation == "sdpa"
        and not base.is_activation_checkpointing
    )


def shared_columns(inputs: dict) -> int:
    """How many leading columns are the same text in all rows, none of it padding."""
    ids = inputs["input_ids"]
    same = (ids == ids[:1]) & (inputs["attention_mask"] == 1) & (inputs["mm_token_type_ids"] == 0)
    return int(same.all(0).long().cumprod(0).sum())


def _opening(base: nn.Module, inputs: dict, shared: int):
    """The cache (keys and values) of the opening words, for every row of the batch."""
    first = {
        "input_ids": inputs["input_ids"][:1, :shared],
        "position_ids": inputs["position_ids"][:, :1, :shared],
    }
    cache = base.model.language_model(**first, use_cache=True).past_key_values
    rows = len(inputs["input_ids"])
    for layer in cache.layers:
        layer.keys = layer.keys.expand(rows, -1, -1, -1)
        layer.values = layer.values.expand(rows, -1, -1, -1)
    return cache
