"""Notebook 01: the labelled set, its curation and annotation, and the composite score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from realqa_utils.datasets import annotation, annotation_table
from realqa_utils.datasets.table import Split
from realqa_utils.experiments import attribute_scores, defects, granularity
from realqa_utils.forms import taxonomy
from realqa_utils.forms.conversations import MIX
from realqa_utils.images import curation
from realqa_utils.images.photos import open_photo
from realqa_utils.measures import composite
from realqa_utils.measures.composite import Composite
from realqa_utils.profiles import Profile
from realqa_utils.records import results

NOTEBOOK = "01_dataset_and_composite"
REVIEWED, ERRORS = 60, 0.15  # photographs that the simulated annotator confirms; wrong first labels
split = granularity.split


def taxonomy_table() -> pd.DataFrame:
    """The ten attributes: level, what is answered, codes."""
    rows = [
        {"level": a.level, "attribute": a.title, "answer": _answer(a),
         "codes": _codes(a)}
        for a in taxonomy.ATTRIBUTES
    ]  # fmt: skip
    return pd.DataFrame(rows).set_index(["level", "attribute"])


def _answer(attribute: taxonomy.Attribute) -> str:
    if attribute.kind == "score":
        return "a reason, then a score from 1 to 10"
    return " / ".join(t.words for t in attribute.tiers) or "free text: both are named"


def _codes(attribute: taxonomy.Attribute) -> str:
    if attribute.kind == "score":
        return "1 .. 10"
    return ", ".join(str(tier.code) for tier in attribute.tiers)


def lines(labels: Mapping[str, object]) -> list[tuple[str, str]]:
    """A row of labels as lines of a card: heading and value, what is long cut short."""
    said = [
        (slot.attribute.title, slot.say(labels[slot.key]))
        for slot in MIX.slots
        if not slot.is_reason
    ]
    return [(title, text.split(" (")[0]) for title, text in said]


def cards(data: Split, count: int) -> tuple[list[Image.Image], list[list[tuple[str, str]]]]:
    """The first test photographs and their lines."""
    frame = data.test.frame.head(count)
    return [open_photo(path) for path in frame["path"]], [lines(row) for _, row in frame.iterrows()]


def label_shares(data: Split) -> dict[str, pd.Series]:
    """How often each label occurs among the training photographs, by attribute."""
    return {
        name: data.train.frame[name].value_counts(normalize=True).sort_index()
        for name in taxonomy.SCORED
    }


def curate(profile: Profile, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Counts per reason of a set with defects drawn in, and precision and recall per defect."""
    truth = defects.with_defects(results.run_dir(profile, "curation"), seed)
    found = curation.curate(list(truth["path"]), profile.workers)
    return curation.report(found).set_index("reason"), defects.accuracy(found, truth)


def annotate(profile: Profile, data: Split, seed: int) -> tuple[annotation.Annotations, dict]:
    """First labels with errors put in, and a simulated person who corrects and confirms them."""
    rng = np.random.default_rng(seed)
    frame = data.test.frame.head(REVIEWED).reset_index(drop=True)
    names = [*taxonomy.SCORED, "subject_background"]
    first = frame[["id", *names]].copy()
    for name in taxonomy.SCORED:
        labels = sorted(data.train.frame[name].unique())
        wrong = rng.uniform(size=len(first)) < ERRORS
        first.loc[wrong, name] = rng.choice(labels, int(wrong.sum()))
    path = results.run_dir(profile, "annotation") / "corrections.jsonl"
    path.unlink(missing_ok=True)  # the simulated person begins anew
    annotations = annotation.Annotations(path, first)
    for row in frame.itertuples():
        for name in taxonomy.SCORED:
            annotations.correct(row.id, name, int(getattr(row, name)), "simulated")
        annotations.confirm(row.id, "simulated")
    return annotations, dict(zip(frame["id"], frame["path"], strict=True))


def live_table(annotations: annotation.Annotations, photos: Mapping[str, str | Path]):
    """The table to correct labels in; two photographs a page."""
    return annotation_table.table(annotations, photos, who="you", page_size=2)


def fit(data: Split, seed: int) -> Composite:
    """The composite of the training photographs."""
    frame = data.train.frame
    return composite.fit(composite.codes(frame), frame["mos"], seed)


def weights(profile: Profile, data: Split, fitted: Composite, seed: int) -> pd.DataFrame:
    """Weights per standard deviation of each code, with intervals, and a column `title`."""
    frame = data.train.frame
    codes = composite.codes(frame)
    found = composite.bootstrap_weights(
        codes, frame["mos"], fitted.components, seed, min(profile.resamples, 300)
    )
    return found.assign(title=[taxonomy.BY_NAME[name].title for name in found["attribute"]])


def save(
    profile: Profile, data: Split, table: pd.DataFrame, found: pd.DataFrame, accuracy: pd.DataFrame,
    figures: Mapping[str, Figure], watch: results.Stopwatch,
) -> str:  # fmt: skip
    """Write the comparison, the weights, the curation's precision and recall, and the figures."""
    facts = attribute_scores.facts(profile, data, profile.seeds[:1], watch)
    facts |= {"model_hash": None, "notes": "true labels; no training"}
    facts["interval"] = "95 % percentile bootstrap over photographs; of curation, Wilson"
    results.save(NOTEBOOK, profile, table, figures=dict(figures), **facts)
    tidy = {"dataset": data.name, "model": "composite", "n": len(data.train), "seeds": "0"}
    rows = found.drop(columns="title").assign(metric="weight per sd", **tidy)
    results.save(f"{NOTEBOOK}_weights", profile, rows, **facts)
    tidy = {"dataset": "mini-koniq with defects", "model": "curation", "seeds": "0"}
    stem = f"{NOTEBOOK}_curation"
    return results.save(stem, profile, accuracy.assign(**tidy), **facts).parent.name


def summary(table: pd.DataFrame, found: pd.DataFrame) -> str:
    """The result in sentences."""
    rows = table[table["metric"] == "srcc"].set_index("model")
    said = [
        f"The composite's SRCC on held-out photographs: {rows.at['composite', 'estimate']:.3f}."
    ]
    for model in ("composite - best single", "composite - equal weights"):
        row = rows.loc[model]
        best = f" ({taxonomy.BY_NAME[row['attribute']].title})" if row["attribute"] else ""
        word = "better than" if row["low"] > 0 else "not shown to be better than"
        interval = f"{row['estimate']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
        other = "equal weights" if model.endswith("weights") else "the best single attribute"
        said.append(f"It is {word} {other}{best}: {interval}.")
    order = found.sort_values("estimate", key=abs, ascending=False)["title"]
    return "\n".join([*said, f"The heaviest attributes are {', '.join(order.head(3))}."])
