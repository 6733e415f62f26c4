"""Sets of rated photographs: one module a set, all behind the table of `datasets.table`."""

from __future__ import annotations

import os
from dataclasses import replace

from realqa_utils import results
from realqa_utils.datasets import livec, mini
from realqa_utils.datasets.table import Split, Table, assert_disjoint, random_splits
from realqa_utils.profiles import Profile
from realqa_utils.scores import Scale


def open_splits(profile: Profile, name: str = "") -> list[Split]:
    """Train and test sides of a set, one split for every seed of the profile.

    On generated data the photographs are the same for all seeds and `name` is a mini domain; on
    real data every seed has its own 80/20 split, and the set is LIVE Challenge in REALQA_DATA.
    """
    if profile.data == "mini":
        cache = results.root() / "runs" / "world"
        train = mini.build(name, profile.train_images, 0, cache)
        test = mini.build(name, profile.test_images, 1, cache)
        assert_disjoint(train, test)
        return [Split(name, train, test)] * len(profile.seeds)
    table = livec.load(os.environ["REALQA_DATA"])
    return random_splits(table, 0, len(profile.seeds))


def written_on(split: Split, scale: Scale, name: str) -> Split:
    """The same photographs with their MOS written on another stretch of the 0..10 scale.

    The MOS range of the set goes to `scale.low` .. `scale.high`: the spread of the MOS against the
    unit digit is what changes.
    """

    def rewrite(table: Table) -> Table:
        mos = scale.from_ten(table.targets)
        std = table.spread * (scale.high - scale.low) / 10
        return Table(name, Scale(0, 10), table.frame.assign(mos=mos, std=std))

    return replace(split, name=name, train=rewrite(split.train), test=rewrite(split.test))
