"""What the layers of a Qwen2-VL keep for the backward pass, and what they compute.

A training keeps the input of every linear whose weight is trained, and what non-linear functions
need; it is counted here from the library's code, layer by layer, in bytes per token (language) or
patch (vision). Operations count a multiplication and an addition as two.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig

from realqa_utils.planning.model_shapes import patch_numbers

#: For every number inside an MLP while its last linear is gone through backwards: what the weights
#: say of its input and what the adapter says, before and after its dropout.
GRADIENTS = 3


@dataclass(frozen=True)
class Step:
    """One forward pass: how many conversations, and how long each is."""

    rows: int
    patches: int  # of each photograph
    columns: int  # tokens of each conversation, those of its photograph too
    answers: int  # columns whose logits are asked for
    #: Leading columns that are run once for all rows, in `language.forward`, where the last layer
    #: answers for `answers` columns only; None: the library's call, all columns in all layers.
    shared: int | None = None
    padded: bool = True  # rows differ in length, so attention is given a mask
    #: Of `model.packed`: tokens that are run, without padding, and those whose logits are asked
    #: for. None: rows of `columns` tokens.
    packed: tuple[int, int] | None = None


@dataclass(frozen=True)
class Mode:
    """How one side of the model is trained, and in which numbers.

    `bytes` is that of an activation: 4 in float32; 2 for bf16 autocast around a frozen bf16 model
    with float32 adapters, which is what `bf16` means to the Trainer.
    """

    trained: str  # lora | full; frozen: not run in training, its output is computed once
    rank: int = 128
    dropout: float = 0.0
    bytes: int = 4
    mask_bytes: int = 1  # of dropout, per number: 1 on a GPU; a CPU has activations

    @property
    def is_copied(self) -> bool:
        """Has every LoRA linear a copy of its own of what it reads? Dropout makes it."""
        return self.trained == "lora" and bool(self.dropout)

    def inputs(self, width: int, readers: int = 1) -> float:
        """Bytes that `readers` linears keep of one input of this width, for their weights."""
        if self.trained == "full":
            return width * self.bytes
        copies = readers if self.is_copied else 1  # else all read the same one
        masks = readers * width * self.mask_bytes * bool(self.dropout)
        return self.bytes * (copies * width + readers * self.rank) + masks

    def rms_norm(self, width: int) -> float:
        """Its input as float32, the inverse root, and for its own weight what that scales."""
        return 4 * width + 4 + width * self.bytes * (self.trained == "full")


@dataclass(frozen=True)
class Layer:
    """Of a language layer, per token: what all columns need, and those that it answers for."""

    keys: float
    answer: float

    @property
    def whole(self) -> float:
        return self.keys + self.answer


# --- bytes that are kept -------------------------------------------------------------------------


def layer_bytes(config: PreTrainedConfig, mode: Mode, repeated: bool) -> Layer:
    """What a decoder layer keeps. `repeated`: keys and values are copied for every query head, as
    the library does where attention has a mask."""
    text = config.text_config
    width, mlp, heads = text.hidden_size, text.intermediate_size, text.num_attention_heads
    kv = _head_dim(text) * (heads if repeated else text.num_key_value_heads)
    keys = mode.rms_norm(width) + mode.inputs(width, 2) + 2 * kv * mode.bytes
    # what the query reads, the query, the log-sum-exp of every head, what they say
    attention = mode.inputs(width, 3) - mode.inputs(width, 2) + width * mode.bytes + 4 * heads
    attention += mode.inputs(width) + width * mode.bytes * mode.is_copied
    gated = mode.rms_norm(width) + mode.inputs(width, 2)
    gated += 3 * mlp * mode.bytes + mode.inputs(mlp)  # gate, its SiLU, up; their product
    return Layer(keys, attention + gated)


def block_bytes(config: PreTrainedConfig, mode: Mode) -> float:
    """Bytes per patch that a block of the tower keeps."""
    seen = config.vision_config
    width, mlp = seen.embed_dim, int(seen.embed_dim * seen.mlp_ratio)
    norms = 2 * (4 * width + 8)  # inputs as float32, mean, inverse deviation
    # queries and keys turned; for the values all that `qkv` gave; the log-sum-exp; what they say
    attention = 6 * width * mode.bytes + 4 * seen.num_heads
    linears = sum(map(mode.inputs, (width, width, width, mlp)))
    act = 2 if seen.hidden_act == "quick_gelu" else 1  # x sigmoid(1.702 x) keeps both factors
    return norms + attention + linears + act * mlp * mode.bytes


def language_bytes(config: PreTrainedConfig, mode: Mode, step: Step) -> float:
    """What the language side keeps in one forward pass, up to its last norm."""
    if step.packed:
        return _packed_bytes(config, step)
    text, rows = config.text_config, step.rows
    norm, turns = mode.rms_norm(text.hidden_size), 2 * _head_dim(text) * mode.bytes
    if step.shared is None:
        layer, tokens = layer_bytes(config, mode, step.padded), rows * step.columns
        masks = tokens * step.columns * mode.bytes * step.padded
        return text.num_hidden_layers * (tokens * layer.whole + masks) + tokens * (norm + turns)
    layer, before = layer_bytes(config, mode, True), text.num_hidden_layers - 1
    opening = step.shared * layer_bytes(config, mode, False).whole
    tokens, asked = rows * (step.columns - step.shared), rows * step.answers
    masks = step.columns * mode.bytes
    kept = before * (opening + tokens * (layer.whole + masks)) + tokens * (layer.keys + turns)
    return kept + asked * (layer.answer + masks + norm)


def _packed_bytes(config: PreTrainedConfig, step: Step) -> float:
    """The same for `model.packed`: float32, trained in full."""
    text, (tokens, asked), size = config.text_config, step.packed, 4
    width, mlp, slots = text.hidden_size, text.intermediate_size, step.rows * step.columns
    qkv = width + 2 * _head_dim(text) * text.num_key_value_heads
    norm = size * width + 4  # what it gives, the inverse root
    # weights that belong together side by side, and with the norm's in them
    weights = 2 * size * width * (qkv + 2 * mlp) * text.num_hidden_layers
    # in rows: queries, keys and values, what they say; the log-sum-exp of every head
    rows = text.num_hidden_layers * slots * (size * qkv + 4 * text.num_attention_heads)
    rows += size * width * ((text.num_hidden_layers - 1) * slots + step.rows * step.answers)
    # what is said; gate, its SiLU, up; their product
    answer = size * width + norm + 4 * size * mlp
    layers = text.num_hidden_layers * tokens * norm + rows
    layers += ((text.num_hidden_layers - 1) * tokens + asked) * answer
    head = asked * norm + size * width * text.vocab_size
    places = 8 * (3 * tokens + 2 * asked) + tokens * size * _head_dim(text)  # and turns
    return weights + layers + head + places


def vision_bytes(config: PreTrainedConfig, mode: Mode, step: Step) -> float:
    """What the tower and the merger keep; nothing where the tower is frozen and not run."""
    if mode.trained == "frozen":
        return 0
    seen = config.vision_config
    width, turns = seen.embed_dim, 2 * 4 * seen.embed_dim // seen.num_heads
    # of the merger, which LoRA leaves alone: its norm, GELU; for its weights both inputs
    merger = 4 * width + 8 + width * mode.bytes * (3 if mode.trained == "full" else 1)
    return step.rows * step.patches * (seen.depth * block_bytes(config, mode) + merger + turns)


def again_bytes(config: PreTrainedConfig, modes: tuple[Mode, Mode], step: Step) -> tuple:
    """With checkpointing, (vision, language, working memory) at the highest moment.

    Kept are the inputs of all layers; one layer at a time is run again and gone through backwards.
    """
    (vision, language), text, seen = modes, config.text_config, config.vision_config
    tokens, patches = step.rows * step.columns, step.rows * step.patches
    patches *= vision.trained != "frozen"
    kept_seen = seen.depth * seen.embed_dim * vision.bytes * patches
    kept_said = text.num_hidden_layers * text.hidden_size * language.bytes * tokens
    layer = layer_bytes(config, language, step.padded).whole
    layer += language.bytes * (step.columns * step.padded + GRADIENTS * text.intermediate_size)
    block = block_bytes(config, vision) if patches else 0
    block += GRADIENTS * vision.bytes * seen.embed_dim * seen.mlp_ratio
    moments = (
        (kept_seen, kept_said, loss_bytes(config, step)),
        (kept_seen, kept_said, tokens * layer),
        (kept_seen, 0, patches * block),
    )
    return max(moments, key=sum)


def loss_bytes(config: PreTrainedConfig, step: Step) -> float:
    """At its highest, in the backward pass: log-probabilities and two gradients, in float32."""
    return 12 * config.text_config.vocab_size * step.rows * step.answers


# --- floating-point operations -------------------------------------------------------------------


def layer_weights(config: PreTrainedConfig, rank: int = 0) -> Layer:
    """Weights of a decoder layer's linears; with a rank, those of LoRA's factors."""
    text = config.text_config
    width, mlp = text.hidden_size, text.intermediate_size
    kv = text.num_key_value_heads * _head_dim(text)
    size = (lambda a, b: rank * (a + b)) if rank else (lambda a, b: a * b)
    return Layer(2 * size(width, kv), 2 * size(width, width) + 3 * size(width, mlp))


def block_weights(config: PreTrainedConfig, rank: int = 0) -> float:
    """The same for a block of the tower."""
    seen = config.vision_config
    width, mlp = seen.embed_dim, int(seen.embed_dim * seen.mlp_ratio)
    size = (lambda a, b: rank * (a + b)) if rank else (lambda a, b: a * b)
    return size(width, 3 * width) + size(width, width) + 2 * size(width, mlp)


def language_flops(config: PreTrainedConfig, step: Step, rank: int = 0) -> dict[str, float]:
    """Of one forward pass: products with the layers' weights, with LoRA's factors, attention, head.

    Attention is counted in full, though half of it is masked.
    """
    text, rows = config.text_config, step.rows
    width, before = text.hidden_size, text.num_hidden_layers - 1
    opening = step.shared or 0
    every = rows * (step.columns - opening)
    asked = every if step.shared is None else rows * step.answers
    pairs = (before * every + asked) * step.columns + before * opening**2
    tokens, queries, heads = every + opening, 0, rows * step.answers
    if step.packed:  # in the last layer all have a query, in attention whole rows
        tokens, asked = step.packed
        pairs = rows * (before * step.columns + step.answers) * step.columns
        queries, heads = tokens - asked, asked

    def products(layer: Layer) -> float:
        return 2 * (tokens * (before * layer.whole + layer.keys) + asked * layer.answer)

    return {
        "layers": products(layer_weights(config)) + 2 * queries * width**2,
        "lora": products(layer_weights(config, rank)) if rank else 0,
        "attention": 4 * width * pairs,
        "head": 2 * heads * width * text.vocab_size,
    }


def vision_flops(config: PreTrainedConfig, step: Step, rank: int = 0) -> dict[str, float]:
    """The same for the tower, which has the patch embedding and the merger in place of a head."""
    seen, patches = config.vision_config, step.rows * step.patches
    width, depth, merged = seen.embed_dim, seen.depth, seen.spatial_merge_size**2
    return {
        "layers": 2 * patches * depth * block_weights(config),
        "lora": 2 * patches * depth * block_weights(config, rank) if rank else 0,
        "attention": 4 * patches * step.patches * depth * width,
        "embedding": 2 * patches * patch_numbers(config) * width,
        "merger": 2 * patches * width * (width * merged + seen.hidden_size),
    }


def _head_dim(text: PreTrainedConfig) -> int:
    return text.hidden_size // text.num_attention_heads
