"""The mini world's clips: written without loss, and rated by what happens in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from scipy import stats

from realqa_utils.datasets import clips, mini
from realqa_utils.datasets.clips import COUNT, DOMAIN, EVENTS, MARGIN, clip_at, overall, quality
from realqa_utils.scoring import video

MANY = [clip_at(0, index) for index in range(300)]


def first(event: str) -> clips.Clip:
    return next(clip for clip in MANY if clip.event == event)


# --- what happens --------------------------------------------------------------------------------


def test_a_clip_follows_from_seed_and_index():
    assert clip_at(3, 5) == clip_at(3, 5)
    assert clip_at(3, 5) not in (clip_at(3, 6), clip_at(4, 5))
    assert clip_at(3, 5).scene == mini.scene_at("mini-konvid", 3, 5)


def test_every_event_happens_and_a_steady_clip_is_one_moment():
    assert {clip.event for clip in MANY} == set(EVENTS)
    for clip in MANY:
        assert len(clip.moments) == len(clip.corners) == COUNT
        assert (len(set(clip.moments)) == 1) == (clip.event == "steady")


@pytest.mark.parametrize(
    ("event", "name"), [("focus hunting", "image_clarity"), ("exposure dip", "exposure")]
)
def test_an_event_is_one_stretch_of_one_to_four_seconds_in_one_attribute(event, name):
    for clip in (clip for clip in MANY if clip.event == event):
        own = getattr(clip.scene, name)
        tiers = [getattr(moment, name) for moment in clip.moments]
        assert {replace(m, **{name: own}) for m in clip.moments} == {clip.scene}
        bad = [k for k, tier in enumerate(tiers) if tier < own]
        assert bad == list(range(bad[0], bad[-1] + 1)) and bad[0] > 0 and bad[-1] < COUNT - 1
        assert min(tiers) == 0 and len(bad) <= 12
        assert own == 1 or tiers[bad[0]] == tiers[bad[-1]] == 1  # the way there and back


def test_the_camera_moves_and_stays_within_the_margin():
    corners = np.array([clip.corners for clip in MANY])  # (clips, frames, 2)
    assert corners.min() >= 0 and corners.max() <= 2 * MARGIN
    assert np.ptp(corners, axis=1).max(axis=1).min() >= 1
    assert np.abs(np.diff(corners, axis=1)).max() <= 5  # no jumps


# --- how good it is ------------------------------------------------------------------------------


def test_the_overall_quality_by_hand():
    # The worst quarter of eight are two: 0.6 * mean(1 .. 8) + 0.4 * mean(1, 2).
    assert overall(np.array([3.0, 1, 4, 2, 5, 6, 8, 7])) == pytest.approx(0.6 * 4.5 + 0.4 * 1.5)
    assert overall(np.full(24, 0.7)) == pytest.approx(0.7)


def test_moments_have_the_quality_of_photographs_of_their_scene():
    clip = first("exposure dip")
    found = quality(clip)
    assert found.tolist() == [mini.hidden_quality(m, DOMAIN.taste) for m in clip.moments]
    assert found.min() <= found[0] == found[-1]


@pytest.mark.parametrize("event", ["focus hunting", "exposure dip"])
def test_an_event_costs_more_the_longer_it_lasts(event):
    name = clips.BRINGS[event][0]
    scene = replace(mini.scene_at("mini-konvid", 0, 0), image_clarity=2, exposure=2)
    worse = replace(scene, **{name: 0})
    truths = [
        overall(quality(clips.Clip((worse,) * n + (scene,) * (COUNT - n), (), event, 0)))
        for n in range(0, 13, 3)
    ]
    assert np.all(np.diff(truths) < -1e-3)
    short, mean = truths[1], np.mean(quality(clips.Clip((worse,) * 3 + (scene,) * 21, (), "", 0)))
    assert short < mean  # remembered beyond its length


def test_the_mos_follows_the_hidden_quality_and_looks_like_konvids():
    mos = np.array([clips.rate(clip, k, k)[0] for k, clip in enumerate(MANY)])  # iid raters
    truth = [overall(quality(clip)) for clip in MANY]
    assert stats.spearmanr(mos, truth).statistic > 0.97
    assert mos.mean() == pytest.approx(DOMAIN.mean, abs=3 * DOMAIN.spread / np.sqrt(len(mos)))
    assert mos.std() == pytest.approx(DOMAIN.spread, rel=0.15)


def test_photographs_and_clips_are_rated_alike(monkeypatch):
    """`rate` is `mini.rate` where a clip is as good as a photograph, raters and all."""
    monkeypatch.setattr(clips, "_moments_of_quality", lambda: mini._quality_moments("mini-konvid"))
    clip = first("steady")
    assert clips.rate(clip, 4, 9) == mini.rate(clip.scene, "mini-konvid", 4, 9)


def test_the_true_curve_falls_where_the_event_is():
    index = next(k for k, clip in enumerate(MANY) if clip.event == "focus hunting")
    curve, clip = clips.true_curve(f"mini-konvid/0/{index:06d}"), MANY[index]
    assert curve.index[3] == 1.0 and len(curve) == COUNT
    assert curve.rank(method="dense").tolist() == stats.rankdata(quality(clip), "dense").tolist()
    assert curve.iloc[0] == pytest.approx(
        (clips.on_scale(mini.hidden_quality(clip.scene, DOMAIN.taste)) - 1) * 10 / 4
    )


# --- pictures and files --------------------------------------------------------------------------


def test_noise_is_new_in_every_frame_and_the_window_moves():
    clip = replace(first("steady"), corners=((6, 6), (6, 6), (9, 6)) + ((6, 6),) * (COUNT - 3))
    pixels = [np.asarray(image, float) for image in clips.render(clip)[:3]]
    assert pixels[0].shape == (112, 112, 3)
    still, moved = (np.abs(pixels[0] - other).mean() for other in pixels[1:])
    assert 0 < still < moved
    shifted = np.abs(pixels[0][:, 3:] - pixels[2][:, :-3]).mean()
    assert shifted < 1.5 * still  # the same picture, three pixels further


def test_an_event_is_seen():
    for event, measure in (
        ("focus hunting", lambda pixels: np.abs(np.diff(pixels, axis=0)).mean()),
        ("exposure dip", np.mean),
    ):
        clip = first(event)
        values = [measure(np.asarray(image.convert("L"), float)) for image in clips.render(clip)]
        name = clips.BRINGS[event][0]
        deep = np.array([getattr(moment, name) == 0 for moment in clip.moments])
        assert np.mean(np.array(values)[deep]) < 0.8 * values[0]


def test_files_give_back_the_frames_that_were_rendered_bit_for_bit(tmp_path):
    images = clips.render(first("focus hunting"))
    for name in ("a.mkv", "b.mkv"):
        clips.write(tmp_path / name, images)
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()
    found = video.timed_frames(tmp_path / "a.mkv", COUNT)
    for k, ((time, image), wanted) in enumerate(zip(found, images, strict=True)):
        assert time == pytest.approx((k + 0.5) / clips.RATE, abs=2e-3)  # ticks of 1 ms
        np.testing.assert_array_equal(image, wanted)
    with av.open(str(tmp_path / "a.mkv")) as container:
        assert container.streams.video[0].codec_context.name == "ffv1"


def test_build_writes_once_and_gives_the_same_table_again(tmp_path):
    table = clips.build(3, 1, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mkv")}
    again = clips.build(3, 1, tmp_path)
    assert len(files) == 3
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mkv")} == files
    assert again.frame.equals(table.frame) and again.ids_hash == table.ids_hash
    assert table.frame["id"].tolist() == [f"mini-konvid/1/{k:06d}" for k in range(3)]
    for k, path in enumerate(table.frame["path"]):
        clip = clip_at(1, k)
        assert Path(path).is_file() and table.frame["event"][k] == clip.event
        assert table.frame["mos"][k] == pytest.approx(clips.rate(clip, 1, k)[0])
        assert table.frame["image_clarity"][k] == clip.scene.image_clarity


def test_another_seed_gives_other_clips_and_a_run_that_is_cut_off_leaves_nothing(
    tmp_path, monkeypatch
):
    one, other = (clips.build(1, seed, tmp_path).frame["path"][0] for seed in (1, 2))
    assert Path(one).read_bytes() != Path(other).read_bytes()

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(clips, "write", fail)
    with pytest.raises(KeyboardInterrupt):
        clips.build(2, 3, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_no_clips_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="mini-konvid: count must be at least 1, got 0"):
        clips.build(0, 1, tmp_path)


def test_the_version_changes_with_the_way_of_writing(monkeypatch):
    before = clips.version.__wrapped__()
    monkeypatch.setattr(clips, "RATE", 5)
    assert clips.version.__wrapped__() != before
