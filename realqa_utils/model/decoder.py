"""Continue half-written answers with the model's own weights, without the library's work per step.

`begin` runs photographs and the beginnings of answers. Then `step` runs more tokens of every row
and gives the logits behind each, and `take` says which of them stay. Between the two, tokens are
open: `sees` names the open ones that a new one sees, so answers may branch in one pass.

Qwen2-VL on a CPU with torch's attention takes `lean.Lean`, any other model the library's calls
(`Plain`). Logits agree to 1e-5. They stay where the model is, since all of them together are more
than should travel; what is given, and what `likeliest` and `chances` say of them, is on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedConfig

from realqa_utils.model import language, lean
from realqa_utils.model.backbone import Backbone
from realqa_utils.model.encoding import encode
from realqa_utils.model.lean import Lean


def begin(
    backbone: Backbone,
    images: Sequence[Image.Image],
    questions: Sequence[str],
    answers: Sequence[str] | None,
    columns: int = 1,
) -> tuple[Lean | Plain, torch.Tensor]:
    """The state behind the beginnings of answers (or behind the questions), one row a photograph.

    Also the logits (rows, columns, vocabulary) behind the last `columns` tokens of each.
    """
    base = language.base_of(backbone.model)
    if lean.knows(base):
        seen, grids = backbone.look(images)
        batch = encode(backbone, questions, answers, grids, end=False)
        return lean.begin(base, batch, seen, columns)
    pixels, grids = backbone.pixels(images, base.device)
    pixels = pixels.to(backbone.model.dtype)  # at once: in float32 they would stay to the end
    batch = encode(backbone, questions, answers, grids, end=False)
    del batch["labels"]
    batch["pixel_values"] = pixels
    batch, width = backbone.to_device(batch), batch["input_ids"].shape[1]
    wanted = torch.arange(width - columns, width)
    out = language.forward(backbone.model, batch, wanted, use_cache=True)
    position = batch["position_ids"][0, :, -1] + 1
    seen = batch["attention_mask"].bool()
    return Plain(backbone.model, out.past_key_values, seen, position), out.logits


def rows_at_once(config: PreTrainedConfig, device: str = "cpu") -> int:
    """Photographs of a batch: of the logits of a hundred nodes of each, a CPU is given a gigabyte
    at most, in float32, and a GPU four times as many."""
    numbers = 2**28 if device == "cpu" else 2**30
    return max(1, min(64, numbers // (100 * config.text_config.vocab_size)))


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """The first of the largest logits (..., vocabulary), as an index (...) on the CPU."""
    if logits.device.type == "cpu" and logits.dtype == torch.float32:  # nine times as fast
        return torch.from_numpy(logits.detach().numpy().argmax(-1, keepdims=True)).squeeze(-1)
    return logits.argmax(-1).cpu()


def chances(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The probabilities (..., n) of some tokens (n,), in float64 on the CPU."""
    return logits.float().softmax(-1)[..., tokens].cpu().double()


@torch.no_grad()
def generate(
    backbone: Backbone,
    questions: Sequence[str],
    images: Sequence[Image.Image],
    max_new_tokens: int,
) -> list[str]:
    """Free-running greedy answers: those of `Backbone.generate`, in a fraction of its time."""
    if not lean.knows(language.base_of(backbone.model)):
        return backbone.generate(questions, images, max_new_tokens)
    backbone.model.eval()
    state, logits = begin(backbone, images, questions, None)
    ends, pad = end_tokens(backbone), backbone.tokenizer.pad_token_id
    said = torch.full((len(images), max_new_tokens), pad)
    rows = torch.arange(len(images))  # that are still run
    going = rows >= 0  # that have not ended
    for column in range(max_new_tokens):
        tokens = likeliest(logits[:, -1])
        said[rows, column] = tokens
        going = going & ~torch.isin(tokens, ends)
        if not going.any() or column == max_new_tokens - 1:
            break
        if going.sum() < 0.8 * len(rows):  # to move the cache costs less than to drag them along
            state.select(going.nonzero().flatten())
            rows, tokens, going = rows[going], tokens[going], going[going]
        logits = state.step(tokens[:, None])
        state.take(torch.ones(len(rows), dtype=torch.long))
    return texts(backbone.tokenizer, said, ~torch.isin(said, ends).cumsum(1).bool())


def texts(tokenizer, tokens: torch.Tensor, kept: torch.Tensor) -> list[str]:
    """The text of each row of tokens (rows, n), of those alone that are kept (rows, n)."""
    flat = iter(tokens[kept].tolist())
    said = [list(islice(flat, count)) for count in kept.sum(1).tolist()]
    return tokenizer.batch_decode(said, skip_special_tokens=True)


def end_tokens(backbone: Backbone) -> torch.Tensor:
    """Tokens that end an answer: the tokenizer's own first, then those that a checkpoint names."""
    end, known = backbone.tokenizer.eos_token_id, backbone.model.generation_config.eos_token_id
    known = known if isinstance(known, list) else [end if known is None else known]
    return torch.tensor([end, *known])


# --- the library's calls -------------------------------------------------------------------------


class Plain:
    """Half-written answers of any model, wherever it is; has the methods of `Lean`."""

    def __init__(self, model: nn.Module, cache, seen: torch.Tensor, position: torch.Tensor):
        self.model, self.cache = model, cache
        self.seen = seen  # (rows, columns of the cache), where the model is
        self.position = position  # (rows,) of the next token
        self.open = 0

    def step(self, tokens, depth=None, sees=None, where=None) -> torch.Tensor:
        """See `Lean.step`."""
        (rows, n), device = tokens.shape, self.seen.device
        depth = torch.arange(n) if depth is None else depth
        sees = torch.ones(n, n, dtype=torch.bool).tril() if sees is None else sees
        tokens, depth, sees = tokens.to(device), depth.to(device), sees.to(device)
        taken = self.seen[:, : self.seen.shape[1] - self.open]
        visible = torch.cat((taken[:, None].expand(-1, n, -1), sees.expand(rows, n, -1)), 2)
        logits = self.model(
            input_ids=tokens,
            attention_mask=lean.bias(visible, self.model.dtype)[:, None],
            position_ids=(self.position[:, None] + depth).expand(3, -1, -1),
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        self.seen = F.pad(self.seen, (0, n), value=False)
        self.open += n
        return logits if where is None else logits[where]

    def take(self, counts: torch.Tensor, columns: torch.Tensor | None = None) -> None:
        """See `Lean.take`."""
        if columns is None:
            columns = torch.arange(self.open).expand(len(counts), -1)
        rows, places = (torch.arange(columns.shape[1]) < counts[:, None]).nonzero(as_tuple=True)
        start = self.seen.shape[1] - self.open
        self.seen[rows, start + columns[rows, places]] = True  # an index may stay on the CPU
        self.position = self.position + counts.to(self.position.device)
        self.open = 0

    def select(self, rows: torch.Tensor) -> None:
        """See `Lean.select`."""
        self.cache.batch_select_indices(rows)
        self.seen, self.position = self.seen[rows], self.position[rows]
