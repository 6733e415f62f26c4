"""Profiles: one word decides the size of everything.

    smoke   mini backbone, mini world   plumbing only, seconds a notebook; never a claim
    mini    mini backbone, mini world   the default: any laptop, all notebooks in minutes
    photos  mini backbone, real photos  a laptop, within an hour; needs REALQA_DATA
    gpu24   Qwen2-VL-2B, 4-bit LoRA     the paper's sets on one 24 GB GPU
    paper   Qwen2-VL-7B, LoRA, bf16     the paper's sets, 1 x 80 GB or 4 x 48 GB

Results of different profiles never share a folder. Environment variables change single fields of
any of them: REALQA_SEEDS (0,1,2), REALQA_MODEL (a local folder of the weights) and REALQA_PIXELS
(repo or clean, see `images.views`). REALQA_DRY_RUN=1 makes the mini backbone take two steps on a
handful of photographs in place of everything, by the profile's own recipe and in the same code.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches

from realqa_utils.images.views import PRESETS, View
from realqa_utils.training.recipes import Recipe


@dataclass(frozen=True)
class Profile:
    """The size of one reproduction. Raises ValueError for a value out of range."""

    name: str
    description: str
    model: str  # "mini", or the hub id of a Qwen2-VL
    train_images: int  # per set; 0: all of the set's training split
    test_images: int  # per set; 0: all of the set's test split
    recipe: Recipe  # of one training on scores; notebooks vary single fields of it
    stage_1: Recipe  # of one training on attributes; its form is what the labelling model learns
    chains: Recipe  # of one training on direct answers and chains of thought
    seeds: tuple[int, ...]  # one training each; intervals are pooled over them
    resamples: int  # bootstrap resamples of the test images
    view: View = View()  # which pixels of a photograph are looked at
    data: str = "mini"  # "mini": generated; "real": the folder REALQA_DATA
    home: str = "livec"  # of real data, the set that is trained on: a name of `datasets.registry`
    labels: str = "mini"  # photographs with attributes: "mini" or, from REALQA_DATA, "realqa"
    workers: int | None = None  # processes that prepare images; None: one per CPU
    equal_epochs: bool = False  # of the rows of Table 2; else they have equal steps

    def __post_init__(self) -> None:
        for key, least in (("train_images", 0), ("test_images", 0), ("resamples", 1)):
            _at_least(self, key, least)
        if self.data not in ("mini", "real"):
            raise ValueError(f"profile {self.name}: data is 'mini' or 'real', not {self.data!r}")
        if self.labels not in ("mini", "realqa"):
            raise ValueError(f"profile {self.name}: labels is 'mini' or 'realqa': {self.labels!r}")
        if not (isinstance(self.seeds, tuple) and self.seeds):
            raise ValueError(f"profile {self.name}: seeds is a tuple of integers: {self.seeds!r}")


def _at_least(profile: Profile, key: str, least: int) -> None:
    value = getattr(profile, key)
    if not isinstance(value, int) or value < least:
        raise ValueError(
            f"profile {profile.name}: {key} is an integer of at least {least}, not {value!r}"
        )


# The tower is frozen on `mini`, so its output is computed once and a training takes under
# half a minute. The language side is so small that training it whole is cheaper than LoRA.
_MINI = Recipe(steps=200, learning_rate=2e-3, language="full", vision="frozen", batch_size=16)
# A tower that has learnt the spectra of the training photographs is frozen: trained along, it
# learns the few rated photographs by heart.
_PHOTOS = Recipe(
    steps=1200, learning_rate=5e-4, language="full", vision="frozen", weight_decay=0.05,
    opinion_spread=0.8, expectation_weight=0.01, tower_steps=1300,
)  # fmt: skip
# Batch 64 and the adapter are the paper's; 221 steps are its two epochs of KonIQ-10k's 7,058
# training photographs. Four batches make a step, shared by one, two or four GPUs; of smaller ones a
# GPU would wait for the CPU.
_PAPER = Recipe(
    steps=221, learning_rate=1e-4, batch_size=64, accumulation=4, dropout=0.15,
    weights="bfloat16", checkpointing=True, by_length=True,
)  # fmt: skip
_MINI_1 = replace(
    _MINI, form="mix", steps=160, optimiser="muon", learning_rate=7e-4, weight_decay=0.02
)  # fmt: skip
# Two epochs of the 13 conversations of each of RealQA's 13,712 training photographs.
_PAPER_1 = replace(_PAPER, form="all", steps=5570, dropout=0.05)

# What is new in a chain are words tied to what is seen, as in stage 1: so is the way to learn it.
# Of its tokens few are digits, so it takes longer.
_MINI_CHAINS = replace(_MINI_1, form="direct_and_cot", steps=320)
# Six epochs of KonIQ-10k.
_PAPER_CHAINS = replace(_PAPER, form="direct_and_cot", steps=662)

_PAPER_SETS = {
    "train_images": 0, "test_images": 0, "seeds": (0,), "resamples": 1000, "data": "real",
    "home": "koniq", "labels": "realqa", "view": PRESETS["repo"], "workers": 1,
    "equal_epochs": True,
}  # fmt: skip

_ALL = (
    Profile(
        name="smoke",
        description="a few steps on tens of generated images: proves plumbing, never a claim",
        model="mini",
        train_images=48,
        test_images=24,
        recipe=replace(_MINI, steps=4, batch_size=8),
        stage_1=replace(_MINI_1, steps=4),
        chains=replace(_MINI_CHAINS, steps=4),
        seeds=(0,),
        resamples=100,
    ),
    Profile(
        name="mini",
        description="the shipped mini backbone on the generated mini world: any laptop",
        model="mini",
        train_images=1600,
        test_images=400,
        recipe=_MINI,
        stage_1=_MINI_1,
        chains=_MINI_CHAINS,
        seeds=(0, 1, 2),
        resamples=1000,
    ),
    Profile(
        name="photos",
        description="the same backbone on photographs you have, in the folder REALQA_DATA",
        model="mini",
        train_images=0,
        test_images=0,
        recipe=_PHOTOS,
        stage_1=_MINI_1,  # real photographs have no attribute labels
        chains=replace(_PHOTOS, form="direct_and_cot"),
        view=View(size=112, short=224, grid=3, random=True),
        seeds=(0, 1, 2, 3, 4),
        resamples=1000,
        data="real",
    ),
    # No run of either has been recorded; a dry run of every notebook is among the tests.
    Profile(
        name="gpu24",
        description="Qwen2-VL-2B, 4-bit LoRA, the paper's sets, one 24 GB GPU",
        model="Qwen/Qwen2-VL-2B-Instruct",
        recipe=replace(_PAPER, weights="nf4"),
        stage_1=replace(_PAPER_1, weights="nf4"),
        chains=replace(_PAPER_CHAINS, weights="nf4"),
        **_PAPER_SETS,
    ),
    Profile(
        name="paper",
        description="Qwen2-VL-7B, LoRA r = 128, bf16, the paper's sets and size, 80 GB GPUs",
        model="Qwen/Qwen2-VL-7B-Instruct",
        recipe=_PAPER,
        stage_1=_PAPER_1,
        chains=_PAPER_CHAINS,
        **_PAPER_SETS,
    ),
)
PROFILES: dict[str, Profile] = {profile.name: profile for profile in _ALL}


def get_profile(name: str, /, **overrides: object) -> Profile:
    """The profile called `name`, with single fields replaced by `overrides`.

    What the environment says (see above) goes before the profile. Raises ValueError for an unknown
    name or key, naming the nearest right one, and for seeds that are none.

    >>> get_profile("mini", seeds=(7,)).seeds
    (7,)
    >>> get_profile("mimi")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: unknown profile 'mimi': did you mean 'mini'? There are smoke, mini, ...
    """
    if name not in PROFILES:
        raise ValueError(unknown("profile", name, PROFILES))
    keys = [field.name for field in fields(Profile) if field.name != "name"]
    for key in overrides:
        if key not in keys:
            raise ValueError(unknown("profile key", key, keys))
    return replace(_as_the_environment_says(PROFILES[name]), **overrides)


def _as_the_environment_says(profile: Profile) -> Profile:
    if given := os.environ.get("REALQA_SEEDS"):
        profile = replace(profile, seeds=seeds(given))
    if given := os.environ.get("REALQA_MODEL"):
        profile = replace(profile, model=given)
    if given := os.environ.get("REALQA_PIXELS"):
        if given not in PRESETS:
            raise ValueError("REALQA_PIXELS: " + unknown("preset", given, PRESETS))
        profile = replace(profile, view=PRESETS[given])
    return _dry(profile) if is_dry_run() else profile


def is_dry_run() -> bool:
    """Whether REALQA_DRY_RUN is 1: nothing that comes out means anything."""
    return os.environ.get("REALQA_DRY_RUN") == "1"


_DRY_PIXELS = (9 * 28**2, 16 * 28**2)  # 9 to 16 image tokens


def _dry(profile: Profile) -> Profile:
    """The least that goes through every line: see REALQA_DRY_RUN above."""
    short = {"steps": 2, "batch_size": 4, "accumulation": 2}
    recipes = {key: getattr(profile, key) for key in ("recipe", "stage_1", "chains")}
    return replace(
        profile,
        model="mini",
        train_images=16,
        test_images=4,
        view=replace(profile.view, pixels=_DRY_PIXELS if any(profile.view.pixels) else (0, 0)),
        seeds=profile.seeds[:1],
        resamples=20,
        **{key: replace(recipe, **short) for key, recipe in recipes.items()},
    )


def seeds(text: str) -> tuple[int, ...]:
    """Seeds as they are written in REALQA_SEEDS. Raises ValueError for anything else.

    >>> seeds("0, 1,2")
    (0, 1, 2)
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len({*map(int, parts)}) < len(parts):
        raise ValueError(f"seeds are different whole numbers from 0, like 0,1,2, not {text!r}")
    return tuple(map(int, parts))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a `name` that is none of `known`: the nearest right one, and all of them."""
    names = [str(item) for item in known]
    near = get_close_matches(str(name), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {name!r}: {hint}There are {', '.join(names) or 'none'}"
