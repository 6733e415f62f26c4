"""Labels of a model in place of the true ones, and errors put into labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from realqa_utils.datasets import mini
from realqa_utils.experiments import self_labelling
from realqa_utils.forms.conversations import MIX
from realqa_utils.scoring.form_steps import legal_labels
from realqa_utils.training import labels, lessons
from realqa_utils.training.labels import SLOTS, joined, with_noise
from realqa_utils.training.recipes import Recipe


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return mini.build("mini-koniq", 40, 0, tmp_path_factory.mktemp("world"))


@pytest.fixture
def found(table) -> pd.DataFrame:
    """As read from a file: other labels, in another order, some missing."""
    lines = [
        {"id": name, "problem": "", **self_labelling.asdict(MIX.parse(MIX.answer(row)))}
        for name, row in zip(table.frame["id"], table.frame.to_dict("records")[::-1], strict=True)
    ]
    lines[3] = {"id": lines[3]["id"], "problem": "no such file"}
    del lines[5]["values"]["exposure"], lines[6]["reasons"]["composition"]
    frame = pd.DataFrame([self_labelling._flat(line) for line in lines], dtype=object)
    return frame.sample(frac=1, random_state=0)


# --- of a model --------------------------------------------------------------------------------


def test_labels_are_joined_by_id(table, found):
    new = joined(table, found)
    assert new.name == table.name and new.scale == table.scale
    for key in ("id", "path", "mos", "std", "group", "split", "kind"):
        assert list(new.frame[key]) == list(table.frame[key])
    mirrored = table.frame.iloc[::-1].reset_index(drop=True)
    for key in SLOTS:
        for row in set(range(40)) - {3, 5, 6}:
            assert new.frame[key][row] == mirrored[key][row]
    assert all(new.frame[key][3] is None for key in SLOTS)
    assert new.frame["exposure"][5] is None and new.frame["composition_reason"][6] is None
    assert new.frame["saturation"][5] == mirrored["saturation"][5]
    assert "problem" not in new.frame and len(new.frame.columns) == len(table.frame.columns)


def test_a_part_of_a_set_may_be_joined(table, found):
    some = table.subset(table.frame["id"][10:14])
    whole = joined(table, found).frame.iloc[10:14].reset_index(drop=True)
    pd.testing.assert_frame_equal(joined(some, found).frame, whole)


def test_a_table_without_labels_gets_some(table, found):
    bare = replace(table, frame=table.frame.drop(columns=list(SLOTS)))
    assert joined(bare, found).frame["exposure"][0] == table.frame["exposure"][39]


def test_joined_labels_teach_a_chain(table, found):
    """A photograph with a missing label is asked directly."""
    lesson = lessons.of(Recipe(1, form="cot_regular"), joined(table, found))
    questions, _ = lesson.conversations(range(40))
    direct = [row for row, question in enumerate(questions) if "step by step" not in question]
    assert direct == [3, 5, 6]


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: f.drop(columns=["exposure"]), r"mini-koniq: columns \['exposure'\] are missing"),
        (lambda f: f.drop(columns=["id"]), r"columns \['id'\] are missing"),
        (lambda f: f[~f["id"].str.endswith(("07", "08"))],
         r"2 of 40 photographs have no row of labels, the first is 'mini-koniq/0/000007'"),
        (lambda f: pd.concat([f, f[f["id"].str.endswith("09")]]),
         "'mini-koniq/0/000009' has several rows"),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit_are_refused(table, found, spoil, message):
    with pytest.raises(ValueError, match=message):
        joined(table, spoil(found))


# --- with errors -------------------------------------------------------------------------------


def wrong(table, noisy, key: str) -> np.ndarray:
    return (noisy.frame[key] != table.frame[key]).to_numpy()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_a_share_of_every_column_is_wrong_but_legal(table, share):
    noisy = with_noise(table, share, seed=3)
    for key, slot in SLOTS.items():
        assert wrong(table, noisy, key).sum() == round(40 * share)
        assert noisy.frame[key].dtype == table.frame[key].dtype
        legal = legal_labels(slot) or set(table.frame[key])
        assert set(noisy.frame[key]) <= set(legal)
    others = [column for column in table.frame if column not in SLOTS]
    pd.testing.assert_frame_equal(noisy.frame[others], table.frame[others])
    with_noise(table, 0.5, seed=4)  # the table given stays as it is
    assert wrong(table, with_noise(table, 0, 3), "exposure").sum() == 0


def test_every_other_label_comes_up_evenly(table):
    """Five standard deviations of a binomial count on either side."""
    frame = table.frame.loc[np.zeros(3000, int)].reset_index(drop=True)
    frame["subject_background"] = ["a", "b", "c"] * 1000
    for key in ("eye_catching_reason", "composition_reason"):
        frame[key] = ["it is", "it was"] * 1500
    noisy = with_noise(replace(table, frame=frame), 1.0, seed=0).frame
    for key in ("eye_catching", "exposure", "subject_background"):
        for label, rows in noisy.groupby(frame[key]):
            count = {"eye_catching": 10, "exposure": 5, "subject_background": 3}[key]
            said, n = rows[key].value_counts(), len(rows)
            assert label not in said and len(said) == count - 1
            mean = n / (count - 1)
            assert (abs(said - mean) < 5 * np.sqrt(mean)).all()


def test_what_is_wrong_stays_wrong_in_the_same_way(table):
    less, more = (with_noise(table, share, seed=1) for share in (0.2, 0.6))
    other = with_noise(table, 0.2, seed=2)
    pd.testing.assert_frame_equal(with_noise(table, 0.2, seed=1).frame, less.frame)
    for key in SLOTS:
        rows = wrong(table, less, key)
        assert (more.frame[key][rows] == less.frame[key][rows]).all()
    assert any((wrong(table, other, key) != wrong(table, less, key)).any() for key in SLOTS)
    apart = [wrong(table, less, key) for key in ("exposure", "saturation")]
    assert (apart[0] != apart[1]).any()  # columns err independently


def test_missing_labels_stay_missing_and_do_not_count(table, found):
    said = joined(table, found)
    noisy = with_noise(said, 0.5, seed=0)
    for key in SLOTS:
        known = said.frame[key].notna()
        assert (noisy.frame[key].notna() == known).all()
        changed = (noisy.frame[key] != said.frame[key])[known]
        assert changed.sum() == round(known.sum() / 2)
    assert noisy.frame["exposure"][3] is None
    lessons.of(Recipe(1, form="direct_and_cot"), noisy)  # accepts every label


def test_bad_input(table):
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"share={share}: must be from 0 to 1"):
            with_noise(table, share, 0)
    bare = replace(table, frame=table.frame.drop(columns="exposure"))
    with pytest.raises(ValueError, match=r"mini-koniq: columns \['exposure'\] are missing"):
        with_noise(bare, 0.1, 0)
    alike = replace(table, frame=table.frame.assign(subject_background="a dog"))
    with pytest.raises(ValueError, match="subject_background: all photographs have the same text"):
        with_noise(alike, 0.1, 0)
    odd = replace(table, frame=table.frame.assign(exposure=9))
    with pytest.raises(ValueError, match="exposure: 9 is none of 0 to 4"):
        with_noise(odd, 0.1, 0)


def test_the_slots_are_the_columns_of_self_labels():
    assert set(labels.SLOTS) == {slot.key for slot in MIX.slots}
