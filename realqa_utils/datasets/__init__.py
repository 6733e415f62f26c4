"""Sets of rated photographs: one module a set, all behind the table of `datasets.table`."""

from __future__ import annotations

from dataclasses import replace

from realqa_utils.datasets import livec, mini, realqa, registry
from realqa_utils.datasets.table import (
    Split,
    Table,
    assert_disjoint,
    official_split,
    random_splits,
)
from realqa_utils.forms.scores import Scale
from realqa_utils.profiles import Profile
from realqa_utils.records import results


def open_splits(profile: Profile, name: str = "") -> list[Split]:
    """Train and test sides of a set, one split for every seed of the profile.

    On generated data the photographs are the same for all seeds and `name` is a mini domain. On
    real data the set is the profile's home in REALQA_DATA: by its official split, or, as LIVE
    Challenge has none, an 80/20 split for every seed.
    """
    if profile.data == "mini":
        cache = results.root() / "runs" / "world"
        train = mini.build(name, profile.train_images, 0, cache)
        test = mini.build(name, profile.test_images, 1, cache)
        assert_disjoint(train, test)
        return [Split(name, train, test)] * len(profile.seeds)
    if profile.home == "livec":
        made = random_splits(livec.load(registry.data_folder()), 0, len(profile.seeds))
    else:
        made = registry.splits(profile.home, "official") * len(profile.seeds)
    return [_first(profile, split) for split in made]


def open_labelled(profile: Profile, name: str) -> Split:
    """Photographs with labels of all attributes: RealQA's own split, or those of a mini domain.

    RealQA is a copy of `MingxingLi/RealQA` in REALQA_DATA/realqa (`datasets.realqa`). Raises
    FileNotFoundError where that is missing.
    """
    if profile.labels == "mini":
        return open_splits(profile, name)[0]
    data = registry.data_folder()
    found = [data / folder for folder in ("realqa", "RealQA") if (data / folder).is_dir()]
    if not found:
        raise FileNotFoundError(
            f"{data / 'realqa'}: no such folder; right is a copy of MingxingLi/RealQA: "
            f"hf download MingxingLi/RealQA --repo-type dataset --local-dir {data / 'realqa'}"
        )
    return _first(profile, official_split(realqa.load(found[0])))


def title(profile: Profile) -> str:
    """The name of the real set that a profile trains on."""
    return registry.get(profile.home).title


def _first(profile: Profile, split: Split) -> Split:
    """With no more photographs than the profile asks for."""

    def some(table: Table, count: int) -> Table:
        return table.subset(table.frame["id"][:count]) if 0 < count < len(table) else table

    train, test = profile.train_images, profile.test_images
    return replace(split, train=some(split.train, train), test=some(split.test, test))


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
