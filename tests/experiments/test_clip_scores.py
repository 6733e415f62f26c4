"""Clips scored zero-shot: poolings by hand, clips that do not decode, made-up scores judged."""

from __future__ import annotations

import json
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from realqa_utils.datasets import clips as generated
from realqa_utils.datasets import konvid
from realqa_utils.datasets.table import make_table
from realqa_utils.experiments import clip_scores, timelines, trials, zero_shot
from realqa_utils.experiments.clip_scores import FRAMES, pooled, positions
from realqa_utils.forms.scores import Scale
from realqa_utils.images.views import View
from realqa_utils.measures import evaluation
from realqa_utils.plotting import clip_plots
from realqa_utils.profiles import get_profile
from realqa_utils.records import results
from realqa_utils.scoring import digit_tree, video

SMOKE = get_profile("smoke", train_images=12, test_images=6, seeds=(0, 1), resamples=50)
CLIPS = 40


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """Three clips; the second file is cut off in the middle."""
    table = generated.build(3, 1, tmp_path_factory.mktemp("world"))
    broken = table.frame["path"][1]
    with open(broken, "rb+") as file:
        file.truncate(file.seek(0, 2) // 2)
    return table


def made_up(seed: int, noise: float = 1.0, frames: int = FRAMES) -> pd.DataFrame:
    """Readings of clips whose later frames are worse, by a model that sees it."""
    rng = np.random.default_rng(7)
    target = rng.uniform(2, 8, CLIPS)
    own = np.random.default_rng(seed)
    rows = [
        {
            "id": f"c{clip}", "target": target[clip], "frame": k, "time": k + 0.5,
            "expected": np.clip(target[clip] - 0.1 * k + own.normal(0, noise), 0, 10),
            "sd": 0.5, "parsed": 1, "answers": 1, "sharpness": own.uniform(2, 7), "problem": "",
        }
        for clip in range(CLIPS)
        for k in range(frames)
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    return frame.assign(greedy=frame["expected"].round(2))


def broken(frame: pd.DataFrame, id_: str) -> pd.DataFrame:
    """The same when one clip could not be decoded."""
    failed = {"id": id_, "target": frame.loc[frame["id"] == id_, "target"].iloc[0], "frame": -1}
    rest = frame[frame["id"] != id_]
    failed |= {"problem": f"{id_}.mkv: cut off"}
    return pd.concat([rest, pd.DataFrame([failed])], ignore_index=True)


@pytest.fixture
def table(tmp_path):
    """A set whose clips are the made-up ones; the files are there, but nobody opens them."""
    frame = made_up(0).drop_duplicates("id")
    for id_ in frame["id"]:
        (tmp_path / f"{id_}.mkv").touch()
    paths = [str(tmp_path / f"{id_}.mkv") for id_ in frame["id"]]
    columns = {"id": frame["id"], "path": paths, "mos": frame["target"]}
    return make_table("made-up", Scale(0, 10), pd.DataFrame(columns), source="here")


# --- frames and pooling --------------------------------------------------------------------------


def test_fewer_frames_are_those_nearest_to_the_middles_of_equal_parts():
    times = np.arange(FRAMES) + 0.5
    for count in (1, 2, 4, 8):
        middles = (np.arange(count) + 0.5) * FRAMES / count
        nearest = [np.flatnonzero(np.abs(times - t) == np.abs(times - t).min()) for t in middles]
        assert positions(count) == [int(near[-1]) for near in nearest]


def test_pooling_by_hand():
    values = [3.0, 1.0, 9.0, 5.0, 4.0, 2.0, 6.0, 7.0]
    frames = pd.DataFrame({"id": "a", "target": 4.0, "frame": range(8), "expected": values})
    frames = frames.assign(greedy=[3.0, 1.0, np.nan, 5.0, 4.0, 2.0, np.nan, 7.0], sharpness=values)

    def found(count, how, name="expected"):
        return pooled(frames, count, how)[name][0]

    assert found(1, "mean") == 4.0  # the fifth
    assert found(2, "mean") == 7.5  # the third and the seventh: 9 and 6
    assert found(4, "mean") == (1 + 5 + 2 + 7) / 4
    assert found(8, "mean") == 37 / 8
    assert found(2, "harmonic") == pytest.approx(2 / (1 / 10 + 1 / 7) - 1)
    assert found(8, "percentile") == pytest.approx(1.7)  # 0.7 of the way from the least to the next
    assert found(8, "mean", "greedy") == 22 / 6  # of the frames that have one
    assert np.isnan(found(2, "mean", "greedy"))
    assert found(2, "mean", "sharpness") == 7.5


def test_pooling_keeps_every_clip_in_its_order():
    frames = broken(made_up(0), "c0")
    found = pooled(frames, 4, "percentile")
    assert found["id"].tolist() == [f"c{k}" for k in range(1, CLIPS)] + ["c0"]
    assert found["target"].tolist() == frames.drop_duplicates("id")["target"].tolist()
    assert found.set_index("id").loc["c0", ["greedy", "expected"]].isna().all()
    assert found["expected"].notna().sum() == CLIPS - 1


def test_sharpness_falls_with_blur_and_large_frames_are_reduced():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (112, 112, 3), dtype=np.uint8))
    soft = image.resize((28, 28)).resize((112, 112), Image.Resampling.BICUBIC)
    assert clip_scores.sharpness(image) > clip_scores.sharpness(soft) + 1
    assert clip_scores.sharpness(Image.new("RGB", (40, 30), "teal")) == 0
    large = image.resize((1120, 1120), Image.Resampling.NEAREST)
    assert clip_scores.sharpness(large) == pytest.approx(
        clip_scores.sharpness(large.resize((512, 512), Image.Resampling.LANCZOS)), rel=0.02
    )


# --- readings ------------------------------------------------------------------------------------


def test_a_clip_that_does_not_decode_is_reported_and_no_other_is_lost(filmed, tiny_backbone):
    one, two = clip_scores.score([tiny_backbone, tiny_backbone], filmed, View())
    pd.testing.assert_frame_equal(one, two)
    assert list(one) == list(clip_scores.COLUMNS)
    assert one["id"].value_counts().to_dict() == {
        "mini-konvid/1/000000": 8,
        "mini-konvid/1/000001": 1,
        "mini-konvid/1/000002": 8,
    }
    (failed,) = clip_scores.problems(one).itertuples()
    assert failed.id == "mini-konvid/1/000001"
    assert filmed.frame["path"][1] in failed.problem and "cut off" in failed.problem
    counts = clip_scores.counted([one, two])
    assert counts == {"clips": 3, "decoded": 2, "answers": 32, "parsed": 0}
    assert len(pooled(one)) == 3


def test_frames_are_read_as_photographs_are(filmed, tiny_backbone):
    (found,) = clip_scores.score([tiny_backbone], filmed, View())
    first = found[found["id"] == "mini-konvid/1/000000"]
    images = video.frames(filmed.frame["path"][0], FRAMES)
    wanted = [reading.expected for reading in digit_tree.read(tiny_backbone, images)]
    np.testing.assert_allclose(first["expected"], wanted, atol=1e-5)
    np.testing.assert_allclose(first["time"], np.arange(8) + 0.5, atol=2e-3)
    assert first["target"].iloc[0] == pytest.approx(filmed.targets[0])
    np.testing.assert_allclose(first["sharpness"], [clip_scores.sharpness(i) for i in images])


def test_several_windows_of_a_frame_are_averaged(tiny_backbone):
    rng = np.random.default_rng(1)
    images = [Image.fromarray(rng.integers(0, 256, (120, 150, 3), dtype=np.uint8))] * 2
    view = View(size=112, short=120, grid=2)
    windows = [view.windows(image) for image in images]
    found = trials.read_windows(tiny_backbone, windows, 3)
    alone = [reading.expected for reading in digit_tree.read(tiny_backbone, windows[0])]
    assert found["answers"].tolist() == [4, 4]
    np.testing.assert_allclose(found["expected"], np.mean(alone), atol=1e-5)


def test_clips_of_which_none_decodes_are_read_too(filmed, tiny_backbone):
    (found,) = clip_scores.score([tiny_backbone], filmed.subset(["mini-konvid/1/000001"]), View())
    assert len(found) == 1 and found["frame"][0] == -1 and np.isnan(found["expected"][0])


def test_readings_are_kept_by_model_clips_and_code(root, filmed, monkeypatch):
    read = []

    def score(models, clips, view, digits):
        read.append((models, list(clips.frame["id"]), digits))
        frame = clips.frame[["id"]].assign(target=1.0, frame=-1, problem="lost")
        frame.loc[frame["id"] == "mini-konvid/1/000000", ["frame", "problem"]] = [0, ""]
        return [frame.reindex(columns=clip_scores.COLUMNS) for _ in models]

    monkeypatch.setattr(trials, "trained", lambda trial, cache: trial.recipe.seed)
    monkeypatch.setattr(clip_scores, "score", score)
    monkeypatch.setattr(clip_scores, "PART", 2)
    profile = replace(SMOKE, workers=1)
    found = clip_scores.readings(profile, filmed)
    ids = filmed.frame["id"].tolist()
    assert read == [([0, 1], ids[:2], 3), ([0, 1], ids[2:], 3)]
    again = clip_scores.readings(profile, filmed)
    assert len(read) == 2
    for one, two in zip(found, again, strict=True):
        pd.testing.assert_frame_equal(one, two)
        assert one["id"].tolist() == ids
        assert clip_scores.problems(one)["id"].tolist() == ids[1:]
    clip_scores.readings(replace(profile, seeds=(0, 2)), filmed)  # one model is new
    assert [models for models, *_ in read[2:]] == [[2], [2]]
    clip_scores.readings(profile, filmed.subset(ids[1:]))  # other clips together
    assert len(read) == 5
    monkeypatch.setattr(clip_scores, "CODE", (*clip_scores.CODE, "images.views"))
    clip_scores.readings(profile, filmed)
    assert len(read) == 7


# --- the experiment ------------------------------------------------------------------------------


@pytest.fixture
def frames():
    return [made_up(seed) for seed in SMOKE.seeds]


@pytest.fixture
def home(frames):
    return [pooled(part) for part in frames]


def test_the_table_has_scipys_correlations_for_every_number_and_pooling(table, frames, home):
    found = zero_shot.table(SMOKE, table, frames, home, seed=0)
    row = found.query("model == 'expected' and metric == 'plcc' and frames == 4")
    row = row.set_index("pooling").loc["percentile"]
    scored = [pooled(part, 4, "percentile") for part in frames]
    wanted = np.mean([stats.pearsonr(s["target"], s["expected"]).statistic for s in scored])
    assert row["estimate"] == pytest.approx(wanted)
    assert row["low"] < row["estimate"] < row["high"] and row["n"] == CLIPS
    # two ways of reading x (one frame + 3 x 3) + sharpness x 4 + photographs x 2; two metrics
    assert len(found) == 2 * (2 * 10 + 4 + 2)
    sharp = found.query("model == @zero_shot.SHARPNESS and metric == 'srcc' and frames == 8")
    pool = pooled(frames[0])
    wanted = stats.spearmanr(pool["target"], pool["sharpness"]).statistic
    assert sharp["estimate"].item() == pytest.approx(wanted)
    shown = zero_shot.shown(found)
    assert list(shown) == [1, 2, 4, 8] and shown.loc[("greedy", "harmonic"), 1] == ""


def test_the_claim_holds_for_a_model_that_sees_and_not_for_one_that_guesses(table, frames):
    found = zero_shot.verdicts(SMOKE, table, frames, seed=0)
    first = found.iloc[0]
    assert (first["model"], first["metric"], first["verdict"]) == ("greedy", "srcc", "holds")
    against = found.set_index(["model", "metric"])["verdict"]
    assert against["greedy", f"srcc - {zero_shot.SHARPNESS}"] == "holds"
    rng = np.random.default_rng(3)
    guessed = [f.assign(greedy=rng.uniform(0, 10, len(f))) for f in frames]
    assert zero_shot.verdicts(SMOKE, table, guessed, 0).iloc[0]["verdict"] == "undecided"
    inverted = [f.assign(greedy=10 - f["greedy"]) for f in frames]
    assert zero_shot.verdicts(SMOKE, table, inverted, 0).iloc[0]["verdict"] == "fails"


def test_a_difference_of_the_verdicts_by_hand(table, frames):
    found = zero_shot.verdicts(SMOKE, table, frames, 0).set_index(["model", "metric"])

    def srcc(how, count, name="expected"):
        scored = [pooled(part, count, how) for part in frames]
        return np.mean([stats.spearmanr(s["target"], s[name]).statistic for s in scored])

    gap = srcc("mean", 8) - srcc("mean", 1)
    assert found.loc[("expected", "srcc - one frame"), "estimate"] == pytest.approx(gap)
    gap = srcc("mean", 8) - srcc("mean", 8, "sharpness")
    row = found.loc[("expected", f"srcc - {zero_shot.SHARPNESS}")]
    assert row["estimate"] == pytest.approx(gap)
    gap = srcc("percentile", 8) - srcc("mean", 8)
    row = found.loc[("expected", "srcc, percentile - mean")]
    assert row["estimate"] == pytest.approx(gap)


def test_a_clip_that_does_not_decode_counts_as_the_middle_of_the_scale(table, frames, home):
    lost = [broken(part, "c3") for part in frames]
    found = zero_shot.table(SMOKE, table, lost, home, 0)
    row = found.query("model == 'expected' and metric == 'plcc' and frames == 8").iloc[0]
    scored = [pooled(part) for part in lost]
    assert row["n"] == CLIPS
    filled = [s["expected"].fillna(evaluation.MIDDLE) for s in scored]
    wanted = [stats.pearsonr(s["target"], f).statistic for s, f in zip(scored, filled, strict=True)]
    assert row["estimate"] == pytest.approx(np.mean(wanted))
    judged = zero_shot.verdicts(SMOKE, table, lost, 0)
    said = zero_shot.summary(table, lost, found, judged)
    assert f"{CLIPS - 1} of {CLIPS} clips were decoded; the other 1 count" in said


def test_few_clips_have_no_correlation_and_decide_nothing(root, table, frames, home):
    few = table.subset([f"c{k}" for k in range(9)])
    part = [f[f["id"].isin(few.frame["id"])] for f in frames]
    found = zero_shot.table(SMOKE, few, part, home, 0)
    assert found[found["frames"].notna()]["estimate"].isna().all()
    judged = zero_shot.verdicts(SMOKE, few, part, 0)
    assert set(judged["verdict"]) == {"undecided"}
    assert "too few to judge the claim" in zero_shot.summary(few, part, found, judged)
    assert zero_shot.save(SMOKE, few, part, found, judged, {}, results.Stopwatch()) == "smoke"
    assert results.claims("smoke").empty
    assert "too few for a correlation, which takes 10" in zero_shot.described(few)


def test_by_event_tells_how_far_scores_lie_above_the_raters(table, frames):
    events = ["steady"] * 30 + ["focus hunting"] * 10
    known = replace(table, frame=table.frame.assign(event=events))
    found = zero_shot.by_event(known, frames)
    assert found["clips"].tolist() == [30, 10]
    above = [pooled(f)["expected"] - pooled(f)["target"] for f in frames]
    assert found.loc["focus hunting", "mean"] == pytest.approx(np.mean([a[30:] for a in above]))
    assert zero_shot.by_event(table, frames).empty  # nothing is known of what happens


def test_save_writes_tables_figures_and_the_claim(root, table, frames, home):
    found = zero_shot.table(SMOKE, table, frames, home, 0)
    judged = zero_shot.verdicts(SMOKE, table, frames, 0)
    figure = clip_plots.by_frames(found)
    watch = results.Stopwatch()
    assert zero_shot.save(SMOKE, table, frames, found, judged, {"": figure}, watch) == "smoke"
    plt.close(figure)
    folder = root / "figures" / "smoke"
    assert (folder / "10_video_zero_shot.png").exists()
    assert len(pd.read_csv(folder / "10_video_zero_shot.csv")) == len(found)
    record = json.loads((folder / "10_video_zero_shot.json").read_text())
    assert record["n"] == record["n_parsed"] == 2 * CLIPS * FRAMES
    assert f"{CLIPS} of {CLIPS} clips decoded" in record["notes"]
    (claim,) = results.claims("smoke").itertuples()
    assert claim.claim == zero_shot.CLAIM and claim.estimate == pytest.approx(
        judged["estimate"][0], rel=1e-4
    )
    assert "made-up, greedy" in claim.statement
    said = zero_shot.summary(table, frames, found, judged)
    assert f"{judged['estimate'][0]:.3f}" in said and "low bar" in said


def test_without_clips_one_line_says_so_and_nothing_is_written(root, monkeypatch, tmp_path):
    monkeypatch.setenv("REALQA_DATA", str(tmp_path))
    real = replace(SMOKE, data="real")
    assert zero_shot.clips(real) is None
    for said in (zero_shot.described(None), zero_shot.summary(None, [], None, None)):
        assert "KoNViD-1k is left out" in said and konvid.HOME in said
    found = zero_shot.table(SMOKE, None, [], [], 0)
    judged = zero_shot.verdicts(SMOKE, None, [], 0)
    assert found.empty and judged.empty and zero_shot.shown(found).empty
    assert zero_shot.by_event(None, []).empty and timelines.timelines(real, None, []) == []
    figures = {"": clip_plots.by_frames(found), "over_time": clip_plots.score_over_time([])}
    assert zero_shot.save(real, None, [], found, judged, figures, results.Stopwatch()) == ""
    assert clip_scores.counted([])["clips"] == 0
    assert not (root / "figures").exists()
    plt.close("all")


def test_what_is_in_print_is_the_papers_and_others():
    found = zero_shot.in_print()
    assert "+36.4%" in found["value"].iloc[0]
    assert set(found["note"][1:]) == {"trained on video"}


# --- timelines -----------------------------------------------------------------------------------


def test_a_timeline_has_every_moment_and_what_was_hidden(filmed, tiny_backbone):
    line = timelines.timeline(tiny_backbone, filmed.frame.iloc[0], filmed, SMOKE)
    assert len(line.scores) == len(line.truth) == generated.COUNT
    assert line.target == pytest.approx(filmed.targets[0]) and len(line.stills) == 8
    images = video.frames(filmed.frame["path"][0], generated.COUNT)
    wanted = [r.expected for r in digit_tree.read(tiny_backbone, images)]
    np.testing.assert_allclose(line.scores["expected"], wanted, atol=1e-5)
    figure = clip_plots.score_over_time([line, line])
    assert [axis.get_title() for axis in figure.axes[::2]] == [line.title] * 2
    assert len(figure.axes[1].images) == 8
    plt.close(figure)


def test_the_chosen_clips_are_one_of_each_kind_or_spread_over_the_scale(table, tmp_path):
    ids = [f"mini-konvid/1/{k:06d}" for k in range(30)]
    drawn = [generated.clip_at(1, k) for k in range(30)]
    frame = pd.DataFrame(
        {"id": ids, "mos": np.linspace(1, 5, 30), "event": [c.event for c in drawn]}
    )
    found = timelines.chosen(replace(table, frame=frame))
    assert found["event"].tolist() == list(generated.EVENTS)
    fall = {id_: np.ptp(generated.quality(clip)) for id_, clip in zip(ids, drawn, strict=True)}
    for row in found.itertuples():
        same = frame[frame["event"] == row.event]
        if row.event == "steady":
            assert row.mos == same["mos"].max()
        else:
            assert fall[row.id] == max(fall[id_] for id_ in same["id"])
    spread = timelines.chosen(table)
    assert spread["mos"].is_monotonic_decreasing and len(spread) == 3
    assert len(timelines.chosen(table.subset(["c0", "c1"]))) == 2


# --- real clips ----------------------------------------------------------------------------------


@pytest.mark.realdata
def test_a_real_clip_decodes_and_is_scored(real_file, tiny_backbone):
    table = konvid.load(real_file("konvid1k"), present_only=True)
    view = View(size=112, short=224, grid=2)
    (found,) = clip_scores.score([tiny_backbone], table, view)
    assert clip_scores.problems(found).empty and len(found) == FRAMES * len(table)
    assert found["expected"].between(0, 10).all() and (found["answers"] == 4).all()
    assert (found["sharpness"] > 1).all()
    for _, part in found.groupby("id"):  # eight seconds, give or take a frame
        np.testing.assert_allclose(part["time"], np.arange(8) + 0.5, atol=0.3)
    assert len(pooled(found)) == len(table)
