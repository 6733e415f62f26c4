"""Which pixels of a photograph the model looks at, in training and in testing.

The mini backbone sees 112 x 112 pixels. A photograph that is larger is either shrunk as a whole,
or looked at through windows of that size at its own resolution: a random one in training, a fixed
grid of them in testing, whose answers are averaged. Larger models see a photograph whole, by one
of two presets: `repo` is what the authors' loader does, `clean` what their README says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

LEFT_RIGHT = Image.Transpose.FLIP_LEFT_RIGHT


@dataclass(frozen=True)
class View:
    """`size` 0 leaves the photograph to the image processor; else windows of `size` pixels.

    `short` is the length in pixels to which the short side is brought first; `grid` x `grid`
    windows are looked at in testing. A random window is mirrored half of the time.

    Of a whole photograph, `longest` is what the longer side is shrunk to by nearest neighbour, if
    it is more, and `pixels` the least and most that the processor leaves (0, 0: its own limits).
    """

    size: int = 0
    short: int = 0
    grid: int = 1
    random: bool = False
    longest: int = 0
    pixels: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.size and (self.longest or any(self.pixels)):
            raise ValueError("longest and pixels are for whole photographs: leave size at 0")
        if self.pixels[0] > self.pixels[1]:
            raise ValueError(f"pixels={self.pixels}: the least comes first")
        if self.size and self.short < self.size:
            raise ValueError(f"short side {self.short} is less than the window {self.size}")

    @property
    def limits(self) -> tuple[int, int]:
        """Least and most pixels that the image processor is to leave; 0, 0 for its own."""
        return (self.size**2, self.size**2) if self.size else self.pixels

    def fit(self, image: Image.Image) -> Image.Image:
        """Bring a side to `short` or `longest` pixels; done once per photograph."""
        size = self.fitted_size(*image.size)
        how = Image.Resampling.NEAREST if self.longest else Image.Resampling.BICUBIC
        return image if size == image.size else image.resize(size, how)

    def fitted_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after `fit`."""
        if self.longest and max(width, height) > self.longest:
            scale = self.longest / max(width, height)
            return max(1, int(width * scale)), max(1, int(height * scale))
        if not self.short:
            return width, height
        scale = self.short / min(width, height)
        return tuple(max(self.short, round(side * scale)) for side in (width, height))

    def training(self, image: Image.Image, rng: np.random.Generator | None) -> Image.Image:
        """One window of a fitted photograph: random with `rng`, else the middle one."""
        if not self.size:
            return image
        x, y = (side - self.size for side in image.size)
        if not self.random or rng is None:
            return self._window(image, x // 2, y // 2)
        window = self._window(image, rng.integers(x + 1), rng.integers(y + 1))
        return window.transpose(LEFT_RIGHT) if rng.uniform() < 0.5 else window

    def testing(self, image: Image.Image) -> Sequence[Image.Image]:
        """The windows of a fitted photograph that its score is averaged over."""
        if not self.size:
            return [image]
        if self.grid == 1:
            return [self.training(image, None)]
        x, y = (np.linspace(0, side - self.size, self.grid).round() for side in image.size)
        return [self._window(image, int(a), int(b)) for b in y for a in x]

    def windows(self, image: Image.Image) -> Sequence[Image.Image]:
        """What is looked at of a photograph as it was opened."""
        return self.testing(self.fit(image))

    def _window(self, image: Image.Image, x: int, y: int) -> Image.Image:
        return image.crop((x, y, x + self.size, y + self.size))


_README = (256 * 28**2, 512 * 28**2)  # 200,704 and 401,408 pixels
#: How a Qwen2-VL sees a whole photograph, by the name of the preset.
PRESETS = {"repo": View(longest=512, pixels=_README), "clean": View(pixels=_README)}
