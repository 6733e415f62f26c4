"""Is it only that a training was too short? `realqa lengths`, shown in notebooks 03, 04 and 08.

Claims of the paper compare trainings that learn one thing with such that learn several. At the few
steps of `mini` the second have not learnt theirs yet. The same trainings with several times the
steps take too long for a notebook that is run often: what they gave is kept beside the results of
the notebooks, until the command is given again.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from realqa_utils.profiles import Profile
from realqa_utils.records import results

SRCC = "srcc"  # the metric of a model; that of a difference says more


def longer(profile: Profile, part: str, times: int) -> Profile:
    """The profile with `times` the steps of one of its recipes: "stage_1" or "chains"."""
    recipe = getattr(profile, part)
    return replace(profile, **{part: replace(recipe, steps=times * recipe.steps)})


def kept(profile: Profile, stem: str) -> pd.DataFrame:
    """The table that the command has left for a profile, else the one that ships; or an empty one.

    Tidy: `row` says in words what was trained, asked and compared, `steps` how long.
    """
    for folder in (results.root(), results.home()):
        path = folder / "figures" / profile.name / f"{stem}.csv"
        if path.exists():
            return pd.read_csv(path)
    return pd.DataFrame(columns=["row", "metric", "steps"])


def models(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["metric"] == SRCC]


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Between two models, of one length each."""
    return table[table["metric"] != SRCC]


def shown(table: pd.DataFrame, form: str = ".3f") -> pd.DataFrame | str:
    """Estimates with intervals: a model or difference a row, a number of steps a column."""
    if table.empty:
        return "nothing was trained longer on this profile: realqa lengths"
    table = labelled(table)
    cells = [f"{r.estimate:{form}} [{r.low:{form}}, {r.high:{form}}]" for r in table.itertuples()]
    wide = table.assign(cell=cells).pivot(index="row", columns="steps", values="cell")
    return wide.loc[list(dict.fromkeys(table["row"]))].fillna("").rename_axis(index=None)


def labelled(table: pd.DataFrame) -> pd.DataFrame:
    """With the way of reading in each row's words, where there are two."""
    return table.assign(row=table["row"] + ", " + table["read"]) if "read" in table else table
