"""Everything that decides how one model is trained, as one frozen record."""

from __future__ import annotations

from dataclasses import dataclass

from realqa_utils.forms.chains import STAGE_2
from realqa_utils.forms.conversations import STAGE_1

LANGUAGE_MODES = ("lora", "full")
VISION_MODES = ("lora", "full", "frozen")
OPTIMISERS = ("adamw", "muon")
STARTS = ("pretrained", "random")
OBJECTIVES = ("next_token", "level_words", "regression", "tree_mean")
WEIGHTS = ("float32", "bfloat16", "nf4")


@dataclass(frozen=True)
class Recipe:
    """How one model is trained. Defaults of the adapter are the paper's (method Sec. 5).

    Raises ValueError, naming the key, for a recipe that cannot be trained.
    """

    steps: int  # optimiser steps
    seed: int = 0
    digits: int = 3  # M
    #: direct | cot_natural | cot_regular | direct_and_cot, for scores; or a set of stage 1:
    #: attributes | levels | mix | mix_low_first | all
    form: str = "direct"
    objective: str = "next_token"  # | level_words | regression | tree_mean: instead of digits
    batch_size: int = 32  # photographs per optimiser step, with all accumulation
    accumulation: int = 1  # forward passes that make up a step
    learning_rate: float = 1e-4
    warmup: float = 0.1  # share of the steps
    weight_decay: float = 0.0
    language: str = "lora"  # lora | full
    vision: str = "lora"  # lora | full | frozen
    rank: int = 128
    alpha: int = 256
    dropout: float = 0.05
    opinion_spread: float = 0.0  # sd of soft digits on the 0..10 scale; 0 trains on hard digits
    expectation_weight: float = 0.0  # of NCM, the squared error of E[S], as a loss term
    number_token_weight: float = 0.0  # of the number token loss
    optimiser: str = "adamw"  # adamw | muon (full training only)
    tower_steps: int = 0  # of `adaptation` of the vision tower, before training; 0: as it comes
    start: str = "pretrained"  # pretrained | random (full training only): weights to begin with
    weights: str = "float32"  # float32 | bfloat16 | nf4 (LoRA only): of the model under training
    checkpointing: bool = False  # layers are run again in the backward pass: slower, less memory
    by_length: bool = False  # photographs with about as many tokens go into one step

    def __post_init__(self) -> None:
        _one_of("form", self.form, dict.fromkeys(["direct", *STAGE_1, *STAGE_2]))
        _one_of("language", self.language, LANGUAGE_MODES)
        _one_of("vision", self.vision, VISION_MODES)
        _one_of("optimiser", self.optimiser, OPTIMISERS)
        _one_of("start", self.start, STARTS)
        _one_of("objective", self.objective, OBJECTIVES)
        _one_of("weights", self.weights, WEIGHTS)
        for key in ("steps", "digits", "batch_size", "accumulation", "rank"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}={getattr(self, key)}: at least 1")
        if self.tower_steps < 0:
            raise ValueError(f"tower_steps={self.tower_steps}: at least 0")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide by accumulation {self.accumulation}"
            )
        if self.language == "full" and self.vision == "lora":
            raise ValueError("vision='lora' needs language='lora'; or train vision in full")
        if self.optimiser == "muon" and self.language != "full":
            raise ValueError("optimiser='muon' needs language='full': it is not for LoRA's factors")
        if self.objective != "next_token" and self.form != "direct":
            raise ValueError(f"objective={self.objective!r} goes with form='direct' only")
        if self.weights == "nf4" and "full" in (self.language, self.vision):
            raise ValueError("weights='nf4' needs LoRA: 4-bit weights cannot be trained themselves")
        if self.objective == "tree_mean" and self.checkpointing:
            raise ValueError("objective='tree_mean' needs checkpointing=False: it reads the cache")
        if self.start == "random" and (self.language, self.vision) != ("full", "full"):
            raise ValueError("start='random' needs language='full' and vision='full'")


def _one_of(key: str, value: str, known) -> None:
    if value not in known:
        raise ValueError(f"{key}={value!r}: one of {', '.join(known)}")
