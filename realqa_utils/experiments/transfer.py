"""How far attributes learnt from generated scenes carry: real photographs, which have MOS only.

What is judged is whether the predicted codes go with the MOS, beside a plain sharpness feature of
the same photographs. Shrinking a photograph hides its blur, so the low level is also asked about
windows at the photograph's own resolution, and the codes of its windows are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from realqa_utils import datasets, parallel
from realqa_utils.datasets.table import Split, Table
from realqa_utils.experiments import attribute_scores, baselines, granularity, trials
from realqa_utils.forms import taxonomy
from realqa_utils.forms.conversations import MIX, Parsed
from realqa_utils.images.photos import open_photo
from realqa_utils.images.views import View
from realqa_utils.measures import evaluation, statistics
from realqa_utils.model.backbone import Backbone
from realqa_utils.profiles import Profile
from realqa_utils.records import results
from realqa_utils.scoring import labelling

NOTEBOOK = "02_attribute_extraction_transfer"
WHOLE, WINDOWS, FEATURE = "whole photo", "windows", "feature"
SHARPNESS = "log_laplacian_variance"


def photographs(profile: Profile) -> Table:
    """All photographs of the real set, whatever side of a split they are on."""
    split = datasets.open_splits(profile)[0]
    frame = pd.concat([split.train.frame, split.test.frame], ignore_index=True)
    return replace(split.train, frame=frame)


def readings(profile: Profile, data: Split, table: Table) -> list[pd.DataFrame]:
    """Codes of every photograph by the stage-1 model of each seed; kept on disk."""
    read = partial(_reading, profile, data, table)
    seeds = granularity.seeds(profile)
    return parallel.run_all(read, seeds, profile.workers, "labelling photographs")


def _reading(profile: Profile, data: Split, table: Table, seed: int) -> pd.DataFrame:
    trial = granularity.teacher(profile, data, seed)
    name = f"{trials.key(trial)}-{table.ids_hash[:16]}.csv"
    path = results.run_dir(profile, "transfer") / name
    if not path.exists():
        model = trials.trained(trial, results.run_dir(profile, "trials"))
        results.write_table(path, label(model, table, profile.view))
    return pd.read_csv(path, dtype={"id": str})


def label(model: Backbone, table: Table, view: View) -> pd.DataFrame:
    """Mean codes, tidy: id, seen ("whole photo" or "windows"), attribute, said.

    Of windows that give no value the others count; NaN where none does.
    """
    ids = table.frame["id"]
    images = [view.fit(open_photo(path)) for path in table.frame["path"]]
    whole = _asked(model, images)
    windows = [view.testing(image) for image in images]
    owner = np.repeat(ids.to_numpy(), [len(part) for part in windows])
    flat = [window for part in windows for window in part]
    close = labelling.as_frame(_asked(model, flat), owner)
    low = [attribute.name for attribute in taxonomy.of_level("low")]
    parts = [
        labelling.as_frame(whole, ids).assign(seen=WHOLE),
        close.loc[close["attribute"].isin(low)].assign(seen=WINDOWS),
    ]
    keys = ["id", "seen", "attribute"]
    return pd.concat(parts).groupby(keys, sort=False)["said"].mean().reset_index()


def _asked(model: Backbone, images: Sequence) -> list[Parsed]:
    return labelling.merge([(MIX, labelling.ask(model, images, MIX.question))])


def table(
    profile: Profile, photos: Table, found: Sequence[pd.DataFrame], seed: int
) -> pd.DataFrame:
    """SRCC with the MOS of every predicted attribute, and of sharpness; tidy.

    `found` are frames of `label`, one a training seed. A missing code counts as the middle one.
    """
    targets, rng = photos.targets, np.random.default_rng(seed)
    facts = {"dataset": photos.name, "metric": "srcc with mos", "seeds": granularity.seeds(profile)}
    said = pd.concat([frame.assign(seed=i) for i, frame in enumerate(found)])
    rows = []
    for (seen, name), part in said.groupby(["seen", "attribute"], sort=False):
        codes = part.pivot(index="seed", columns="id", values="said")[photos.frame["id"]].to_numpy()
        middle = np.median(taxonomy.BY_NAME[name].codes)
        codes = np.where(np.isnan(codes), middle, codes)
        interval = statistics.bootstrap("srcc", targets, codes, rng, profile.resamples)
        rows.append(evaluation.row(interval, model=seen, **facts) | {"attribute": name})
    features = baselines.feature_table(photos.frame["path"], profile.workers)
    sharp = features[:, baselines.FEATURE_NAMES.index(SHARPNESS)]
    interval = statistics.bootstrap("srcc", targets, sharp, rng, profile.resamples)
    facts["seeds"] = facts["seeds"][:1]
    rows.append(evaluation.row(interval, model=FEATURE, **facts) | {"attribute": SHARPNESS})
    return pd.DataFrame(rows)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Attributes by what was looked at, each with its interval."""
    cells = table.assign(
        cell=[f"{r.estimate:+.3f} [{r.low:+.3f}, {r.high:+.3f}]" for r in table.itertuples()]
    )
    wide = cells.pivot(index="attribute", columns="model", values="cell")
    columns = list(dict.fromkeys(table["model"]))
    return (
        wide.loc[list(dict.fromkeys(table["attribute"])), columns]
        .fillna("")
        .rename_axis(columns=None)
    )


def save(
    profile: Profile, data: Split, photos: Table, result: pd.DataFrame, watch: results.Stopwatch
) -> str:
    """Write the table with its record."""
    facts = attribute_scores.facts(profile, data, granularity.seeds(profile), watch)
    facts |= {"n": len(photos)}
    facts["data_hashes"] = facts["data_hashes"] | {photos.name: photos.ids_hash}
    return results.save(NOTEBOOK, profile, result, **facts).parent.name


def summary(table: pd.DataFrame) -> str:
    """The result in sentences."""
    rows = table.set_index(["attribute", "model"])
    said = []
    for key in (("image_clarity", WHOLE), ("image_clarity", WINDOWS), (SHARPNESS, FEATURE)):
        row = rows.loc[key]
        way = "right" if row["low"] > 0 else "wrong" if row["high"] < 0 else "undecided"
        said.append(
            f"{key[0]} ({key[1]}): SRCC with the MOS {row['estimate']:+.3f} "
            f"[{row['low']:+.3f}, {row['high']:+.3f}], direction {way}."
        )
    return "\n".join(said)
