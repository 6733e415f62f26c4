"""Models that were taught here: how to ask them stands beside their weights, in `realqa.json`.

A training keeps a whole model, or an adapter alone. Whoever scores with it later needs the model
below the adapter, the number of digits and the view, and has just the folder.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from realqa_utils.forms.chains import REGULAR
from realqa_utils.images.views import View
from realqa_utils.model import adapters, quantised, released
from realqa_utils.model import backbone as backbones
from realqa_utils.model.backbone import Backbone
from realqa_utils.records import results

FILE = "realqa.json"
DIRECT_FORMS = ("direct", "direct_and_cot")  # of recipes that teach the direct question


@dataclass(frozen=True)
class Taught:
    """What a model was taught, and on top of which other one if it is an adapter."""

    model: str  # "mini", a folder or a hub name
    objective: str  # as a recipe's; scores are written for next_token alone
    form: str  # as a recipe's
    digits: int  # M
    view: View  # in training

    def save(self, folder: str | Path) -> None:
        """Write it into a folder of weights."""
        results.write_json(Path(folder) / FILE, asdict(self))

    @property
    def problem(self) -> str:
        """Why it writes no scores when it is asked directly; empty when it does."""
        if self.objective != "next_token":
            return f"was taught {self.objective.replace('_', ' ')}, not to write digits"
        if self.form not in DIRECT_FORMS:
            return f"was taught the form {self.form!r}, not to answer with a score"
        return ""

    @property
    def attributes_in(self) -> str:
        """The form in which a model that writes scores tells all ten attributes too; "" if none."""
        return REGULAR.name if self.form == "direct_and_cot" else ""


def read(folder: str | Path) -> Taught | None:
    """What is told in a folder of weights; None for one without, and for a hub name.

    Raises ValueError, naming file and key, for a file that is not as `Taught.save` writes it.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text("utf-8"))
        view = told["view"] | {"pixels": tuple(told["view"]["pixels"])}
        return Taught(**(told | {"view": View(**view)}))
    except (ValueError, KeyError, TypeError) as problem:
        raise ValueError(f"{path} is not as a training wrote it: {problem!r}") from None


def load(model: str, adapter: str = "", weights: str = "float32") -> Backbone:
    """A model, or one with an adapter on it, ready to be asked.

    `model` is "mini", a hub name or a folder: of a checkpoint, or of an adapter that a training
    kept and that knows what it goes on. `weights` are float32, bfloat16 or nf4. Raises
    FileNotFoundError and ValueError, in one line, for what cannot be loaded.
    """
    if not adapter and (Path(model) / released.CONFIG).is_file():
        told, adapter = read(model), model
        if told is None or not told.model:
            raise ValueError(
                f"{model} holds an adapter and does not say what it goes on: give that as the "
                "model, and this folder as the adapter"
            )
        model = told.model
    if not adapter:
        return base(model, weights)
    folder = released.find(adapter)  # before a model is loaded, which takes minutes
    below = base(model, weights)
    return (adapters.load_adapter if read(folder) else released.load)(below, folder)


def base(model: str, weights: str = "float32") -> Backbone:
    """A model by itself. Raises FileNotFoundError, in one line, where there is none."""
    try:
        if weights == "nf4":
            return quantised.load(model)
        return backbones.load(model, getattr(torch, weights))
    except OSError as problem:  # the hub's go on for several lines
        first = str(problem).splitlines()[0]
        raise FileNotFoundError(f"model {model}: {first}") from None
