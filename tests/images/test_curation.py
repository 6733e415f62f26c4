"""Which photos are dropped, and why: on hand-made pictures, drawn defects and real photographs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from realqa_utils.datasets import mini
from realqa_utils.experiments.defects import accuracy, with_defects
from realqa_utils.images import curation
from realqa_utils.images.curation import COLUMNS, REASONS, curate, report, seam_strength
from realqa_utils.records.results import write_table

CHECKS = list(REASONS)


def photo(index: int) -> Image.Image:
    return mini.photograph("mini-koniq", 3, index)


def save(folder: Path, **images: Image.Image) -> list[str]:
    """Write pictures as PNG; their paths in the order given."""
    for name, image in images.items():
        image.save(folder / f"{name}.png")
    return [str(folder / f"{name}.png") for name in images]


def picture(grey: np.ndarray) -> Image.Image:
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


@pytest.fixture(autouse=True)
def no_tesseract(monkeypatch, tmp_path_factory):
    """A computer without the program, whatever is installed on this one."""
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A collection with drawn defects, its truth and the verdicts."""
    folder = tmp_path_factory.mktemp("drawn")
    truth = with_defects(folder, seed=1, photos=40, each=12)
    return folder, truth, curate(folder, workers=1)


# --- the whole batch -----------------------------------------------------------------------------


def test_drawn_defects_are_found_and_nothing_else(drawn):
    _, truth, frame = drawn
    rates = accuracy(frame, truth).set_index(["defect", "metric"])["estimate"].unstack()
    assert (rates.loc["unreadable"] == 1).all()
    assert (rates.loc[["near_duplicate", "stitched"]] >= 0.9).all(axis=None)
    assert rates.loc["text_overlay"].isna().all()


def test_a_near_duplicate_names_the_photo_that_it_was_made_from(drawn):
    _, truth, frame = drawn
    found = frame["reason"].str.extract("^near-duplicate of (.*)$")[0]
    both = found.notna() & (truth["defect"] == "near_duplicate")
    assert both.sum() >= 10
    assert found[both].tolist() == truth["original"][both].tolist()


def test_rows_and_columns_are_the_same_whatever_is_wrong_with_a_photo(drawn):
    _, truth, frame = drawn
    assert tuple(frame.columns) == COLUMNS
    assert frame["path"].tolist() == truth["path"].tolist()
    assert frame[CHECKS].isin(["passed", "failed", "not checked"]).all(axis=None)
    assert (frame["kept"] == (frame["reason"] == "")).all()
    assert (frame["kept"] == ~(frame[CHECKS] == "failed").any(axis=1)).all()
    first = curate(frame["path"][:20])
    pd.testing.assert_frame_equal(frame[:20], first)


def test_the_frame_survives_a_csv_file(drawn, tmp_path):
    frame = drawn[2]
    back = pd.read_csv(write_table(tmp_path / "a.csv", frame), keep_default_na=False)
    assert back["reason"].tolist() == frame["reason"].tolist()
    assert back["text_overlay"].tolist() == frame["text_overlay"].tolist()


def test_bad_files_are_rows_and_the_batch_goes_on(tmp_path):
    good = save(tmp_path, a=photo(0), b=photo(1))
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("no photo")
    cut = tmp_path / "cut.png"
    cut.write_bytes(Path(good[0]).read_bytes()[:3000])
    paths = [good[1], tmp_path / "empty.jpg", "gone.jpg", tmp_path / "text.png", cut, tmp_path]
    frame = curate([*paths, good[0]])
    assert frame["path"].tolist() == [*map(str, paths), good[0]]
    assert frame["kept"].tolist() == [True, *[False] * 5, True]
    bad = frame[1:6]
    assert bad["reason"].str.startswith("unreadable: ").all()
    assert bad["reason"].iloc[0] == "unreadable: the file is empty; copy or download it again"
    assert (bad[["stitched", "text_overlay", "near_duplicate"]] == "not checked").all(axis=None)
    assert bad[["seam_strength", "words", "hash_distance"]].isna().all(axis=None)


@given(content=st.binary(max_size=200), suffix=st.sampled_from(["jpg", "png", "gif"]))
@settings(max_examples=20)
def test_any_bytes_give_one_row(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("bytes") / f"a.{suffix}"
    path.write_bytes(content)
    assert curate([path])["unreadable"].tolist() == ["failed"]


def test_no_photos_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="empty list"):
        curate([])
    with pytest.raises(ValueError, match="no photos"):
        curate(tmp_path)


# --- near-duplicates -----------------------------------------------------------------------------


def test_hash_distances_are_those_of_the_library(tmp_path):
    images = [photo(index) for index in range(4)]
    bits = [curation.hash_bits(image) for image in images]
    hashes = [imagehash.phash(image) for image in images]
    for i, j in [(0, 1), (1, 2), (0, 3)]:
        assert np.bitwise_count(bits[i] ^ bits[j]) == hashes[i] - hashes[j] > 0
    frame = curate(save(tmp_path, a=images[0], b=images[1]))
    assert frame["hash_distance"].isna().tolist() == [True, False]
    assert frame["hash_distance"][1] == hashes[0] - hashes[1]


def test_the_first_of_equal_photos_is_kept(tmp_path):
    a, b, again, third = save(tmp_path, z=photo(0), b=photo(1), a=photo(0), c=photo(0))
    frame = curate([a, b, again, third])
    assert frame["reason"].tolist() == [
        "", "", f"near-duplicate of {a}", f"near-duplicate of {a}"
    ]  # fmt: skip
    assert frame["hash_distance"][[2, 3]].tolist() == [0, 0]


def test_a_chain_of_copies_is_compared_with_kept_photos_only(tmp_path, monkeypatch):
    """0, 6 and 12 bits from the first: the third resembles only the second, which is dropped."""
    bits = iter([np.uint64(0), np.uint64(2**6 - 1), np.uint64(2**12 - 1)])
    monkeypatch.setattr(curation, "hash_bits", lambda image: next(bits))
    frame = curate(save(tmp_path, a=photo(0), b=photo(1), c=photo(2)))
    assert frame["near_duplicate"].tolist() == ["passed", "failed", "passed"]
    assert frame["hash_distance"].tolist()[1:] == [6, 12]


@pytest.mark.parametrize(("apart", "verdict"), [(10, "failed"), (11, "passed")])
def test_the_largest_distance_between_near_duplicates(tmp_path, monkeypatch, apart, verdict):
    bits = iter([np.uint64(0), np.uint64(2**apart - 1)])
    monkeypatch.setattr(curation, "hash_bits", lambda image: next(bits))
    frame = curate(save(tmp_path, a=photo(0), b=photo(1)))
    assert frame["near_duplicate"][1] == verdict


def test_a_dropped_photo_does_not_stand_for_its_copy(tmp_path, monkeypatch):
    strength = iter([5.0, 0.0])
    monkeypatch.setattr(curation, "seam_strength", lambda image: next(strength))
    frame = curate(save(tmp_path, a=photo(0), b=photo(0)))
    assert frame["reason"].tolist() == ["stitched", ""]


def test_flat_pictures_are_not_called_duplicates(tmp_path):
    frame = curate(save(tmp_path, a=Image.new("RGB", (64, 64)), b=Image.new("RGB", (64, 64))))
    assert frame["near_duplicate"].tolist() == ["not checked"] * 2
    assert frame["note"].str.contains("flat").all()
    assert frame["kept"].all()


# --- stitched images -----------------------------------------------------------------------------


def halves(at: int) -> np.ndarray:
    """64 x 64 of grey 100 above and 140 below row `at`."""
    return np.where(np.arange(64)[:, None] < at, 100.0, 140.0) * np.ones((1, 64))


def test_strength_of_a_bare_step_is_its_height_over_four():
    assert seam_strength(picture(halves(32))) == 10  # 40 grey levels, nothing beside them
    assert seam_strength(picture(halves(32).T)) == 10


def test_a_horizon_counts_in_the_middle_only_but_an_upright_line_anywhere():
    assert seam_strength(picture(halves(20))) == 0
    assert seam_strength(picture(halves(20).T)) == 10
    assert seam_strength(picture(halves(3).T)) == 0  # too near to the edge for a picture


def test_three_pictures_need_both_their_seams():
    rows = np.repeat([100, 140, 110], 30)[:, None] * np.ones((1, 64))
    assert seam_strength(picture(rows)) == 7.5  # the weaker: 30 grey levels
    assert seam_strength(picture(np.where(rows == 110, 140, rows))) == 0


def test_a_bar_between_unequal_pictures_needs_two_edges():
    striped = np.tile(np.repeat([60, 140], 2), (64, 16)).astype(float)
    assert seam_strength(picture(striped)) < 1
    bar = striped.copy()
    bar[20:24] = 200
    assert seam_strength(picture(bar)) == 25  # the mean of 140 and 60, over 4
    bar[24:] = 200  # a white sea has only one edge
    assert seam_strength(picture(bar)) < 1


@pytest.mark.parametrize(("width", "strength"), [(4, 10), (8, 0)])
def test_a_subject_across_the_line_makes_it_no_seam(width, strength):
    grey = halves(32)
    grey[16:, 8 : 8 + width] = 90
    assert seam_strength(picture(grey)) == pytest.approx(strength, abs=0.5)


def test_a_frame_is_cut_off_first():
    pair = Image.new("RGB", (2 * 112, 112))
    pair.paste(photo(0), (0, 0))
    pair.paste(photo(1), (112, 0))
    framed = Image.new("RGB", (224 + 20, 112 + 20), "white")
    framed.paste(pair, (10, 10))
    assert seam_strength(pair) > curation.SEAM_STRENGTH
    assert seam_strength(framed) == pytest.approx(seam_strength(pair))


def test_large_photos_are_reduced_and_keep_their_seams():
    parts = [photo(index).resize((1501, 1501)) for index in range(2)]
    pair = Image.new("RGB", (3002, 1501))
    for k, part in enumerate(parts):
        pair.paste(part, (1501 * k, 0))
    assert seam_strength(pair) > curation.SEAM_STRENGTH
    assert seam_strength(parts[0]) < curation.SEAM_STRENGTH


@given(pixels=arrays(np.uint8, (48, 64, 3)))
@settings(max_examples=30)
def test_a_mirrored_picture_has_the_same_seams(pixels):
    strength = seam_strength(Image.fromarray(pixels))
    assert strength >= 0
    for mirrored in (pixels[::-1], pixels[:, ::-1]):
        assert seam_strength(Image.fromarray(mirrored)) == pytest.approx(strength)


@given(size=st.tuples(st.integers(1, 70), st.integers(1, 70)))
@settings(max_examples=30)
def test_any_size_has_a_strength_or_none(size):
    strength = seam_strength(Image.linear_gradient("L").convert("RGB").resize(size))
    assert (strength is None) == (min(size) < 32)


@pytest.mark.parametrize("size", [(31, 200), (5000, 40)])
def test_pictures_too_small_for_seams_are_not_checked(tmp_path, size):
    frame = curate(save(tmp_path, a=photo(0).resize(size)))
    assert frame["stitched"].tolist() == ["not checked"]
    assert "under 32 pixels" in frame["note"][0]


# --- text ----------------------------------------------------------------------------------------

HEADER = "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight"
SEEN = {"SAMPLE": 96.5, "photo": 70, "ab": 99, "!?--": 99, "blurred": 69, "": -1}


@pytest.fixture
def tesseract(tmp_path, monkeypatch):
    """Puts a program on the path that answers as Tesseract does; call it with what it reads."""
    pytest.importorskip("pytesseract")

    def install(words: dict[str, float], end: str = "exit 0") -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        lines = [f"5\t1\t1\t1\t1\t1\t0\t0\t9\t9\t{sure}\t{word}" for word, sure in words.items()]
        (folder / "answer").write_text("\n".join([f"{HEADER}\tconf\ttext", *lines]) + "\n")
        program = folder / "tesseract"
        program.write_text(
            '#!/bin/sh\n[ "$1" = --version ] && echo "tesseract 5.3.0" && exit 0\n'
            f'/bin/cat "{folder}/answer" > "$2.tsv"\n{end}\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return install


def test_words_are_counted_that_are_long_and_sure_enough(tmp_path, tesseract):
    tesseract(SEEN)
    frame = curate(save(tmp_path, a=photo(0)))
    assert frame["words"].tolist() == [2]  # SAMPLE and photo
    assert frame["text_overlay"].tolist() == ["failed"]
    assert frame["reason"].tolist() == ["text overlay"]
    assert report(frame).set_index("reason")["check"]["text overlay"] == "done"


@pytest.mark.parametrize("words", [{"ab": 99, "": -1}, {}])
def test_without_words_the_text_check_is_passed(tmp_path, tesseract, words):
    tesseract(words)
    frame = curate(save(tmp_path, a=photo(0)))
    assert (frame["text_overlay"][0], frame["words"][0], frame["note"][0]) == ("passed", 0, "")


def test_a_failing_program_is_noted_and_the_photo_is_not_passed(tmp_path, tesseract):
    tesseract({}, "echo 'Error opening data file eng.traineddata' >&2; exit 1")
    frame = curate(save(tmp_path, a=photo(0)))
    assert frame["text_overlay"].tolist() == ["not checked"]
    assert "eng.traineddata" in frame["note"][0]
    assert frame["kept"].all()


def test_a_slow_program_is_stopped(tmp_path, tesseract, monkeypatch):
    monkeypatch.setattr(curation, "OCR_SECONDS", 0.1)
    tesseract({}, "exec /bin/sleep 5")
    frame = curate(save(tmp_path, a=photo(0)))
    assert frame["text_overlay"].tolist() == ["not checked"]
    assert "timeout" in frame["note"][0]


@pytest.mark.parametrize("package", [True, False])
def test_without_package_or_program_text_is_not_checked(tmp_path, monkeypatch, package):
    if package:
        pytest.importorskip("pytesseract")
    else:
        monkeypatch.setitem(sys.modules, "pytesseract", None)  # its import now fails
    frame = curate(save(tmp_path, a=photo(0), b=photo(1)))
    assert frame["text_overlay"].tolist() == ["not checked"] * 2
    missing = "program tesseract" if package else "package pytesseract"
    assert frame["note"].str.contains(missing).all()
    row = report(frame).set_index("reason").loc["text overlay"]
    assert row["check"] == "not checked"
    assert row[["photos", "share"]].isna().all()


# --- reports and rates ---------------------------------------------------------------------------


def test_the_report_counts_every_photo_once(drawn):
    frame = drawn[2]
    table = report(frame)
    assert table["reason"].tolist() == ["kept", *REASONS.values()]
    assert table["photos"].sum() == len(frame)
    assert table["share"].sum() == pytest.approx(1)
    assert table.set_index("reason")["photos"]["unreadable"] == 12


def test_the_report_says_for_how_many_photos_a_check_was_left_out(tmp_path):
    paths = save(tmp_path, a=photo(0), b=photo(1).resize((20, 20)), c=photo(2))
    table = report(curate([*paths, "gone.jpg"])).set_index("reason")
    assert table["check"]["stitched"] == "not checked for 1 of 3 photos"
    assert table["photos"]["stitched"] == 0
    assert table["photos"].loc[["kept", "unreadable"]].tolist() == [3, 1]


def verdicts(**columns: str) -> pd.DataFrame:
    """A frame of seven photos; each check is a word of + (failed), - (passed), ? (not checked)."""
    words = {"+": "failed", "-": "passed", "?": "not checked"}
    cells = dict.fromkeys(CHECKS, "-" * 7) | columns
    frame = pd.DataFrame({check: [words[sign] for sign in cells[check]] for check in CHECKS})
    return frame.assign(path=list("abcdefg"))


def test_precision_and_recall_of_a_hand_made_example():
    truth = pd.DataFrame({"path": list("gfedcba"), "defect": ["stitched"] * 4 + [""] * 3})
    frame = verdicts(stitched="++-+-?+", text_overlay="?" * 7)  # a..g; d..g are stitched
    rates = accuracy(frame, truth).set_index(["defect", "metric"])
    precision, recall = rates.loc[("stitched", "precision")], rates.loc[("stitched", "recall")]
    assert (precision["estimate"], precision["n"]) == (0.5, 4)  # d and g of a, b, d, g
    assert (recall["estimate"], recall["n"]) == (pytest.approx(2 / 3), 3)  # f was not checked
    z, p, n = 1.959964, 0.5, 4  # Wilson's interval
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert precision[["low", "high"]].tolist() == pytest.approx([0.5 - half, 0.5 + half])
    assert rates.loc["text_overlay"]["n"].tolist() == [0, 0]
    assert rates.loc["text_overlay"]["estimate"].isna().all()


@pytest.mark.parametrize("paths", ["abcdef", "abcdefgh", "abcdefgg"])
def test_rates_need_the_same_photos_in_both_tables(paths):
    truth = pd.DataFrame({"path": list(paths), "defect": ""})
    with pytest.raises(ValueError, match="[gh]: not in the .*, or twice"):
        accuracy(verdicts(), truth)


# --- drawn defects -------------------------------------------------------------------------------


def test_the_truth_counts_and_names_the_originals(drawn):
    folder, truth, _ = drawn
    assert truth["defect"].value_counts().to_dict() == {"": 40} | dict.fromkeys(CHECKS, 12)
    assert truth["path"].tolist() == sorted(map(str, folder.iterdir()))
    copies = truth[truth["defect"] == "near_duplicate"]
    places = truth.set_index("path").index
    assert (places.get_indexer(copies["original"]) < copies.index).all()
    assert (truth.set_index("path")["defect"][copies["original"]] == "").all()
    assert set(copies["how"]) == {"re-encoded", "cropped", "brightness changed"}
    assert (truth["original"][truth["defect"] != "near_duplicate"] == "").all()


def test_drawn_defects_follow_from_the_seed(tmp_path):
    content = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        truth = with_defects(tmp_path / name, seed, photos=2, each=1)
        content[name] = [Path(path).read_bytes() for path in truth["path"]]
    assert content["a"] == content["b"]
    assert all(a != c for a, c in zip(content["a"], content["c"], strict=True))


def test_text_is_drawn_onto_the_photo(drawn):
    _, truth, frame = drawn
    chosen = truth["defect"] == "text_overlay"
    assert set(truth["how"][chosen]) == {"subtitle", "watermark"}
    for path in truth["path"][chosen]:
        with Image.open(path) as image:
            assert image.size == (448, 448)
            lightest = np.asarray(image.convert("L")).max()
        assert lightest > 100  # white letters, half transparent at the least
    assert (frame["note"][chosen].str.contains("text: ")).all()


def test_more_copies_than_photos_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="3 of each defect for 2 photos"):
        with_defects(tmp_path, 0, photos=2, each=3)
    with pytest.raises(ValueError, match="unknown mini domain"):
        with_defects(tmp_path, 0, domain="mini-flickr")


# --- real photographs ----------------------------------------------------------------------------


@pytest.mark.realdata
def test_real_photographs_are_seldom_called_stitched(real_file):
    """LIVE Challenge has no collages; 246.bmp and 333.bmp are one photo."""
    folder = real_file("livec/ChallengeDB_release/Images")
    names = sorted(os.listdir(folder))
    chosen = [name for name in names if name in ("246.bmp", "333.bmp")]
    chosen += [name for name in names[::8] if name[0].isdigit() and name not in chosen]
    frame = curate([folder / name for name in chosen], workers=2)
    assert len(frame) > 140
    assert (frame["stitched"] == "failed").sum() <= 2
    assert frame["reason"][1] == f"near-duplicate of {folder / '246.bmp'}"
    assert (frame["near_duplicate"] == "failed").sum() <= 4
