"""KoNViD-1k: clips found by their id, on a small copy and on the real files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from public_sets import KONVID, text, write_konvid

from realqa_utils.datasets import konvid
from realqa_utils.forms.scores import Scale
from realqa_utils.scoring import video

FILE = "KoNViD_1k_attributes.csv"


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_konvid(tmp_path)


def test_clips_are_joined_by_their_id_whatever_they_are_called(folder):
    table = konvid.load(folder)
    assert (table.name, table.scale) == ("konvid", Scale(1, 5))
    assert table.frame["id"].tolist() == [str(id_) for id_, _ in KONVID]
    assert table.frame["mos"].tolist() == [mos for _, mos in KONVID]
    names = [Path(path).name for path in table.frame["path"]]
    assert names == [
        "8536919744.mp4",
        "2999049224_original_centercrop_960x540_8s.mp4",
        "13291575674.mp4",
        "5115335471_original_centercrop_960x540_8s.mp4",
    ]
    assert all(Path(path).is_file() for path in table.frame["path"])


def test_an_id_that_begins_like_another_and_a_still_are_no_clip(folder):
    clips = folder / "KoNViD_1k_videos"
    (clips / "13291575674.mp4").rename(clips / "132915756740.mp4")
    (clips / "13291575674.jpg").touch()
    with pytest.raises(FileNotFoundError, match=r"13291575674\.mp4: 1 of 4 photographs of konvid"):
        konvid.load(folder)
    assert len(konvid.load(folder, present_only=True)) == 3


def test_the_other_metadata_file_will_do(folder):
    (folder / FILE).rename(folder / "hidden.csv")
    rows = [f"{id_},{mos:.10f},960,540,yuv420p,29.97,240,8,704684\n" for id_, mos in KONVID]
    header = "flickr_id,mos,width,height,pixfmt,framerate,nb_frames,bitdepth,bitrate\n"
    text(folder / "KONVID_1K_metadata.csv", header + "".join(rows))
    assert konvid.load(folder).frame["mos"].tolist() == [mos for _, mos in KONVID]


def test_missing_set_says_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        konvid.load(tmp_path)
    for words in (str(tmp_path), konvid.HOME, f"konvid1k/{FILE}", "<Flickr id>.mp4"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\n8536919744,", "\n8.54E+09,", r"row 1 \(id '8\.54E\+09'\): .* no Flickr id, all digits"),
        ("\n8536919744,", "\n8536919744.0,", r"row 1 .*is no Flickr id, all digits"),
        ("flickr_id", "id", r"no column 'flickr_id'"),
        (",", ";", r"no column 'flickr_id'.*separator seems to be ';'"),
        (",3.5,", ",35,", r"row 3 \(id '13291575674'\): mos '35\.0' is off the scale.*1 to 5"),
        (",3.5,", ",?,", r"row 3 \(id '13291575674'\): mos '\?' is not a number"),
    ],
)
def test_damaged_files_are_named(folder, old, new, message):
    content = (folder / FILE).read_text()
    assert old in content
    text(folder / FILE, content.replace(old, new))
    with pytest.raises(ValueError, match=rf"{FILE}.*{message}"):
        konvid.annotations(folder)


@pytest.mark.realdata
def test_the_real_files(real_file):
    table = konvid.annotations(real_file("konvid1k"))
    mos = table.frame.set_index("id")["mos"]
    assert len(table) == 1200
    assert (mos.min(), mos.max()) == (1.22, 4.64)
    assert mos["8536919744"] == 1.22
    assert mos.is_monotonic_increasing  # so a join by row would look right and be wrong


@pytest.mark.realdata
def test_both_real_files_agree(real_file, tmp_path):
    ours = konvid.annotations(real_file("konvid1k")).frame.set_index("id")["mos"]
    name = "KONVID_1K_metadata.csv"
    (tmp_path / name).symlink_to(real_file(f"konvid1k/{name}"))
    theirs = konvid.annotations(tmp_path).frame.set_index("id")["mos"]
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.realdata
def test_real_clips_are_found_and_decode(real_file):
    table = konvid.load(real_file("konvid1k"), present_only=True)
    assert sorted(table.frame["id"]) == ["2999049224", "5115335471"]
    for path in table.frame["path"]:
        frames = [np.asarray(frame) for _, frame in video.timed_frames(path, 2)]
        assert len(frames) == 2 and frames[0].std() > 0
