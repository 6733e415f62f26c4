"""Generated photographs: what a tier does to the pixels, measured on the pixels."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from realqa_utils.datasets import scenes, subjects
from realqa_utils.datasets.scenes import Look, Scene, draw_scene, render
from realqa_utils.forms import taxonomy

QUIET = Look(noise=0.0)  # no sensor noise: equal scenes have equal pixels
PLAIN = Scene(
    seed=11,
    kind="hotel",
    subject="a wardrobe",  # fills its box from side to side
    background="a plain wall",
    subject_integrity=2,
    subject_clutter=2,
    background_clutter=2,
    level_shot=1,
    image_clarity=2,
    exposure=2,
    saturation=1,
    placement=0.0,
    size=0.6,
    contrast=1.0,
    side=1,
    within=0.0,  # the sharpest of the clear photographs: not blurred at all
)
SCENES = [draw_scene(np.random.default_rng([5, i])) for i in range(6)]
CLEAN = [
    replace(
        scene,
        **{n: len(taxonomy.BY_NAME[n].tiers) - 1 for n in taxonomy.SCORED[2:7]},
        exposure=2,
        saturation=1,
        within=0.0,
    )
    for scene in SCENES
]  # the same pictures without any defect


def pixels(scene: Scene, look: Look = QUIET) -> np.ndarray:
    return np.asarray(render(scene, look), float)


def luminance(image: np.ndarray) -> np.ndarray:
    return image @ np.array([0.299, 0.587, 0.114])


def sharpness(image: np.ndarray) -> float:
    return float(ndimage.laplace(luminance(image)).var())


def chroma(image: np.ndarray) -> float:
    return float(np.ptp(image, axis=-1).mean())


def changed(scene: Scene, **fields_: object) -> np.ndarray:
    """Pixels (112, 112) that differ once fields of a scene are replaced."""
    return (pixels(scene) != pixels(replace(scene, **fields_))).any(-1)


def subject_mask(scene: Scene) -> np.ndarray:
    """Where the subject is seen: the pixels that its contrast changes."""
    return changed(replace(scene, contrast=1.0), contrast=0.0)


# --- drawing a scene ---------------------------------------------------------------------------


def test_drawing_follows_from_the_generator():
    again = [draw_scene(np.random.default_rng([5, i])) for i in range(6)]
    assert again == SCENES
    assert len({scene.seed for scene in SCENES}) == 6


def test_drawn_values_are_in_range():
    rng = np.random.default_rng(0)
    for scene in (draw_scene(rng) for _ in range(300)):
        assert scene.subject in subjects.PAINTERS[scene.kind]
        assert scene.background in scenes.BACKGROUNDS[scene.kind]
        assert -0.3 <= scene.placement <= 0.3 and 0.34 <= scene.size <= 0.66
        assert 0 <= scene.contrast <= 1 and 0 <= scene.within <= 1 and scene.side in (-1, 1)
        assert scenes.eye_catching(scene) in range(1, 11)
        assert scenes.composition(scene) in range(1, 11)


def test_tiers_occur_as_often_as_they_should():
    rng = np.random.default_rng(1)
    drawn = [draw_scene(rng, {"image_clarity": (0.1, 0.2, 0.7)}) for _ in range(1500)]
    expected = scenes.DEFAULT_TIERS | {"image_clarity": (0.1, 0.2, 0.7)}
    for name, chances in expected.items():
        counts = Counter(getattr(scene, name) for scene in drawn)
        shares = [counts[i] / 1500 for i in range(len(chances))]
        assert shares == pytest.approx(chances, abs=0.052)  # 4 sd of a share of one half


def test_every_tier_of_the_taxonomy_has_a_chance_and_a_meaning():
    physical = {
        "level_shot": scenes.TILT_DEGREES,
        "subject_integrity": scenes.CUT_SHARE,
        "subject_clutter": scenes.SUBJECT_ITEMS,
        "background_clutter": scenes.BACKGROUND_ITEMS,
        "image_clarity": scenes.BLUR_SIGMA,
        "exposure": scenes.EXPOSURE_EV,
        "saturation": scenes.SATURATION,
    }
    assert set(physical) == set(scenes.DEFAULT_TIERS) == set(taxonomy.SCORED[2:])
    for name, ranges in physical.items():
        tiers = len(taxonomy.BY_NAME[name].tiers)
        assert len(ranges) == len(scenes.DEFAULT_TIERS[name]) == tiers
        assert sum(scenes.DEFAULT_TIERS[name]) == pytest.approx(1)
        bounds = sorted(ranges)  # no physical value belongs to two tiers
        assert all(a[1] < b[0] for a, b in zip(bounds, bounds[1:], strict=False))


# --- the two scores ----------------------------------------------------------------------------


def test_eye_catching_by_hand():
    plain = replace(PLAIN, contrast=0.0, saturation=0, size=0.36)
    assert scenes.eye_catching(plain) == 1
    assert scenes.eye_catching(replace(plain, contrast=0.5)) == 3  # 1 + 2.9
    assert scenes.eye_catching(replace(plain, contrast=1.0, saturation=2, size=0.66)) == 10


def test_composition_by_hand():
    best = replace(PLAIN, placement=0.14)
    assert scenes.composition(best) == 10  # 9.6
    assert scenes.composition(replace(best, placement=-0.14)) == 10
    assert scenes.composition(replace(best, placement=0.0)) == 6  # 9.6 - 4.2 * 0.875 = 5.925
    assert scenes.composition(replace(best, level_shot=0)) == 8
    # 0.42 wide, kept 0.03 inside: at most 0.26 off the middle, 9.6 - 4.2 * 0.75 = 6.45
    assert scenes.composition(replace(best, placement=0.3)) == 6
    assert scenes.composition(replace(best, subject_integrity=1)) == 3  # 9.6 - 4.2 * 1.2 - 1.6
    assert scenes.composition(replace(best, subject_integrity=0)) == 1  # 9.6 - 4.2 * 1.2 - 3.2


def test_composition_of_a_cut_subject_ignores_where_it_would_have_stood():
    cut = replace(PLAIN, subject_integrity=1)
    scores = {scenes.composition(replace(cut, placement=p)) for p in (-0.3, 0.0, 0.14)}
    assert len(scores) == 1


# --- the reasons for the two scores ------------------------------------------------------------


@pytest.mark.parametrize(
    "contrast, saturation, size, reason",
    [
        (1.00, 1, 0.60, "it stands out, in moderate colours, and is large"),
        (0.67, 2, 0.57, "it stands out, in vivid colours, and is large"),
        (0.66, 0, 0.55, "it shows, in dull colours, and is of medium size"),
        (0.34, 1, 0.47, "it shows, in moderate colours, and is of medium size"),
        (0.33, 2, 0.45, "it blends in, in vivid colours, and is small"),
        (0.00, 0, 0.36, "it blends in, in dull colours, and is small"),
    ],
)
def test_the_reason_for_eye_catching_by_hand(contrast, saturation, size, reason):
    """Contrast in thirds, saturation by its tier, size in steps of 0.1 from 0.36."""
    scene = replace(PLAIN, contrast=contrast, saturation=saturation, size=size)
    assert scenes.reasons(scene)["eye_catching_reason"] == reason


@pytest.mark.parametrize(
    "fields_, reason",
    [
        ({"placement": 0.14}, "it is well placed, whole, and level"),
        ({"placement": -0.14, "level_shot": 0}, "it is well placed, whole, and tilted"),
        ({"placement": 0.2}, "it is well placed, whole, and level"),  # 0.06 / 0.16 = 0.375
        ({"placement": 0.21}, "it is a little off, whole, and level"),  # 0.4375
        ({"placement": -0.08}, "it is well placed, whole, and level"),  # 0.375
        ({"placement": -0.03}, "it is a little off, whole, and level"),  # 0.6875
        ({"placement": 0.0}, "it is far off, whole, and level"),  # 0.875
        ({"placement": 0.3}, "it is a little off, whole, and level"),  # kept inside: 0.26, 0.75
        ({"size": 0.4, "placement": 0.3}, "it is far off, whole, and level"),  # 0.28 wide: 1.0
        ({"subject_integrity": 1}, "it is far off, slightly cut off, and level"),
        ({"subject_integrity": 0, "level_shot": 0}, "it is far off, mostly cut off, and tilted"),
    ],
)
def test_the_reason_for_composition_by_hand(fields_, reason):
    """How far the middle of the subject is from a third of the width; cut or not; the horizon."""
    assert scenes.reasons(replace(PLAIN, **fields_))["composition_reason"] == reason


def test_reasons_bound_the_scores():
    """A reason is no decoration: what it says leaves little room for the score."""
    rng, bounds, seen = np.random.default_rng(7), {}, Counter()
    bounds["it is well placed, whole, and level"] = (8, 10)  # 9.6 - 4.2 * 0.4 = 7.92
    bounds["it is a little off, whole, and level"] = (6, 8)  # 9.6 - 4.2 * 0.8 = 6.24
    bounds["it is far off, whole, and level"] = (5, 6)  # 9.6 - 4.2 * 1.2 = 4.56
    bounds["it is far off, mostly cut off, and tilted"] = (1, 1)
    bounds["it stands out, in vivid colours, and is large"] = (8, 10)  # 10 * 0.74
    bounds["it blends in, in dull colours, and is small"] = (1, 3)  # 10 * 0.26
    for scene in (draw_scene(rng) for _ in range(1500)):
        why = scenes.reasons(scene)
        for name in ("eye_catching", "composition"):
            low, high = bounds.get(why[f"{name}_reason"], (1, 10))
            assert low <= getattr(scenes, name)(scene) <= high
            seen[why[f"{name}_reason"]] += 1
    assert all(seen[reason] > 5 for reason in bounds)


# --- rendering ---------------------------------------------------------------------------------


@pytest.mark.parametrize("look", [Look(), Look(noise=0.03, jpeg=50, motion=0.6, warmth=-0.3)])
def test_the_same_scene_gives_the_same_pixels(look):
    for scene in SCENES[:3]:
        assert render(scene, look).tobytes() == render(scene, look).tobytes()


def test_another_seed_gives_another_picture_of_the_same_thing():
    difference = np.abs(pixels(PLAIN) - pixels(replace(PLAIN, seed=12)))
    assert (difference > 0).mean() > 0.9  # texture and colours
    assert difference.mean() < 40  # but no other subject: two subjects differ by more
    assert difference.mean() < np.abs(pixels(PLAIN) - pixels(CLEAN[0])).mean()


@pytest.mark.parametrize("size", [56, 112, 224])
def test_size_changes_the_resolution_only(size):
    image = render(PLAIN, QUIET, size)
    assert image.size == (size, size) and image.mode == "RGB"
    coarse, reference = (
        np.asarray(i.resize((14, 14), Image.Resampling.BOX), float)
        for i in (image, render(PLAIN, QUIET, 112))
    )
    edges = [luminance(c) for c in (coarse, reference)]
    assert np.corrcoef(edges[0].ravel(), edges[1].ravel())[0, 1] > 0.9


@pytest.mark.parametrize("kind", scenes.KINDS)
def test_every_subject_and_background_can_be_painted(kind):
    plain = replace(PLAIN, kind=kind, background=scenes.BACKGROUNDS[kind][0])
    views = [pixels(replace(plain, subject=s)) for s in subjects.PAINTERS[kind]]
    plain = replace(plain, subject=list(subjects.PAINTERS[kind])[0], contrast=0.0)
    views += [pixels(replace(plain, background=b)) for b in scenes.BACKGROUNDS[kind]]
    assert all(np.abs(a - b).mean() > 1 for i, a in enumerate(views) for b in views[:i])


@pytest.mark.parametrize("look", [Look(), Look(noise=0.035, jpeg=50, motion=0.6)])
def test_sharpness_rises_with_clarity(look):
    for scene in SCENES:
        clear = [sharpness(pixels(replace(scene, image_clarity=t), look)) for t in range(3)]
        assert clear[0] < clear[1] < clear[2]


def test_luminance_rises_with_exposure():
    for scene in SCENES:
        light = [luminance(pixels(replace(scene, exposure=t))).mean() for t in range(5)]
        assert np.diff(light).min() > 3  # grey levels


def test_chroma_rises_with_saturation_and_luminance_stays():
    for scene in SCENES:
        images = [pixels(replace(scene, saturation=t)) for t in range(3)]
        colour = [chroma(image) for image in images]
        assert 2 * colour[0] < colour[1] < colour[2] / 1.2
        light = [luminance(image).mean() for image in images]
        assert np.ptp(light) < 3  # clipping of vivid colours and rounding


def test_within_stays_inside_a_tier():
    """The best of a tier is still worse than the worst of the next."""
    for scene in SCENES[:5]:
        blur = [
            sharpness(pixels(replace(scene, image_clarity=t, within=w)))
            for t, w in ((0, 0.0), (1, 1.0), (1, 0.0), (2, 1.0))
        ]
        assert blur == sorted(blur) and len(set(blur)) == 4


def test_contrast_makes_the_subject_stand_out():
    for scene in CLEAN:
        mask = subject_mask(scene)
        faint, strong = (pixels(replace(scene, contrast=c)) for c in (0.0, 1.0))
        empty = pixels(replace(scene, contrast=-2 / 3))  # weight 0.4 + 0.6 c = 0: not there
        assert np.abs(faint - empty)[mask].mean() < 0.5 * np.abs(strong - empty)[mask].mean()
        np.testing.assert_array_equal(strong[~mask], empty[~mask])


# --- one field changes one thing ---------------------------------------------------------------

#: Rows (of 112) above which no background clutter stands: its highest foot less its height.
SKY = {"attraction": 0.68 - 0.12, "restaurant": 0.36 - 0.12, "hotel": 0.7 - 0.12}


@pytest.mark.parametrize("tier", [0, 1])
def test_background_clutter_stands_on_the_ground_and_spares_the_rest(tier):
    for scene in CLEAN:
        touched = changed(scene, background_clutter=tier)
        assert 0.003 < touched.mean() < 0.2
        assert not touched[: int(SKY[scene.kind] * 112)].any()


@pytest.mark.parametrize("tier", [0, 1])
def test_subject_clutter_stays_on_the_subject(tier):
    reach = 8  # pixels: the largest piece has a radius of 0.055 of the frame, and its outline
    for scene in CLEAN:
        touched = changed(scene, subject_clutter=tier)
        rows, columns = (np.flatnonzero(subject_mask(scene).any(a)) for a in (1, 0))
        own = np.zeros_like(touched)
        own[max(0, rows[0] - reach) : rows[-1] + reach, max(0, columns[0] - reach) :] = True
        own[:, columns[-1] + reach :] = False
        assert 0.003 < touched.mean() < 0.2
        assert not touched[~own].any()


@pytest.mark.parametrize("name", ["background_clutter", "subject_clutter"])
def test_a_worse_tier_adds_things_to_those_that_are_there(name):
    for scene in CLEAN[:5]:
        some, many = (changed(scene, **{name: tier}) for tier in (1, 0))
        assert many.sum() > 1.4 * some.sum()
        assert not (some & ~many).any()


def test_defects_of_the_camera_leave_the_scene_in_place():
    """Blur, exposure and colour are mild enough for a coarse copy to stay the same picture."""
    for scene in CLEAN[:5]:
        sharp = luminance(pixels(scene))
        for field, worst in (("image_clarity", 0), ("exposure", 0), ("saturation", 0)):
            other = luminance(pixels(replace(scene, **{field: worst})))
            assert np.corrcoef(sharp.ravel(), other.ravel())[0, 1] > 0.75


@pytest.mark.parametrize("field", ["exposure", "saturation"])
def test_point_operations_act_on_each_pixel_alone(field):
    """Two scenes that differ in one corner only still do so after exposure and colour."""
    twin = replace(PLAIN, subject_clutter=1)
    same = (pixels(PLAIN) == pixels(twin)).all(-1)
    for tier in range(len(taxonomy.BY_NAME[field].tiers)):
        a, b = (pixels(replace(s, **{field: tier})) for s in (PLAIN, twin))
        np.testing.assert_array_equal(a[same], b[same])


def test_fields_that_a_whole_level_photograph_does_not_use_change_nothing():
    assert not changed(PLAIN, side=-1).any()


# --- tilt --------------------------------------------------------------------------------------


def turn_between(level: np.ndarray, tilted: np.ndarray) -> int:
    """The whole number of degrees by which `level` must be turned to match best."""
    rows, columns = np.mgrid[:112, :112]
    disc = np.hypot(rows - 55.5, columns - 55.5) < 50

    def match(degrees: int) -> float:
        turned = Image.fromarray(level.astype(np.float32)).rotate(degrees, Image.Resampling.BICUBIC)
        return float(np.corrcoef(np.asarray(turned)[disc], tilted[disc])[0, 1])

    return max(range(-16, 17), key=match)


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("within, degrees", [(0.0, 7), (1.0, 14)])
def test_a_tilted_photograph_is_the_level_one_turned(side, within, degrees):
    scene = replace(PLAIN, within=within, side=side)
    level, tilted = (luminance(pixels(replace(scene, level_shot=t))) for t in (1, 0))
    assert turn_between(level, tilted) == pytest.approx(side * degrees, abs=0.5)


def test_a_tilt_leaves_no_black_corners():
    for scene in CLEAN:
        tilted = luminance(pixels(replace(scene, level_shot=0, within=1.0, contrast=-2 / 3)))
        for y in (0, -1):
            for x in (0, -1):
                assert tilted[y, x] > 20


# --- cut subjects ------------------------------------------------------------------------------


def test_a_whole_subject_keeps_clear_of_the_sides():
    for scene in CLEAN:
        for placement in (-0.3, 0.3):
            columns = subject_mask(replace(scene, placement=placement)).any(0)
            assert not columns[[0, -1]].any()


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("tier", [0, 1])
def test_a_cut_subject_leaves_the_frame_by_its_side(tier, side):
    for scene in CLEAN:
        cut = subject_mask(replace(scene, subject_integrity=tier, side=side))
        border, opposite = cut[:, -1 if side > 0 else 0], cut[:, 0 if side > 0 else -1]
        assert border.any() and not opposite.any()
        assert cut.sum() < 0.97 * subject_mask(scene).sum()


@pytest.mark.parametrize("within", [0.0, 1.0])
@pytest.mark.parametrize("tier", [0, 1])
def test_the_share_of_a_cut_subject_is_that_of_its_tier(tier, within):
    scene = replace(PLAIN, within=within, image_clarity=2)
    whole, cut = (subject_mask(replace(scene, subject_integrity=t)).any(0).sum() for t in (2, tier))
    # The wardrobe is as wide as its box, and 0.04 of its width stands out on either side.
    box = whole / 1.08
    outside = 1 - (cut - 0.04 * box) / box
    assert outside == pytest.approx(scenes.CUT_SHARE[tier][int(within)], abs=1.5 / box)


# --- looks -------------------------------------------------------------------------------------


def test_looks_do_what_they_say():
    plain = pixels(PLAIN)
    red, _, blue = (pixels(PLAIN, Look(noise=0.0, warmth=1.0)) - plain).mean((0, 1))
    assert red > 5 > -5 > blue
    assert pixels(PLAIN, Look(noise=0.0, haze=1.0)).min() > plain.min() + 30
    noisy = pixels(PLAIN, Look(noise=0.03)) - plain
    middle = (plain > 40).all(-1) & (plain < 215).all(-1)  # where nothing is clipped
    assert noisy[middle].std() == pytest.approx(0.03 * 255, rel=0.05)
    assert noisy[middle].mean() == pytest.approx(0, abs=0.5)
    smooth = pixels(PLAIN, Look(noise=0.0, texture=0.0))
    assert sharpness(smooth) < sharpness(plain)


def test_compression_blocks_the_picture_and_keeps_it():
    compressed = np.abs(pixels(PLAIN, Look(noise=0.0, jpeg=40)) - pixels(PLAIN))
    assert 0.5 < compressed.mean() < 10


def test_camera_shake_blurs_along_the_rows_only():
    scene = replace(PLAIN, image_clarity=0, background="a striped wall")
    still, shaken = (luminance(pixels(scene, Look(noise=0.0, motion=m))) for m in (0.0, 1.0))
    rows, columns = (
        [np.diff(image, axis=axis).var() for image in (still, shaken)] for axis in (0, 1)
    )
    assert rows[1] > rows[0] and columns[1] < columns[0]


@given(st.sampled_from(SCENES), st.floats(0, 1))
def test_scores_depend_on_nothing_incidental(scene, within):
    other = replace(scene, seed=0, side=-scene.side, within=within, image_clarity=0, exposure=0)
    assert scenes.eye_catching(other) == scenes.eye_catching(scene)
    assert scenes.composition(other) == scenes.composition(scene)
    assert scenes.reasons(other) == scenes.reasons(scene)
