"""Photos on disk: the one way in which any of them is found and read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

MAX_PIXELS = 100_000_000
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")  # whatever the suffix says


class PhotoError(ValueError):
    """A file that is no usable photo: the file, the reason and what would be right, in one line."""

    def __init__(self, path: str | Path, problem: str, remedy: str) -> None:
        super().__init__(" ".join(f"{path}: {problem}; {remedy}".split()))


def open_photo(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a photo as RGB, 8 bits per channel, upright.

    The EXIF orientation is applied, transparency becomes white, 16-bit grey is scaled by 1/257,
    and an animation gives its first frame. Colour profiles are not applied.

    Args:
        max_pixels: the most pixels to decode, checked on the header alone. Pillow's own limit, of
            twice ``PIL.Image.MAX_IMAGE_PIXELS`` (179 megapixels), holds as well.

    Raises:
        FileNotFoundError: no such file.
        PhotoError: empty, damaged, too large, or no photo at all.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file; right is the path of a photo")
    if os.path.getsize(path) == 0:
        raise PhotoError(path, "the file is empty", "copy or download it again")
    with _open_header(path, max_pixels) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise _too_large(path, f"{width} x {height} = {width * height:,} pixels", max_pixels)
        try:
            return _to_rgb(_upright(image), path)
        except PhotoError:
            raise
        except Exception as error:  # on damaged files, decoders raise nearly anything
            raise PhotoError(
                path, f"the {image.format} file is damaged ({error})", "copy or download it again"
            ) from error


def photo_size(path: str | Path) -> tuple[int, int]:
    """Width and height of a photo as `open_photo` gives it, from the head of its file.

    Raises PhotoError for what is no photo.
    """
    with _open_header(path, MAX_PIXELS) as image:
        try:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # on its side
        except Exception:  # unreadable EXIF data are left aside, as in `_upright`
            turned = False
        return image.size[::-1] if turned else image.size


def _open_header(path: str | Path, max_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():  # max_pixels stands in for Pillow's warning
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        limit = 2 * Image.MAX_IMAGE_PIXELS
        raise _too_large(path, f"over {limit:,} pixels", min(max_pixels, limit)) from error
    except Exception as error:
        raise PhotoError(
            path,
            "not a photo that can be read, or a damaged one",
            f"right is a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file",
        ) from error


def _too_large(path: str | Path, size: str, limit: int) -> PhotoError:
    return PhotoError(
        path,
        f"too large, {size}",
        f"right is at most {limit:,} pixels: make it smaller or raise the limit",
    )


def _upright(image: Image.Image) -> Image.Image:
    """Apply the orientation in the EXIF data, if they can be read."""
    image.load()
    try:
        image.getexif()  # keeps what it read, so that nothing has to be written back to info:
        for key in ("exif", "Raw profile type exif"):  # writing fails on many an odd tag
            image.info.pop(key, None)
        return ImageOps.exif_transpose(image)
    except Exception:  # unreadable EXIF data are no reason to refuse good pixels
        return image


def _to_rgb(image: Image.Image, path: str | Path) -> Image.Image:
    if image.mode.startswith("I"):
        image = _from_16_bit(image, path)
    if image.mode == "F":
        raise _unscaled(path, "floating-point pixels")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def _from_16_bit(image: Image.Image, path: str | Path) -> Image.Image:
    """Grey of 16 bits (mode I;16, or I as some writers have it) to 8: 65535 / 257 = 255."""
    grey = np.asarray(image).astype(np.int32)
    if grey.min() < 0 or grey.max() > 65535:
        raise _unscaled(path, f"32-bit pixels from {grey.min()} to {grey.max()}")
    return Image.fromarray(((grey + 128) // 257).astype(np.uint8))


def _unscaled(path: str | Path, pixels: str) -> PhotoError:
    return PhotoError(
        path, f"{pixels} have no agreed white", "save it with 8 or 16 bits per channel"
    )


def list_photos(source: str | Path | Iterable[str | Path]) -> list[Path]:
    """The photos of a folder with all its subfolders, or of several files and folders; sorted.

    In folders, a photo is known by its suffix (upper or lower case), and hidden files are left
    out. Files given by name are kept whatever their suffix. Every path comes once.

    Raises:
        FileNotFoundError: a path that does not exist.
        ValueError: no photo at all.
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    photos = {photo for each in sources for photo in _photos_in(Path(each))}
    if not photos:
        where = ", ".join(map(str, sources[:3])) or "an empty list"
        raise ValueError(
            f"no photos in {where}; looked for {' '.join(SUFFIXES)}, upper or lower "
            "case, in all subfolders"
        )
    return sorted(photos)


def _photos_in(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; right is an existing one")
    if path.is_file():
        return [path]
    return [
        found
        for found in path.rglob("*")
        if found.suffix.lower() in SUFFIXES
        and found.is_file()
        and not any(part.startswith(".") for part in found.relative_to(path).parts)
    ]
