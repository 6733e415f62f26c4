"""Which pixels of a photograph the model looks at, in training and in testing.

The mini backbone sees 112 x 112 pixels. A photograph that is larger is either shrunk as a whole,
or looked at through windows of that size at its own resolution: a random one in training, a fixed
grid of them in testing, whose answers are averaged.
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
    """

    size: int = 0
    short: int = 0
    grid: int = 1
    random: bool = False

    def __post_init__(self) -> None:
        if self.size and self.short < self.size:
            raise ValueError(f"short side {self.short} is less than the window {self.size}")

    def fit(self, image: Image.Image) -> Image.Image:
        """Bring the short side to `short` pixels (bicubic); done once per photograph."""
        if not self.short:
            return image
        scale = self.short / min(image.size)
        width, height = (max(self.short, round(side * scale)) for side in image.size)
        return image.resize((width, height), Image.Resampling.BICUBIC)

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
