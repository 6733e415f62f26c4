"""Every kind of file that people call a photo is read as upright RGB, or refused in one line."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from realqa_utils.images.photos import PhotoError, list_photos, open_photo

ORIENTATION = 0x0112


def saved(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def corner_photo() -> Image.Image:
    """40 x 24, black with the top left quarter yellow: every orientation looks different."""
    image = Image.new("RGB", (40, 24))
    image.paste("yellow", (0, 0, 20, 12))
    return image


def huge_png(path: Path, width: int, height: int) -> Path:
    """A complete 1-bit PNG; black rows cost next to nothing here, and all pixels in a decoder."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width // 8 + 1) * height), 1)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    return path


def refusal(path: Path, **options) -> str:
    with pytest.raises(PhotoError) as caught:
        open_photo(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "gif", "tif"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_plain_photos_of_every_format(tmp_path, mode, suffix):
    source = corner_photo().convert(mode, dither=Image.Dither.NONE)
    image = open_photo(
        saved(
            source.convert("RGB") if suffix in ("jpg", "webp") else source, tmp_path / f"a.{suffix}"
        )
    )
    assert (type(image), image.mode, image.size) == (Image.Image, "RGB", (40, 24))
    expected = np.asarray(source.convert("RGB")).astype(int)
    lossy = suffix in ("jpg", "webp")
    assert np.abs(np.asarray(image) - expected)[4:8, 4:8].max() <= (12 if lossy else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_exif_orientation(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = open_photo(saved(corner_photo(), tmp_path / f"a.{suffix}", exif=exif))
    # EXIF: where row 0 and column 0 of the file belong in the upright picture
    corner = [
        "top left",
        "top right",
        "bottom right",
        "bottom left",
        "left top",
        "right top",
        "right bottom",
        "left bottom",
    ][orientation - 1]
    sides = corner.split()
    assert image.size == ((40, 24) if orientation < 5 else (24, 40))
    x = image.width // 4 if "left" in sides else image.width * 3 // 4
    y = image.height // 4 if "top" in sides else image.height * 3 // 4
    lit = np.asarray(image)[..., 0] > 128
    assert lit[y, x]
    assert lit.mean() == pytest.approx(0.25, abs=0.02)


# Orientation 6 beside a camera name of type 'rational', which cannot be written back.
ODD_EXIF = (
    b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    b"\x01\x0f\0\x05\0\0\0\x02\0\0\0\x08\0\0\0\0"
)


@pytest.mark.parametrize(("exif", "size"), [(ODD_EXIF, (24, 40)), (b"Exif\0\0garbage", (40, 24))])
@pytest.mark.filterwarnings("ignore:.*EXIF data", "ignore:Tag data larger")
def test_odd_exif_neither_stops_nor_misleads(tmp_path, exif, size):
    for suffix in ("jpg", "png", "webp"):
        assert open_photo(saved(corner_photo(), tmp_path / f"a.{suffix}", exif=exif)).size == size


def test_cmyk(tmp_path):
    image = open_photo(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "a.jpg"))
    red, green, blue = image.getpixel((4, 4))
    assert image.mode == "RGB"
    assert red > 230
    assert max(green, blue) < 25


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 128, 129, 257, 32896, 65406, 65407, 65535]], dtype=np.uint16)
    image = open_photo(saved(Image.fromarray(values), tmp_path / f"a.{suffix}"))
    grey = np.asarray(image)[0]
    np.testing.assert_array_equal(grey[:, 0], [0, 0, 1, 1, 128, 254, 255, 255])
    np.testing.assert_array_equal(grey, np.rint(values[0, :, None] / 257).repeat(3, axis=1))


def test_32_bit_pixels_within_16_bits_are_read_and_others_refused(tmp_path):
    values = np.array([[0, 65535]], dtype=np.int32)
    image = open_photo(saved(Image.fromarray(values), tmp_path / "a.tif"))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 255]
    too_high = saved(Image.fromarray(values + 1), tmp_path / "b.tif")
    assert "32-bit pixels from 1 to 65536" in refusal(too_high)
    floating = saved(Image.fromarray(values.astype(np.float32)), tmp_path / "c.tif")
    assert "floating-point pixels" in refusal(floating)


@pytest.mark.parametrize(
    ("mode", "colour", "on_white"),
    [
        ("RGBA", (200, 0, 0, 128), [227, 127, 127]),  # 200 * 128/255 + 255 * 127/255
        ("LA", (0, 128), [127, 127, 127]),
    ],
)
def test_alpha_is_laid_on_white(tmp_path, mode, colour, on_white):
    image = Image.new(mode, (2, 1), colour)
    image.putpixel((1, 0), (*colour[:-1], 0))
    mixed, clear = np.asarray(open_photo(saved(image, tmp_path / "a.png")))[0].astype(int)
    np.testing.assert_allclose(mixed, on_white, atol=1)
    assert clear.tolist() == [255, 255, 255]


def test_transparent_palette_colour_and_transparent_grey_are_white(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 0])
    palette.putpixel((1, 0), 1)
    for suffix in ("png", "gif"):
        image = open_photo(saved(palette, tmp_path / f"a.{suffix}", transparency=0))
        assert [image.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (200, 100, 0)]
    grey = open_photo(saved(Image.new("L", (1, 1), 7), tmp_path / "b.png", transparency=7))
    assert grey.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animation_gives_its_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("blue", "red", "lime")]
    path = saved(frames[0], tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    red, green, blue = open_photo(path).getpixel((8, 8))
    assert blue > 240
    assert max(red, green) < 15


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
def test_one_pixel(tmp_path, mode):
    assert np.asarray(open_photo(saved(Image.new(mode, (1, 1)), tmp_path / "a.png"))).shape == (
        1,
        1,
        3,
    )


def test_the_suffix_does_not_matter(tmp_path):
    saved(corner_photo(), tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert open_photo(str(tmp_path / "a.jpg")).size == (40, 24)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp"])
def test_truncated_files(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = saved(Image.fromarray(noise), tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(whole[: len(whole) // 2])
    assert "damaged" in refusal(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty; copy or download it again"),
        (b"Dear diary,\nno photo today.\n", "right is a JPEG, PNG, BMP, WEBP, GIF or TIFF file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "right is a JPEG"),
    ],
)
def test_files_that_are_no_photos(tmp_path, content, reason):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert reason in refusal(path)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(FileNotFoundError, match="no such file; right is the path of a photo"):
            open_photo(path)


def whole_photo(suffix: str) -> bytes:
    buffer = io.BytesIO()
    corner_photo().save(buffer, suffix)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from(["jpeg", "png", "bmp", "webp", "gif", "tiff"]),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damage_gives_a_photo_or_a_photo_error(tmp_path, suffix, edits):
    content = bytearray(whole_photo(suffix))
    for place, value in edits:
        content[int(place * (len(content) - 1))] = value
    path = tmp_path / "a.photo"
    path.write_bytes(content)
    try:
        assert open_photo(path, max_pixels=10**6).mode == "RGB"
    except PhotoError as error:
        assert str(error).startswith(f"{path}: ")


@pytest.mark.parametrize(("width", "height"), [(20_000, 10_000), (15_000, 10_000)])
def test_too_large_is_refused_from_the_header(tmp_path, monkeypatch, width, height):
    """200 megapixels are beyond Pillow's error limit, 150 only beyond its warning."""
    path = huge_png(tmp_path / "huge.png", width, height)
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: decoded.append(self))
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "right is at most 100,000,000 pixels" in refusal(path)
    assert time.perf_counter() - start < 0.5
    assert not decoded


def test_too_large_costs_no_memory(tmp_path):
    """Decoded, these 200 megapixels take 200 MB at the least; a fresh process sees its peak."""
    pytest.importorskip("resource", reason="this system does not tell a process its peak memory")
    path = huge_png(tmp_path / "huge.png", 20_000, 10_000)
    code = (
        "import resource, sys\nfrom realqa_utils.images.photos import PhotoError, open_photo\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "try: open_photo(sys.argv[1])\nexcept PhotoError: print(peak() - before)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, else in KiB
    assert int(done.stdout) * unit < 20e6


def test_the_limit_is_the_callers(tmp_path):
    path = saved(corner_photo(), tmp_path / "a.png")
    assert open_photo(path, max_pixels=960).size == (40, 24)
    assert "too large, 40 x 24 = 960 pixels; right is at most 959" in refusal(path, max_pixels=959)


def test_no_bomb_warning_within_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)  # 960 pixels would be worth a warning
    path = saved(corner_photo(), tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_photo(path).size == (40, 24)


def test_list_photos_in_folders(tmp_path):
    wanted = ["a.JPG", "b/c.jpeg", "b/d/e.PnG", "b/f.bmp", "g.webp", "h.gif", "i.tif", "j.TIFF"]
    others = ["k.txt", "l.jpg.part", ".hidden.jpg", "b/._c.jpeg", ".cache/m.jpg", "jpg"]
    for name in wanted + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    assert list_photos(tmp_path) == sorted(tmp_path / name for name in wanted)
    assert list_photos(str(tmp_path / "b")) == [
        tmp_path / "b" / name for name in ("c.jpeg", "d/e.PnG", "f.bmp")
    ]


def test_list_photos_of_files_and_folders_without_repeats(tmp_path):
    for name in ("b.jpg", "a.jpg", "c.heic"):
        (tmp_path / name).touch()
    given_paths = [tmp_path / "c.heic", tmp_path, str(tmp_path / "a.jpg")]
    assert list_photos(given_paths) == [tmp_path / n for n in ("a.jpg", "b.jpg", "c.heic")]
    assert list_photos(tmp_path / "b.jpg") == [tmp_path / "b.jpg"]


def test_list_photos_finds_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"no photos in .*looked for \.jpg .* \.tiff"):
        list_photos(tmp_path)
    with pytest.raises(ValueError, match="no photos in an empty list"):
        list_photos([])
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such file or folder"):
        list_photos([tmp_path, tmp_path / "nowhere"])
