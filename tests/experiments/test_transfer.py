"""Attributes asked about photographs with nothing but MOS, on made-up answers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from realqa_utils import datasets
from realqa_utils.datasets import mini
from realqa_utils.datasets.table import Split
from realqa_utils.experiments import baselines, granularity, transfer, trials
from realqa_utils.experiments.transfer import FEATURE, SHARPNESS, WHOLE, WINDOWS
from realqa_utils.forms import taxonomy
from realqa_utils.forms.conversations import MIX
from realqa_utils.images.views import View
from realqa_utils.profiles import get_profile
from realqa_utils.records import hashes
from realqa_utils.records.results import Stopwatch
from realqa_utils.scoring import labelling

PROFILE = get_profile("photos", view=View(56, 112, 2), resamples=50, workers=1)
LOW = [attribute.name for attribute in taxonomy.of_level("low")]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return mini.build("mini-livec", 10, 1, tmp_path_factory.mktemp("photos"))


def clarity(tier: int) -> str:
    words = taxonomy.BY_NAME["image_clarity"].tiers[tier].words
    return f"Image Clarity: {words}. Exposure: properly exposed. Saturation: dull."


@pytest.fixture
def asked(monkeypatch, photos):
    """A model that tells the truth of a whole photo, and of its windows clarity by turns."""
    sizes = []

    def ask(model, images, question):
        assert question == MIX.question
        sizes.append([image.size for image in images])
        if len(images) == len(photos):
            return [MIX.answer(row) for _, row in photos.frame.iterrows()]
        return [clarity(0), clarity(1), clarity(1), "Hm."] * len(photos)

    monkeypatch.setattr(labelling, "ask", ask)
    return sizes


@pytest.fixture
def frame(asked, photos):
    return transfer.label(None, photos, PROFILE.view)


def test_whole_photographs_tell_all_attributes_and_windows_the_low_level(frame, asked, photos):
    assert set(frame.loc[frame["seen"] == WHOLE, "attribute"]) == set(taxonomy.SCORED)
    assert set(frame.loc[frame["seen"] == WINDOWS, "attribute"]) == set(LOW)
    assert len(frame) == len(photos) * (9 + len(LOW))
    assert asked == [[(112, 112)] * 10, [(56, 56)] * 40]


def test_codes_of_windows_are_averaged_over_those_that_answer(frame, photos):
    whole = frame[frame["seen"] == WHOLE].pivot(index="id", columns="attribute", values="said")
    truth = labelling.true_codes(photos.frame)
    pd.testing.assert_frame_equal(
        whole.loc[truth.index, truth.columns], truth, check_names=False, check_dtype=False
    )
    said = frame[(frame["seen"] == WINDOWS) & (frame["attribute"] == "image_clarity")]["said"]
    assert said.tolist() == pytest.approx([(1 + 2 + 2) / 3] * 10)


def test_windows_that_never_answer_give_no_code(monkeypatch, photos):
    monkeypatch.setattr(labelling, "ask", lambda model, images, question: ["?"] * len(images))
    assert transfer.label(None, photos, PROFILE.view)["said"].isna().all()


@pytest.fixture
def found(frame):
    """Two training seeds; the second misses one clarity."""
    second = frame.copy()
    (row, *_) = second.index[(second["attribute"] == "image_clarity") & (second["seen"] == WHOLE)]
    second.loc[row, "said"] = np.nan
    return [frame, second.sample(frac=1, random_state=0)]  # the order of rows is of no account


def test_correlations_are_those_of_scipy(found, photos):
    table = transfer.table(PROFILE, photos, found, seed=0).set_index(["model", "attribute"])
    assert len(table) == 9 + len(LOW) + 1
    row = table.loc[WHOLE, "image_clarity"]
    codes = labelling.true_codes(photos.frame)["image_clarity"].to_numpy()
    other = np.r_[2.0, codes[1:]]
    expected = np.mean([spearmanr(photos.targets, c).statistic for c in (codes, other)])
    assert row["estimate"] == pytest.approx(expected)
    assert row["low"] <= row["estimate"] <= row["high"]
    sharp = baselines.feature_table(photos.frame["path"])
    sharp = sharp[:, baselines.FEATURE_NAMES.index(SHARPNESS)]
    assert table.loc[(FEATURE, SHARPNESS), "estimate"] == pytest.approx(
        spearmanr(photos.targets, sharp).statistic
    )
    assert set(table["metric"]) == {"srcc with mos"} and set(table["n"]) == {len(photos)}


def test_the_summary_names_the_direction():
    def row(model: str, attribute: str, low: float, high: float) -> dict:
        mean = (low + high) / 2
        return {"model": model, "attribute": attribute, "estimate": mean, "low": low, "high": high}

    table = pd.DataFrame(
        [
            row(WHOLE, "image_clarity", -0.1, 0.1),
            row(WINDOWS, "image_clarity", 0.2, 0.4),
            row(FEATURE, SHARPNESS, -0.4, -0.2),
        ]
    )
    lines = transfer.summary(table).splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["undecided.", "right.", "wrong."]
    assert lines[1].startswith("image_clarity (windows): SRCC with the MOS +0.300 [+0.200, +0.400]")


def test_every_seed_is_read_once_and_kept(monkeypatch, photos, frame, root):
    trained = []
    data = Split("s", photos, photos)
    monkeypatch.setattr(transfer, "label", lambda model, table, view: frame)
    monkeypatch.setattr(trials, "trained", lambda trial, cache: trained.append(trial))
    first = transfer.readings(PROFILE, data, photos)
    assert [t.recipe.seed for t in trained] == list(granularity.seeds(PROFILE))
    assert all(t.keep and t.recipe.form == granularity.TOLD and t.split is data for t in trained)
    again = transfer.readings(PROFILE, data, photos)
    assert len(trained) == len(first)
    for a, b in zip(first, again, strict=True):
        pd.testing.assert_frame_equal(a, b)
    fewer = replace(photos, frame=photos.frame.head(8))
    transfer.readings(PROFILE, data, fewer)
    assert len(trained) == 2 * len(first)


def test_both_sides_of_the_split_are_read(monkeypatch, photos):
    train, test = (replace(photos, frame=photos.frame[a:b]) for a, b in ((0, 7), (7, 10)))
    monkeypatch.setattr(datasets, "open_splits", lambda profile: [Split("s", train, test)])
    assert transfer.photographs(PROFILE).frame["id"].tolist() == photos.frame["id"].tolist()


def test_the_table_is_saved_with_its_record(monkeypatch, found, photos, root):
    monkeypatch.setattr(hashes, "of_model", lambda source: "0" * 16)
    result = transfer.table(PROFILE, photos, found, seed=0)
    transfer.save(PROFILE, Split("s", photos, photos), photos, result, Stopwatch())
    path = root / "figures" / "photos" / f"{transfer.NOTEBOOK}.csv"
    assert len(pd.read_csv(path)) == len(result)
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["n"] == len(photos) and photos.name in record["data_hashes"]


def test_the_shown_table_leaves_out_what_was_not_looked_at(found, photos):
    shown = transfer.shown(transfer.table(PROFILE, photos, found, seed=0))
    assert list(shown.columns) == [WHOLE, WINDOWS, FEATURE]
    assert shown.at["composition", WINDOWS] == "" != shown.at["exposure", WINDOWS]
    assert shown.at[SHARPNESS, WHOLE] == "" != shown.at[SHARPNESS, FEATURE]
