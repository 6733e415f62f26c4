"""Q-Align's lists: two keys, MOS in two places, and what they may not name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from public_sets import KONIQ, write_all, write_qalign

from realqa_utils.datasets import ava, koniq, konvid, livec, qalign, spaq


@pytest.fixture
def data(tmp_path) -> Path:
    return write_all(tmp_path)


def ids(table) -> list[str]:
    return table.frame["id"].tolist()


def koniq_split(data: Path, **options):
    table = koniq.annotations(data, **options)
    return qalign.split(table, data, "train_koniq.json", "test_koniq.json", "mos_zscore")


def test_mos_is_read_from_either_place_and_the_name_from_either_key(tmp_path):
    folder = write_qalign(tmp_path)
    train = qalign.read(folder / "train_koniq.json")
    assert train.values.tolist() == [[KONIQ[0][0], KONIQ[0][3]], [KONIQ[3][0], KONIQ[3][3]]]
    test = qalign.read(folder / "konvid.json")
    assert test.values.tolist()[0] == ["5115335471.mp4", 4.64]
    path = tmp_path / "one.json"
    path.write_text('[{"id": "a/b->c.jpg->7", "img_path": "x/y/c.jpg"}]')
    assert qalign.read(path).values.tolist() == [["c.jpg", 7.0]]


def test_the_sides_keep_the_scale_and_the_order_of_the_table(data):
    for options in ({}, {"zscore": True}):
        split = koniq_split(data, **options)
        assert sorted(ids(split.train)) == ["10004473376.jpg", "187640892.jpg"]
        assert sorted(ids(split.test)) == ["10007357496.jpg", "43280.jpg"]
        whole = koniq.annotations(data, **options)
        assert split.test.scale == whole.scale
        assert ids(split.test) == [id_ for id_ in ids(whole) if id_ in ids(split.test)]


def test_a_list_to_test_on_alone_and_ids_without_an_ending(data):
    split = qalign.split(ava.annotations(data), data, None, "test_ava.json")
    assert (len(split.train), ids(split.test)) == (0, ["953619", "954184"])
    split = qalign.split(konvid.annotations(data), data, None, "konvid.json")
    assert len(split.test) == 4


def test_photographs_that_taught_the_raters_are_spared_or_kept(data):
    lists = ("livec/train_split_1.json", "livec/test_split_1.json")
    split = qalign.split(livec.annotations(data), data, *lists, spare=livec.TRAINING_NAME)
    assert ids(split.train) == ["100.bmp", "246.bmp", "333.bmp"]
    assert ids(split.test) == ["9.JPG", "1000.JPG"]
    everything = livec.annotations(data, training_photos=True)
    split = qalign.split(everything, data, *lists, spare=livec.TRAINING_NAME)
    assert ids(split.train)[0] == "t1.bmp" and ids(split.test)[0] == "t2.bmp"
    with pytest.raises(
        ValueError, match=r"train_split_1\.json, row 1 \(id 't1\.bmp'\): .*no photo"
    ):
        qalign.split(livec.annotations(data), data, *lists)


def test_lists_in_the_layout_of_their_repository(data):
    home, inside = data / "qalign", data / "Q-Align" / "playground" / "data"
    for name, place in (("train_koniq", "training_sft"), ("test_koniq", "test_jsons")):
        (inside / place).mkdir(parents=True)
        (home / f"{name}.json").rename(inside / place / f"{name}.json")
    assert len(koniq_split(data).test) == 2


def test_a_missing_list_says_where_to_get_it(data):
    (data / "qalign" / "test_koniq.json").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        koniq_split(data)
    for words in ("no test_koniq.json of Q-Align here", qalign.HOME, "qalign/train_koniq.json"):
        assert words in str(caught.value)


def entry(**changes) -> dict:
    return {"image": "koniq/43280.jpg", "gt_score": 41.25} | changes


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry(), entry(image="koniq/1.jpg")], r"row 2 \(id '1\.jpg'\): .* no photo of .* koniq "),
        ([entry(image="a/1.jpg"), entry(image="a/2.jpg")], r"row 1 .*rows like this: 2 of 2"),
        ([entry(), entry()], r"row 2 \(id '43280\.jpg'\): .* is named before"),
        ([entry(gt_score=2.6)], r"row 1 .*mos '2\.6' is not the mos_zscore .*another scale"),
        ([entry(gt_score="nan")], r"row 1 .*mos 'nan' is not the mos_zscore"),
        ([entry(gt_score="good")], r"row 1: .*right is an object with image or img_path"),
        ([{"image": "43280.jpg"}], r"row 1: .*the MOS as gt_score or in id"),
        ([{"image": "43280.jpg", "id": "43280.jpg"}], r"row 1: .*in id, like"),
        ([{"gt_score": 41.25}], "row 1: .*right is an object with image"),
        ([{"image": 7, "gt_score": 41.25}], "row 1: .*right is an object with image"),
        ([entry(), 7], "row 2: 7; right is an object"),
        ([entry(), "image"], "row 2: 'image'; right is an object"),
    ],
)
def test_lists_that_do_not_fit_are_named(data, entries, message):
    (data / "qalign" / "test_koniq.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=rf"test_koniq\.json, {message}"):
        koniq_split(data)


def test_a_damaged_list_is_named(data):
    (data / "qalign" / "test_koniq.json").write_text('[{"image": "43280.jpg"')
    with pytest.raises(ValueError, match=r"test_koniq\.json: not JSON"):
        koniq_split(data)


@pytest.mark.realdata
@pytest.mark.parametrize("zscore", [False, True])
def test_real_lists_of_koniq_drop_the_extremes(real_file, zscore):
    data = real_file("qalign").parent
    table = koniq.annotations(data, zscore)
    split = qalign.split(table, data, "train_koniq.json", "test_koniq.json", "mos_zscore")
    assert (len(split.train), len(split.test)) == (7046, 2010)
    assert set(split.train.frame["split"]) == {"train"}
    assert set(split.test.frame["split"]) == {"test"}
    used = set(ids(split.train)) | set(ids(split.test))
    official = table.frame[table.frame["split"].isin(["train", "test"])].set_index("id")
    dropped = official.drop(index=list(used))["mos_zscore"]
    assert len(dropped) == 17 and not dropped.between(6.1, 85.3).any()


@pytest.mark.realdata
def test_real_lists_of_spaq_drop_the_four_best(real_file):
    data = real_file("qalign").parent
    table = spaq.annotations(data)
    split = qalign.split(table, data, "train_spaq.json", "test_spaq.json")
    assert (len(split.train), len(split.test)) == (8897, 2224)
    best = table.frame.nlargest(4, "mos")["id"]
    assert set(ids(table)) - set(ids(split.train)) - set(ids(split.test)) == set(best)


@pytest.mark.realdata
def test_real_lists_of_whole_sets(real_file):
    data = real_file("qalign").parent
    everything = livec.annotations(data, training_photos=True)
    assert len(qalign.split(everything, data, None, "livec.json").test) == 1169
    assert len(qalign.split(konvid.annotations(data), data, None, "konvid.json").test) == 1200
    with pytest.raises(ValueError, match=r"test_ava\.json, row 1 .*: 18198 of 19930"):
        qalign.split(ava.annotations(data), data, None, "test_ava.json")  # a part of AVA.txt
