"""What decides a result, as hex digits: weights, code, plain facts. Caches are kept under these."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from realqa_utils.model import backbone as backbones
from realqa_utils.records import provenance


def of_facts(facts: Mapping[str, object]) -> str:
    """20 hex digits of plain values, whatever the order of the keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]


@lru_cache
def of_code(modules: Sequence[str]) -> str:
    """Eight hex digits of the source of every module of the package, named as `scoring.folders`."""
    package = Path(__file__).parents[1]
    files = (package.joinpath(*name.split(".")).with_suffix(".py") for name in modules)
    return "".join(provenance.file_hash(file)[:8] for file in files)


def of_weights(module: nn.Module) -> str:
    """16 hex digits of a module's weights as they are in memory, with names and shapes."""
    return _of_tensors(module.state_dict())


@lru_cache
def of_model(source: str) -> str:
    """16 hex digits of a backbone's weight files; of its name where it is no folder here."""
    parts = "".join(provenance.file_hash(file) for file in _files(source)) or source
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


@lru_cache
def of_tower(source: str) -> str:
    """The same for the weights of its vision tower alone: a tower knows nothing of language."""
    files = _files(source)
    if not files:
        return hashlib.sha256(source.encode()).hexdigest()[:16]
    tensors = {name: t for file in files for name, t in load_file(file).items() if "visual" in name}
    return _of_tensors(tensors)


def _files(source: str) -> list[Path]:
    folder = backbones.MINI_FOLDER if source == "mini" else Path(source)
    return sorted(folder.glob("*.safetensors")) if folder.is_dir() else []


def _of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(tensors.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
