"""The table type: checks on the way in, splits that keep groups together, disjointness."""

from __future__ import annotations

import hashlib
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realqa_utils.datasets.table import (
    Table,
    assert_disjoint,
    group_by_bytes,
    make_table,
    official_split,
    random_splits,
    validate,
)
from realqa_utils.forms.scores import Scale

FIVE = Scale(1.0, 5.0)


def rated(n: int = 4, **columns) -> pd.DataFrame:
    """n rows; any file that exists will do for a photo, so this one does."""
    frame = pd.DataFrame(
        {"id": [f"p{k}" for k in range(n)], "path": [__file__] * n, "mos": np.linspace(1, 5, n)}
    )
    return frame.assign(**columns)


@pytest.fixture
def files(tmp_path) -> list[str]:
    """Ten files of different content, but equal size."""
    paths = [tmp_path / f"{k}.jpg" for k in range(10)]
    for k, path in enumerate(paths):
        path.write_bytes(b"photo %d" % k)
    return [str(path) for path in paths]


def table(n: int = 4, name: str = "toy", **columns) -> Table:
    return make_table(name, FIVE, rated(n, **columns), source="toy.csv")


def test_unknown_columns_get_defaults_and_extra_ones_stay():
    made = table(blur=[0.1, 0.2, 0.3, 0.4])
    assert made.frame["group"].tolist() == made.frame["id"].tolist()
    assert made.frame["split"].tolist() == [""] * 4
    assert made.frame["std"].isna().all()
    assert made.frame["blur"].tolist() == [0.1, 0.2, 0.3, 0.4]
    assert len(made) == 4


def test_types_are_text_and_float_whatever_comes_in():
    made = table(
        3,
        id=[7, 10004473376, 3],
        mos=["1", "2.5", "5"],
        std=[1, 2, None],
        group=["a", None, ""],
        path=[Path(__file__)] * 3,
    )
    assert made.frame["id"].tolist() == ["7", "10004473376", "3"]
    assert made.frame["group"].tolist() == ["a", "10004473376", "3"]
    assert made.frame["path"].tolist() == [__file__] * 3
    assert made.frame["mos"].dtype == made.frame["std"].dtype == np.float64


def test_the_callers_frame_is_left_alone():
    frame = rated()
    before = frame.copy(deep=True)
    made = make_table("toy", FIVE, frame, source="toy.csv")
    made.frame.loc[0, "mos"] = 4.0
    pd.testing.assert_frame_equal(frame, before)


def test_targets_and_spread_by_hand():
    made = table(3, mos=[1.0, 2.0, 5.0], std=[0.4, 0.8, np.nan])
    np.testing.assert_allclose(made.targets, [0, 2.5, 10])
    np.testing.assert_allclose(made.spread, [1, 2, np.nan])


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        (
            "id",
            ["a", "b", "a", "b"],
            r"toy\.csv, row 3 \(id 'a'\): id 'a' is in an earlier.*2 of 4",
        ),
        ("id", ["a", "", "c", "d"], r"row 2 .*is empty"),
        ("id", ["a", None, "c", "d"], r"row 2 .*is empty"),
        ("id", [1.0, 2.0, 3.0, 4.0], r"toy\.csv: column 'id' holds decimal numbers"),
        ("mos", [1, 2, np.nan, np.nan], r"row 3 \(id 'p2'\): mos 'nan' is missing.*1 to 5.*2 of 4"),
        ("mos", [1, "good", 3, 4], r"row 2 \(id 'p1'\): mos 'good' is not a number.*1 of 4"),
        ("mos", [1, 2, 3, 5.01], r"row 4 \(id 'p3'\): mos '5\.01' is off the scale.*1 to 5"),
        ("mos", [0.99, 2, 3, 5], r"row 1 \(id 'p0'\): mos '0\.99' is off the scale"),
        ("std", [0, 1, -0.1, np.nan], r"row 3 \(id 'p2'\): std '-0\.1' is no standard deviation"),
        ("std", [0, np.inf, 1, 1], r"row 2 \(id 'p1'\): std 'inf' is no standard deviation"),
        (
            "split",
            ["train", "", "test", "training"],
            r"row 4 .*split 'training' is unknown.*'train'",
        ),
        (
            "path",
            ["nowhere.jpg"] * 4,
            r"row 1 \(id 'p0'\): path 'nowhere\.jpg' is not a file.*4 of 4",
        ),
        ("path", [None] * 4, r"row 1 .*is not a file"),
    ],
)
def test_bad_rows_are_named(column, values, message):
    with pytest.raises(ValueError, match=message):
        table(**{column: values})


def test_an_error_names_the_row_of_the_file_not_of_the_filtered_frame():
    frame = rated(6, mos=[1, 2, 3, 4, 9, 5]).iloc[3:]
    with pytest.raises(ValueError, match=r"row 5 \(id 'p4'\)"):
        make_table("toy", FIVE, frame, source="toy.csv")
    assert make_table("toy", FIVE, rated(6).iloc[3:], source="x").frame.index.tolist() == [0, 1, 2]


def test_missing_column_and_no_rows():
    with pytest.raises(ValueError, match=r"toy\.csv: no column 'mos'"):
        make_table("toy", FIVE, rated().drop(columns="mos"), source="toy.csv")
    with pytest.raises(ValueError, match=r"toy\.csv: no rows"):
        make_table("toy", FIVE, rated().iloc[:0], source="toy.csv")


def test_validate_sees_a_table_built_by_hand():
    made = table()
    bad = Table("toy", Scale(2.0, 5.0), made.frame)
    with pytest.raises(ValueError, match="row 1 .*off the scale"):
        validate(bad, "toy.csv")


def test_ids_hash_by_hand_and_its_invariance():
    made = table(2, id=["b", "a"], mos=[1.5, 3.0])
    assert made.ids_hash == hashlib.sha256(b"a\t3.0\nb\t1.5\n").hexdigest()[:16]
    swapped = table(2, id=["a", "b"], mos=[3.0, 1.5])
    assert swapped.ids_hash == made.ids_hash
    assert table(2, id=["a", "b"], mos=[1.5, 3.0]).ids_hash != made.ids_hash


def test_subset_by_mask_and_by_ids():
    made = table()
    for keep in (
        [False, True, False, True],
        np.array([0, 1, 0, 1], bool),
        ["p3", "p1"],
        {"p1", "p3"},
        made.frame["mos"].isin([made.frame["mos"][1], 5.0]),
    ):
        part = made.subset(keep)
        assert part.frame["id"].tolist() == ["p1", "p3"]
        assert part.frame.index.tolist() == [0, 1]
        assert (part.name, part.scale) == (made.name, made.scale)
    assert len(made.subset([])) == 0
    with pytest.raises(ValueError, match=r"toy: no photo has the id 'zz' \(1 unknown"):
        made.subset(["p1", "zz"])
    with pytest.raises(ValueError, match=r"mask of shape \(3,\) for 4 rows"):
        made.subset([True, False, True])


def nearest_by_brute_force(sizes: list[int], target: float) -> float:
    """Distance to the target of the best of all choices of groups but none and all."""
    choices = (c for k in range(1, len(sizes)) for c in combinations(sizes, k))
    return min(abs(sum(choice) - target) for choice in choices)


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=7),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**32),
)
def test_random_splits_keep_groups_whole_and_are_as_near_as_can_be(sizes, share, seed):
    groups = [f"g{g}" for g, size in enumerate(sizes) for _ in range(size)]
    made = table(len(groups), group=groups)
    [split] = random_splits(made, seed, count=1, test_share=share)
    train, test = split.train.frame, split.test.frame
    assert sorted([*train["id"], *test["id"]]) == sorted(made.frame["id"])
    assert not set(train["group"]) & set(test["group"])
    target = share * len(made)
    assert abs(len(test) - target) == pytest.approx(nearest_by_brute_force(sizes, target))


def test_random_splits_of_single_photos_have_the_exact_size():
    assert [len(split.test) for split in random_splits(table(1162), 0, 3)] == [232] * 3


def test_random_splits_follow_from_seed_and_number_alone():
    made = table(50)
    test_ids = [split.test.ids_hash for split in random_splits(made, 3, 5)]
    assert len(set(test_ids)) == 5
    shuffled = made.frame.sample(frac=1, random_state=0)
    again = random_splits(make_table("toy", FIVE, shuffled, source="x"), 3, 2)
    assert [split.test.ids_hash for split in again] == test_ids[:2]
    assert random_splits(made, 4, 1)[0].test.ids_hash not in test_ids
    assert random_splits(made, 3, 1)[0].name == "random-seed3-0"


def test_every_photo_is_as_likely_to_be_tested():
    splits = random_splits(table(20), seed=0, count=250)
    counts = pd.concat([split.test.frame["id"] for split in splits]).value_counts()
    # binomial(250, 0.2): mean 50, sd 6.3; all 20 counts within 4.5 sd
    assert len(counts) == 20
    assert counts.between(22, 78).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test_share": 0.0}, "share between 0 and 1"),
        ({"test_share": 1.0}, "share between 0 and 1"),
        ({"count": 0}, "at least one split"),
    ],
)
def test_impossible_splits(arguments, message):
    with pytest.raises(ValueError, match=message):
        random_splits(table(), **{"seed": 0, "count": 1, **arguments})


def test_one_group_cannot_be_split():
    with pytest.raises(ValueError, match="toy: 1 group in 4 photos cannot be split"):
        random_splits(table(group=["g"] * 4), 0, 1)


def test_official_split():
    split = official_split(table(split=["train", "validation", "test", "train"]))
    assert split.name == "official"
    assert split.train.frame["id"].tolist() == ["p0", "p3"]
    assert split.test.frame["id"].tolist() == ["p2"]
    with pytest.raises(ValueError, match="toy: no photo is marked 'test'"):
        official_split(table(split=["train"] * 4))


def test_equal_bytes_become_a_group(files):
    made = table(path=[files[k] for k in (1, 2, 1, 3)])
    assert group_by_bytes(made).frame["group"].tolist() == ["p0", "p1", "p0", "p3"]


def test_disjoint_parts_pass(files):
    for split in random_splits(table(10, path=files), 0, 3):
        assert_disjoint(split.train, split.test)


def test_overlaps_are_named(files):
    whole = table(10, path=files, group=["a", "a", *"bcdefghi"])
    with pytest.raises(ValueError, match=r"'p3' of toy and test photo 'p3' of toy .* same id"):
        assert_disjoint(whole.subset(["p2", "p3"]), whole.subset(["p3", "p4"]))
    with pytest.raises(ValueError, match="'p0' of toy and test photo 'p1' of toy .* same group"):
        assert_disjoint(whole.subset(["p0", "p5"]), whole.subset(["p1", "p6"]))


def test_equal_files_are_found_across_sets_and_equal_ids_are_no_overlap(files, tmp_path):
    one = table(2, path=files[:2])
    assert_disjoint(one, table(2, name="other", path=files[2:4]))
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(Path(files[1]).read_bytes())
    third = table(2, name="third", id=["x", "y"], path=[files[4], copy])
    with pytest.raises(ValueError, match="'p1' of toy and test photo 'y' of third .* content"):
        assert_disjoint(one, third)
