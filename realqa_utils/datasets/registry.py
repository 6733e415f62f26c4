"""The public sets by name: what reads them, their scale, splits, home page and layout.

Below the data folder (REALQA_DATA) every set has a folder of its own; any of these will do.

============ ========================= ========================================================
set          folder                    in it
============ ========================= ========================================================
koniq,       koniq10k, koniq-10k,      koniq10k_scores.csv, koniq10k_distributions_sets.csv,
koniq_zscore koniq, KonIQ-10k          also in metadata; 512x384, 1024x768 or images
spaq         spaq, SPAQ                Annotations/MOS and Image attribute scores.xlsx;
                                       TestImage or images
livec        livec/ChallengeDB_release Data/AllImages_release.mat, AllMOS_release.mat,
                                       AllStdDev_release.mat; Images, Images/trainingImages
ava          ava, AVA, AVA_dataset     AVA.txt; images or image;
                                       aesthetics_image_lists/generic_test.jpgl
tad66k       tad66k, TAD66K            train.csv and test.csv, also in labels/merge or merge;
                                       TAD66K, images or imgs
konvid       konvid1k, konvid-1k,      KoNViD_1k_attributes.csv, also in metadata or
             konvid, KoNViD-1k,        KoNViD_1k_metadata; clips in KoNViD_1k_videos or videos
             KoNViD_1k
(splits)     qalign, Q-Align           Q-Align's JSON files, flat or as in its playground/data
============ ========================= ========================================================

Annotation files and photographs may also lie in the set's folder itself, and the folder of a set
may be given in place of the one above.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType

from realqa_utils.datasets import archives, ava, koniq, konvid, livec, qalign, spaq, tad66k
from realqa_utils.datasets.table import (
    Split,
    Table,
    assert_disjoint,
    group_by_bytes,
    official_split,
    random_splits,
)
from realqa_utils.forms.scores import SCALES, Scale
from realqa_utils.profiles import unknown

#: The splits of a table of annotations; the folder is where lists of photographs are looked for.
Protocol = Callable[[Table, Path], list[Split]]


@dataclass(frozen=True)
class RatedSet:
    """A public set: `annotations(folder)` gives its table whether the photographs are there or not,
    `load(folder, present_only=False)` checks that they are.
    """

    title: str
    size: int  # rows of the complete annotation file
    scale: Scale
    annotations: Callable[..., Table]
    load: Callable[..., Table]
    protocols: Mapping[str, Protocol]
    home: str  # the official page
    where: str  # what to get there and what to put where


# --- protocols -----------------------------------------------------------------------------------


def everything(table: Table, folder: Path) -> list[Split]:
    """The whole set to test on, for models trained on other sets; the train side is empty."""
    return [Split("all", table.subset([]), table)]


def official(table: Table, folder: Path) -> list[Split]:
    """The split that the annotation files say."""
    return [official_split(table)]


def random(table: Table, folder: Path) -> list[Split]:
    """Five times 80/20. Equal photographs stay on one side, so they must be there."""
    return random_splits(group_by_bytes(archives.present(table, livec.WHERE)), 0, 5)


def _qalign(train: str | None, test: str, mos: str = "mos") -> Protocol:
    return lambda table, folder: [qalign.split(table, folder, train, test, mos)]


def _qalign_livec(table: Table, folder: Path) -> list[Split]:
    """Five splits, without the photographs that only taught the raters where the table is."""
    made = []
    for k in range(1, 6):
        lists = [f"livec/{side}_split_{k}.json" for side in ("train", "test")]
        split = qalign.split(table, folder, *lists, spare=livec.TRAINING_NAME)
        made.append(replace(split, name=f"qalign-{k}"))
    return made


# --- sets ----------------------------------------------------------------------------------------


def _rated_set(
    name: str, module: ModuleType, protocols: Mapping[str, Protocol], **options: bool
) -> RatedSet:
    return RatedSet(
        title=module.TITLE,
        size=module.SIZE,
        scale=SCALES[name],
        annotations=partial(module.annotations, **options),
        load=partial(module.load, **options),
        protocols={**protocols, "all": everything},
        home=module.HOME,
        where=module.WHERE,
    )


_KONIQ = {
    "official": official,
    "qalign": _qalign("train_koniq.json", "test_koniq.json", "mos_zscore"),
}

SETS: dict[str, RatedSet] = {
    "koniq": _rated_set("koniq", koniq, _KONIQ),
    "koniq_zscore": _rated_set("koniq_zscore", koniq, _KONIQ, zscore=True),
    "spaq": _rated_set("spaq", spaq, {"qalign": _qalign("train_spaq.json", "test_spaq.json")}),
    "livec": _rated_set("livec", livec, {"random": random, "qalign": _qalign_livec}),
    "ava": _rated_set(
        "ava", ava, {"common": ava.common_splits, "qalign": _qalign(None, "test_ava.json")}
    ),
    "tad66k": _rated_set("tad66k", tad66k, {"official": official}),
    "konvid": _rated_set("konvid", konvid, {}),
}


def get(name: str) -> RatedSet:
    """The set of that name. Raises ValueError, with the nearest name, where there is none."""
    if name not in SETS:
        raise ValueError(unknown("set", name, SETS))
    return SETS[name]


def data_folder(folder: str | Path | None = None) -> Path:
    """`folder`, else REALQA_DATA.

    Raises:
        ValueError: neither is given.
        FileNotFoundError: it is no folder.
    """
    named = folder or os.environ.get("REALQA_DATA")
    if not named:
        raise ValueError("REALQA_DATA is not set; right is the folder that the sets lie in")
    if not Path(named).is_dir():
        raise FileNotFoundError(f"{named}: no such folder; right is the one that the sets lie in")
    return Path(named)


def splits(
    name: str,
    protocol: str,
    folder: str | Path | None = None,
    *,
    present_only: bool = False,
    photos: bool = True,
    compare_files: bool = True,
) -> list[Split]:
    """The splits of a set by a protocol, one or more, none of which leaks.

    Args:
        folder: of all sets, or of this one; REALQA_DATA by default.
        present_only: leave out photographs that are missing.
        photos: must the photographs be there? False will do for scores and ids.
        compare_files: no photograph may be byte for byte on both sides, whatever its id. False
            takes a published split that does leak for what it is.

    Raises:
        FileNotFoundError: annotation files, photographs or lists of a split are missing.
        ValueError: an unknown name, a damaged file, or a photograph on both sides.
    """
    chosen, where = get(name), data_folder(folder)
    if protocol not in chosen.protocols:
        raise ValueError(f"{name}: {unknown('protocol', protocol, chosen.protocols)}")
    made = chosen.protocols[protocol](chosen.annotations(where), where)
    if photos:
        made = [_present(split, chosen.where, present_only) for split in made]
    for split in made:
        assert_disjoint(split.train, split.test, photos and compare_files)
    return made


def _present(split: Split, where: str, present_only: bool) -> Split:
    train, test = (archives.present(t, where, present_only) for t in (split.train, split.test))
    return replace(split, train=train, test=test)
