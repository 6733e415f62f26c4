"""Generated photographs with known attributes: a scene is drawn at random, then rendered.

`draw_scene` samples a `Scene` (what is in the picture and the tier of every attribute);
`render` paints it. Both are functions of the scene alone, so changing one field with
`dataclasses.replace` changes just that in the picture.

Coordinates inside this module are in units of the frame: (0, 0) is its upper left corner,
(1, 1) its lower right one. The canvas reaches `MARGIN` beyond, for tilting without black corners.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from realqa_utils.datasets import subjects

MARGIN = 0.16  # of the frame on each side: enough for a tilt of 14 degrees
SUPERSAMPLING = 2  # the canvas is painted at twice the size and averaged down
KINDS = ("attraction", "restaurant", "hotel")
BACKGROUNDS = {
    "attraction": ("the sea", "the mountains", "a meadow", "the old town"),
    "restaurant": ("a wooden table", "a checked tablecloth", "a marble table"),
    "hotel": ("a striped wall", "a plain wall", "a panelled wall"),
}

# What each tier means physically; indices follow `taxonomy`.
TILT_DEGREES = ((7.0, 14.0), (0.0, 0.0))  # tilted, level
CUT_SHARE = ((0.52, 0.66), (0.22, 0.34), (0.0, 0.0))  # share of the subject outside the frame
SUBJECT_ITEMS = ((9, 13), (3, 5), (0, 0))  # things standing in front of the subject
BACKGROUND_ITEMS = ((14, 20), (5, 7), (0, 0))  # things standing about behind it
BLUR_SIGMA = ((2.1, 3.0), (0.95, 1.25), (0.0, 0.15))  # pixels at a frame of 112
EXPOSURE_EV = ((-1.9, -1.5), (-0.95, -0.7), (-0.1, 0.1), (0.5, 0.65), (1.0, 1.3))
SATURATION = ((0.1, 0.3), (0.6, 0.8), (1.2, 1.5))  # factor on the chroma


@dataclass(frozen=True)
class Look:
    """How the photographs of one domain differ from those of another."""

    warmth: float = 0.0  # -1 blue .. 1 orange cast
    haze: float = 0.0  # 0..1, lifts the blacks
    noise: float = 0.01  # sd of sensor noise, of full scale
    jpeg: int = 0  # quality; 0 leaves compression out
    motion: float = 0.0  # share of blurred photos whose blur is camera shake
    texture: float = 0.09  # contrast of fine texture


@dataclass(frozen=True)
class Scene:
    """One photograph to be: tier indices of `taxonomy`, plus what is needed to paint it."""

    seed: int  # of everything incidental: textures, positions of clutter, colours
    kind: str
    subject: str
    background: str
    subject_integrity: int
    subject_clutter: int
    background_clutter: int
    level_shot: int
    image_clarity: int
    exposure: int
    saturation: int
    placement: float  # horizontal offset of the subject's centre from the middle, -0.3..0.3
    size: float  # height of the subject, 0.36..0.66
    contrast: float  # 0..1, how far the subject stands out from its background
    side: int  # -1 or 1: where a cut subject leaves the frame, which way a tilt leans
    within: float  # 0..1, position inside every tier's physical range


def draw_scene(
    rng: np.random.Generator, tiers: dict[str, tuple[float, ...]] | None = None
) -> Scene:
    """Sample a scene; `tiers` gives tier probabilities that differ from the default."""
    chances = DEFAULT_TIERS | (tiers or {})
    drawn = {name: int(rng.choice(len(p), p=p)) for name, p in chances.items()}
    kind = KINDS[rng.integers(3)]
    return Scene(
        seed=int(rng.integers(2**31)),
        kind=kind,
        subject=str(rng.choice(list(subjects.PAINTERS[kind]))),
        background=str(rng.choice(BACKGROUNDS[kind])),
        placement=float(rng.uniform(-0.3, 0.3)),
        size=float(rng.uniform(0.36, 0.66)),
        contrast=float(rng.uniform(0.0, 1.0)),
        side=int(rng.choice((-1, 1))),
        within=float(rng.uniform()),
        **drawn,
    )


DEFAULT_TIERS: dict[str, tuple[float, ...]] = {
    "subject_integrity": (0.25, 0.25, 0.5),
    "subject_clutter": (0.3, 0.3, 0.4),
    "background_clutter": (0.33, 0.33, 0.34),
    "level_shot": (0.4, 0.6),
    "image_clarity": (0.3, 0.3, 0.4),
    "exposure": (0.15, 0.15, 0.4, 0.15, 0.15),
    "saturation": (0.3, 0.35, 0.35),
}


def eye_catching(scene: Scene) -> int:
    """Score 1..10: a subject that stands out, in vivid colours, large enough to be seen."""
    raw = 0.58 * scene.contrast + 0.22 * scene.saturation / 2 + 0.2 * (scene.size - 0.36) / 0.3
    return int(np.clip(np.floor(1 + 10 * raw), 1, 10))


def composition(scene: Scene) -> int:
    """Score 1..10: subject near a third of the width, whole, horizon level."""
    raw = 9.6 - 4.2 * min(_off_third(scene), 1.2) - 1.6 * (2 - scene.subject_integrity)
    return int(np.clip(np.rint(raw - 1.6 * (1 - scene.level_shot)), 1, 10))


def reasons(scene: Scene) -> dict[str, str]:
    """Why the two scores are what they are, in the terms that they are made of."""
    off_third = _off_third(scene)
    placed = "well placed" if off_third < 0.4 else "a little off" if off_third < 0.8 else "far off"
    whole = ("mostly cut off", "slightly cut off", "whole")[scene.subject_integrity]
    shows = ("blends in", "shows", "stands out")[min(2, int(3 * scene.contrast))]
    size = ("small", "of medium size", "large")[min(2, int((scene.size - 0.36) / 0.1))]
    colours = ("dull", "moderate", "vivid")[scene.saturation]
    horizon = ("tilted", "level")[scene.level_shot]
    return {
        "eye_catching_reason": f"it {shows}, in {colours} colours, and is {size}",
        "composition_reason": f"it is {placed}, {whole}, and {horizon}",
    }


def _off_third(scene: Scene) -> float:
    """0 where the subject's centre is on a third of the width, 1 near the border or the middle."""
    return abs(abs(_place(scene)[0] - 0.5) - 0.14) / 0.16


def _place(scene: Scene) -> tuple[float, float]:
    """Horizontal centre of the subject as it is painted, and its width."""
    width = min(scene.size * subjects.ASPECT[scene.subject], 0.62)
    cut = _pick(CUT_SHARE[scene.subject_integrity], scene.within)
    if cut:
        return 0.5 + scene.side * (0.5 + width * (cut - 0.5)), width
    room = 0.47 - width / 2  # whole: keep it inside the frame
    return 0.5 + float(np.clip(scene.placement, -room, room)), width


def render(scene: Scene, look: Look = Look(), size: int = 112) -> Image.Image:
    """Paint a scene as an RGB photograph of `size` x `size` pixels."""
    rng = np.random.default_rng(scene.seed)
    canvas = _Canvas(size * SUPERSAMPLING)
    image = _background(scene, canvas, rng)
    _clutter(image, scene, canvas, rng)
    image = _subject(image, scene, canvas, rng)
    image = _texture(image, look, rng)
    return _develop(_camera(image, scene, canvas, size), scene, look, rng, size)


class _Canvas:
    """Pixel geometry of the enlarged canvas."""

    def __init__(self, frame: int):
        self.frame = frame
        self.pad = round(MARGIN * frame)
        self.side = frame + 2 * self.pad

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.pad + x * self.frame, self.pad + y * self.frame

    def box(self, x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
        return (*self.at(x0, y0), *self.at(x1, y1))


def _pick(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * share


@lru_cache(maxsize=1)
def _fields() -> np.ndarray:
    """Eight 1/f noise fields (8, 512, 512), mean 0, sd 1: the grain of natural scenes."""
    rng = np.random.default_rng(20250306)
    frequency = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.rfftfreq(512)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((8, 512, 512))) / frequency**0.8
    fields = np.fft.irfft2(spectrum, s=(512, 512))
    fields -= fields.mean((1, 2), keepdims=True)
    fields /= fields.std((1, 2), keepdims=True)
    return fields.astype(np.float32)


def _field(rng: np.random.Generator, rows: int, columns: int, stretch: int = 1) -> np.ndarray:
    """A random window (rows, columns) of a noise field; `stretch` elongates it sideways."""
    y, x = rng.integers(0, 512, 2)
    down, across = y + np.arange(rows), x + np.arange(-(-columns // stretch))
    field = _fields()[rng.integers(8)]  # periodic, as a Fourier sum is: it wraps without a seam
    window = field.take(down, 0, mode="wrap").take(across, 1, mode="wrap")
    return np.repeat(window, stretch, 1)[:, :columns] if stretch > 1 else window


def _plane(surface: tuple, rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """A surface (rows, columns, 3), shaded from its far colour to its near one."""
    far, near, texture = _colour(rng, surface[0], 10), _colour(rng, surface[1], 10), surface[2]
    share = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    shade = (far * (1 - share) + near * share)[:, None]
    return shade + texture * _field(rng, rows, columns, stretch=3)[..., None]


def _colour(rng: np.random.Generator, base: tuple[int, int, int], spread: float) -> np.ndarray:
    shade = np.asarray(base, np.float32) * rng.uniform(0.85, 1.12)
    return np.clip(shade + rng.normal(0, spread, 3), 8, 247).astype(np.float32)


def _background(scene: Scene, canvas: _Canvas, rng: np.random.Generator) -> Image.Image:
    """Two planes that meet in a line: sky and land, wall and table, or wall and floor."""
    upper, lower = subjects.SURFACES[scene.background]
    line = {"attraction": 0.62, "restaurant": 0.3, "hotel": 0.68}[scene.kind]
    line = round(canvas.pad + (line + rng.uniform(-0.05, 0.05)) * canvas.frame)
    side = canvas.side
    planes = _plane(upper, line, side, rng), _plane(lower, side - line, side, rng)
    pixels = np.clip(np.concatenate(planes), 0, 255)
    image = Image.fromarray(pixels.astype(np.uint8))
    subjects.decorate(ImageDraw.Draw(image), scene.background, line, canvas, rng)
    return image


def _clutter(image: Image.Image, scene: Scene, canvas: _Canvas, rng: np.random.Generator) -> None:
    """Things standing about behind the subject, spread over the whole frame."""
    own = np.random.default_rng([scene.seed, 1])  # so that a tier only adds or removes things
    count = round(_pick(BACKGROUND_ITEMS[scene.background_clutter], scene.within))
    draw = ImageDraw.Draw(image)
    band = {"attraction": (0.68, 0.97), "restaurant": (0.36, 0.98), "hotel": (0.7, 0.98)}
    for i in range(count):
        x = (0.04 + 0.92 * ((i * 0.618 + own.uniform(0, 0.05)) % 1.0)) - 0.03
        y = own.uniform(*band[scene.kind])
        subjects.thing(draw, scene.kind, x, y, own.uniform(0.07, 0.12), canvas, own)


def _subject(
    image: Image.Image, scene: Scene, canvas: _Canvas, rng: np.random.Generator
) -> Image.Image:
    """Paint the subject and what stands in front of it; `contrast` fades it into the background."""
    height, (middle, width) = scene.size, _place(scene)
    base = {"attraction": 0.86, "restaurant": 0.92, "hotel": 0.9}[scene.kind]
    box = (middle - width / 2, base - height, middle + width / 2, base)
    # The layer keeps the picture's own pixels, so that painting mixes with what lies behind.
    layer = image.copy()
    paint = subjects.PAINTERS[scene.kind][scene.subject]
    paint(ImageDraw.Draw(layer), canvas.box(*box), rng)
    image = Image.blend(image, layer, 0.4 + 0.6 * scene.contrast)
    own = np.random.default_rng([scene.seed, 2])
    draw = ImageDraw.Draw(image)
    for _ in range(round(_pick(SUBJECT_ITEMS[scene.subject_clutter], scene.within))):
        x = own.uniform(max(box[0], 0.02), min(box[2], 0.98))
        y = own.uniform(box[1] + 0.3 * height, box[3])
        subjects.blot(draw, x, y, own.uniform(0.035, 0.055), canvas, own)
    return image


def _texture(image: Image.Image, look: Look, rng: np.random.Generator) -> Image.Image:
    """Grain on every surface (blur is invisible on flat colour) and one soft light."""
    side = image.width
    light = np.linspace(-1, 1, side, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    fall = 1 + 0.14 * (np.cos(angle) * light[None, :] + np.sin(angle) * light[:, None])
    gain = fall * (1 + look.texture * _field(rng, side, side))
    pixels = np.minimum(np.asarray(image) * gain[..., None].astype(np.float32), 255)
    return Image.fromarray(np.maximum(pixels, 0).astype(np.uint8))


def _camera(image: Image.Image, scene: Scene, canvas: _Canvas, size: int) -> np.ndarray:
    """Tilt, frame and sample: the canvas -> pixels (size, size, 3) in 0..1."""
    degrees = _pick(TILT_DEGREES[scene.level_shot], scene.within) * scene.side
    if degrees:
        image = image.rotate(degrees, Image.Resampling.BILINEAR)
    end = canvas.pad + canvas.frame
    image = image.crop((canvas.pad, canvas.pad, end, end)).reduce(SUPERSAMPLING)
    return np.asarray(image, np.float32) / 255


def _develop(
    pixels: np.ndarray, scene: Scene, look: Look, rng: np.random.Generator, size: int
) -> Image.Image:
    """Blur, exposure, colour, noise and compression, in the order of a real camera."""
    sigma = _pick(BLUR_SIGMA[scene.image_clarity], scene.within) * size / 112
    shake = rng.uniform()  # drawn for every scene, so that the noise after it stays the same
    if sigma > 0.3:
        shaken = scene.image_clarity < 2 and shake < look.motion
        spread = (0.35 * sigma, 1.6 * sigma) if shaken else (sigma, sigma)
        pixels = ndimage.gaussian_filter(pixels, (*spread, 0), truncate=3)
    pixels = pixels * 2.0 ** _pick(EXPOSURE_EV[scene.exposure], scene.within)
    over = np.maximum(pixels - 0.75, 0)  # a shoulder keeps a trace of what is in the highlights
    pixels = np.minimum(pixels, 0.75) + 0.25 * (1 - np.exp(-over / 0.25))
    pixels = pixels * (1 - 0.35 * look.haze) + 0.35 * look.haze
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    factor = _pick(SATURATION[scene.saturation], scene.within)
    pixels = grey[..., None] + factor * (pixels - grey[..., None])
    pixels *= 1 + 0.12 * look.warmth * np.array([1, 0, -1], np.float32)
    pixels += rng.normal(0, look.noise, pixels.shape).astype(np.float32)
    image = Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8))
    if look.jpeg:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=look.jpeg)
        image = Image.open(buffer).convert("RGB")
    return image
