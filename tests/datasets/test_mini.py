"""The mini world: its scores behave like those of the sets it stands for; its files are sound."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import norm

from realqa_utils.datasets import mini, scenes, subjects
from realqa_utils.datasets.mini import DOMAINS, Taste, build, hidden_quality, labels, rate, scene_at
from realqa_utils.forms import taxonomy
from realqa_utils.forms.conversations import ATTRIBUTE_FORMS
from realqa_utils.forms.scores import SCALES

EACH = pytest.mark.parametrize("name", DOMAINS)
N = 300
BLANK = Image.new("RGB", (1, 1))
WORDS = ["subject", "background", "subject_background", "kind"]
WORDS += ["eye_catching_reason", "composition_reason"]
BEST = {n: len(taxonomy.BY_NAME[n].tiers) - 1 for n in taxonomy.SCORED[2:]} | {"exposure": 2}
PLAIN = replace(
    scene_at("mini-koniq", 0, 0),
    **BEST,
    placement=0.14,
    size=0.36,
    contrast=0.5,
)  # no defect; composition 10


@cache
def ratings(name: str) -> pd.DataFrame:
    """MOS and standard deviation of N photos; each seed is used once, so the rows are iid."""
    rows = [rate(scene_at(name, i, i), name, i, i) for i in range(N)]
    return pd.DataFrame(rows, columns=["mos", "std"])


def outside(name: str) -> float:
    """Share of single ratings that the ends of the scale cut off, were they normal."""
    d = DOMAINS[name]
    law = norm(d.mean, np.hypot(d.spread, d.rater_sd))
    return float(law.cdf(d.scale.low) + law.sf(d.scale.high))


# --- scenes and labels -------------------------------------------------------------------------


@EACH
def test_a_scene_follows_from_domain_seed_and_index(name):
    assert scene_at(name, 3, 5) == scene_at(name, 3, 5)
    others = [scene_at(name, 3, 6), scene_at(name, 4, 5)]
    others += [scene_at(other, 3, 5) for other in DOMAINS if other != name]
    assert scene_at(name, 3, 5) not in others


def test_labels_are_those_of_the_scene():
    scene = scene_at("mini-ava", 0, 1)
    found = labels(scene)
    assert set(found) == {*taxonomy.SCORED, *WORDS}
    assert found["eye_catching"] == scenes.eye_catching(scene)
    assert found["composition"] == scenes.composition(scene)
    for name in (*taxonomy.SCORED[2:], "subject", "background", "kind"):
        assert found[name] == getattr(scene, name)
    assert {name: found[name] for name in WORDS[-2:]} == scenes.reasons(scene)


def test_subject_and_background_in_words():
    scene = replace(PLAIN, subject="a castle", background="the sea")
    assert labels(scene)["subject_background"] == "a castle, behind it the sea"


def test_labels_fill_every_slot_of_every_form():
    for form in ATTRIBUTE_FORMS.values():
        assert {slot.key for slot in form.slots} <= set(labels(PLAIN))


@pytest.mark.parametrize("call", [mini.get_domain, lambda n: scene_at(n, 0, 0)])
def test_an_unknown_domain_is_named_with_the_known_ones(call):
    with pytest.raises(ValueError, match=r"unknown mini domain 'koniq'; one of mini-koniq, mini-"):
        call("koniq")


def test_a_photograph_is_the_render_of_its_scene():
    found = mini.photograph("mini-livec", 2, 9)
    again = scenes.render(scene_at("mini-livec", 2, 9), DOMAINS["mini-livec"].look, mini.SIZE)
    assert found.size == (112, 112) and found.tobytes() == again.tobytes()


def test_domains_differ_in_look():
    scene = scene_at("mini-koniq", 0, 0)
    views = [scenes.render(scene, d.look).tobytes() for d in DOMAINS.values()]
    assert len(set(views)) == len(DOMAINS) == 6


@EACH
def test_scales_are_those_of_the_real_sets(name):
    assert DOMAINS[name].scale == SCALES[name.removeprefix("mini-")]


def test_a_scene_is_a_plain_record():
    scene = scene_at("mini-spaq", 0, 0)
    record = asdict(scene)
    assert scenes.Scene(**record) == scene
    assert list(record)[:3] == ["seed", "kind", "subject"]


# --- the hidden quality ------------------------------------------------------------------------


def technical(clarity: int, exposure: int) -> float:
    scene = replace(PLAIN, image_clarity=clarity, exposure=exposure)
    return hidden_quality(scene, Taste(1, 0, 0, 0))


def test_exposure_matters_only_as_far_as_the_photo_is_sharp():
    """Not additive: the gain by good exposure is 0.6 when clear, and nothing when blurry."""
    assert technical(2, 2) == pytest.approx(1.0)
    assert technical(2, 1) == pytest.approx(0.7)
    assert technical(2, 0) == technical(2, 4) == pytest.approx(0.4)
    assert technical(0, 2) == technical(0, 0) == 0
    assert technical(1, 2) == pytest.approx(0.5**0.7)


def test_a_crowd_matters_less_behind_a_subject_that_stands_out():
    def loss(contrast):
        clean = replace(PLAIN, contrast=contrast)
        taste = Taste(0, 0, 1, 0)
        return hidden_quality(clean, taste) - hidden_quality(
            replace(clean, background_clutter=0), taste
        )

    assert loss(0.0) == pytest.approx(0.3)
    assert loss(1.0) == pytest.approx(0.15)


def test_parts_and_product_by_hand():
    # eye-catching: 1 + 10 (0.58 * 0.5 + 0.22) = 6.1 -> 6, so 5/9; composition 9.6 -> 10, so 1
    aesthetic = 0.5 * 5 / 9 + 0.35 + 0.15
    assert hidden_quality(PLAIN, Taste(0, 1, 0, 0)) == pytest.approx(aesthetic)
    assert hidden_quality(PLAIN, Taste(0, 0, 1, 0)) == pytest.approx(1.0)
    assert hidden_quality(PLAIN, Taste(0, 0, 0, 1)) == pytest.approx(aesthetic)
    dark = replace(PLAIN, exposure=0)
    assert hidden_quality(dark, Taste(0, 0, 0, 1)) == pytest.approx(0.4 * aesthetic)
    assert hidden_quality(PLAIN, Taste(1, 2, 3, 4)) == pytest.approx(4 + 6 * aesthetic)


@given(
    st.sampled_from(list(DOMAINS)),
    st.integers(0, 500),
    st.sampled_from([n for n in taxonomy.SCORED[2:] if n != "exposure"]),
)
def test_a_better_tier_is_never_a_worse_photo(name, index, attribute):
    scene, taste = scene_at(name, 1, index), DOMAINS[name].taste
    tiers = range(len(taxonomy.BY_NAME[attribute].tiers))
    quality = [hidden_quality(replace(scene, **{attribute: t}), taste) for t in tiers]
    assert quality == sorted(quality)


def test_photographers_and_painters_disagree():
    """Two tastes order the same photos alike, but not the same."""
    drawn = [scene_at("mini-koniq", 0, i) for i in range(300)]
    tastes = [DOMAINS[n].taste for n in ("mini-koniq", "mini-ava")]
    quality = [[hidden_quality(s, t) for s in drawn] for t in tastes]
    assert 0.5 < np.corrcoef(quality)[0, 1] < 0.99


# --- ratings -----------------------------------------------------------------------------------


def test_ratings_follow_from_seed_and_index():
    scene = scene_at("mini-koniq", 0, 3)
    assert rate(scene, "mini-koniq", 0, 3) == rate(scene, "mini-koniq", 0, 3)
    assert rate(scene, "mini-koniq", 0, 3) != rate(scene, "mini-koniq", 0, 4)
    assert rate(scene, "mini-koniq", 0, 3) != rate(scene, "mini-koniq", 1, 3)


@EACH
def test_ratings_are_means_of_whole_steps_on_the_scale(name):
    found, domain = ratings(name), DOMAINS[name]
    assert found["mos"].between(domain.scale.low, domain.scale.high).all()
    assert (found["std"] > 0).all()
    totals = found["mos"] * domain.raters / domain.step
    np.testing.assert_allclose(totals, totals.round(), atol=1e-6)


@EACH
def test_mos_has_the_mean_of_the_real_set(name):
    d = DOMAINS[name]
    # Sampling error of N photos with their own raters, and of the 2,000 scenes that standardise.
    own = (d.spread**2 + 0.25 * d.rater_sd**2 / d.raters) / N
    chance = np.sqrt(own + d.spread**2 / 2000)
    # What the ends of the scale cut off moves the mean by less than all of it on one side would.
    sd = np.hypot(d.spread, d.rater_sd)
    ends = [(d.mean - d.scale.low) / sd, (d.scale.high - d.mean) / sd]
    cut = max(sd * (norm.pdf(z) - z * norm.sf(z)) for z in ends)
    assert ratings(name)["mos"].mean() == pytest.approx(d.mean, abs=4 * chance + cut)


@EACH
def test_mos_has_the_spread_of_the_real_set(name):
    d = DOMAINS[name]
    # A standard deviation has the relative error 1 / sqrt(2 n), of N photos and of 2,000 scenes.
    # Cut-off ratings do not move with the photo, so the spread shrinks by about their share.
    tolerance = 4 * np.sqrt(1 / (2 * N) + 1 / 4000) + outside(name)
    assert ratings(name)["mos"].std() == pytest.approx(d.spread, rel=tolerance)


@EACH
def test_raters_disagree_as_in_the_real_set(name):
    d = DOMAINS[name]
    # Bias 0.5 and noise 0.87 together, and the variance 1/12 of rounding (Sheppard).
    expected = np.sqrt((0.5**2 + 0.87**2) * d.rater_sd**2 + d.step**2 / 12)
    tolerance = 0.02 + outside(name)  # sd of a sample of 16 is 1.7 % low on average
    assert ratings(name)["std"].mean() == pytest.approx(expected, rel=tolerance)
    assert expected == pytest.approx(d.rater_sd, rel=0.13)


@EACH
def test_mos_follows_the_hidden_quality(name):
    quality = [hidden_quality(scene_at(name, i, i), DOMAINS[name].taste) for i in range(N)]
    assert np.corrcoef(quality, ratings(name)["mos"])[0, 1] > 0.95


# --- files -------------------------------------------------------------------------------------


def test_build_gives_the_table_of_its_scenes(tmp_path):
    table = build("mini-koniq", 5, 7, tmp_path)
    own = ["id", "path", "mos", "std", "group", "split"]
    assert set(table.frame) == {*own, *taxonomy.SCORED, *WORDS}
    assert len(table) == 5 and table.name == "mini-koniq" and table.scale == SCALES["koniq"]
    for index, row in table.frame.iterrows():
        scene = scene_at("mini-koniq", 7, index)
        assert row["id"] == f"mini-koniq/7/{index:06d}"
        assert {n: row[n] for n in labels(scene)} == labels(scene)
        assert (row["mos"], row["std"]) == pytest.approx(rate(scene, "mini-koniq", 7, index))
        with Image.open(row["path"]) as photo:
            assert photo.tobytes() == mini.photograph("mini-koniq", 7, index).tobytes()


@pytest.mark.slow
def test_one_and_two_workers_write_the_same_files(tmp_path):
    files = []
    for workers in (1, 2):
        table = build("mini-spaq", 64, 0, tmp_path / str(workers), workers)
        folder = Path(table.frame["path"][0]).parent
        files.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert files[0] == files[1]
    assert len(files[0]) == 65


DRAW = """
import sys
from realqa_utils.datasets import mini, scenes
whole, drawn = scenes.render, []
mini.world_version()  # draws for itself
mini.scenes.render = lambda *given: drawn.append(given) or whole(*given)
mini.AT_ONCE = 2
for seed in range(6):
    mini.build("mini-spaq", 8, seed, sys.argv[1], 1)
print(len(drawn))
"""


@pytest.mark.slow
def test_processes_share_the_drawing(tmp_path):
    """No photograph is drawn twice, or by nobody, and the files are those of one process."""
    found = []
    for folder, count in (("apart", 1), ("together", 3)):
        command = [sys.executable, "-c", DRAW, str(tmp_path / folder)]
        drawing = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(count)]
        drawn = [int(one.communicate(timeout=300)[0].split()[-1]) for one in drawing]
        assert sum(drawn) == 6 * 8
        assert len(list((tmp_path / folder).iterdir())) == 6  # nothing is left over
        files = (tmp_path / folder).rglob("*.*")
        found.append({f.relative_to(tmp_path / folder): f.read_bytes() for f in files})
    assert found[0] == found[1] and len(found[0]) == 6 * 9


def test_build_draws_once_and_reads_afterwards(tmp_path, monkeypatch):
    first = build("mini-ava", 3, 0, tmp_path)

    def refuse(*_):
        raise AssertionError("drawn again")

    monkeypatch.setattr(scenes, "render", refuse)
    second = build("mini-ava", 3, 0, tmp_path)
    pd.testing.assert_frame_equal(first.frame, second.frame)
    assert first.ids_hash == second.ids_hash
    for others in ((4, 0), (3, 1)):  # another count or seed is another folder
        with pytest.raises(AssertionError, match="drawn again"):
            build("mini-ava", *others, tmp_path)


def test_the_first_photos_do_not_depend_on_the_count(tmp_path):
    few, more = (build("mini-ava", count, 0, tmp_path).frame for count in (2, 4))
    pd.testing.assert_frame_equal(few.drop(columns="path"), more.drop(columns="path")[:2])


def test_a_moved_cache_is_read_where_it_is(tmp_path):
    build("mini-ava", 2, 0, tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    paths = build("mini-ava", 2, 0, tmp_path / "there").frame["path"]
    assert all(Path(p).is_relative_to(tmp_path / "there") for p in paths)


def test_an_interrupted_folder_is_never_taken(tmp_path, monkeypatch):
    whole, calls = scenes.render, []

    def break_off(*arguments):
        calls.append(arguments)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return whole(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(scenes, "render", break_off)
        with pytest.raises(KeyboardInterrupt):
            build("mini-koniq", 4, 0, tmp_path)
    assert not [f for f in tmp_path.iterdir() if not f.name.startswith(".")]
    assert not list(tmp_path.rglob("labels.csv"))
    assert len(build("mini-koniq", 4, 0, tmp_path)) == 4


def test_a_folder_without_labels_is_replaced(tmp_path):
    folder = Path(build("mini-koniq", 2, 0, tmp_path).frame["path"][0]).parent
    (folder / "labels.csv").unlink()
    (folder / "000000.png").write_bytes(b"half a photograph")
    table = build("mini-koniq", 2, 0, tmp_path)
    with Image.open(table.frame["path"][0]) as photo:
        assert photo.tobytes() == mini.photograph("mini-koniq", 0, 0).tobytes()
    assert [f.name for f in tmp_path.iterdir()] == [folder.name]  # nothing is left over


def test_a_folder_that_another_process_finished_first_is_kept(tmp_path, monkeypatch):
    finished = Path(build("mini-koniq", 2, 0, tmp_path / "theirs").frame["path"][0]).parent
    ours, whole = tmp_path / "ours", scenes.render

    def overtaken(*arguments):
        shutil.copytree(finished, ours / finished.name, dirs_exist_ok=True)
        (ours / finished.name / "theirs").touch()
        return whole(*arguments)

    monkeypatch.setattr(scenes, "render", overtaken)
    assert len(build("mini-koniq", 2, 0, ours)) == 2
    assert [f.name for f in ours.iterdir()] == [finished.name]
    assert (ours / finished.name / "theirs").exists()


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_below_one_is_refused(tmp_path, count):
    with pytest.raises(ValueError, match=f"mini-ava: count must be at least 1, got {count}"):
        build("mini-ava", count, 0, tmp_path)
    assert not list(tmp_path.iterdir())


def test_build_refuses_an_unknown_domain(tmp_path):
    with pytest.raises(ValueError, match="unknown mini domain 'ava'"):
        build("ava", 2, 0, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_version_changes_with_the_pictures(monkeypatch):
    before = mini.world_version()
    monkeypatch.setattr(scenes, "MARGIN", 0.17)
    assert mini.world_version.__wrapped__() != before


@pytest.mark.parametrize(
    "module, name, value",
    [
        (scenes, "composition", lambda scene: 5),
        (scenes, "reasons", lambda scene: {"composition_reason": "it is good"}),
        (mini, "hidden_quality", lambda scene, taste: scene.contrast),
    ],
)
def test_the_version_changes_with_scores_and_labels(module, name, value, monkeypatch):
    monkeypatch.setattr(scenes, "render", lambda *_: BLANK)
    before = mini.world_version.__wrapped__()
    assert mini.world_version.__wrapped__() == before
    monkeypatch.setattr(module, name, value)
    assert mini.world_version.__wrapped__() != before


def test_the_version_sees_every_subject_background_and_tier(monkeypatch):
    seen = []
    monkeypatch.setattr(scenes, "render", lambda scene, *_: seen.append(scene) or BLANK)
    mini.world_version.__wrapped__()
    assert {s.subject for s in seen} == set(subjects.ASPECT)
    assert {s.background for s in seen} == set(subjects.SURFACES)
    for name in taxonomy.SCORED[2:]:
        tiers = set(range(len(taxonomy.BY_NAME[name].tiers)))
        assert {getattr(s, name) for s in seen} == tiers


def test_another_version_is_drawn_anew(tmp_path, monkeypatch):
    first = build("mini-ava", 1, 0, tmp_path).frame["path"][0]
    monkeypatch.setattr(mini, "world_version", lambda: "00000000")
    assert build("mini-ava", 1, 0, tmp_path).frame["path"][0] != first
