"""What a score costs (notebook 12): ways of asking for it, timed against each other in one run.

The plain ways are the library's: its own vision code, `generate`, and a forward pass. Every round
runs every way once, in an order of its own, and ratios are taken within a round, so whatever else
the machine does falls on all of them.
"""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from transformers import Qwen2VLForConditionalGeneration

from realqa_utils import parallel
from realqa_utils.forms.chains import MAX_TOKENS, REGULAR
from realqa_utils.forms.conversations import DIRECT, MIX, AttributeForm
from realqa_utils.model import backbone as backbones
from realqa_utils.model import vision
from realqa_utils.model.backbone import Backbone
from realqa_utils.model.encoding import encode
from realqa_utils.scoring import decoding, digit_tree, form_filling

BATCH = 64
CORES = 4  # of the laptop that the aims are for: a wider machine uses as many
ANSWER_TOKENS = 14  # of a direct answer with M = 3 and its end token
ONE, BATCHED = "generate, one at a time", "generate, in batches"
DIGITS, TREE = "ours: greedy digits", "ours: digit tree"
PREFILL, TOWER = "floor: one forward pass", "floor: vision tower alone"
CHAIN, FILLED = "chain: generate, in batches", "chain: form filling, greedy digits"
FILLED_TREE = "chain: form filling, digit tree"
#: Widths and layers of the language side and the tower of larger models, with random weights.
SIZES = {"2 x as wide": (256, 3, 4), "4 x as wide, twice as deep": (512, 6, 8)}

Way = tuple[Callable[[Sequence[Image.Image]], object], int]  # and how many photographs it is given


def plain(backbone: Backbone) -> Backbone:
    """A copy that runs the library's own code throughout."""
    model = vision.unbatch_vision(deepcopy(backbone.model))
    return Backbone(model, backbone.tokenizer, backbone.image_processor, backbone.name)


def larger(backbone: Backbone, size: str, seed: int = 0) -> Backbone:
    """A model of the same family in one of `SIZES`, with random weights."""
    width, layers, depth = SIZES[size]
    config = backbones.mini_config(backbone.tokenizer)
    text, seen = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = width, 3 * width, layers
    text.num_attention_heads, text.num_key_value_heads = width // 32, width // 64
    seen.embed_dim, seen.hidden_size, seen.depth, seen.num_heads = width, width, depth, width // 32
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:1] * layers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2VLForConditionalGeneration(config).eval().to(backbone.model.device)
    model.generation_config = backbone.model.generation_config
    return Backbone(vision.batch_vision(model), backbone.tokenizer, backbone.image_processor, size)


# --- ways ----------------------------------------------------------------------------------------


def ways(backbone: Backbone, few: int, many: int, with_tree: bool = True) -> dict[str, Way]:
    """Direct scores in every way; `few` photographs for the slow one, `many` for the others.

    Without the tree: of random weights it has all branches, which no trained model has.
    """
    library = plain(backbone)
    fixed = partial(_generate, library, DIRECT.question, ANSWER_TOKENS)
    found = {
        ONE: (partial(_singly, fixed), few),
        BATCHED: (fixed, many),
        DIGITS: (partial(digit_tree.read, backbone, tree=False), many),
        TREE: (partial(digit_tree.read, backbone), many),
        PREFILL: (partial(_forward, library), many),
        TOWER: (partial(_see, library), many),
    }
    return found if with_tree else {name: way for name, way in found.items() if name != TREE}


def chain_ways(backbone: Backbone, many: int) -> dict[str, Way]:
    """A chain of thought with its score: free, and as a form that is filled in."""
    free = partial(_generate, plain(backbone), REGULAR.question, MAX_TOKENS)
    fill = partial(form_filling.fill, backbone, form=REGULAR)
    return {
        CHAIN: (free, many),
        FILLED: (partial(fill, tree=False), many),
        FILLED_TREE: (fill, many),
    }


def attribute_ways(backbone: Backbone, counts: Sequence[int], many: int) -> dict[str, Way]:
    """The first attributes of the mixed question, filled in: cost against their number."""
    found = {}
    for count in counts:
        form = AttributeForm(f"first {count}", MIX.question, MIX.attributes[:count])
        found[f"{count}"] = (partial(form_filling.fill, backbone, form=form), many)
    return found


def _generate(backbone: Backbone, question: str, tokens: int, images) -> list[str]:
    return decoding.generate(backbone, [question] * len(images), images, tokens, batch_size=BATCH)


def _singly(way: Callable, images: Sequence[Image.Image]) -> list[str]:
    return [way([image])[0] for image in images]


@torch.no_grad()
def _forward(backbone: Backbone, images: Sequence[Image.Image]) -> None:
    """The prompt with the answer's fixed words in it, once through the model."""
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        rows = len(part)
        pixels, grids = backbone.pixels(part, backbone.model.device)
        batch = encode(backbone, [DIRECT.question] * rows, [DIRECT.before] * rows, grids, end=False)
        del batch["labels"]
        batch = backbone.to_device(batch | {"pixel_values": pixels})
        backbone.model(**batch, logits_to_keep=1, use_cache=False)


@torch.no_grad()
def _see(backbone: Backbone, images: Sequence[Image.Image]) -> None:
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        pixels, grids = backbone.pixels(part, backbone.model.device)
        batch = backbone.to_device({"hidden_states": pixels, "grid_thw": torch.tensor(grids)})
        backbone.core.visual(**batch)


# --- timing --------------------------------------------------------------------------------------


def timed(
    found: Mapping[str, Way], images: Sequence[Image.Image], rounds: int, seed: int
) -> pd.DataFrame:
    """Seconds a photograph of every way in every round, tidy: way, round, seconds.

    `images` are repeated where a way wants more. One round before the first is not counted.
    """
    rng, rows = np.random.default_rng(seed), []
    with all_cores():
        for number in range(-1, rounds):
            for name in rng.permutation(list(found)):
                way, count = found[name]
                given = [images[i % len(images)] for i in range(count)]
                started = time.perf_counter()
                way(given)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()  # what it was given last may still run
                rows.append((name, number, (time.perf_counter() - started) / count))
    frame = pd.DataFrame(rows, columns=["way", "round", "seconds"])
    frame["way"] = pd.Categorical(frame["way"], list(found))
    return frame[frame["round"] >= 0].sort_values(["way", "round"]).astype({"way": str})


def threads() -> int:
    """How many a timing has: one a core, up to `CORES`; beside a GPU, as many as there are."""
    on_gpu = torch.cuda.is_available()
    return torch.get_num_threads() if on_gpu else min(CORES, parallel.cores())


@contextmanager
def all_cores() -> Iterator[None]:
    """So many `threads` as long as this lasts: elsewhere in a notebook there is one, for results
    that do not depend on the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def ratio(table: pd.DataFrame, slow: str, fast: str) -> tuple[float, float, float]:
    """Seconds of one way over those of another, round by round: median, minimum, maximum."""
    wide = table.pivot(index="round", columns="way", values="seconds")
    values = wide[slow] / wide[fast]
    return float(values.median()), float(values.min()), float(values.max())


def growth(
    backbone: Backbone, images: Sequence[Image.Image], counts: Sequence[int]
) -> pd.DataFrame:
    """Photographs per second and the process's peak memory (MiB) against their number.

    As with a folder, they are opened a batch at a time, and of each no more is kept than its row:
    the distributions of all scores would add up.
    """
    with all_cores():
        digit_tree.read(backbone, images[:BATCH])
    rows = []
    for count in sorted(counts):
        given = [partial(images.__getitem__, i % len(images)) for i in range(count)]
        started = time.perf_counter()
        with resident_memory() as seen, all_cores():
            kept = [
                digit_tree.as_frame(digit_tree.read(backbone, given[start : start + BATCH]))
                for start in range(0, count, BATCH)
            ]
        rate = count / (time.perf_counter() - started)
        rows.append({"photographs": sum(map(len, kept)), "per second": rate, "peak MiB": max(seen)})
    return pd.DataFrame(rows)


@contextmanager
def resident_memory(every: float = 0.02) -> Iterator[list[float]]:
    """What the process holds in memory (MiB), looked at so often (seconds) while this lasts."""
    seen, over = [_resident()], threading.Event()

    def watch() -> None:
        while not over.wait(every):
            seen.append(_resident())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _resident() -> float:
    """Where the system is not Linux, the peak of all that the process has done so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * resource.getpagesize() / 2**20
