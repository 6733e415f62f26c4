"""One trial: train a backbone on one side of a split, read its scores on the other.

Trials are independent, so many run side by side (`run_all`), and each is kept on disk under a hash
of everything that decides its outcome: a rerun, or a run that was cut off, pays only for what is
new.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from realqa_utils import backbone as backbones
from realqa_utils import parallel, provenance, results, scoring, training
from realqa_utils.backbone import Backbone
from realqa_utils.datasets.table import Split, Table
from realqa_utils.photos import open_photo
from realqa_utils.recipes import Recipe
from realqa_utils.views import View

#: Modules whose code decides what a trial gives; an edit of another module keeps the cache.
DECISIVE = (
    "adapters", "backbone", "conversations", "encoding", "language", "losses", "photos", "recipes",
    "scores", "scoring", "training", "trials", "views", "vision",
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """What to train on what; `split.test` is only read, after training."""

    split: Split
    recipe: Recipe
    view: View = View()
    model: str = "mini"


def run_all(
    trials: Sequence[Trial], cache: Path, workers: int | None = None, title: str = "trainings"
) -> list[pd.DataFrame]:
    """Readings of every trial in their order; what is in the cache is not computed again."""
    return parallel.run_all(partial(run, cache=cache), trials, workers, title, batch=1)


def run(trial: Trial, cache: Path) -> pd.DataFrame:
    """One row per test photograph: id, target, greedy, expected, sd, answers, parsed.

    Scores are on the 0..10 scale. `answers` counts the windows that were asked about and `parsed`
    those whose free answer could be read; greedy and expected are means over the windows.
    """
    path = Path(cache) / f"{key(trial)}.csv"
    if not path.exists():
        results.write_table(path, _compute(trial))
    return pd.read_csv(path, dtype={"id": str})


def key(trial: Trial) -> str:
    """Hash of recipe, view, model, data and the code that matters."""
    facts = {
        "recipe": training.recipe_record(trial.recipe, trial.view),
        "model": model_hash(trial.model),
        "train": _data(trial.split.train),
        "test": _data(trial.split.test),
        "code": _code_hash(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]


def _data(table: Table) -> list[str]:
    """Ids and MOS, how they are written, and the photographs by their names and sizes in bytes.

    Sizes, because hashing the bytes of a large set at every look would cost minutes.
    """
    photographs = [f"{Path(p).name} {Path(p).stat().st_size}" for p in table.frame["path"]]
    content = hashlib.sha256("\n".join(sorted(photographs)).encode()).hexdigest()
    return [table.ids_hash, str(table.scale), content]


@lru_cache
def _code_hash() -> str:
    folder = Path(__file__).parent
    return "".join(provenance.file_hash(folder / f"{name}.py")[:8] for name in DECISIVE)


@lru_cache
def model_hash(source: str) -> str:
    """SHA-256 of a backbone's weights; of its name where it is not a folder on this machine."""
    folder = backbones.MINI_FOLDER if source == "mini" else Path(source)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    parts = "".join(provenance.file_hash(file) for file in files) or source
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def starting_point(trial: Trial) -> Backbone:
    """The backbone that a trial's training begins with, seeing windows at their own size."""
    backbone = backbones.load(trial.model)
    if trial.view.size:
        backbone.look_at(trial.view.size**2)
    return backbone


def _compute(trial: Trial) -> pd.DataFrame:
    with warnings.catch_warnings():  # a worker's warnings would tear the progress bar
        warnings.simplefilter("ignore")
        backbone = starting_point(trial)
        out = Path("unused")  # no checkpoints: a trial of this size is cheaper than saving it
        trained = training.train(backbone, trial.split.train, trial.recipe, trial.view, out)
        return read_table(trained, trial)


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
