"""Self-labels and the MOS, on labels that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from realqa_utils.datasets import mini
from realqa_utils.experiments import tracking
from realqa_utils.forms import taxonomy
from realqa_utils.plotting import comparison_plots
from realqa_utils.profiles import get_profile
from realqa_utils.training import labels

PROFILE = replace(get_profile("mini"), resamples=200)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return mini.build("mini-koniq", 60, 5, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def truth(table) -> pd.DataFrame:
    """The true labels in the form of `self_labelling.read`."""
    return table.frame[["id", *labels.SLOTS]].astype(object).assign(problem="")


def test_true_labels_agree_with_themselves(table, truth):
    found = tracking.agreement(table, truth)
    assert list(found.index) == list(taxonomy.SCORED)
    assert found["right"].eq(1).all()
    assert found["srcc"].to_numpy() == pytest.approx(np.ones(9))


def test_a_missing_label_is_the_middle_code(truth):
    broken = truth.assign(image_clarity=None)
    codes = tracking.codes(broken)
    middle = np.median(taxonomy.BY_NAME["image_clarity"].codes)
    assert codes["image_clarity"].eq(middle).all()
    assert codes["exposure"].nunique() > 1


def test_noise_lowers_the_agreement(table):
    noisy = labels.with_noise(table, 0.5, 0).frame[["id", *labels.SLOTS]]
    right = tracking.agreement(table, noisy)["right"]
    assert right.mean() == pytest.approx(0.5, abs=0.06)  # some codes of two tiers are the same


def test_attributes_go_with_the_mos_of_this_world(table, truth):
    tables, said = {"mini-koniq": table}, {"mini-koniq": [truth]}
    rows = tracking.tracking(PROFILE, tables, said, 0)
    assert len(rows) == 9
    assert rows["top"].sum() == 3
    assert rows[rows["top"]]["estimate"].min() >= rows[~rows["top"]]["estimate"].max()
    interval = tracking.mean_tracking(PROFILE, tables, said, 0)
    assert interval.estimate == pytest.approx(rows["estimate"].mean())
    assert interval.low > 0
    assert comparison_plots.tracking(rows).axes


def test_teachers_are_averaged_and_widen_the_interval(table, truth):
    """The second says the opposite of the truth about clarity."""
    tiers = taxonomy.BY_NAME["image_clarity"].tiers
    other = truth.assign(image_clarity=len(tiers) - 1 - truth["image_clarity"].astype(int))
    tables = {"mini-koniq": table}
    one, both = {"mini-koniq": [truth]}, {"mini-koniq": [truth, other]}
    first, rows = (tracking.tracking(PROFILE, tables, said, 0) for said in (one, both))
    values = [part.set_index("attribute")["estimate"] for part in (first, rows)]
    changed = values[0].drop("image_clarity").index
    assert values[1][changed].to_numpy() == pytest.approx(values[0][changed].to_numpy())
    assert values[1]["image_clarity"] == pytest.approx(0, abs=1e-9)
    widths = [
        part.set_index("attribute").eval("high - low")["image_clarity"] for part in (first, rows)
    ]
    assert widths[1] > widths[0]
    assert set(rows["seeds"].map(tuple)) == {(0, 1, 2)}
    means = [tracking.mean_tracking(PROFILE, tables, said, 0) for said in (one, both)]
    assert means[1].estimate == pytest.approx(rows["estimate"].mean())
    assert means[1].n == means[0].n == 9 * len(table)
    shown = tracking.agreement_by_set(PROFILE, tables, both)["mini-koniq"]
    assert shown["exposure"] == 1 and abs(shown["image_clarity"]) < 1e-9


def test_every_seed_teaches_but_what_is_trained_on_and_real_photographs():
    mini_, photos = get_profile("mini"), get_profile("photos")
    assert tracking.teachers(mini_) == tracking.teachers(mini_, "mini-ava") == mini_.seeds
    assert tracking.teachers(mini_, tracking.TO_TRAIN_ON) == mini_.seeds[:1]
    assert tracking.teachers(photos, "livec") == (0,)


def test_what_is_to_train_on_is_no_set(table, truth):
    tables = {"mini-koniq": table, tracking.TO_TRAIN_ON: table}
    said = dict.fromkeys(tables, [truth])
    assert set(tracking.tracking(PROFILE, tables, said, 0)["dataset"]) == {"mini-koniq"}


def test_the_teacher_labels_a_set_once(root, monkeypatch):
    smoke = get_profile("smoke", workers=1)
    tables = tracking.tables(smoke)
    assert list(tables) == [*tracking.IMAGE_SETS, tracking.TO_TRAIN_ON]
    one = {"mini-ava": tables["mini-ava"]}
    (said,) = tracking.label(smoke, one)["mini-ava"]
    assert said["id"].tolist() == one["mini-ava"].frame["id"].tolist()
    monkeypatch.setattr(tracking.self_labelling, "label_set", lambda *_: pytest.fail("again"))
    assert tracking.label(smoke, one)["mini-ava"][0].equals(said)
