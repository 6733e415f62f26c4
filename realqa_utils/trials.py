"""One trial: train a backbone on one side of a split, read its answers on the other.

Trials are independent, so many run side by side (`run_all`), and each is kept on disk under a hash
of everything that decides its outcome: a rerun, or a run that was cut off, pays only for what is
new. Vision towers that are adapted first (`adaptation`) are kept in the same way.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from realqa_utils import (
    adaptation,
    adapters,
    conversations,
    labelling,
    parallel,
    provenance,
    results,
    scoring,
    training,
)
from realqa_utils import backbone as backbones
from realqa_utils.backbone import Backbone
from realqa_utils.datasets.table import Split, Table
from realqa_utils.photos import open_photo
from realqa_utils.recipes import Recipe
from realqa_utils.views import View

#: Modules whose code decides what a trial gives; an edit of another module keeps the cache.
DECISIVE = (
    "adapters", "answers", "backbone", "conversations", "encoding", "labelling", "language",
    "lessons", "losses", "optimisers", "photos", "recipes", "scores", "scoring", "training",
    "trials", "views", "vision",
)  # fmt: skip
#: The same for an adapted vision tower.
DECISIVE_FOR_TOWER = (
    "adaptation", "backbone", "optimisers", "photos", "spectra", "views", "vision",
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """What to train on what; `split.test` is only read, after training.

    `asked` are the granularities in which a recipe of stage 1 is asked in testing.
    """

    split: Split
    recipe: Recipe
    view: View = View()
    model: str = "mini"
    asked: tuple[str, ...] = ()
    keep: bool = False  # the trained weights too, for `trained`


def run_all(
    trials: Sequence[Trial], cache: Path, workers: int | None = None, title: str = "trainings"
) -> list[pd.DataFrame]:
    """Readings of every trial in their order; what is in the cache is not computed again."""
    towers = {_tower_path(trial, cache): trial for trial in trials if trial.recipe.tower_steps}
    missing = [trial for path, trial in towers.items() if not path.exists()]
    if missing:  # first, since several trials may start from one
        make = partial(_adapted_tower, cache=cache)
        parallel.run_all(make, missing, workers, "vision towers", batch=1)
    return parallel.run_all(partial(run, cache=cache), trials, workers, title, batch=1)


def run(trial: Trial, cache: Path) -> pd.DataFrame:
    """One row per test photograph: id, target, greedy, expected, sd, answers, parsed.

    Scores are on the 0..10 scale. `answers` counts the windows that were asked about and `parsed`
    those whose free answer could be read; greedy and expected are means over the windows.

    With `asked`: one row per granularity, photograph and attribute, as `labelling.as_frame` has it.
    """
    path = Path(cache) / f"{key(trial)}.csv"
    if not path.exists():
        results.write_table(path, _compute(trial, cache))
    return pd.read_csv(path, dtype={"id": str})


def key(trial: Trial, more_code: tuple[str, ...] = ()) -> str:
    """Hash of recipe, view, model, data and the code that matters, with modules beyond its own."""
    return _hash(
        {
            "recipe": training.recipe_record(trial.recipe, trial.view),
            "model": model_hash(trial.model),
            "train": _data(trial.split.train),
            "test": _data(trial.split.test),
            "code": _code_hash(DECISIVE + more_code),
            "tower": tower_key(trial),
            "asked": [trial.asked, _labels(trial.split.train) if trial.asked else ""],
        }
    )


def tower_key(trial: Trial) -> str:
    """The same for the vision tower that a trial starts from; it knows nothing of scores or M."""
    steps = trial.recipe.tower_steps
    if not steps:
        return ""
    photographs = _photographs(trial.split.train)
    facts = {"steps": steps, "seed": trial.recipe.seed, "view": asdict(trial.view)}
    facts |= {"tower": tower_hash(trial.model), "photographs": photographs}
    return _hash(facts | {"code": _code_hash(DECISIVE_FOR_TOWER)})


def _hash(facts: dict) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]


def _data(table: Table) -> list[str]:
    """Ids and MOS, how they are written, and the photographs."""
    return [table.ids_hash, str(table.scale), _photographs(table)]


def _labels(table: Table) -> str:
    """Hash of every label of stage 1 that the table has."""
    keys = {slot.key for form in conversations.ALL_SETS for slot in form.slots}
    columns = table.frame[sorted(keys & set(table.frame))]
    return hashlib.sha256(columns.to_csv(index=False).encode()).hexdigest()


def _photographs(table: Table) -> str:
    """Names and sizes in bytes: hashing the bytes of a large set at every look costs minutes."""
    names = [f"{Path(p).name} {Path(p).stat().st_size}" for p in table.frame["path"]]
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


@lru_cache
def _code_hash(modules: tuple[str, ...]) -> str:
    folder = Path(__file__).parent
    return "".join(provenance.file_hash(folder / f"{name}.py")[:8] for name in modules)


@lru_cache
def model_hash(source: str) -> str:
    """SHA-256 of a backbone's weights; of its name where it is not a folder on this machine."""
    parts = "".join(provenance.file_hash(file) for file in _weights(source)) or source
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


@lru_cache
def tower_hash(source: str) -> str:
    """The same for the weights of its vision tower alone: a tower knows nothing of language."""
    digest = hashlib.sha256() if (files := _weights(source)) else hashlib.sha256(source.encode())
    for file in files:
        tensors = load_file(file)
        for name in sorted(name for name in tensors if "visual" in name):
            digest.update(name.encode())
            digest.update(tensors[name].contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _weights(source: str) -> list[Path]:
    folder = backbones.MINI_FOLDER if source == "mini" else Path(source)
    return sorted(folder.glob("*.safetensors")) if folder.is_dir() else []


def starting_point(trial: Trial, cache: Path) -> Backbone:
    """The backbone that a trial's training begins with: as it ships, with an adapted tower, or
    with random weights."""
    backbone = _load(trial)
    if trial.recipe.start == "random":
        backbone = backbones.randomised(backbone, trial.recipe.seed)
    if trial.recipe.tower_steps:
        backbone.core.visual.load_state_dict(load_file(_adapted_tower(trial, cache)))
    return backbone


def _load(trial: Trial) -> Backbone:
    return _seeing(backbones.load(trial.model), trial.view)


def _seeing(backbone: Backbone, view: View) -> Backbone:
    if view.size:
        backbone.look_at(view.size**2)
    return backbone


def _tower_path(trial: Trial, cache: Path) -> Path:
    return Path(cache) / f"tower-{tower_key(trial)}.safetensors"


def _adapted_tower(trial: Trial, cache: Path) -> Path:
    """The file of the trial's vision tower, adapted to its training photographs at most once."""
    path = _tower_path(trial, cache)
    if not path.exists():
        backbone, view = _load(trial), trial.view
        seen = training.Photographs(trial.split.train, view).fitted
        adaptation.adapt(backbone, seen, view, trial.recipe.tower_steps, trial.recipe.seed)
        weights = backbone.core.visual.state_dict()
        results.write_atomically(path, lambda temporary: save_file(weights, temporary))
    return path


def _compute(trial: Trial, cache: Path) -> pd.DataFrame:
    with warnings.catch_warnings():  # a worker's warnings would tear the progress bar
        warnings.simplefilter("ignore")
        model = trained(trial, cache)
        return read_attributes(model, trial) if trial.asked else read_table(model, trial)


def trained(trial: Trial, cache: Path) -> Backbone:
    """The backbone after a trial's training; from disk, where the trial keeps its weights."""
    folder = Path(cache) / f"model-{key(trial)}"
    if trial.keep and folder.exists():
        with backbones.quiet():
            return _seeing(backbones.load(folder), trial.view)
    out = Path("unused")  # no checkpoints: a trial of this size is cheaper than saving it
    start = starting_point(trial, cache)
    backbone = training.train(start, trial.split.train, trial.recipe, trial.view, out)
    if trial.keep:
        backbone = adapters.merged(backbone)
        with backbones.quiet():
            results.write_folder(folder, lambda part: backbone.save(part, torch.float32))
    return backbone


def read_attributes(backbone: Backbone, trial: Trial) -> pd.DataFrame:
    """Labels of the test photographs in every granularity asked, with the column `asked`."""
    test, view = trial.split.test, trial.view
    images = [view.fit(open_photo(path)) for path in test.frame["path"]]
    seen = [view.training(image, None) for image in images]
    parts = [
        labelling.as_frame(labelling.label(backbone, seen, granularity), test.frame["id"]).assign(
            asked=granularity
        )
        for granularity in trial.asked
    ]
    return pd.concat(parts, ignore_index=True)


def read_table(backbone: Backbone, trial: Trial) -> pd.DataFrame:
    """Readings of the test photographs, averaged over the windows of each."""
    view, test = trial.view, trial.split.test
    windows = [view.windows(open_photo(path)) for path in test.frame["path"]]
    counts = [len(part) for part in windows]
    flat = [window for part in windows for window in part]
    frame = scoring.as_frame(scoring.read(backbone, flat, trial.recipe.digits))
    owner = np.repeat(np.arange(len(test)), counts)
    means = frame[["greedy", "expected", "sd"]].groupby(owner).mean()  # NaN: no window parsed
    parsed = frame["parsed"].groupby(owner).sum()
    return pd.DataFrame(
        {
            "id": test.frame["id"],
            "target": test.targets,
            **means,
            "answers": counts,
            "parsed": parsed,
        }
    )
