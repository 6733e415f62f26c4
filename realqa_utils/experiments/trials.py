"""One trial: train a backbone on one side of a split, read its answers on the other.

Trials are independent, so many run side by side (`run_all`), and each is kept on disk under a hash
of everything that decides its outcome: a rerun, or a run that was cut off, pays only for what is
new. Vision towers that are adapted first (`adaptation`) are kept in the same way.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from realqa_utils import parallel
from realqa_utils.datasets.table import Split, Table
from realqa_utils.forms import conversations
from realqa_utils.forms.chains import CHAINS
from realqa_utils.images.photos import open_photo
from realqa_utils.images.views import View
from realqa_utils.model import adapters, quantised
from realqa_utils.model import backbone as backbones
from realqa_utils.model.backbone import Backbone
from realqa_utils.records import hashes, results
from realqa_utils.scoring import digit_tree, form_filling, labelling
from realqa_utils.training import adaptation, batches, fine_tuning, level_words, regression_head
from realqa_utils.training.recipes import Recipe

#: Modules whose code decides what a trial gives; an edit of another module keeps the cache.
DECISIVE = (
    "experiments.trials", "forms.answers", "forms.chains", "forms.conversations", "forms.scores",
    "forms.taxonomy", "images.photos", "images.views", "model.adapters", "model.backbone",
    "model.decoder", "model.encoding", "model.language", "model.lean", "model.packed",
    "model.products", "model.prompting", "model.quantised", "model.vision", "scoring.digit_tree",
    "scoring.form_filling", "scoring.form_steps", "scoring.labelling", "training.answer_trainer",
    "training.batches", "training.fine_tuning", "training.lessons", "training.level_words",
    "training.losses", "training.optimisers", "training.recipes", "training.regression_head",
    "training.tree_mean",
)  # fmt: skip
#: The same for an adapted vision tower.
DECISIVE_FOR_TOWER = (
    "images.photos", "images.views", "model.backbone", "model.vision", "training.adaptation",
    "training.optimisers", "training.spectra",
)  # fmt: skip
AT_ONCE = 256  # photographs that are open at a time: whole batches, and AVA does not fit in memory


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
        parallel.run_all(make, missing, workers, "vision towers")
    return parallel.run_all(partial(run, cache=cache), trials, workers, title)


def run(trial: Trial, cache: Path) -> pd.DataFrame:
    """One row per test photograph: id, target, greedy, expected, sd, answers, parsed.

    Scores are on the 0..10 scale. `answers` counts the windows that were asked about and `parsed`
    those whose free answer could be read; greedy and expected are means over the windows.

    With `asked`: one row per granularity, photograph and attribute, as `labelling.as_frame` has it.
    """
    path = Path(cache) / f"{key(trial)}.csv"
    results.once(path, lambda: results.write_table(path, _compute(trial, cache)))
    return pd.read_csv(path, dtype={"id": str})


def key(trial: Trial, more_code: tuple[str, ...] = ()) -> str:
    """Hash of recipe, view, model, data and the code that matters, with modules beyond its own."""
    return hashes.of_facts(
        {
            "recipe": fine_tuning.recipe_record(trial.recipe, trial.view),
            "model": hashes.of_model(trial.model),
            "train": _data(trial.split.train),
            "test": _data(trial.split.test),
            "code": hashes.of_code(DECISIVE + more_code),
            "tower": tower_key(trial),
            "asked": [trial.asked, _labels(trial) if trial.recipe.form != "direct" else ""],
        }
    )


def key_of_reading(trial: Trial, table: Table, form: str) -> str:
    """The same for what a trial's model says of another table, asked in a form."""
    return hashes.of_facts({"model": key(trial), "table": _data(table), "form": form})


def tower_key(trial: Trial) -> str:
    """The same for the vision tower that a trial starts from; it knows nothing of scores or M."""
    steps = trial.recipe.tower_steps
    if not steps:
        return ""
    photographs = _photographs(trial.split.train)
    facts = {"steps": steps, "seed": trial.recipe.seed, "view": asdict(trial.view)}
    facts |= {"tower": hashes.of_tower(trial.model), "photographs": photographs}
    return hashes.of_facts(facts | {"code": hashes.of_code(DECISIVE_FOR_TOWER)})


def _data(table: Table) -> list[str]:
    """Ids and MOS, how they are written, and the photographs."""
    return [table.ids_hash, str(table.scale), _photographs(table)]


def _labels(trial: Trial) -> str:
    """Hash of every label that the training table has."""
    frame = trial.split.train.frame
    keys = {slot.key for form in conversations.ALL_SETS for slot in form.slots}
    return hashlib.sha256(frame[sorted(keys & set(frame))].to_csv(index=False).encode()).hexdigest()


def _photographs(table: Table) -> str:
    """Names and sizes in bytes: hashing the bytes of a large set at every look costs minutes."""
    names = [f"{Path(p).name} {Path(p).stat().st_size}" for p in table.frame["path"]]
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


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
    weights = trial.recipe.weights
    with backbones.quiet():
        if weights == "nf4":
            backbone = quantised.load(trial.model)
        else:
            backbone = backbones.load(trial.model, getattr(torch, weights))
    return _seeing(backbone, trial.view)


def _seeing(backbone: Backbone, view: View) -> Backbone:
    if any(view.limits):
        backbone.look_at(*view.limits)
    return backbone


def _tower_path(trial: Trial, cache: Path) -> Path:
    return Path(cache) / f"tower-{tower_key(trial)}.safetensors"


def _adapted_tower(trial: Trial, cache: Path) -> Path:
    """The file of the trial's vision tower, adapted to its training photographs at most once."""
    path = _tower_path(trial, cache)

    def adapt() -> None:
        backbone, view = _load(trial), trial.view
        seen = batches.Photographs(trial.split.train, view).fitted()
        adaptation.adapt(backbone, seen, view, trial.recipe.tower_steps, trial.recipe.seed)
        weights = backbone.core.visual.state_dict()
        results.write_atomically(path, lambda temporary: save_file(weights, temporary))

    return results.once(path, adapt)


def _compute(trial: Trial, cache: Path) -> pd.DataFrame:
    with warnings.catch_warnings():  # a worker's warnings would tear the progress bar
        warnings.simplefilter("ignore")
        model = trained(trial, cache)
        return read_attributes(model, trial) if trial.asked else read_table(model, trial)


def trained(trial: Trial, cache: Path) -> Backbone:
    """The backbone after a trial's training; from disk, where the trial keeps its weights."""
    if not trial.keep:
        return _trained(trial, cache)
    folder = kept(trial, cache)
    results.once(folder, lambda: _trained(trial, cache, folder))
    if trial.recipe.language == "lora":
        return adapters.load_adapter(_headed(starting_point(trial, cache), trial), folder)
    with backbones.quiet():
        is_head = trial.recipe.objective == "regression"
        whole = regression_head.load(folder) if is_head else backbones.load(folder)
    return _seeing(whole, trial.view)


def kept(trial: Trial, cache: Path) -> Path:
    """The folder of a trial's weights, where they are kept: an adapter, or a whole model.

    Of a 7B an adapter with r = 128 is a twentieth.
    """
    return Path(cache) / f"model-{key(trial)}"


def _headed(backbone: Backbone, trial: Trial) -> Backbone:
    """With the head that an adapter of the regression objective is for."""
    if trial.recipe.objective != "regression":
        return backbone
    return regression_head.attach(backbone, 0.0, trial.recipe.seed)


def _trained(trial: Trial, cache: Path, folder: Path | None = None) -> Backbone:
    out = Path("unused")  # no checkpoints: a trial of this size is cheaper than saving it
    start = starting_point(trial, cache)
    with backbones.quiet():
        return fine_tuning.train(
            start, trial.split.train, trial.recipe, trial.view, out, keep=folder
        )


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


def read_table(backbone: Backbone, trial: Trial, form: str = "direct") -> pd.DataFrame:
    """Readings of the test photographs, averaged over the windows of each, asked in one form."""
    test, view, parts = trial.split.test, trial.view, []
    paths = list(test.frame["path"])
    batches = [paths[at : at + AT_ONCE] for at in range(0, len(paths), AT_ONCE)]
    for _, windows in parallel.opened_ahead(lambda p: view.windows(open_photo(p)), batches):
        flat = [window for part in windows for window in part]
        said = _read(backbone, flat, trial, form)
        parts.append(_averaged(said, [len(part) for part in windows]))
    means = pd.concat(parts, ignore_index=True)
    return pd.concat([test.frame["id"], pd.Series(test.targets, name="target"), means], axis=1)


def read_windows(
    backbone: Backbone, windows: Sequence[Sequence[Image.Image]], digits: int
) -> pd.DataFrame:
    """Readings of photographs that are cut into windows already: one row each."""
    flat = [window for part in windows for window in part]
    frame = digit_tree.as_frame(digit_tree.read(backbone, flat, digits))
    return _averaged(frame, [len(part) for part in windows])


def _averaged(frame: pd.DataFrame, counts: Sequence[int]) -> pd.DataFrame:
    """Rows of windows -> rows of photographs, with `answers` and how many of them `parsed`.

    Greedy is the mean over the windows whose free answer would parse, NaN where none would.
    """
    by_photograph = frame.groupby(np.repeat(np.arange(len(counts)), counts))
    means = by_photograph[["greedy", "expected", "sd"]].mean()
    return means.assign(answers=list(counts), parsed=by_photograph["parsed"].sum())


def _floor(digits: int) -> float | None:
    """Mass that a digit tree need not follow: more for M > 3, whose trees have ten times the nodes
    for a last digit of 0.001 points; the mean then moves by less than that."""
    return 0.05 if digits > 3 else None


def _read(backbone: Backbone, images: list, trial: Trial, form: str) -> pd.DataFrame:
    """One row per image in the way of the recipe's objective: greedy, expected, sd, parsed."""
    objective, digits = trial.recipe.objective, trial.recipe.digits
    if objective == "level_words":
        return level_words.read(backbone, images, level_words.Levels.of(trial.split.train))
    if objective == "regression":
        return regression_head.read(backbone, images)
    if form in CHAINS:
        filled = form_filling.fill(backbone, images, CHAINS[form], digits=digits)
        frame = digit_tree.as_frame([one.reading for one in filled])
        return frame.assign(parsed=[one.reading.parsed and one.follows for one in filled])
    return digit_tree.as_frame(digit_tree.read(backbone, images, digits, floor=_floor(digits)))
