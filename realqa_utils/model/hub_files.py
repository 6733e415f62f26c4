"""Which files of a model are missing in a folder or in the hub's cache. Nothing is fetched."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_CACHE as CACHE

SINGLE, LIST = "model.safetensors", "model.safetensors.index.json"
NEEDED = ("config.json", "tokenizer.json", "preprocessor_config.json")


def missing(source: str) -> list[str]:
    """What a model lacks, in a folder or in the hub's cache; empty for one that is whole."""
    if source == "mini":
        return []
    lost = [name for name in NEEDED if not _local(source, name)]
    listed = _local(source, LIST)
    if not listed:
        return lost + ([] if _local(source, SINGLE) else [SINGLE])
    try:
        shards = sorted(set(json.loads(Path(listed).read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError):  # cut off, or another file
        return [*lost, LIST]
    return lost + [name for name in shards if not _local(source, name)]


def _local(source: str, name: str) -> str | None:
    if Path(source).is_dir():
        path = Path(source) / name
        return str(path) if path.is_file() else None
    found = try_to_load_from_cache(source, name, cache_dir=CACHE)
    return found if isinstance(found, str) else None
