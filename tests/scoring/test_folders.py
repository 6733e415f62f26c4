"""Folders of photographs: tables, resumption after a kill, several processes, memory."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import two_processes_folders
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from realqa_utils.forms import taxonomy
from realqa_utils.images.photos import open_photo
from realqa_utils.images.views import View
from realqa_utils.measures import composite
from realqa_utils.records import parts, sharing
from realqa_utils.scoring import (
    calibration,
    contact_sheet,
    digit_tree,
    folder_rows,
    folders,
    form_filling,
)
from realqa_utils.scoring.digit_tree import Reading

torch.set_num_threads(1)
SCRIPT = Path(two_processes_folders.__file__)
SIZES = [(60, 40), (130, 150), (28, 28), (300, 200)]


def photo(path: Path, seed: int, size: tuple[int, int] = (56, 56)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size).save(path)
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Ten photographs of four sizes in three folders, and two files that are none."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(10):
        place = ("", "beach/", "beach/old/")[number % 3]
        photo(root / f"{place}{number}.png", number, SIZES[number % 4])
    (root / "beach" / "empty.jpg").touch()
    (root / "notes.png").write_text("no photograph")
    return root


@pytest.fixture
def album(world, tmp_path) -> Path:
    """A copy of the world that a test may change; times of change stay."""
    return Path(shutil.copytree(world, tmp_path / "album"))


def run(backbone, photos, out, **more) -> folders.Summary:
    options = {"digits": 2, "batch_size": 4, "progress": False} | more
    return folders.score(backbone, photos, out, **options)


def table(out: Path, *without: str) -> pd.DataFrame:
    return pd.read_parquet(out / "scores.parquet").drop(columns=list(without))


def bytes_of(out: Path) -> list[bytes]:
    """The tables and the page, but for the column of seconds."""
    with open(out / "scores.csv", encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    at = header.index("seconds")
    text = "\n".join(repr(line[:at] + line[at + 1 :]) for line in [header, *lines])
    buffer = io.BytesIO()
    table(out, "seconds").to_parquet(buffer)
    return [text.encode(), buffer.getvalue(), (out / "index.html").read_bytes()]


@pytest.fixture
def asked(monkeypatch) -> list[list[str]]:
    """The names of the photographs of every batch that the model is asked about."""
    names: list[list[str]] = []
    plain = folder_rows._opened

    def opened(backbone, batches, asking):
        for photos, looks in plain(backbone, batches, asking):
            names.append([Path(one.path).name for one in photos])
            yield photos, looks

    monkeypatch.setattr(folder_rows, "_opened", opened)
    return names


# --- what is chosen ------------------------------------------------------------------------------


def test_files_and_folders_are_chosen_once_in_the_order_of_their_paths(album, monkeypatch):
    photo(album / ".thumbs" / "a.png", 0)
    photo(album / "beach" / ".b.png", 0)
    monkeypatch.chdir(album)
    chosen = folders.select([album / "beach", album / "0.png", "0.png", album])
    paths = [Path(one.path) for one in chosen]
    names = [str(path.relative_to(album)) if path.is_absolute() else str(path) for path in paths]
    assert sorted(names) == sorted(
        ["0.png", "3.png", "6.png", "9.png", "notes.png", "beach/1.png", "beach/4.png",
         "beach/7.png", "beach/empty.jpg", "beach/old/2.png", "beach/old/5.png", "beach/old/8.png"]
    )  # fmt: skip
    assert paths == sorted(paths)
    assert chosen[-1].size == Path(chosen[-1].path).stat().st_size


def test_nothing_runs_for_a_path_that_does_not_exist_or_no_photograph(tiny_backbone, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run(tiny_backbone, [tmp_path, tmp_path / "nowhere"], out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no photos in"):
        run(tiny_backbone, tmp_path / "empty", out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"digits": 7}, "digits is 7"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"attributes": "low"}, "attributes='low' is no form of all ten; one of mix, cot_natural"),
        ({"attributes": True}, "attributes=True is no form"),
        ({"composite": SimpleNamespace(names=())}, "composite weighs attributes: name the form"),
    ],
)
def test_options_that_cannot_be_are_refused_first(tiny_backbone, world, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(tiny_backbone, world, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


# --- tables --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(tiny_backbone, world, tmp_path_factory) -> tuple[folders.Summary, Path]:
    out = tmp_path_factory.mktemp("out")
    return run(tiny_backbone, world, out), out


def test_the_table_holds_what_the_model_says_of_each_photograph(tiny_backbone, world, scored):
    frame = table(scored[1])
    assert list(frame["path"]) == [one.path for one in folders.select(world)]
    good = frame[frame["problem"] == ""]
    images = [open_photo(path) for path in good["path"]]
    said = digit_tree.as_frame(digit_tree.read(tiny_backbone, images, 2))
    for name in ("expected", "sd", "off_format"):
        np.testing.assert_allclose(good[name], said[name], atol=1e-5)
    np.testing.assert_array_equal(good["score"], good["expected"])
    assert list(good["parsed"].astype(bool)) == list(said["parsed"])
    assert set(good["interval"]) == {"5-95 % of the digits"}
    assert ((good["low"] <= good["score"]) & (good["score"] <= good["high"])).all()
    assert (good["seconds"] > 0).all()
    assert good["expected"].nunique() == 10


def test_photographs_that_cannot_be_read_are_rows_and_are_told(scored, world):
    summary, out = scored
    frame = table(out)
    bad = frame[frame["problem"] != ""]
    assert list(bad["problem"]) == [
        "the file is empty; copy or download it again",
        "not a photo that can be read, or a damaged one; right is a JPEG, PNG, BMP, WEBP, GIF or "
        "TIFF file",
    ]
    assert bad[["score", "low", "high", "expected", "greedy", "sd"]].isna().all(axis=None)
    assert summary.problems == tuple(zip(bad["path"], bad["problem"], strict=True))
    assert summary.problems[0][0] == str(world / "beach" / "empty.jpg")
    assert (summary.photographs, summary.scored_now) == (12, 12)


def test_csv_and_parquet_say_the_same(scored):
    csv = pd.read_csv(scored[1] / "scores.csv", keep_default_na=False, na_values={"score": [""]})
    frame = table(scored[1])
    assert list(csv) == list(frame)
    assert list(csv["path"]) == list(frame["path"]) and list(csv["problem"]) == list(
        frame["problem"]
    )
    np.testing.assert_allclose(csv["score"], frame["score"], rtol=1e-5)


def test_a_chunk_boundary_is_not_seen(tiny_backbone, world, scored, tmp_path, monkeypatch):
    monkeypatch.setattr(folders.folder_tables, "CHUNK", 5)
    monkeypatch.setattr(contact_sheet, "BLOCK", 5)
    run(tiny_backbone, world, tmp_path)
    assert bytes_of(tmp_path)[:2] == bytes_of(scored[1])[:2]
    assert (tmp_path / "index.html").read_text().count('class="photographs"') == 3


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batch_size_does_not_matter(tiny_backbone, world, scored, tmp_path, batch_size):
    run(tiny_backbone, world, tmp_path, batch_size=batch_size)
    ours, theirs = table(tmp_path, "seconds"), table(scored[1], "seconds")
    pd.testing.assert_frame_equal(ours, theirs, rtol=0, atol=1e-4)


def test_neither_names_nor_order_matter(tiny_backbone, world, scored, tmp_path):
    """The same photographs under names that turn their order around, so in other batches."""
    paths = [Path(one.path) for one in folders.select(world)]
    (tmp_path / "turned").mkdir()
    for number, path in enumerate(reversed(paths)):
        shutil.copy(path, tmp_path / "turned" / f"{number:02d}{path.suffix}")
    run(tiny_backbone, tmp_path / "turned", tmp_path / "out")
    ours, theirs = table(tmp_path / "out")["score"], table(scored[1])["score"]
    np.testing.assert_allclose(ours[::-1], theirs, atol=1e-4)


def test_windows_are_averaged(tiny_backbone, world, tmp_path):
    view = View(size=56, short=84, grid=2)
    before = dict(tiny_backbone.image_processor.size)
    run(tiny_backbone, world / "beach", tmp_path, view=view)
    assert dict(tiny_backbone.image_processor.size) == before
    looking = folder_rows.seeing(tiny_backbone, view)
    frame = table(tmp_path).query("problem == ''")
    windows = [view.windows(open_photo(path)) for path in frame["path"]]
    assert {len(part) for part in windows} == {4}
    said = digit_tree.as_frame(digit_tree.read(looking, [w for part in windows for w in part], 2))
    for name in ("expected", "sd", "off_format"):
        means = said[name].to_numpy().reshape(-1, 4).mean(1)
        np.testing.assert_allclose(frame[name], means, atol=1e-5)


@pytest.mark.parametrize("name", ["mix", "cot_regular"])
def test_attributes_are_those_that_fill_the_form(tiny_backbone, world, tmp_path, name):
    form = folder_rows.ATTRIBUTE_FORMS[name]
    summary = run(tiny_backbone, world / "beach" / "old", tmp_path, attributes=name)
    frame = table(tmp_path).query("problem == ''").reset_index(drop=True)
    images = [open_photo(path) for path in frame["path"]]
    filled = form_filling.fill(tiny_backbone, images, form, digits=2)
    assert list(frame["form_left_at"]) == [said.left for said in filled]
    assert summary.off_form == sum(not said.follows for said in filled) > 0
    for row, said in enumerate(filled):
        for name, chances in said.probabilities.items():
            attribute, label = taxonomy.BY_NAME[name], said.parsed.values[name]
            scale = attribute.kind == "score"
            assert frame[name][row] == (label if scale else attribute.tiers[label].words)
            likely = chances[label - 1 if scale else label]
            assert frame[f"{name}_probability"][row] == pytest.approx(likely, abs=1e-4)
    assert "eye_catching_reason" in frame and "composite" not in frame


def fitted_composite() -> composite.Composite:
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 4, (40, 9)).astype(float)
    return composite.fit(codes, codes @ np.arange(9) / 20, seed=0)


def test_a_composite_weighs_the_attributes(tiny_backbone, world, tmp_path):
    weights = fitted_composite()
    run(tiny_backbone, world / "beach", tmp_path, attributes="mix", composite=weights, page=False)
    frame = table(tmp_path)
    assert frame["composite"].isna().tolist() == (frame["problem"] != "").tolist()
    good = frame[frame["problem"] == ""]
    tiers = {
        name: {tier.words: tier.code for tier in taxonomy.BY_NAME[name].tiers}
        for name in taxonomy.SCORED
    }
    codes = [[tiers[n].get(row[n], row[n]) for n in taxonomy.SCORED] for _, row in good.iterrows()]
    np.testing.assert_allclose(good["composite"], weights.score(codes), atol=1e-9)


def test_another_calibration_changes_tables_and_asks_nothing(tiny_backbone, world, tmp_path, asked):
    run(tiny_backbone, world, tmp_path)
    raw = table(tmp_path, "seconds")
    seen = len(asked)
    curve = calibration.Calibration((0.0, 10.0), (2.0, 4.0), (0.9,), (0.5,), (1.0,), 0.1, 20, 20, 0)
    summary = run(tiny_backbone, world, tmp_path, calibration=curve)
    frame = table(tmp_path, "seconds")
    np.testing.assert_allclose(frame["score"], 2 + raw["expected"] / 5)
    np.testing.assert_allclose(
        frame["high"] - frame["low"], np.where(raw["score"].isna(), np.nan, 1)
    )
    assert set(frame["interval"].dropna()) == {"calibrated, 90 %"}
    same = ["path", "expected", "sd", "greedy", "problem"]
    pd.testing.assert_frame_equal(frame[same], raw[same])
    assert len(asked) == seen and summary.scored_now == 0


def test_a_calibration_without_the_level_is_refused_first(tiny_backbone, world, tmp_path):
    curve = calibration.Calibration((0.0,), (2.0,), (0.5,), (0.5,), (1.0,), 0.1, 20, 20, 0)
    with pytest.raises(ValueError, match="level"):
        run(tiny_backbone, world, tmp_path / "out", calibration=curve)
    assert not (tmp_path / "out").exists()


# --- rows ----------------------------------------------------------------------------------------


def test_a_row_by_hand():
    """Two windows: 2.0 and 4.0 with 1/2 each, and 4.0 for sure; so 2.0 has 1/4 and 4.0 has 3/4."""
    readings = [
        Reading("2.0", True, np.array([2.0, 4.0]), np.array([0.5, 0.5]), 0.1),
        Reading("4.0", False, np.array([4.0]), np.array([1.0]), 0.3),
    ]
    row = folder_rows.reading_row(readings, 2)
    assert row == {
        "expected": 3.5, "low": 2.0, "high": 4.0, "greedy": 2.0, "sd": 0.5, "parsed": False,
        "off_format": 0.2, "bars": [20, [2500] + 19 * [0] + [7500]],
    }  # fmt: skip


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 999), st.floats(0.01, 1)), min_size=1, max_size=30))
def test_quantiles_and_bars_agree_with_the_distribution(leaves):
    values = np.array([k / 100 for k, _ in leaves])
    chances = np.array([p for _, p in leaves])
    reading = Reading("0.00", True, values, chances / chances.sum(), 0.0)
    row = folder_rows.reading_row([reading], 3)
    assert row["low"] <= row["expected"] <= row["high"]
    below = reading.probabilities[values < row["low"]].sum()
    above = reading.probabilities[values > row["high"]].sum()
    assert max(below, above) <= 0.05 + 1e-9
    if row["low"] < row["expected"]:
        assert reading.probabilities[values <= row["low"]].sum() >= 0.05 - 1e-9
    if row["high"] > row["expected"]:
        assert reading.probabilities[values >= row["high"]].sum() >= 0.05 - 1e-9
    first, shares = row["bars"]
    assert abs(sum(shares) - 1e4) <= len(shares)
    assert first == min(k // 10 for k, _ in leaves)


@pytest.mark.parametrize("size", [(640, 480), (30, 500), (9, 9), (1000, 6), (113, 112)])
def test_what_is_kept_in_memory_has_the_pixels_that_the_processor_makes(tiny_backbone, size):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    small = folder_rows._processed(image, tiny_backbone.image_processor)
    assert small.width * small.height < 50_000
    pixels, grids = tiny_backbone.pixels([image])
    ours, our_grids = folder_rows.seeing(tiny_backbone, View()).pixels([small])
    assert our_grids == grids
    np.testing.assert_allclose(ours, pixels, atol=1e-6)


def test_a_photograph_that_is_all_length_is_a_row_with_its_problem(tiny_backbone, tmp_path):
    photo(tmp_path / "photos" / "a.png", 0, (900, 3))
    photo(tmp_path / "photos" / "b.png", 1)
    run(tiny_backbone, tmp_path / "photos", tmp_path / "out")
    frame = table(tmp_path / "out")
    assert "aspect ratio" in frame["problem"][0] and frame["score"].isna().tolist() == [True, False]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have names of characters")
def test_a_name_that_is_no_utf_8_is_no_reason_to_fail(tiny_backbone, tmp_path):
    photo(tmp_path / "photos" / "a.png", 0).rename(
        tmp_path / "photos" / os.fsdecode(b'caf\xe9, "1"\n.png')
    )
    run(tiny_backbone, tmp_path / "photos", tmp_path / "out")
    assert table(tmp_path / "out")["path"][0].endswith('/caf\N{REPLACEMENT CHARACTER}, "1"\n.png')
    assert pd.read_csv(tmp_path / "out" / "scores.csv")["score"].notna().all()


# --- resumption ----------------------------------------------------------------------------------


def only_part(out: Path) -> Path:
    (part,) = (out / "parts").glob("*.jsonl")
    return part


def test_a_rerun_does_nothing_again(tiny_backbone, world, tmp_path, asked):
    run(tiny_backbone, world, tmp_path)
    first, kept = bytes_of(tmp_path), only_part(tmp_path).read_bytes()
    assert [len(names) for names in asked] == [4, 4, 4]
    summary = run(tiny_backbone, world, tmp_path)
    assert len(asked) == 3 and summary.scored_now == 0
    assert bytes_of(tmp_path) == first and only_part(tmp_path).read_bytes() == kept


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_torn_line_is_dropped_and_scored_again(
    tiny_backbone, world, scored, tmp_path, asked, share
):
    shutil.copytree(scored[1], tmp_path, dirs_exist_ok=True)
    lines = only_part(tmp_path).read_bytes().splitlines(keepends=True)
    torn = lines[2][: int(share * len(lines[2]))]
    only_part(tmp_path).write_bytes(b"".join(lines[:2]) + torn)
    (tmp_path / "scores.csv").unlink()
    assert run(tiny_backbone, world, tmp_path).scored_now == 4
    assert len(asked) == 1
    assert bytes_of(tmp_path) == bytes_of(scored[1])


def test_a_damaged_line_is_told_by_file_and_place(tiny_backbone, world, scored, tmp_path):
    shutil.copytree(scored[1], tmp_path, dirs_exist_ok=True)
    first, *rest = only_part(tmp_path).read_bytes().splitlines(keepends=True)
    only_part(tmp_path).write_bytes(first + rest[0][5:] + rest[1])
    with pytest.raises(ValueError, match=rf"0-of-1.jsonl: the line at byte {len(first)} is damag"):
        run(tiny_backbone, world, tmp_path)


def test_only_new_and_changed_photographs_are_scored(tiny_backbone, album, tmp_path, asked):
    out = tmp_path / "out"
    run(tiny_backbone, album, out)
    before, seen = table(out).set_index("path")["score"], len(asked)
    photo(album / "3.png", 99, SIZES[0])
    photo(album / "new.png", 100)
    (album / "6.png").unlink()
    (album / "beach" / "empty.jpg").write_bytes((album / "0.png").read_bytes())
    summary = run(tiny_backbone, album, out)
    assert sorted(name for names in asked[seen:] for name in names) == [
        "3.png", "empty.jpg", "new.png",
    ]  # fmt: skip
    assert (summary.photographs, summary.scored_now, len(summary.problems)) == (12, 3, 1)
    after = table(out).set_index("path")["score"]
    assert (
        str(album / "6.png") not in after
        and after[str(album / "3.png")] != before[str(album / "3.png")]
    )
    kept = [path for path in before.index.intersection(after.index) if "3.png" not in path]
    kept.remove(str(album / "beach" / "empty.jpg"))
    pd.testing.assert_series_equal(after[kept], before[kept])
    assert after[str(album / "beach" / "empty.jpg")] == pytest.approx(before.iloc[0], abs=1e-4)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("digits", {"digits": 3}),
        ("attributes", {"attributes": "mix"}),
        ("view", {"view": View(short=100)}),
        ("pixels", {"view": View(56, 100)}),
    ],
)
def test_the_scores_of_another_run_are_refused_by_name(
    tiny_backbone, world, scored, tmp_path, key, change
):
    shutil.copytree(scored[1], tmp_path, dirs_exist_ok=True)
    before = bytes_of(tmp_path)
    with pytest.raises(ValueError, match=rf"another run: {key} was .* give another folder"):
        run(tiny_backbone, world, tmp_path, **change)
    assert bytes_of(tmp_path) == before


def test_another_model_or_another_code_is_another_run(
    tiny_backbone, world, scored, tmp_path, monkeypatch
):
    shutil.copytree(scored[1], tmp_path, dirs_exist_ok=True)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="another run: code was"):
        patch.setattr(folders, "DECISIVE", folders.DECISIVE[1:])
        run(tiny_backbone, world, tmp_path)
    weight = next(tiny_backbone.model.parameters()).data.view(-1)
    kept = weight[0].item()
    try:
        weight[0] += 1
        with pytest.raises(ValueError, match="another run: model was"):
            run(tiny_backbone, world, tmp_path)
    finally:
        weight[0] = kept


def test_two_runs_do_not_write_into_one_folder(tiny_backbone, world, tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(ValueError, match="another run is writing"):
        run(tiny_backbone, world, tmp_path)
    assert run(tiny_backbone, world / "0.png", tmp_path).photographs == 1


def test_a_page_can_be_had_later(tiny_backbone, world, scored, tmp_path, asked):
    run(tiny_backbone, world, tmp_path, page=False)
    assert not (tmp_path / "index.html").exists()
    seen = len(asked)
    run(tiny_backbone, world, tmp_path)
    assert len(asked) == seen
    assert (tmp_path / "index.html").read_bytes() == (scored[1] / "index.html").read_bytes()
    run(tiny_backbone, world, tmp_path, page=False)
    assert not (tmp_path / "index.html").exists()


def test_parts_are_read_back_in_any_order(tmp_path):
    photos = [parts.Photo(f"{n}.png", n, n) for n in range(6)]
    for name, batches in (("0-of-2", (0, 2)), ("1-of-2", (1,))):
        with parts.appending(tmp_path / f"{name}.jsonl") as append:
            for batch in batches:
                append([{"photo": photos[n], "n": n} for n in (2 * batch, 2 * batch + 1)])
    found = parts.index(tmp_path)
    assert [row["n"] for row in parts.rows(found[one] for one in photos)] == list(range(6))
    order = [5, 0, 4, 1, 3, 2]
    assert [row["n"] for row in parts.rows(found[photos[n]] for n in order)] == order


def test_processes_that_see_different_photographs_are_stopped(monkeypatch):
    seen = []

    def reduce(ends: torch.Tensor, operation) -> None:
        seen.append(ends.clone())
        ends.copy_(torch.stack(seen).amax(0))

    monkeypatch.setattr(sharing.distributed, "all_reduce", reduce)
    sharing._agree([parts.Photo("a.png", 1, 2)])
    sharing._agree([parts.Photo("a.png", 1, 2)])
    with pytest.raises(ValueError, match="do not see the same photographs"):
        sharing._agree([parts.Photo("a.png", 1, 3)])


# --- processes -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tiny_backbone, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_backbone.save(folder, torch.float32)
    return folder


def command(*arguments: str | Path, launcher: tuple[str, ...] = ()) -> list[str]:
    return [sys.executable, *launcher, str(SCRIPT), *map(str, arguments)]


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def finish(arguments: list[str]) -> dict:
    done = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(saved, world, tmp_path):
    process = subprocess.Popen(command(saved, world, tmp_path, "0.2"), env=ENVIRONMENT)
    part = tmp_path / "parts" / "0-of-1.jsonl"
    while not part.exists() or part.read_bytes().count(b"\n") < 1:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = part.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    assert not (tmp_path / "scores.csv").exists()
    done = two_processes_folders.score(saved, world, tmp_path)
    assert done.scored_now == 12 - 4 * kept.count(b"\n") > 0
    assert part.read_bytes().startswith(kept) and len(table(tmp_path)) == 12


@pytest.mark.slow
def test_two_processes_give_what_one_gives(saved, world, tmp_path):
    two_processes_folders.score(saved, world, tmp_path / "one")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    two = command(saved, world, tmp_path / "two", launcher=launcher)
    assert finish(two)["scored_now"] == 8  # batches 0 and 2 of three
    assert len(list((tmp_path / "two" / "parts").glob("*.jsonl"))) == 2
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "one")
    assert finish(two)["scored_now"] == 0
    assert two_processes_folders.score(saved, world, tmp_path / "two").scored_now == 0


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_photographs(saved, tmp_path):
    pytest.importorskip("resource", reason="this system does not tell a process its peak memory")
    peaks = []
    for count in (200, 2000):
        album = tmp_path / str(count)
        first = photo(album / "00000.png", 0).read_bytes()
        for number in range(1, count):
            (album / f"{number:05d}.png").write_bytes(first)
        peaks.append(finish(command(saved, album, tmp_path / f"out-{count}", 0, 64, 28))["peak"])
    assert peaks[1] < 1.1 * peaks[0]
