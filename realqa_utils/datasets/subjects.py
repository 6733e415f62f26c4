"""What stands in the generated photographs: painters of subjects, surfaces and clutter.

A painter takes a PIL `ImageDraw`, the pixel box (x0, y0, x1, y1) of the subject and a generator,
and fills the box. Colours are sRGB, 0..255.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import ImageDraw

Box = tuple[float, float, float, float]
RGB = tuple[int, int, int]

#: background -> (upper plane, lower plane), each (far colour, near colour, texture in grey levels)
SURFACES: dict[str, tuple[tuple, tuple]] = {
    "the sea": (((92, 148, 214), (196, 216, 232), 9), ((52, 118, 158), (26, 78, 122), 16)),
    "the mountains": (((120, 164, 220), (206, 218, 228), 9), ((104, 122, 84), (82, 96, 58), 20)),
    "a meadow": (((104, 158, 224), (190, 214, 236), 11), ((112, 158, 66), (66, 116, 40), 22)),
    "the old town": (((150, 178, 210), (214, 214, 210), 8), ((158, 148, 136), (120, 112, 104), 16)),
    "a wooden table": (((142, 112, 86), (112, 86, 66), 10), ((168, 112, 64), (128, 78, 40), 18)),
    "a checked tablecloth": (
        ((126, 130, 122), (98, 98, 92), 10),
        ((226, 220, 210), (204, 196, 186), 8),
    ),
    "a marble table": (((92, 106, 116), (66, 76, 86), 9), ((216, 214, 210), (190, 188, 186), 22)),
    "a striped wall": (((206, 196, 172), (192, 180, 154), 7), ((142, 98, 66), (108, 72, 46), 16)),
    "a plain wall": (((198, 204, 202), (182, 188, 188), 8), ((150, 132, 114), (122, 104, 90), 17)),
    "a panelled wall": (((150, 108, 76), (128, 90, 62), 9), ((122, 120, 126), (92, 90, 98), 16)),
}

#: width over height of every subject
ASPECT = {
    "a lighthouse": 0.42,
    "a pagoda": 0.72,
    "a castle": 1.05,
    "a statue": 0.45,
    "a plate of pasta": 1.25,
    "a bowl of soup": 1.15,
    "a pizza": 1.25,
    "a cake": 0.95,
    "a bed": 1.3,
    "an armchair": 0.95,
    "a lamp": 0.55,
    "a wardrobe": 0.7,
}


def _mix(rng: np.random.Generator, base: RGB, spread: float = 14) -> RGB:
    return tuple(int(v) for v in np.clip(rng.normal(base, spread), 0, 255))


def _shade(colour: RGB, factor: float) -> RGB:
    return tuple(int(min(255, v * factor)) for v in colour)


def _part(box: Box, x0: float, y0: float, x1: float, y1: float) -> Box:
    """A box inside `box`, in fractions of it."""
    w, h = box[2] - box[0], box[3] - box[1]
    return box[0] + x0 * w, box[1] + y0 * h, box[0] + x1 * w, box[1] + y1 * h


def _points(box: Box, *xy: tuple[float, float]) -> list[tuple[float, float]]:
    return [_part(box, x, y, x, y)[:2] for x, y in xy]


def _block(draw: ImageDraw.ImageDraw, box: Box, part: Box, colour: RGB) -> None:
    """A solid with a lit left and a shaded right side."""
    x0, y0, x1, y1 = part
    draw.rectangle(_part(box, x0, y0, x1, y1), fill=colour)
    draw.rectangle(_part(box, x0 + 0.68 * (x1 - x0), y0, x1, y1), fill=_shade(colour, 0.76))


def _lighthouse(draw: ImageDraw.ImageDraw, box: Box, rng: np.random.Generator) -> None:
    body, stripe = (236, 232, 224), _mix(rng, (206, 40, 36))
    for i in range(6):
        y0, y1 = 0.2 + i * 0.8 / 6, 0.2 + (i + 1) * 0.8 / 6
        half = [0.24 + 0.2 * y for y in (y0, y1)]
        colour = stripe if i % 2 else body
        corners = ((0.5 - half[0], y0), (0.5 + half[0], y0), (0.5 + half[1], y1))
        draw.polygon(_points(box, *corners, (0.5 - half[1], y1)), fill=colour)
        dark = ((0.5 + half[0] * 0.35, y0), (0.5 + half[0], y0), (0.5 + half[1], y1))
        draw.polygon(_points(box, *dark, (0.5 + half[1] * 0.35, y1)), fill=_shade(colour, 0.75))
    draw.rectangle(_part(box, 0.3, 0.09, 0.7, 0.2), fill=(250, 226, 120))
    draw.rectangle(_part(box, 0.18, 0.18, 0.82, 0.21), fill=(44, 44, 50))
    draw.polygon(_points(box, (0.24, 0.09), (0.76, 0.09), (0.5, 0)), fill=stripe)


def _pagoda(draw: ImageDraw.ImageDraw, box: Box, rng: np.random.Generator) -> None:
    roof, wall = _mix(rng, (46, 92, 84)), _mix(rng, (190, 62, 42))
    for i in range(4):
        y, half = 0.1 + i * 0.225, 0.22 + i * 0.08
        _block(draw, box, (0.5 - half * 0.7, y + 0.08, 0.5 + half * 0.7, y + 0.225), wall)
        for k in range(3):
            x = 0.5 + (k - 1) * half * 0.42
            draw.rectangle(_part(box, x - 0.03, y + 0.12, x + 0.03, y + 0.2), fill=(250, 214, 130))
        eaves = ((0.5 - half - 0.06, y + 0.06), (0.5 - half * 0.6, y), (0.5 + half * 0.6, y))
        rim = ((0.5 + half + 0.06, y + 0.06), (0.5 + half, y + 0.095), (0.5 - half, y + 0.095))
        draw.polygon(_points(box, *eaves, *rim), fill=roof)
    draw.rectangle(_part(box, 0.485, 0, 0.515, 0.1), fill=(206, 170, 70))


def _castle(draw: ImageDraw.ImageDraw, box: Box, rng: np.random.Generator) -> None:
    stone, roof = _mix(rng, (202, 178, 142)), _mix(rng, (172, 62, 52))
    _block(draw, box, (0.16, 0.46, 0.84, 1), stone)
    for i in range(7):
        x = 0.16 + i * 0.1
        draw.rectangle(_part(box, x, 0.41, x + 0.055, 0.47), fill=_shade(stone, 0.92))
    for x in (0.06, 0.42, 0.78):
        top = 0.16 if x == 0.42 else 0.3
        _block(draw, box, (x, top, x + 0.17, 1), _shade(stone, 1.06))
        apex = (x + 0.085, top - 0.16)
        draw.polygon(_points(box, (x - 0.03, top), (x + 0.2, top), apex), fill=roof)
        for y in (top + 0.1, top + 0.3):
            draw.rectangle(_part(box, x + 0.06, y, x + 0.11, y + 0.09), fill=(56, 48, 46))
    draw.rectangle(_part(box, 0.45, 0.76, 0.56, 1), fill=(72, 48, 34))


def _statue(draw: ImageDraw.ImageDraw, box: Box, rng: np.random.Generator) -> None:
    bronze, stone = _mix(rng, (70, 122, 104)), _mix(rng, (190, 186, 178))
    _block(draw, box, (0.1, 0.7, 0.9, 1), stone)
    _block(draw, box, (0.02, 0.68, 0.98, 0.74), _shade(stone, 1.08))
    draw.polygon(_points(box, (0.24, 0.69), (0.76, 0.69), (0.64, 0.22), (0.36, 0.22)), fill=bronze)
    dark = _shade(bronze, 0.7)
    draw.polygon(_points(box, (0.55, 0.69), (0.76, 0.69), (0.64, 0.22), (0.54, 0.22)), fill=dark)
    draw.polygon(_points(box, (0.6, 0.26), (0.7, 0.3), (0.98, 0.04), (0.88, 0.02)), fill=bronze)
    draw.ellipse(_part(box, 0.36, 0.06, 0.64, 0.23), fill=_shade(bronze, 1.12))


def _dish(draw: ImageDraw.ImageDraw, box: Box) -> None:
    """A white plate with a rim, seen from obliquely above."""
    draw.ellipse(_part(box, 0.0, 0.2, 1.0, 1.0), fill=(118, 104, 96))
    draw.ellipse(_part(box, 0.0, 0.16, 1.0, 0.95), fill=(238, 236, 232))
    draw.ellipse(_part(box, 0.1, 0.22, 0.9, 0.86), fill=(214, 212, 208))
    draw.ellipse(_part(box, 0.12, 0.24, 0.88, 0.85), fill=(230, 228, 224))


def _pasta(draw: ImageDraw.ImageDraw, box: Box, rng: np.random.Generator) -> None:
    _dish(draw, box)
    draw.ellipse(_part(box, 0.22, 0.26, 0.78, 0.76), fill=(200, 142, 62))
    for _ in range(34):
        x, y = rng.uniform(0.24, 0.56), rng.uniform(0.26, 0.58)
        arc = _part(box, x, y, x + rng.uniform(0.1, 0.22), y + rng.uniform(0.08, 0.18))
        start = rng.uniform(0, 360)
        width = max(1, int((box[3] - box[1]) / 48))
        draw.arc(arc, start, start + 230, fill=_mix(rng, (242, 204, 112)), width=width)
    draw.ellipse(_part(box, 0.36, 0.3, 0.64, 0.52), fill=_mix(rng, (198, 52, 34)))
    draw.ellipse(_part(box, 0.44, 0.31, 0.53, 0.38), fill=(62, 142, 54))


def _soup(draw: ImageDraw.ImageDraw, box: Box, rng: np.random.Generator) -> None:
    bowl = _mix(rng, (64, 92, 152))
    draw.chord(_part(box, 0.04, -0.15, 0.96, 1.0), 0, 180, fill=_shade(bowl, 0.85))
    draw.ellipse(_part(box, 0.3, 0.9, 0.7, 1.0), fill=_shade(bowl, 0.6))
    draw.ellipse(_part(box, 0.04, 0.2, 0.96, 0.66), fill=_shade(bowl, 1.35))
    draw.ellipse(_part(box, 0.1, 0.24, 0.9, 0.62), fill=_mix(rng, (226, 122, 42)))
    for _ in range(14):
        x, y = rng.uniform(0.22, 0.72), rng.uniform(0.3, 0.52)
        colour = _mix(rng, ((82, 152, 62), (246, 232, 190), (190, 52, 36))[rng.integers(3)])
        draw.ellipse(_part(box, x, y, x + 0.075, y + 0.055), fill=colour)


def _pizza(draw: ImageDraw.ImageDraw, box: Box, rng: np.random.Generator) -> None:
    draw.ellipse(_part(box, 0.0, 0.18, 1.0, 1.0), fill=(96, 66, 44))
    draw.ellipse(_part(box, 0.01, 0.14, 0.99, 0.95), fill=_mix(rng, (206, 148, 80)))
    draw.ellipse(_part(box, 0.09, 0.2, 0.91, 0.88), fill=_mix(rng, (240, 196, 92)))
    for i in range(16):
        radius, angle = (0.14, 0.3)[i % 2], i * 0.785 + rng.uniform(-0.2, 0.2)
        x, y = 0.5 + radius * np.cos(angle), 0.54 + radius * 0.85 * np.sin(angle)
        colour = ((196, 40, 34), (62, 132, 50), (232, 226, 206))[i % 3]
        draw.ellipse(_part(box, x - 0.06, y - 0.055, x + 0.06, y + 0.055), fill=colour)


def _cake(draw: ImageDraw.ImageDraw, box: Box, rng: np.random.Generator) -> None:
    cream, sponge = (248, 236, 224), _mix(rng, (190, 104, 122))
    draw.ellipse(_part(box, 0.0, 0.82, 1.0, 1.0), fill=(228, 228, 230))
    draw.rectangle(_part(box, 0.12, 0.42, 0.88, 0.9), fill=sponge)
    draw.ellipse(_part(box, 0.12, 0.84, 0.88, 0.96), fill=sponge)
    draw.rectangle(_part(box, 0.12, 0.58, 0.88, 0.66), fill=cream)
    draw.rectangle(_part(box, 0.66, 0.42, 0.88, 0.9), fill=_shade(sponge, 0.78))
    draw.ellipse(_part(box, 0.12, 0.32, 0.88, 0.52), fill=cream)
    for i in range(6):
        x = 0.2 + i * 0.115
        draw.ellipse(_part(box, x, 0.3, x + 0.1, 0.42), fill=_mix(rng, (206, 32, 48)))
        draw.rectangle(_part(box, x + 0.04, 0.06, x + 0.06, 0.32), fill=(112, 190, 216))
        draw.ellipse(_part(box, x + 0.03, 0, x + 0.075, 0.08), fill=(254, 206, 90))


def _bed(draw: ImageDraw.ImageDraw, box: Box, rng: np.random.Generator) -> None:
    wood, cover = _mix(rng, (108, 66, 42)), _mix(rng, (58, 104, 158), 26)
    _block(draw, box, (0.04, 0.0, 0.96, 0.6), wood)
    draw.rectangle(_part(box, 0.0, 0.42, 1.0, 0.9), fill=(240, 238, 234))
    for x in (0.1, 0.54):
        draw.rounded_rectangle(_part(box, x, 0.26, x + 0.36, 0.5), 5, fill=(250, 250, 246))
        draw.line(_points(box, (x + 0.02, 0.46), (x + 0.34, 0.46)), fill=(196, 194, 190), width=2)
    corners = ((0.0, 0.58), (1.0, 0.58), (1.0, 0.92), (0.0, 0.92))
    draw.polygon(_points(box, *corners), fill=cover)
    for i in range(6):
        x = 0.08 + i * 0.17
        draw.line(_points(box, (x, 0.58), (x - 0.03, 0.92)), fill=_shade(cover, 0.78), width=2)
    draw.rectangle(_part(box, 0.02, 0.92, 0.98, 1.0), fill=_shade(wood, 0.7))


def _armchair(draw: ImageDraw.ImageDraw, box: Box, rng: np.random.Generator) -> None:
    cloth = _mix(rng, (196, 92, 46), 24)
    draw.rounded_rectangle(_part(box, 0.14, 0.0, 0.86, 0.8), 9, fill=cloth)
    for x in (0.32, 0.5, 0.68):
        for y in (0.16, 0.34):
            draw.ellipse(_part(box, x - 0.02, y - 0.02, x + 0.02, y + 0.02), fill=(72, 34, 22))
    draw.rounded_rectangle(_part(box, 0.16, 0.5, 0.84, 0.74), 6, fill=_shade(cloth, 1.2))
    draw.rectangle(_part(box, 0.1, 0.72, 0.9, 0.9), fill=_shade(cloth, 0.7))
    for x in (0.0, 0.8):
        draw.rounded_rectangle(_part(box, x, 0.36, x + 0.2, 0.9), 6, fill=_shade(cloth, 0.88))
    for x in (0.06, 0.86):
        draw.rectangle(_part(box, x, 0.9, x + 0.07, 1), fill=(58, 40, 30))


def _lamp(draw: ImageDraw.ImageDraw, box: Box, rng: np.random.Generator) -> None:
    shade = _mix(rng, (246, 208, 126))
    draw.rectangle(_part(box, 0.46, 0.3, 0.54, 0.95), fill=(74, 62, 52))
    draw.ellipse(_part(box, 0.22, 0.92, 0.78, 1.0), fill=(64, 54, 46))
    draw.polygon(_points(box, (0.26, 0), (0.74, 0), (1, 0.36), (0, 0.36)), fill=shade)
    lit = _shade(shade, 1.15)
    draw.polygon(_points(box, (0.34, 0), (0.5, 0), (0.5, 0.36), (0.2, 0.36)), fill=lit)
    draw.line(_points(box, (0, 0.36), (1, 0.36)), fill=(150, 98, 50), width=3)


def _wardrobe(draw: ImageDraw.ImageDraw, box: Box, rng: np.random.Generator) -> None:
    wood = _mix(rng, (66, 104, 92), 20)
    _block(draw, box, (0, 0.04, 1, 0.97), wood)
    draw.rectangle(_part(box, -0.04, 0, 1.04, 0.07), fill=_shade(wood, 1.3))
    for x in (0.06, 0.53):
        for y0, y1 in ((0.12, 0.5), (0.55, 0.92)):
            draw.rectangle(_part(box, x, y0, x + 0.41, y1), fill=_shade(wood, 1.16))
            inner = _part(box, x + 0.05, y0 + 0.04, x + 0.36, y1 - 0.04)
            draw.rectangle(inner, fill=_shade(wood, 0.88))
    for x in (0.44, 0.55):
        draw.ellipse(_part(box, x - 0.02, 0.48, x + 0.03, 0.53), fill=(230, 196, 96))


PAINTERS: dict[str, dict[str, Callable]] = {
    "attraction": {
        "a lighthouse": _lighthouse,
        "a pagoda": _pagoda,
        "a castle": _castle,
        "a statue": _statue,
    },
    "restaurant": {
        "a plate of pasta": _pasta,
        "a bowl of soup": _soup,
        "a pizza": _pizza,
        "a cake": _cake,
    },
    "hotel": {
        "a bed": _bed,
        "an armchair": _armchair,
        "a lamp": _lamp,
        "a wardrobe": _wardrobe,
    },
}


def decorate(draw: ImageDraw.ImageDraw, background: str, line: float, canvas, rng) -> None:
    """Details of a background: ridges, house fronts, checks, stripes; `line` is the horizon, px."""
    side, unit = canvas.side, canvas.frame / 24
    if background == "the mountains":
        for height, colour in ((5.5, (134, 148, 172)), (3.4, (96, 116, 122))):
            x = np.linspace(0, side, 12)
            y = line - unit * height * rng.uniform(0.3, 1.0, 12)
            ridge = [(0, line), *zip(x, y, strict=True), (side, line)]
            draw.polygon(ridge, fill=_mix(rng, colour, 6))
    elif background == "the old town":
        x = 0.0
        while x < side:
            width, height = unit * rng.uniform(2.2, 3.6), unit * rng.uniform(3, 6)
            wall = _mix(rng, (198, 168, 136), 18)
            draw.rectangle((x, line - height, x + width, line), fill=wall)
            eaves, ridge = line - height, line - height - unit
            roof = [(x, eaves), (x + width, eaves), (x + width / 2, ridge)]
            draw.polygon(roof, fill=_mix(rng, (158, 84, 62)))
            x += width
    elif background == "a checked tablecloth":
        cell = 2 * unit
        for i in range(int(side / cell) + 1):
            for j in range(int((side - line) / cell) + 1):
                if (i + j) % 2:
                    x, y = i * cell, line + j * cell
                    draw.rectangle((x, y, x + cell, y + cell), fill=(196, 72, 66))
    elif background in ("a striped wall", "a panelled wall"):
        step = (1.5 if background == "a striped wall" else 4) * unit
        for i in range(int(side / step) + 1):
            x = i * step
            wide = step / 2 if background == "a striped wall" else unit / 4
            draw.rectangle((x, 0, x + wide, line), fill=_mix(rng, (162, 142, 112), 4))
    elif background == "a wooden table":
        for i in range(1, 7):
            y = line + (side - line) * (i / 7) ** 1.5
            draw.line((0, y, side, y), fill=(96, 58, 30), width=2)
    draw.line((0, line, side, line), fill=(58, 52, 48), width=max(1, round(unit / 4)))


THING_COLOURS: tuple[RGB, ...] = (
    (208, 50, 44),
    (38, 92, 172),
    (240, 196, 50),
    (52, 138, 76),
    (236, 232, 226),
    (40, 38, 44),
    (146, 70, 150),
)


def thing(draw: ImageDraw.ImageDraw, kind: str, x: float, y: float, size: float, canvas, rng):
    """One piece of background clutter, its foot at (x, y): a passer-by, a glass, a suitcase."""
    colour = THING_COLOURS[rng.integers(len(THING_COLOURS))]
    box = canvas.box(x, y - size, x + size * 0.6, y)
    if kind == "attraction":
        draw.ellipse(_part(box, 0.3, 0, 0.7, 0.25), fill=(214, 168, 136))
        draw.rectangle(_part(box, 0.18, 0.25, 0.82, 0.65), fill=colour)
        draw.rectangle(_part(box, 0.26, 0.65, 0.74, 1), fill=(44, 46, 62))
    elif kind == "restaurant":
        draw.rectangle(_part(box, 0.1, 0.35, 0.9, 1), fill=colour)
        draw.rectangle(_part(box, 0.34, 0, 0.66, 0.35), fill=_shade(colour, 0.7))
        draw.line(_points(box, (0.25, 0.4), (0.25, 0.95)), fill=(250, 250, 250), width=2)
    else:
        draw.rectangle(_part(box, 0, 0.25, 1, 1), fill=colour)
        draw.rectangle(_part(box, 0.3, 0.05, 0.7, 0.27), outline=(40, 38, 40), width=2)
        draw.line(_points(box, (0, 0.6), (1, 0.6)), fill=_shade(colour, 0.6), width=2)


def blot(draw: ImageDraw.ImageDraw, x: float, y: float, size: float, canvas, rng) -> None:
    """One piece of subject clutter, centred at (x, y): a bright sticker, garnish or toy."""
    colour = THING_COLOURS[rng.integers(len(THING_COLOURS))]
    box = canvas.box(x - size, y - size, x + size, y + size)
    draw.ellipse(box, fill=colour, outline=(30, 28, 30), width=2)
    draw.ellipse(_part(box, 0.25, 0.22, 0.5, 0.46), fill=(252, 250, 244))
