# SPDX-License-Identifier: Apache-2.0
"""Pictures drawn on the spot, for benchmarks of models that no clean images come with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# A picture of a size (height, width).
Painter = Callable[[np.random.Generator, tuple[int, int]], Image.Image]


def draw(folder: Path, size: tuple[int, int], count: int, channels: int, paint: Painter) -> Path:
    """A folder of pictures, seeded; what is there already is kept."""
    if folder.is_dir() and len(list(folder.iterdir())) == count:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        picture = paint(rng, size)
        (picture if channels == 3 else picture.convert({1: "L", 4: "RGBA"}[channels])).save(folder / f"{index:04}.png")
    return folder


def paint_scene(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Ellipses, boxes, lines and letters over a colour gradient."""
    height, width = size
    ends = rng.integers(0, 256, (2, 1, 1, 3))
    ramp = np.linspace(0, 1, width).reshape(1, -1, 1)
    pixels = np.broadcast_to(ends[0] * (1 - ramp) + ends[1] * ramp, (height, width, 3))
    picture = Image.fromarray(pixels.astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(1, 12))):
        left, right = sorted(int(x) for x in rng.integers(0, width, 2))
        top, bottom = sorted(int(y) for y in rng.integers(0, height, 2))
        colour = _colour(rng, 0, 256)
        shape = int(rng.integers(0, 4))
        if shape == 0:
            pen.ellipse((left, top, right, bottom), fill=colour)
        elif shape == 1:
            pen.rectangle((left, top, right, bottom), outline=colour, width=2)
        elif shape == 2:
            pen.line((left, top, right, bottom), fill=colour, width=3)
        else:
            pen.text((left, top), "".join(map(chr, rng.integers(65, 91, 6))), fill=colour)
    return picture


def paint_captcha(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Five dark digits on a bright ground, with four lines through them."""
    height, width = size
    picture = Image.new("RGB", (width, height), _colour(rng, 215, 256))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(int(0.6 * height))
    for place in range(5):
        corner = (place + 0.3) * width / 5.6 + int(rng.integers(-3, 4)), 0.12 * height + int(rng.integers(-4, 5))
        pen.text(corner, str(rng.integers(0, 10)), fill=_colour(rng, 0, 120), font=font)
    for _ in range(4):
        ends = [(int(rng.integers(0, width)), int(rng.integers(0, height))) for _ in range(2)]
        pen.line(ends, fill=_colour(rng, 60, 200))
    return picture


def _colour(rng: np.random.Generator, low: int, high: int) -> tuple[int, ...]:
    return tuple(int(value) for value in rng.integers(low, high, 3))
