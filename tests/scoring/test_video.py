"""Clips written on the spot: which frames come, upright, from which files, and how they pool."""

from __future__ import annotations

import itertools
import math
import weakref
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from realqa_utils.scoring import digit_tree, video
from realqa_utils.scoring.digit_tree import Reading
from realqa_utils.scoring.video import ClipReading, VideoError, frames, pool, timed_frames

CONTAINERS = [
    ("a.mp4", "mpeg4", {"qmax": "2"}),
    ("a.mp4", "libx264", {"bf": "2"}),
    ("a.mov", "libx264", {"bf": "2"}),
    ("a.mkv", "ffv1", {}),
    ("a.webm", "libvpx-vp9", {}),
    ("a.avi", "mpeg4", {"bf": "2", "qmax": "2"}),
    ("a.ts", "mpeg2video", {}),  # its first time is not 0
]


def clip(
    path: Path,
    times=range(30),
    codec="mpeg4",
    coding=None,
    images=None,
    turn=None,
    format_options=None,
    rate=10,
):
    """A clip whose frame k, from `times[k] / rate` seconds on, is grey 8 k unless it is given."""
    with av.open(str(path), "w", options=format_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=coding or {})
        first = images[0] if images else Image.new("RGB", (64, 48))
        stream.width, stream.height = first.size
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        if turn is not None:
            stream.set_display_rotation(turn[0], hflip=turn[1], vflip=turn[2])
        for k, time in enumerate(times):
            image = images[k] if images else Image.new("RGB", (64, 48), (8 * k,) * 3)
            frame = av.VideoFrame.from_image(image)
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbers(images) -> list[int]:
    """Which frames of `clip` these are."""
    return [round(np.asarray(image)[8:40, 8:56].mean() / 8) for image in images]


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def refusal(path: Path, error=VideoError, count=2) -> str:
    with pytest.raises(error) as caught:
        frames(path, count)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


# --- which frames --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "codec", "coding"), CONTAINERS)
def test_the_middles_of_equal_parts_come_from_every_container(tmp_path, name, codec, coding):
    path = clip(tmp_path / name, codec=codec, coding=coding)  # 3 s, a frame every 0.1 s
    found = timed_frames(path, 4)
    assert [time for time, _ in found] == pytest.approx([0.375, 1.125, 1.875, 2.625], abs=0.02)
    assert numbers(image for _, image in found) == [3, 11, 18, 26]
    assert numbers(frames(path, 1)) == [15]  # from 1.5 s on
    assert numbers(frames(path, 30)) == list(range(30))
    assert {(image.mode, image.size) for _, image in found} == {("RGB", (64, 48))}


def test_a_frame_that_stays_long_on_the_screen_counts_for_as_long(tmp_path):
    path = clip(tmp_path / "a.mkv", [0, 1, 2, 20, 29], "ffv1")  # the third stays for 1.8 of 3 s
    assert numbers(frames(path, 6)) == [2, 2, 2, 2, 3, 3]


def test_a_clip_of_one_picture_gives_it_as_often_as_asked(tmp_path):
    images = frames(clip(tmp_path / "a.mp4", [0]), 3)
    assert len(images) == 3 and numbers(images) == [0, 0, 0]


def test_what_an_editor_cut_away_does_not_come(tmp_path):
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    path = clip(tmp_path / "a.mp4", range(-10, 20), "libx264", format_options=options)
    found = timed_frames(path, 4)
    assert [time for time, _ in found] == [0.25, 0.75, 1.25, 1.75]
    assert numbers(image for _, image in found) == [12, 17, 22, 27]


def test_a_sound_track_that_begins_first_or_lasts_longer_does_no_harm(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        seen = container.add_stream("ffv1", rate=10)
        seen.width, seen.height, seen.pix_fmt = 64, 48, "bgr0"
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 32_000), np.int16), "s16", "mono")
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
        for k in range(10, 30):
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 48), (8 * k,) * 3))
            frame.pts = k
            container.mux(seen.encode(frame))
        container.mux([*seen.encode(None), *sound.encode(None)])
    assert numbers(frames(path, 2)) == [15, 25]


@given(
    st.lists(st.fractions(0, 9), min_size=1, max_size=12, unique=True).map(sorted),
    st.lists(st.fractions(-1, 10), min_size=1, max_size=8).map(sorted),
)
def test_at_each_time_the_last_frame_that_has_appeared_is_shown(stamps, times):
    pairs = [(stamp, index) for index, stamp in enumerate(stamps)]
    wanted = [max((i for s, i in pairs if s <= time), default=0) for time in times]
    assert list(video._shown_at(pairs, times)) == wanted


def test_frames_that_are_not_wanted_are_dropped_at_once():
    class Frame:
        pass

    alive, most = weakref.WeakSet(), 0

    def decode():
        nonlocal most
        for at in range(500):
            frame = Frame()
            alive.add(frame)
            most = max(most, len(alive))
            yield Fraction(at), frame

    picked = list(video._shown_at(decode(), [100, 200, 300]))
    assert len(picked) == 3 and most <= 3 + 3


def test_decoding_ends_with_the_last_frame_that_is_wanted():
    stamped = iter([(k, k) for k in range(100)])
    assert list(video._shown_at(stamped, [3, 5])) == [3, 5]
    assert next(stamped) == (7, 7)


# --- upright -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "turn", [*itertools.product((0, 90, 180, -90), (False, True), (False, True))], ids=str
)
def test_turned_and_mirrored_clips_come_upright(tmp_path, turn):
    image = Image.new("RGB", (64, 48))
    image.paste("red", (0, 0, 32, 24))
    image.paste("blue", (32, 24, 64, 48))
    (found,) = frames(clip(tmp_path / "a.mp4", [0], images=[image], turn=turn), 1)
    degrees, mirrored, upside_down = turn  # anticlockwise first, then the flips
    wanted = np.rot90(np.asarray(image), degrees // 90)
    wanted = wanted[:, ::-1] if mirrored else wanted
    wanted = wanted[::-1] if upside_down else wanted
    assert found.size == ((48, 64) if degrees % 180 else (64, 48))
    difference = np.abs(np.asarray(found).astype(int) - wanted)
    assert difference.mean() < 12  # at the edges of the quarters, colour is blurred


def test_an_odd_angle_leaves_the_picture_as_it_is(tmp_path):
    path = clip(tmp_path / "a.mp4", [0], turn=(45, False, False))
    assert frames(path, 1)[0].size == (64, 48)


# --- files that are no clips ---------------------------------------------------------------------


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    assert "no such file" in refusal(tmp_path / "a.mp4", FileNotFoundError)
    assert "no such file" in refusal(tmp_path, FileNotFoundError)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"hello\n" * 100, "not a video that can be read"),
        (bytes(range(256)) * 20, "not a video that can be read"),
    ],
)
def test_empty_files_and_other_bytes_are_refused(tmp_path, content, words):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert words in refusal(path)


def test_a_photo_and_a_playlist_are_no_clips(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg")
    clip(tmp_path / "secret.ts", codec="mpeg2video")
    (tmp_path / "a.m3u8").write_text("#EXTM3U\n#EXTINF:3,\nsecret.ts\n#EXT-X-ENDLIST\n")
    for name in ("a.jpg", "a.m3u8"):
        assert "right is a whole MP4" in refusal(tmp_path / name)


def test_an_odd_name_is_only_a_name(tmp_path):
    for name in ("http:a %03d#?.mp4", "ä ö.mp4"):
        assert numbers(frames(clip(tmp_path / "a.mp4").rename(tmp_path / name), 1)) == [15]


@pytest.mark.parametrize(
    ("name", "codec", "options", "words"),
    [
        ("a.mp4", "mpeg4", {}, "or cut off"),  # its index, at the end, is lost
        ("a.mp4", "mpeg4", {"movflags": "faststart"}, "s of 3.00 s"),
        ("a.mkv", "ffv1", {}, "s of 3.00 s"),
        ("a.webm", "libvpx-vp9", {}, "s of 3.00 s"),
        ("a.avi", "mpeg4", {}, "cut off after"),
    ],
)
def test_a_file_that_was_cut_off_is_refused(tmp_path, name, codec, options, words):
    path = clip(tmp_path / name, codec=codec, format_options=options, images=noise(30))
    frames(path, 2)
    assert words in refusal(cut(path, 0.6))


def noise(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)) for _ in range(count)
    ]


def test_a_file_without_pictures_is_refused(tmp_path):
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    assert "there are no pictures in its video stream" in refusal(tmp_path / "a.avi")


@pytest.mark.parametrize("cover", [False, True])
def test_sound_is_no_clip_even_with_a_cover(tmp_path, cover):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        if cover:
            art = container.add_stream("png", rate=1)
            art.width, art.height, art.pix_fmt = 64, 48, "rgb24"
            art.disposition = av.stream.Disposition.attached_pic
            container.mux(art.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 48)))))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux([*sound.encode(frame), *sound.encode(None)])
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert len(container.streams.video) == cover
    assert "there is no video stream in it" in refusal(tmp_path / "a.mp4")


def test_frames_too_large_to_score_are_refused_before_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "MAX_PIXELS", 64 * 48 - 1)
    assert "64 x 48 pixels a frame; right is at most 3,071" in refusal(clip(tmp_path / "a.mp4"))


@pytest.mark.parametrize("count", [0, -1, 2.0])
def test_a_count_below_one_is_an_error(tmp_path, count):
    with pytest.raises(ValueError, match="count is .*right is a whole number from 1 on"):
        frames(clip(tmp_path / "a.mp4"), count)


# --- pooling and scores --------------------------------------------------------------------------


def test_pooling_by_hand():
    assert pool([2, 8, 5]) == 5
    assert pool([0, 1], "harmonic") == pytest.approx(1 / 3)  # 2 / (1/1 + 1/2) - 1
    assert pool([3, 1, 2, 5, 4], "percentile", 25) == 2
    assert pool([0, 10], "percentile") == 1  # a tenth of the way


SCORES = st.lists(st.floats(0, 10), min_size=1, max_size=20)


@given(SCORES)
def test_all_poolings_lie_within_the_scores_and_bad_moments_weigh_more(scores):
    mean, harmonic, low = (pool(scores, how) for how in ("mean", "harmonic", "percentile"))
    for value in (mean, harmonic, low):
        assert min(scores) - 1e-9 <= value <= max(scores) + 1e-9
    assert harmonic <= mean + 1e-9
    assert low <= pool(scores, "percentile", 50) + 1e-9
    assert pool(scores[::-1], "harmonic") == pytest.approx(harmonic, abs=1e-9)


@pytest.mark.parametrize(
    ("values", "how", "words"),
    [
        ([], "mean", r"shape \(0,\)"),
        ([[1.0]], "mean", r"shape \(1, 1\)"),
        ([1, math.nan], "mean", "score of frame 2 is nan"),
        ([1, math.inf], "percentile", "score of frame 2 is inf"),
        ([1, -0.5], "harmonic", "score of frame 2 is -0.5; right is a number from 0 on"),
        ([1], "harmonics", "'harmonics': did you mean 'harmonic'"),
    ],
)
def test_what_cannot_be_pooled_is_named(values, how, words):
    with pytest.raises(ValueError, match=words):
        pool(values, how)


def reading(text: str, parsed: bool, values, probabilities) -> Reading:
    return Reading(text, parsed, np.array(values), np.array(probabilities), 0.0)


def test_a_clip_pools_expectations_of_all_frames_and_greedy_digits_of_those_that_parse():
    one = reading("2.0", True, [2.0, 3.0], [0.5, 0.5])
    two = reading("9.0", False, [9.0], [1.0])
    clip_reading = ClipReading((0.5, 1.5), (one, two))
    assert (clip_reading.expected, clip_reading.greedy, clip_reading.parsed) == (5.75, 2.0, 1)
    harmonic = ClipReading((0.5, 1.5), (one, two), "harmonic")
    assert harmonic.expected == pytest.approx(2 / (1 / 3.5 + 1 / 10) - 1)
    assert math.isnan(ClipReading((0.5,), (two,)).greedy)


def test_a_clip_is_scored_as_its_frames_are(tmp_path, tiny_backbone):
    path = clip(tmp_path / "a.mp4", images=noise(30))
    found = video.score(tiny_backbone, path, digits=2, count=3)
    alone = digit_tree.read(tiny_backbone, frames(path, 3), 2)
    assert found.times == (0.5, 1.5, 2.5)
    assert [r.text for r in found.readings] == [r.text for r in alone]
    wanted = np.mean([r.expected for r in alone])
    assert found.expected == pytest.approx(wanted, abs=1e-6)
    assert found.parsed == 0 and math.isnan(found.greedy)  # a model that has learnt nothing


def test_a_misspelt_pooling_is_found_before_the_clip_is_read(tmp_path, tiny_backbone):
    with pytest.raises(ValueError, match="did you mean 'mean'"):
        video.score(tiny_backbone, tmp_path / "missing.mp4", how="maen")
