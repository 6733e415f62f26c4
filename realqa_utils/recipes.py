"""Everything that decides how one model is trained, as one frozen record."""

from __future__ import annotations

from dataclasses import dataclass

from realqa_utils.conversations import FORMS

LANGUAGE_MODES = ("lora", "full")
VISION_MODES = ("lora", "full", "frozen")


@dataclass(frozen=True)
class Recipe:
    """How one model is trained. Defaults of the adapter are the paper's (method Sec. 5).

    Raises ValueError, naming the key, for a recipe that cannot be trained.
    """

    steps: int  # optimiser steps
    seed: int = 0
    digits: int = 3  # M
    form: str = "direct"
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
    expectation_weight: float = 0.0  # of the squared error of E[S]

    def __post_init__(self) -> None:
        _one_of("form", self.form, FORMS)
        _one_of("language", self.language, LANGUAGE_MODES)
        _one_of("vision", self.vision, VISION_MODES)
        for key in ("steps", "digits", "batch_size", "accumulation", "rank"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}={getattr(self, key)}: at least 1")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide by accumulation {self.accumulation}"
            )
        if self.language == "full" and self.vision == "lora":
            raise ValueError("vision='lora' needs language='lora'; or train vision in full")


def _one_of(key: str, value: str, known) -> None:
    if value not in known:
        raise ValueError(f"{key}={value!r}: one of {', '.join(known)}")
