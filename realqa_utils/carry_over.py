"""How far attributes learnt from generated scenes carry: real photographs, which have MOS only.

Low-level attributes are asked about windows of the photograph at its own resolution, since
shrinking hides blur; the others about the photograph as a whole. What is judged is whether the
predicted codes go with the MOS, beside a plain sharpness feature on the same photographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from realqa_utils import (
    attribute_scores,
    baselines,
    datasets,
    evaluation,
    granularity,
    labelling,
    parallel,
    results,
    statistics,
    taxonomy,
    trials,
)
from realqa_utils.backbone import Backbone
from realqa_utils.conversations import ATTRIBUTE_FORMS, MIX
from realqa_utils.datasets.table import Split, Table
from realqa_utils.photos import open_photo
from realqa_utils.profiles import Profile
from realqa_utils.views import View

LOW_LEVEL = ATTRIBUTE_FORMS["low_level"]
SHARPNESS = "log_laplacian_variance"
NOTEBOOK = "02_attribute_extraction_carry_over"


def photographs(profile: Profile) -> Table:
    """All photographs of the real set, test and training side together."""
    split = datasets.open_splits(profile)[0]
    frame = pd.concat([split.train.frame, split.test.frame], ignore_index=True)
    return replace(split.train, frame=frame)


def codes(profile: Profile, data: Split, table: Table) -> list[pd.DataFrame]:
    """Mean predicted codes (photographs x 9 attributes) by the stage-1 model of every seed."""
    read = partial(_codes, profile, data, table)
    return parallel.run_all(read, granularity.seeds(profile), profile.workers, "labelling", batch=1)


def _codes(profile: Profile, data: Split, table: Table, seed: int) -> pd.DataFrame:
    path = results.run_dir(profile, "carry_over") / f"{table.ids_hash}-{seed}.csv"
    trial = replace(granularity.trial(profile, data, "all", seed), keep=True)
    path = path.with_stem(f"{path.stem}-{trials.key(trial)}")
    if not path.exists():
        model = trials.trained(trial, results.run_dir(profile, "trials"))
        results.write_table(path, label(model, table, profile.view))
    return pd.read_csv(path, dtype={"id": str}).set_index("id")


def label(model: Backbone, table: Table, view: View) -> pd.DataFrame:
    """Mean codes of every photograph: low level over its windows, the rest of the whole."""
    images = [view.fit(open_photo(path)) for path in table.frame["path"]]
    ids = table.frame["id"]
    whole = labelling.merge([(MIX, labelling.ask(model, images, MIX.question))])
    windows = [view.testing(image) for image in images]
    owner = np.repeat(ids.to_numpy(), [len(part) for part in windows])
    flat = [window for part in windows for window in part]
    parts = labelling.merge([(LOW_LEVEL, labelling.ask(model, flat, LOW_LEVEL.question))])
    seen, close = labelling.as_frame(whole, ids), labelling.as_frame(parts, owner)
    low = [attribute.name for attribute in LOW_LEVEL.attributes]
    seen, close = seen[~seen["attribute"].isin(low)], close[close["attribute"].isin(low)]
    mean = pd.concat([seen, close]).groupby(["id", "attribute"])["said"].mean().unstack()
    return mean.loc[ids, list(taxonomy.SCORED)].reset_index()


def table(
    profile: Profile, photos: Table, found: Sequence[pd.DataFrame], seed: int
) -> pd.DataFrame:
    """SRCC with the MOS of every predicted attribute and of sharpness, with intervals, tidy."""
    targets, rng = photos.targets, np.random.default_rng(seed)
    seeds = granularity.seeds(profile)
    rows = []
    for name in taxonomy.SCORED:
        middle = float(np.median(taxonomy.BY_NAME[name].codes))
        said = np.stack([frame[name].fillna(middle).to_numpy() for frame in found])
        interval = statistics.bootstrap("srcc", targets, said, rng, profile.resamples)
        unparsed = float(np.mean([frame[name].isna().mean() for frame in found]))
        row = evaluation.row(interval, photos.name, "after stage 1", "srcc with MOS", seeds)
        rows.append(row | {"attribute": name, "unparsed": unparsed})
    features = baselines.feature_table(photos.frame["path"])
    sharp = features[:, baselines.FEATURE_NAMES.index(SHARPNESS)]
    interval = statistics.bootstrap("srcc", targets, sharp, rng, profile.resamples)
    row = evaluation.row(interval, photos.name, "feature", "srcc with MOS", seeds[:1])
    return pd.DataFrame([*rows, row | {"attribute": SHARPNESS, "unparsed": 0.0}])


def save(profile: Profile, data: Split, result: pd.DataFrame, watch: results.Stopwatch) -> str:
    """Write the table."""
    facts = attribute_scores.facts(profile, data, watch)
    facts |= {"seeds": granularity.seeds(profile), "n": int(result["n"].iloc[0])}
    return results.save(NOTEBOOK, profile, result, **facts).parent.name
