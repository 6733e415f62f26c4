"""The one table of rated photos that every data set plugs into, and its splits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from realqa_utils.forms.scores import Scale

REQUIRED = ("id", "path", "mos")
SPLITS = ("", "train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Table:
    """Photos of one set with their opinion scores; built and checked by :func:`make_table`.

    ``frame`` has one row per photo, numbered from 0, and the columns

    ======= ===== ==================================================================
    id      str   unique within the set
    path    str   the photo's file
    mos     float mean opinion score, on ``scale``
    std     float standard deviation of the opinions, on ``scale``; NaN if unknown
    group   str   photos of one group (a scene, equal bytes) stay on one side of a split
    split   str   official split: train, validation, test, or '' when there is none
    ======= ===== ==================================================================

    and any further columns the set brings, such as the attributes of generated photos.
    """

    name: str
    scale: Scale
    frame: pd.DataFrame

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def targets(self) -> np.ndarray:
        """MOS on the common scale 0..10, float64 of shape (n,)."""
        return self.scale.to_ten(self.frame["mos"].to_numpy())

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation of the opinions on the common scale 0..10, shape (n,)."""
        return self.frame["std"].to_numpy() * 10 / (self.scale.high - self.scale.low)

    @property
    def ids_hash(self) -> str:
        """16 hex digits that name the ids and their MOS, whatever the order of the rows."""
        rows = sorted(zip(self.frame["id"], self.frame["mos"].tolist(), strict=True))
        lines = "".join(f"{id_}\t{mos!r}\n" for id_, mos in rows)
        return hashlib.sha256(lines.encode()).hexdigest()[:16]

    def subset(self, keep: Iterable) -> Table:
        """Rows chosen by a boolean mask of shape (n,) or by ids, in this table's order.

        Raises:
            ValueError: a mask of another length, or ids that are not in the table.
        """
        keep = np.asarray(list(keep))
        if keep.dtype != bool:
            keep = self._mask(keep.tolist())
        if keep.shape != (len(self),):
            raise ValueError(f"{self.name}: a mask of shape {keep.shape} for {len(self)} rows")
        return replace(self, frame=self.frame[keep].reset_index(drop=True))

    def _mask(self, ids: list) -> np.ndarray:
        known = self.frame["id"]
        unknown = sorted(set(map(str, ids)) - set(known))
        if unknown:
            raise ValueError(
                f"{self.name}: no photo has the id {unknown[0]!r} "
                f"({len(unknown)} unknown ids); ids look like {known.iloc[0]!r}"
            )
        return known.isin(list(map(str, ids))).to_numpy()


@dataclass(frozen=True, eq=False)
class Split:
    """Two disjoint parts of one table."""

    name: str
    train: Table
    test: Table


def make_table(
    name: str, scale: Scale, frame: pd.DataFrame, *, source: str | Path, photos: bool = True
) -> Table:
    """Complete and check a frame; the only way a :class:`Table` is built.

    Args:
        frame: at least ``id``, ``path`` and ``mos``; see :class:`Table`. An integer index counts
            the data rows of ``source`` from 0, so that errors name the row even where the loader
            has left rows out; the table's own rows are renumbered.
        source: the annotation file, for error messages.
        photos: must the photos be there? Without them a table is good for its ids and scores.

    Raises:
        ValueError: the first thing found wrong, with source, row (from 1), id and count.
    """
    absent = [column for column in REQUIRED if column not in frame]
    if absent:
        raise ValueError(f"{source}: no column {absent[0]!r}; a table needs {', '.join(REQUIRED)}")
    if pd.api.types.is_float_dtype(frame["id"]) and len(frame):
        raise ValueError(
            f"{source}: column 'id' holds decimal numbers, in which long ids lose "
            "digits; read it as text"
        )
    table = Table(name, scale, _complete(frame, source))
    validate(table, source, photos)
    return replace(table, frame=table.frame.reset_index(drop=True))


def _complete(frame: pd.DataFrame, source: str | Path) -> pd.DataFrame:
    """Every column of a table with its type; unknown std, group and split filled in."""
    if not pd.api.types.is_integer_dtype(frame.index):
        frame = frame.reset_index(drop=True)
    defaults = {"std": np.nan, "group": "", "split": ""}
    frame = frame.assign(**{key: value for key, value in defaults.items() if key not in frame})
    texts = {column: frame[column].astype("str") for column in ("id", "path", "group", "split")}
    texts["split"] = texts["split"].fillna("")
    texts["group"] = texts["group"].where(texts["group"].fillna("") != "", texts["id"])
    frame = frame.assign(**texts)
    return frame.assign(**{column: _numbers(frame, column, source) for column in ("mos", "std")})


def _numbers(frame: pd.DataFrame, column: str, source: str | Path) -> pd.Series:
    numbers = pd.to_numeric(frame[column], errors="coerce").astype("float64")
    refuse(frame, numbers.isna() & frame[column].notna(), source, column, "is not a number")
    return numbers


def validate(table: Table, source: str | Path, photos: bool = True) -> None:
    """Check what every user of a table relies on; its files only where `photos` is true.

    Raises:
        ValueError: no rows; an empty or repeated id; a MOS that is missing or off the scale; a
            standard deviation below 0; an unknown split; a missing file. The first one found.
    """
    frame, scale = table.frame, table.scale
    if frame.empty:
        raise ValueError(f"{source}: no rows; a table needs at least one photo")
    mos, std = frame["mos"], frame["std"]
    on_scale = f"right is a number from {scale.low:g} to {scale.high:g}"
    checks = (
        ("id", frame["id"].fillna("") == "", "is empty; right is a name of its own"),
        ("id", frame["id"].duplicated(), "is in an earlier row too; right is one row per id"),
        ("mos", mos.isna(), f"is missing; {on_scale}"),
        ("mos", ~mos.between(scale.low, scale.high), f"is off the scale; {on_scale}"),
        (
            "std",
            std.notna() & ~std.between(0, np.finfo(float).max),
            "is no standard deviation; right is a number from 0, or nothing",
        ),
        ("split", ~frame["split"].isin(SPLITS), f"is unknown; right is one of {SPLITS}"),
    )
    for column, bad, problem in checks:
        refuse(frame, bad, source, column, problem)
    if photos:
        missing = [not os.path.isfile(path) for path in frame["path"].fillna("")]
        refuse(frame, missing, source, "path", "is not a file; right is an existing photo")


def refuse(
    frame: pd.DataFrame, bad: Iterable, source: str | Path, column: str, problem: str
) -> None:
    """Raise ValueError for the first bad row, if any; the index counts rows from 0."""
    bad = np.asarray(bad, dtype=bool)
    if not bad.any():
        return
    at = int(bad.argmax())
    row, id_, value = frame.index[at] + 1, frame["id"].iloc[at], frame[column].iloc[at]
    raise ValueError(
        f"{source}, row {row} (id {str(id_)!r}): {column} {str(value)!r} {problem} "
        f"(rows like this: {bad.sum()} of {len(bad)})"
    )


def random_splits(table: Table, seed: int, count: int, test_share: float = 0.2) -> list[Split]:
    """Seeded random splits that keep every group on one side.

    Split k follows from ``(seed, k)`` and the groups alone, neither from ``count`` nor from the
    order of the rows. Its test part is as near to ``test_share`` as whole groups allow.

    Raises:
        ValueError: ``test_share`` not between 0 and 1, ``count`` below 1, or a single group.
    """
    sizes = table.frame.groupby("group", sort=True).size()
    if not 0 < test_share < 1 or count < 1:
        raise ValueError(
            f"test_share {test_share} with count {count}; "
            "right is a share between 0 and 1 and at least one split"
        )
    if len(sizes) < 2:
        raise ValueError(
            f"{table.name}: {len(sizes)} group in {len(table)} photos cannot be "
            "split; right is two groups or more"
        )
    return [_random_split(table, sizes, seed, k, test_share) for k in range(count)]


def _random_split(table: Table, sizes: pd.Series, seed: int, k: int, test_share: float) -> Split:
    rng = np.random.default_rng([seed, k])
    shuffled = sizes.iloc[rng.permutation(len(sizes))]
    taken = _nearest_total(shuffled.to_numpy(), test_share * len(table))
    in_test = table.frame["group"].isin(shuffled.index[taken]).to_numpy()
    return Split(f"random-seed{seed}-{k}", table.subset(~in_test), table.subset(in_test))


def _nearest_total(sizes: np.ndarray, target: float) -> list[int]:
    """Positions of groups with a total as near to the target as can be; neither none nor all.

    Subset sum: ``maker[total]`` is the first group with which, after those before it, a total can
    be made. Equal groups are thus taken in their (shuffled) order until the target is met.
    """
    limit = min(sizes.sum() - 1, int(target) + 1 + sizes.max())
    goal = min(max(round(target), 1), limit)
    unmade = len(sizes)
    maker = np.full(limit + 1, unmade)
    maker[0] = -1
    for position, size in enumerate(sizes):
        new = (maker[:-size] < unmade) & (maker[size:] == unmade)
        maker[size:][new] = position
        if maker[goal] < unmade:
            break
    totals = np.flatnonzero(maker < unmade)[1:]
    total, taken = totals[np.abs(totals - target).argmin()], []
    while total:
        taken.append(maker[total])
        total -= sizes[maker[total]]
    return taken


def official_split(table: Table) -> Split:
    """The set's own split; validation photos are on neither side.

    Raises:
        ValueError: the set marks no train or no test photos.
    """
    marks = table.frame["split"].to_numpy()
    for side in ("train", "test"):
        if side not in marks:
            raise ValueError(
                f"{table.name}: no photo is marked {side!r}, so there is no official "
                "split; random_splits makes one"
            )
    return Split("official", table.subset(marks == "train"), table.subset(marks == "test"))


def group_by_bytes(table: Table) -> Table:
    """Regroup so that photos with equal files share a group, named by the first of their ids."""
    digests = pd.Series([_digest(path) for path in table.frame["path"]])
    first = table.frame["id"].groupby(digests).transform("first")
    return replace(table, frame=table.frame.assign(group=first))


def assert_disjoint(train: Table, test: Table, photos: bool = True) -> None:
    """Check that no photo to test on was seen in training.

    Ids and groups are compared within one set only, as two sets may number their photos alike;
    files are compared by content, unless `photos` is false.

    Raises:
        ValueError: a pair with the same id, group or bytes; names both photos.
    """
    keys = ["id", "group"] if train.name == test.name else []
    for key in keys:
        _refuse_pair(train, test, train.frame[key], test.frame[key], key)
    if not photos:
        return
    size_train, size_test = (
        [os.path.getsize(path) for path in table.frame["path"]] for table in (train, test)
    )
    both = set(size_train) & set(size_test)  # only files of equal size can have equal bytes
    train, test = (
        table.subset(np.isin(sizes, list(both)))
        for table, sizes in ((train, size_train), (test, size_test))
    )
    _refuse_pair(
        train,
        test,
        *(table.frame["path"].map(_digest) for table in (train, test)),
        "file content (sha256)",
    )


def _refuse_pair(train: Table, test: Table, left: pd.Series, right: pd.Series, what: str) -> None:
    shared = right.isin(left)
    if shared.any():
        at = int(shared.to_numpy().argmax())
        twin = train.frame["id"][(left == right[at]).to_numpy().argmax()]
        raise ValueError(
            f"training photo {twin!r} of {train.name} and test photo "
            f"{test.frame['id'][at]!r} of {test.name} have the same {what} "
            f"({shared.sum()} test photos like this); right is a split by group"
        )


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
