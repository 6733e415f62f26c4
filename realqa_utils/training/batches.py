"""Batches for a training: photographs decoded once, and what a frozen vision tower says of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.trainer_pt_utils import LengthGroupedSampler

from realqa_utils.datasets.table import Table
from realqa_utils.images.photos import open_photo, photo_size
from realqa_utils.images.views import View
from realqa_utils.model.backbone import Backbone
from realqa_utils.model.encoding import Grid, encode
from realqa_utils.records import hashes
from realqa_utils.training import lessons
from realqa_utils.training.recipes import Recipe

ROOM = 2**32  # bytes of decoded photographs that are kept; the others are opened at every use
TOKEN_ROOM = 2**30  # bytes of what frozen towers said, for several training sets
FROZEN_WINDOWS = 12  # random ones; as good as a fresh one at every step, and faster


class Photographs:
    """The photographs of a table as a view fits them; those that have room are kept in memory."""

    def __init__(self, table: Table, view: View):
        self.paths = tuple(table.frame["path"])
        self.view = view
        self._kept: dict[int, Image.Image] = {}
        self._room = ROOM

    @property
    def windows(self) -> int:
        """Windows of each photograph that a frozen tower looks at, once, before training."""
        return FROZEN_WINDOWS if self.view.random else 1

    def fitted(self, rows: Sequence[int] | None = None) -> list[Image.Image]:
        """The photographs of some rows, or of all."""
        rows = range(len(self.paths)) if rows is None else rows
        missing = list(dict.fromkeys(row for row in rows if row not in self._kept))
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoders release the interpreter lock
            opened = dict(zip(missing, pool.map(self._open, missing), strict=True))
        for row, image in opened.items():
            size = 3 * image.width * image.height
            if size <= self._room:
                self._kept[row] = image
                self._room -= size
        return [opened[row] if row in opened else self._kept[row] for row in rows]

    def _open(self, row: int) -> Image.Image:
        return self.view.fit(open_photo(self.paths[row]))


class ByLength(LengthGroupedSampler):
    """Rows in an order in which those of a step are about as long; another one every epoch.

    The order follows from seed and epoch, so an interrupted training goes on with the same rows.
    """

    def __init__(self, rows: int, lengths: Sequence[int], seed: int):
        super().__init__(rows, lengths=list(lengths), generator=torch.Generator())
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Is told by the data loader."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        drawn = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)
        self.generator.manual_seed(int(drawn[0]))
        return super().__iter__()


class Collator:
    """Row numbers -> one batch: tokens, positions, labels, pixels, and what the lesson adds.

    Which form a row is asked in and which window of it is seen follow from the whole batch, or
    with `one_by_one`, for what is held out, from the row: whoever shares the rows, and in
    whatever batches, then measures the same.
    """

    def __init__(
        self, backbone: Backbone, table: Table, recipe: Recipe, view: View, one_by_one: bool = False
    ):
        self.backbone, self.recipe, self.one_by_one = backbone, recipe, one_by_one
        self.data, self.lesson = Photographs(table, view), lessons.of(recipe, table, one_by_one)
        # Qwen3-VL's tower also speaks to single language layers: of it, tokens are not all.
        whole = not hasattr(backbone.core.visual, "deepstack_merger_list")
        frozen = recipe.vision == "frozen" and whole
        self.tokens = frozen_tokens(backbone, self.data, recipe.seed) if frozen else None

    def __call__(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        # Stateless: a batch has the same windows whether or not the run was interrupted.
        rngs = self._rngs(rows)
        if self.tokens is None:
            pairs = zip(self.data.fitted(rows), rngs, strict=True)
            pixels, grids = self.backbone.pixels([self.data.view.training(*pair) for pair in pairs])
            seen = {"pixel_values": pixels}
        else:
            count = self.data.windows
            picked = [row * count + r.integers(count) for row, r in zip(rows, rngs, strict=True)]
            tokens, grids = ([part[i] for i in picked] for part in self.tokens)
            seen = {"image_tokens": tokens}
        questions, answers = self.lesson.conversations(rows)
        is_open = getattr(self.lesson, "is_open", False)  # an answer that is only begun
        batch = encode(self.backbone, questions, answers, grids, end=not is_open)
        return batch | seen | self.lesson.extras(self.backbone, rows, answers, grids)

    def _rngs(self, rows: Sequence[int]) -> list[np.random.Generator]:
        """What draws the window of each row: one for all of them, or one each."""
        seed = self.recipe.seed
        if self.one_by_one:
            return [np.random.default_rng([seed, row]) for row in rows]
        return [np.random.default_rng([seed, *rows])] * len(rows)

    def lengths(self) -> list[int]:
        """Patches of each photograph as it is seen; its file's head tells its size."""
        processor, view = self.backbone.image_processor, self.data.view
        unit, limits = processor.patch_size * processor.merge_size, dict(processor.size)
        least, most = limits["shortest_edge"], limits["longest_edge"]
        found = []
        for path in self.data.paths:
            width, height = view.fitted_size(*photo_size(path))
            rows, columns = smart_resize(height, width, unit, least, most)
            found.append(rows * columns // processor.patch_size**2)
        return found


_TOKENS: dict = {}  # what frozen towers said; several trainings in one process share it


def frozen_tokens(
    backbone: Backbone, data: Photographs, seed: int = 0
) -> tuple[list[torch.Tensor], list[Grid]]:
    """What a frozen tower says of every window, (tokens, width) each, and their grids.

    Window k of photograph i is number i x `data.windows` + k.
    """
    seen = backbone.image_processor.to_json_string()
    drawn = seed if data.view.random else None
    key = (hashes.of_weights(backbone.core.visual), seen, data.paths, data.view, drawn)
    if key not in _TOKENS:
        made = _frozen_tokens(backbone, data, seed)
        while _TOKENS and sum(map(_size, [made, *_TOKENS.values()])) > TOKEN_ROOM:
            _TOKENS.pop(next(iter(_TOKENS)))
        _TOKENS[key] = made
    return _TOKENS[key]


def _size(kept: tuple[list[torch.Tensor], list[Grid]]) -> int:
    return sum(part.nbytes for part in kept[0])


def forget_frozen_tokens() -> None:
    """Empty what `frozen_tokens` keeps: a timing must pay for the tower every time."""
    _TOKENS.clear()


@torch.no_grad()
def _frozen_tokens(
    backbone: Backbone, data: Photographs, seed: int, batch: int = 64
) -> tuple[list[torch.Tensor], list[Grid]]:
    rng = np.random.default_rng([seed, 2]) if data.view.random else None
    views = [data.view.training(p, rng) for p in data.fitted() for _ in range(data.windows)]
    merged = backbone.image_processor.merge_size**2  # patches per token
    tokens, grids, tower = [], [], backbone.core.visual
    for start in range(0, len(views), batch):
        pixels, some = backbone.pixels(views[start : start + batch], tower.device)
        pixels, grid = pixels.to(tower.dtype), torch.tensor(some)
        out = tower(pixels, grid_thw=grid.to(tower.device)).pooler_output.cpu()
        tokens += out.split([t * h * w // merged for t, h, w in some])
        grids += some
    return tokens, grids
