"""Adapters under the names of transformers 4, as the released ones are, on today's libraries.

transformers 4 called the two sides of a Qwen2-VL `visual` and `model`, today they are
`model.visual` and `model.language_model`; of an adapter under the old names peft loads nothing, and
only warns. `load` takes both kinds (safetensors only) and accounts for every tensor; `export`
writes the merged weights for vLLM, which leaves LoRA on the vision side out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from transformers.utils import cached_file

from realqa_utils.model import adapters, language
from realqa_utils.model.backbone import Backbone
from realqa_utils.records import results

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # peft's, before the model's own names
TODAY = {"visual": "model.visual", "model": "model.language_model"}
HUB = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)+")  # owner/name, and perhaps a folder below


def load(backbone: Backbone, source: str | Path) -> Backbone:
    """Put an adapter of old or new names on a backbone; ready to score, not to train.

    `source` is a local folder or, as a string, `owner/name` on the hub, perhaps with a folder
    below: `owner/name/folder`. A `Path` is never looked up on the hub.

    Raises FileNotFoundError where there is no adapter in safetensors, ValueError for one that is
    no LoRA or does not fit: with the counts and first names of the tensors that are missing, unused
    or of another shape. The backbone is then as it was, but frozen.
    """
    if isinstance(backbone.model, PeftModel):
        raise ValueError(f"{backbone.name} has an adapter already: `adapters.merged` adds it in")
    folder = find(source)
    config, old = _config(folder), has_old_names(folder / WEIGHTS)
    saved = load_file(folder / WEIGHTS)
    if old:
        saved = {_today(name): tensor for name, tensor in saved.items()}
        _move(config, backbone.model)
    try:
        model = get_peft_model(backbone.model, config)
    except ValueError as problem:  # no layer has the names of its targets
        raise ValueError(f"{folder} does not fit {backbone.name}: {problem}") from None
    try:
        _fill(model, saved)
    except ValueError as problem:
        model.unload()
        raise ValueError(f"{folder} does not fit {backbone.name}: {problem}") from None
    return Backbone(model.eval(), backbone.tokenizer, backbone.image_processor, backbone.name)


def has_old_names(path: str | Path) -> bool:
    """Whether the tensors of an adapter have the names of transformers 4; reads the header only.

    Raises ValueError for a file that is no safetensors, such as a pointer to one.
    """
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
    except SafetensorError as problem:
        raise ValueError(
            f"{path} is no whole safetensors file ({problem}): fetch it anew"
        ) from None
    new = tuple(f"{PREFIX}{name}." for name in TODAY.values())
    return not any(name.startswith(new) for name in names)


def export(backbone: Backbone, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
    """Merge an adapter into the weights and write them as the hub's checkpoints are, for vLLM.

    In the model's own precision if `dtype` is None; the backbone given is used up. Raises
    ValueError for a folder with files in it, and for a model in 4 bits, whose weights are rounded.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty: give a new folder")
    if getattr(language.base_of(backbone.model), "is_quantized", False):
        raise ValueError("merge into the weights as they were trained: load them without 4 bits")
    dtype = backbone.model.dtype if dtype is None else dtype
    whole = adapters.merged(backbone)
    return results.write_folder(folder, lambda new: whole.save(new, dtype))


# --- files ---------------------------------------------------------------------------------------


def find(source: str | Path) -> Path:
    """The local folder with both files of an adapter, fetched from the hub if need be.

    Raises FileNotFoundError where there is none.
    """
    if isinstance(source, str) and HUB.fullmatch(source) and not Path(source).exists():
        owner, name, *below = source.split("/")
        where = {"path_or_repo_id": f"{owner}/{name}", "subfolder": "/".join(below)}
        try:
            return Path(
                [cached_file(filename=file, **where) for file in (CONFIG, WEIGHTS)][0]
            ).parent
        except OSError as problem:
            reason = str(problem).split("\n")[0]
            raise FileNotFoundError(
                f"{source} is no folder here, and the hub gave no adapter: {reason}"
            ) from None
    for file in (WEIGHTS, CONFIG):
        if not (Path(source) / file).is_file():  # peft would take a pickle
            raise FileNotFoundError(f"{source} holds no {file}")
    return Path(source)


def _config(folder: Path) -> LoraConfig:
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"{folder / CONFIG} is no configuration of peft: {problem!r}") from None
    if not isinstance(config, LoraConfig):
        raise ValueError(f"{folder / CONFIG} is of {config.peft_type}: only LoRA is known here")
    config.inference_mode = True  # nothing of it is trained
    config.base_model_name_or_path = None  # where its trainer had the model
    return config


# --- names ---------------------------------------------------------------------------------------


def _today(name: str) -> str:
    """A tensor's name in an adapter, as it is today.

    >>> _today("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight")
    'base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.weight'
    """
    side, dot, rest = name.removeprefix(PREFIX).partition(".")
    return f"{PREFIX}{TODAY.get(side, side)}{dot}{rest}"


def _move(config: LoraConfig, model: nn.Module) -> None:
    """Say of every layer what the settings say of it under its old name, by peft's own rules."""
    names = {_back(name): name for name, _ in model.named_modules()}
    hit = {old: new for old, new in names.items() if check_target_module_exists(config, old)}
    for key in ("rank_pattern", "alpha_pattern"):
        given = getattr(config, key) or {}
        found = {new: get_pattern_key(given, old) for old, new in hit.items()}
        setattr(config, key, {re.escape(n): given[p] for n, p in found.items() if p in given})
    config.target_modules = set(hit.values())
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = None


def _back(name: str) -> str:
    """A module's name in a model, as it was under transformers 4."""
    for old, new in TODAY.items():
        if name == new or name.startswith(f"{new}."):
            return old + name.removeprefix(new)
    return name


# --- tensors -------------------------------------------------------------------------------------


def _fill(model: PeftModel, saved: dict[str, torch.Tensor]) -> None:
    """Put the tensors in. Raises ValueError unless they are those of the model, and arrived."""
    here = _tensors(model)
    both = here.keys() & saved.keys()
    shapes = {name for name in both if here[name].shape != saved[name].shape}
    problems = [
        _count(here.keys() - saved.keys(), "missing"),
        _count(saved.keys() - here.keys(), "unused"),
        _count(shapes, "of another shape"),
    ]
    if any(problems):
        raise ValueError(f"of {len(saved)} tensors, " + ", ".join(filter(None, problems)))
    set_peft_model_state_dict(model, saved)
    here = _tensors(model)
    lost = {n for n, t in saved.items() if not torch.equal(here[n].cpu(), t.to(here[n].dtype))}
    if lost:
        raise ValueError(f"of {len(saved)} tensors, {_count(lost, 'did not arrive')}")


def _tensors(model: PeftModel) -> dict[str, torch.Tensor]:
    # Embeddings would be asked for on the hub; an adapter that has them is refused as not fitting.
    return get_peft_model_state_dict(model, save_embedding_layers=False)


def _count(names: Iterable[str], what: str) -> str:
    """`3 missing (a, b, c)`; empty where there are none."""
    names = sorted(names)
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} {what} ({', '.join(names[:3])}{more})" if names else ""
