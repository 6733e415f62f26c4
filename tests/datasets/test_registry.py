"""The sets by name: every protocol, on small copies and on the real files."""

from __future__ import annotations

from pathlib import Path

import pytest
from public_sets import TAD66K, WRITERS, photos, write_all

from realqa_utils.datasets import livec, registry
from realqa_utils.datasets.table import assert_disjoint, random_splits
from realqa_utils.forms.scores import SCALES

# name, protocol: photographs to train on and to test on, of each split
SIZES = {
    ("koniq", "official"): [(3, 2)],
    ("koniq", "qalign"): [(2, 2)],
    ("koniq", "all"): [(0, 6)],
    ("koniq_zscore", "official"): [(3, 2)],
    ("koniq_zscore", "qalign"): [(2, 2)],
    ("koniq_zscore", "all"): [(0, 6)],
    ("spaq", "qalign"): [(3, 2)],
    ("spaq", "all"): [(0, 6)],
    ("livec", "random"): None,  # below
    ("livec", "qalign"): [(3, 2)] * 5,
    ("livec", "all"): [(0, 6)],
    ("ava", "common"): [(2, 2)],
    ("ava", "qalign"): [(0, 2)],
    ("ava", "all"): [(0, 4)],
    ("tad66k", "official"): [(2, 2)],
    ("tad66k", "all"): [(0, 4)],
    ("konvid", "all"): [(0, 4)],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_all(tmp_path_factory.mktemp("data"))


def sizes(splits) -> list[tuple[int, int]]:
    return [(len(split.train), len(split.test)) for split in splits]


def test_every_set_has_what_a_user_asks_for():
    assert set(registry.SETS) == set(SCALES)
    assert {(name, p) for name, rated in registry.SETS.items() for p in rated.protocols} == set(
        SIZES
    )
    for name, rated in registry.SETS.items():
        assert rated.scale is SCALES[name]
        assert rated.home.startswith("http") and rated.home in rated.where
        assert registry.get(name) is rated


@pytest.mark.parametrize(("name", "protocol"), [key for key, value in SIZES.items() if value])
def test_every_protocol(data, name, protocol):
    made = registry.splits(name, protocol, data)
    assert sizes(made) == SIZES[name, protocol]
    for split in made:
        assert split.train.scale == split.test.scale == SCALES[name]
        assert split.train.name == split.test.name == name
        assert all(Path(path).is_file() for path in split.test.frame["path"])


def test_random_splits_of_livec_keep_the_twins_together_and_are_those_of_its_loader(data):
    made = registry.splits("livec", "random", data)
    assert len(made) == 5 and len({split.test.ids_hash for split in made}) > 1
    expected = random_splits(livec.load(data), 0, 5)
    assert [s.test.ids_hash for s in made] == [s.test.ids_hash for s in expected]
    for split in made:
        assert split.test.frame["id"].isin(["246.bmp", "333.bmp"]).sum() in (0, 2)


def test_names_of_several_splits_tell_them_apart(data):
    for protocol in ("random", "qalign"):
        assert len({split.name for split in registry.splits("livec", protocol, data)}) == 5


def test_the_folder_of_one_set_will_do(data):
    folders = {"koniq": "koniq10k", "konvid": "konvid1k"}
    for name in WRITERS:
        folder = folders.get(name, name)
        [whole] = registry.splits(name, "all", data)
        [alone] = registry.splits(name, "all", data / folder)
        assert alone.test.ids_hash == whole.test.ids_hash


def test_the_data_folder_is_given_or_in_the_environment(data, monkeypatch):
    monkeypatch.setenv("REALQA_DATA", str(data))
    assert registry.data_folder() == data
    assert registry.data_folder(data / "ava") == data / "ava"
    assert sizes(registry.splits("tad66k", "official")) == [(2, 2)]
    monkeypatch.delenv("REALQA_DATA")
    with pytest.raises(ValueError, match="REALQA_DATA is not set; right is the folder"):
        registry.splits("tad66k", "official")
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        registry.data_folder("nowhere")


def test_misspelt_names(data):
    with pytest.raises(ValueError, match="unknown set 'konniq': did you mean 'koniq'"):
        registry.get("konniq")
    with pytest.raises(ValueError, match="koniq: unknown protocol 'oficial': did you .*'official'"):
        registry.splits("koniq", "oficial", data)


@pytest.mark.parametrize("name", [name for name in registry.SETS if name != "koniq_zscore"])
def test_scores_without_photographs(name, tmp_path):
    WRITERS[name](tmp_path)
    whole = registry.get(name).annotations(tmp_path)
    for path in whole.frame["path"]:
        Path(path).unlink()
    table = registry.get(name).annotations(tmp_path)
    assert table.ids_hash == whole.ids_hash
    [split] = registry.splits(name, "all", tmp_path, photos=False)
    assert split.test.ids_hash == whole.ids_hash
    error = ValueError if name == "livec" else FileNotFoundError
    with pytest.raises(error):
        registry.get(name).load(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"photographs of {name} are missing; .*http"):
        registry.splits(name, "all", tmp_path)


def test_splits_of_the_photographs_that_are_there(tmp_path):
    """The lists must fit the annotation file, and not the photographs that happen to be there."""
    data = write_all(tmp_path)
    for name in ("10004473376.jpg", "6233.jpg", "2704811.jpg"):
        (data / "koniq10k" / "512x384" / name).unlink()
    with pytest.raises(FileNotFoundError, match="1 of 2 photographs of koniq are missing"):
        registry.splits("koniq", "qalign", data)
    [split] = registry.splits("koniq", "qalign", data, present_only=True)
    assert split.train.frame["id"].tolist() == ["187640892.jpg"]
    [split] = registry.splits("koniq", "official", data, present_only=True)
    assert split.train.frame["id"].tolist() == ["187640892.jpg"]
    assert len(split.test) == 2


def test_equal_files_on_both_sides_are_a_leak(tmp_path):
    data = write_all(tmp_path)
    seen, asked = (data / "tad66k" / "TAD66K" / TAD66K[side][0][0] for side in ("train", "test"))
    seen.write_bytes(asked.read_bytes())
    message = f"'{seen.name}' of tad66k and test photo '{asked.name}' .* same file content"
    with pytest.raises(ValueError, match=message):
        registry.splits("tad66k", "official", data)
    for options in ({"compare_files": False}, {"photos": False}):
        assert sizes(registry.splits("tad66k", "official", data, **options)) == [(2, 2)]


def test_equal_ids_on_both_sides_are_a_leak(tmp_path):
    data = write_all(tmp_path)
    lists = data / "qalign"
    (lists / "test_koniq.json").write_bytes((lists / "train_koniq.json").read_bytes())
    for with_photos in (True, False):
        with pytest.raises(ValueError, match="training photo .* of koniq have the same id"):
            registry.splits("koniq", "qalign", data, photos=with_photos)


def test_sets_with_the_same_names_do_not_leak_into_each_other_but_equal_files_do(tmp_path):
    data = write_all(tmp_path)
    spaq, koniq = (registry.splits(name, "all", data)[0].test for name in ("spaq", "koniq"))
    assert_disjoint(spaq, koniq)
    photos(data / "koniq10k" / "512x384", ["6233.jpg"])
    (data / "spaq" / "TestImage" / "00001.jpg").write_bytes(b"photo 6233.jpg")
    with pytest.raises(ValueError, match="'00001.jpg' of spaq and test photo '6233.jpg' of koniq"):
        assert_disjoint(spaq, koniq)


REAL = {
    ("koniq", "official"): [(7058, 2015)],
    ("koniq", "qalign"): [(7046, 2010)],
    ("koniq_zscore", "official"): [(7058, 2015)],
    ("koniq_zscore", "qalign"): [(7046, 2010)],
    ("spaq", "qalign"): [(8897, 2224)],
    ("spaq", "all"): [(0, 11125)],
    ("livec", "all"): [(0, 1162)],
    ("livec", "qalign"): [(921, 229), (917, 233), (919, 231), (925, 225), (921, 229)],
    ("tad66k", "official"): [(52248, 14079)],
    ("konvid", "all"): [(0, 1200)],
}


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "protocol"), REAL)
def test_real_protocols(real_file, name, protocol):
    data = real_file(".")
    if protocol == "qalign":
        real_file("qalign")
    assert sizes(registry.splits(name, protocol, data, photos=False)) == REAL[name, protocol]


@pytest.mark.realdata
def test_real_splits_of_livec_do_not_leak(real_file):
    data = real_file("livec").parent
    assert sizes(registry.splits("livec", "random", data)) == [(930, 232)] * 5
    assert len(registry.splits("livec", "qalign", real_file("qalign").parent)) == 5
