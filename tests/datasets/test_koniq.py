"""KonIQ-10k: two files in which MOS means two things, on a small copy and on the real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from public_sets import KONIQ, KONIQ_MEANS, write_koniq

from realqa_utils.datasets import koniq
from realqa_utils.datasets.table import official_split
from realqa_utils.forms.scores import Scale

SETS, SCORES = "koniq10k_distributions_sets.csv", "koniq10k_scores.csv"


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_koniq(tmp_path)


def change(path: Path, old: str, new: str) -> None:
    content = path.read_bytes().decode()
    assert old in content
    path.write_bytes(content.replace(old, new).encode())


def by_id(table):
    return table.frame.set_index("id")


def test_mean_of_the_ratings_from_the_scores_and_the_rest_from_the_sets(folder):
    """The files have other orders; the standard deviation belongs to the five-point ratings."""
    table = koniq.load(folder)
    assert (table.name, table.scale) == ("koniq", Scale(1, 5))
    frame = by_id(table)
    assert frame["mos"].to_dict() == dict(zip([row[0] for row in KONIQ], KONIQ_MEANS, strict=True))
    assert frame["std"].to_dict() == {row[0]: row[4] for row in KONIQ}
    assert frame["mos_zscore"]["2704811.jpg"] == pytest.approx(3.91176470588)
    assert frame["split"]["6233.jpg"] == "validation"
    assert Path(frame["path"]["6233.jpg"]) == folder / "512x384" / "6233.jpg"
    split = official_split(table)
    assert sorted(split.train.frame["id"]) == ["10004473376.jpg", "187640892.jpg", "2704811.jpg"]
    assert sorted(split.test.frame["id"]) == ["10007357496.jpg", "43280.jpg"]


def test_zscores_have_a_scale_of_their_own_and_no_spread(folder):
    table = koniq.load(folder, zscore=True)
    assert (table.name, table.scale) == ("koniq_zscore", Scale(0, 100))
    frame = by_id(table)
    assert frame["mos"].to_dict() == {row[0]: row[3] for row in KONIQ}
    assert np.isnan(frame["std"]).all()
    assert frame["split"]["43280.jpg"] == "test"
    (folder / SCORES).unlink()
    assert koniq.load(folder, zscore=True).ids_hash == table.ids_hash


def test_scores_alone_do_but_know_no_split(folder):
    (folder / SETS).unlink()
    for zscore in (False, True):
        table = koniq.annotations(folder, zscore)
        assert set(table.frame["split"]) == {""} and table.frame["std"].isna().all()
    assert by_id(table)["mos"]["6233.jpg"] == pytest.approx(88.3888888889)


def test_the_official_file_with_both_will_do_for_scores(folder):
    lines = [
        f"{row[0]},1,2,3,4,5,{row[2]},{mean},{row[4]},{row[3]}\n"
        for row, mean in zip(KONIQ, KONIQ_MEANS, strict=True)
    ]
    header = "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,MOS_zscore\n"
    (folder / SCORES).unlink()
    (folder / "koniq10k_scores_and_distributions.csv").write_text(header + "".join(lines))
    assert by_id(koniq.load(folder))["mos"]["2704811.jpg"] == 1.125


def test_without_scores_there_is_no_mean(folder):
    (folder / SCORES).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{SETS}: no {SCORES} here; KonIQ-10k is at http"):
        koniq.annotations(folder)


def test_the_smaller_photographs_go_first_and_sizes_are_never_mixed(folder):
    large = folder / "1024x768"
    (folder / "512x384").rename(large)
    assert {Path(path).parent for path in koniq.load(folder).frame["path"]} == {large}
    (folder / "512x384").mkdir()
    (large / "6233.jpg").rename(folder / "512x384" / "6233.jpg")
    table = koniq.load(folder, present_only=True)
    assert table.frame["path"].tolist() == [str(folder / "512x384" / "6233.jpg")]


def test_missing_set_and_missing_photographs_say_what_to_put_where(folder, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        koniq.load(tmp_path / "nowhere")
    for words in (str(tmp_path / "nowhere"), koniq.HOME, SETS, SCORES, "512x384/*.jpg"):
        assert words in str(caught.value)
    (folder / "512x384" / "43280.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"43280\.jpg: 1 of 6 .* present_only=True .*http"):
        koniq.load(folder)
    assert len(koniq.load(folder, present_only=True)) == 5
    assert len(koniq.annotations(folder)) == 6


def test_mos_on_another_scale_than_the_file_promises(folder):
    """Each file with the other one's meaning of MOS."""
    for row, mean in zip(KONIQ, KONIQ_MEANS, strict=True):
        change(folder / SETS, str(row[3]), str(mean))
    with pytest.raises(ValueError, match=rf"{SCORES}, row 1 .*mos_zscore .* is not that .*{SETS}"):
        koniq.annotations(folder)
    with pytest.raises(ValueError, match=rf"{SETS}: the MOS lie in 1\.125\.\.4\.36.*0\.\.100"):
        koniq.annotations(folder, zscore=True)


def test_zscores_in_the_column_of_means(folder):
    change(folder / SCORES, ",1.125", ",3.91")
    change(folder / SCORES, ",4.363636363", ",88.4")
    with pytest.raises(
        ValueError, match=rf"{SCORES}, row 2 .*mos '88\.4' is off the scale.*1 to 5"
    ):
        koniq.annotations(folder)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (SETS, ",", ";", rf"{SETS}: no column 'image_name'.*separator seems to be ';'.*a comma"),
        (SETS, ",", "\t", rf"{SETS}: no column .*separator seems to be '\\t'"),
        (SETS, "set\n", "part\n", rf"{SETS}: no column 'set'; found \['image_name', .*'part'\]"),
        (SCORES, '"MOS"', '"mos"', rf"{SCORES}: no column 'MOS'; .*right is a table with"),
        (SETS, ",training\n", ",training,\n", rf"{SETS}: .*(more cells than the header|readable)"),
        (SCORES, ",2.6\r", ",high\r", rf"{SCORES}, row 1 .*43280.*: mos 'high' is not a number"),
        (SETS, ",0.6,", ",,", rf"{SETS}, row 3 \(id '2704811.jpg'\): std '' is not a number"),
        (SETS, ",validation", ",dev", r"split 'dev' is unknown; right is one of .*'validation'"),
        (SETS, "43280.jpg", "43281.jpg", rf"{SCORES}, row 1 .*43280.*: mos_zscore .*{SETS}"),
        (SETS, "43280.jpg", "6233.jpg", rf"{SCORES}, row 1 \(id '43280.jpg'\): mos_zscore"),
        (SCORES, '"43280.jpg"', '"6233.jpg"', rf"{SCORES}, row \d \(id '6233.jpg'\)"),
    ],
)  # fmt: skip
def test_damaged_files_are_named(folder, name, old, new, message):
    change(folder / name, old, new)
    with pytest.raises(ValueError, match=message):
        koniq.annotations(folder)


def test_files_of_two_releases(folder):
    lines = (folder / SETS).read_text().splitlines(keepends=True)
    (folder / SETS).write_text("".join(lines[:-1]))
    with pytest.raises(ValueError, match=rf"{SCORES} has 6 rows and .*{SETS} 5"):
        koniq.annotations(folder)


@pytest.mark.realdata
def test_the_real_files(real_file):
    table = koniq.annotations(real_file("koniq10k"))
    frame = by_id(table)
    assert len(table) == 10073
    assert frame["split"].value_counts().to_dict() == {
        "train": 7058, "test": 2015, "validation": 1000,
    }  # fmt: skip
    assert (frame["mos"].min(), round(frame["mos"].max(), 4)) == (1.125, 4.3636)
    assert frame["mos"]["826373.jpg"] == 3.925619834
    assert frame["mos_zscore"]["10004473376.jpg"] == pytest.approx(77.3836206897)
    assert frame["std"]["10004473376.jpg"] == pytest.approx(0.527277894494)
    zscores = koniq.annotations(real_file("koniq10k"), zscore=True).frame["mos"]
    assert (round(zscores.min(), 3), round(zscores.max(), 3)) == (3.912, 88.389)


@pytest.mark.realdata
def test_the_standard_deviation_is_the_sample_one_of_the_five_point_ratings(real_file):
    raw = pd.read_csv(real_file(f"koniq10k/{SETS}"))
    shares, ratings = raw[[f"c{k}" for k in range(1, 6)]].to_numpy(), np.arange(1, 6)
    mean = shares @ ratings
    sample = (shares @ ratings**2 - mean**2) * raw["c_total"] / (raw["c_total"] - 1)
    ours = by_id(koniq.annotations(real_file("koniq10k")))["std"][raw["image_name"]]
    np.testing.assert_allclose(ours, np.sqrt(sample), atol=1e-9)


@pytest.mark.realdata
def test_the_real_photographs_that_are_there(real_file):
    table = koniq.load(real_file("koniq10k"), present_only=True)
    assert sorted(table.frame["id"]) == ["10004473376.jpg", "10007903636.jpg", "10009096245.jpg"]
