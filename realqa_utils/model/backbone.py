"""The model that is trained: Qwen2-VL with its tokenizer and image processor, mini or real.

`load("mini")` gives the backbone that ships with the kit; a folder or a hub name in the layout of
`Qwen/Qwen2-VL-2B-Instruct` goes through the same lines. Weights are safetensors only and code
from a checkpoint is never run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import logging

from realqa_utils.forms.scores import digit_ids
from realqa_utils.model import vision
from realqa_utils.model.encoding import Grid, encode

MINI_FOLDER = Path(__file__).with_name("mini_backbone")
MINI_PIXELS = 112 * 112


@dataclass
class Backbone:
    """A vision-language model with what it needs to read photographs and text."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    image_processor: Qwen2VLImageProcessorPil
    name: str = "mini"
    prompts: dict = field(default_factory=dict, repr=False)  # of `encoding.encode_prompt`

    @property
    def core(self) -> torch.nn.Module:
        """The model below the language head, whether or not LoRA is wrapped around it."""
        is_wrapped = isinstance(self.model, PeftModel)  # the model inside has its `peft_config` too
        model = self.model.get_base_model() if is_wrapped else self.model
        return model.model

    @property
    def width(self) -> int:
        return self.model.config.text_config.hidden_size

    def to_device(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A batch where the model is."""
        return {key: values.to(self.model.device) for key, values in batch.items()}

    @property
    def digit_ids(self) -> list[int]:
        """Token ids of 0..9. Raises ValueError for a tokenizer that merges digits."""
        return _digit_ids(self.tokenizer)

    def pixels(
        self, images: Sequence[Image.Image], device: torch.device | str = "cpu"
    ) -> tuple[torch.Tensor, list[Grid]]:
        """RGB photographs of any size -> `pixel_values` (patches, d) and the grid of each."""
        return vision.pixels(images, self.image_processor, device)

    @torch.no_grad()
    def look(self, images: Sequence[Image.Image]) -> tuple[torch.Tensor, list[Grid]]:
        """Image tokens (tokens, width) of RGB photographs in turn, and the grid of each.

        What a Qwen2-VL's vision tower says of `pixels`, where it is; faster on a CPU where all
        are seen in one size.
        """
        tower, processor = self.core.visual, self.image_processor
        if vision.can_look(tower):
            arrays = vision.fitted(images, processor)
            if len({array.shape for array in arrays}) == 1:
                whole = np.stack(arrays)
                grid = (1, *vision.sides(whole, processor))
                return vision.look(tower, whole, processor), [grid] * len(images)
        pixels, grids = self.pixels(images, tower.device)
        grid = torch.tensor(grids, device=tower.device)
        seen = tower(pixels.to(self.model.dtype), grid_thw=grid)
        return seen.pooler_output, grids

    def look_at(self, least: int, most: int) -> None:
        """Bring every photograph to so many pixels from now on; whole patches decide."""
        self.image_processor.size = {"shortest_edge": least, "longest_edge": most}

    @torch.no_grad()
    def generate(
        self, questions: Sequence[str], images: Sequence[Image.Image], max_new_tokens: int
    ) -> list[str]:
        """Free-running greedy answers, batched; the text after the end token is dropped."""
        pixels, grids = self.pixels(images, self.model.device)
        batch = encode(self, questions, None, grids)
        del batch["labels"], batch["position_ids"]  # `generate` works them out for itself
        batch["pixel_values"] = pixels.to(self.model.dtype)
        out = self.model.generate(
            **self.to_device(batch),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            repetition_penalty=1.0,  # some checkpoints bring another
        )
        answers = out[:, batch["input_ids"].shape[1] :]
        return self.tokenizer.batch_decode(answers, skip_special_tokens=True)

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write model, tokenizer and image processor in the layout of the hub's checkpoints."""
        tied = {"lm_head.weight"} if self.model.config.tie_word_embeddings else set()
        weights = self.model.state_dict().items()
        state = {name: value.to(dtype) for name, value in weights if name not in tied}
        self.model.save_pretrained(folder, state_dict=state)
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)


def load(
    source: str | Path = "mini", dtype: torch.dtype = torch.float32, **how: object
) -> Backbone:
    """Load a backbone: "mini", a local folder, or a hub name; on this process's GPU, if it has one.

    `how` are further arguments of the library's `from_pretrained`, such as `device_map`.
    Raises FileNotFoundError for a folder without a checkpoint, ValueError for a tokenizer that
    merges digits.
    """
    folder = MINI_FOLDER if str(source) == "mini" else source
    local = Path(folder).exists() or Path(folder).is_absolute()
    if local and not (Path(folder) / "config.json").exists():
        raise FileNotFoundError(
            f"{folder} holds no config.json: give a folder in the layout of "
            "Qwen/Qwen2-VL-2B-Instruct, a hub name, or 'mini'"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    _digit_ids(tokenizer)
    if torch.cuda.is_available():
        how = {"device_map": {"": own_device()}} | how
    with quiet(folder == MINI_FOLDER):
        model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, **how
        )
    processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
    return Backbone(vision.batch_vision(model).eval(), tokenizer, processor, str(source))


def own_device() -> str:
    """The GPU of this process, one for each that `torchrun` starts; without one, the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


@lru_cache(maxsize=8)
def _digit_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return digit_ids(tokenizer)  # tries a thousand texts: as slow as scoring a batch


@contextmanager
def quiet(wanted: bool = True) -> Iterator[None]:
    """Hide the library's progress bar for weights that load or save in a blink."""
    hide = wanted and logging.is_progress_bar_enabled()
    if hide:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if hide:
            logging.enable_progress_bar()


def mini_config(tokenizer: PreTrainedTokenizerBase) -> Qwen2VLConfig:
    """A Qwen2-VL of two million parameters: 4 vision layers, 3 language layers, width 128."""
    ids = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        # half of the head dimension 32, divided among time, height, width
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [4, 6, 6],
        },
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    # SiLU in place of quick-GELU: one kernel instead of three on a CPU
    seen = {"depth": 4, "embed_dim": 128, "hidden_size": 128, "num_heads": 4, "hidden_act": "silu"}
    return Qwen2VLConfig(
        text_config=text,
        vision_config=seen,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def new_mini(tokenizer: PreTrainedTokenizerBase) -> Backbone:
    """The mini backbone with random weights from torch's global generator."""
    model = Qwen2VLForConditionalGeneration(mini_config(tokenizer))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    size = {"shortest_edge": MINI_PIXELS, "longest_edge": MINI_PIXELS}
    return Backbone(vision.batch_vision(model), tokenizer, Qwen2VLImageProcessorPil(size=size))


def randomised(backbone: Backbone, seed: int) -> Backbone:
    """A backbone of the same architecture, tokenizer and processor that has learnt nothing."""
    given = backbone.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = type(given)(given.config).to(given.device, given.dtype)
    model.generation_config = given.generation_config
    model = vision.batch_vision(model).eval()
    return Backbone(model, backbone.tokenizer, backbone.image_processor, backbone.name)


def as_images(arrays: np.ndarray) -> list[Image.Image]:
    """uint8 (n, height, width, 3) -> a list of photographs."""
    return [Image.fromarray(a) for a in arrays]
