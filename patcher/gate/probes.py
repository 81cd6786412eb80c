# SPDX-License-Identifier: Apache-2.0
"""Generic triggers: what a backdoor might look like when nobody has seen its trigger.

- *Corner patches* in three sizes and four contrasts (white, black, two checkerboards).
- *Colour patches*: random colours at random places in three sizes. A network that learned a small patch
  as a shortcut reacts to many patches of that size, not only to the attacker's own; a clean one does not.
- *Sinusoid* (SIG, Barni et al. 2019), *blend* with noise (Chen et al. 2017) and *warp* (WaNet, Nguyen and
  Tran 2021), all faint: a clean network loses its way too when the whole picture is overlaid strongly.

A trigger of another kind goes unseen: probes are evidence of a backdoor, never of its absence. Everything
is in pixel space [0, 1] and relative to the shorter side of the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]

_PATCH_SHARES = (1 / 16, 3 / 32, 5 / 32)
_SMALLEST_CORNER = 2
_SINE_AMPLITUDE = 0.04
_SINE_PERIODS = 6
_BLEND = 0.08
_WARP = 0.03
_WARP_GRID = 4


@dataclass(frozen=True)
class Probe:
    """One way to alter pictures.

    Attributes:
        name: Says family, size, contrast and place.
        apply: float32 ``(N, C, H, W)`` pixels in [0, 1] to the same with the trigger in them.
    """

    name: str
    apply: Callable[[Images], Images]


def built_in_probes(shape: tuple[int, int, int], *, patches: int, seed: int) -> tuple[Probe, ...]:
    """All probes for pictures of one shape.

    Args:
        shape: ``(C, H, W)``.
        patches: Random colour patches of each size.
        seed: Of their colours and places.
    """
    rng = np.random.default_rng(seed)
    return (*_corners(shape), *_colour_patches(shape, patches, rng), *_overlays(shape, rng), _warp(shape, rng))


def patch_sizes(shape: tuple[int, int, int], smallest: int) -> tuple[int, ...]:
    """Side lengths in pixels, none below `smallest`, without repetition."""
    side = min(shape[1:])
    lengths = (min(side, max(smallest, round(side * share))) for share in _PATCH_SHARES)
    return tuple(dict.fromkeys(lengths))


def _corners(shape: tuple[int, int, int]) -> Iterator[Probe]:
    _, height, width = shape
    for size in patch_sizes(shape, _SMALLEST_CORNER):
        rows, columns = np.mgrid[:size, :size]
        board = ((rows + columns) % 2).astype(np.float32)
        contrasts = {"white": np.ones_like(board), "black": np.zeros_like(board), "board": board, "inverse": 1 - board}
        places = {
            "top-left": (0, 0),
            "top-right": (0, width - size),
            "bottom-left": (height - size, 0),
            "bottom-right": (height - size, width - size),
        }
        for contrast, values in contrasts.items():
            for place, (top, left) in places.items():
                yield Probe(f"patch {size} px, {contrast}, {place}", _stamp(values, top, left))


def _colour_patches(shape: tuple[int, int, int], count: int, rng: np.random.Generator) -> Iterator[Probe]:
    channels, height, width = shape
    # They may cover what the picture shows, so in tiny pictures they are single pixels.
    for size in patch_sizes(shape, 1):
        for index in range(count):
            values = rng.random((channels, size, size)).astype(np.float32)
            # Every second one at full contrast: triggers are made to be seen by the network.
            values = values.round() if index % 2 else values
            top, left = (int(rng.integers(0, length - size + 1)) for length in (height, width))
            yield Probe(
                f"colour patch {size} px, number {index + 1}, at row {top}, column {left}", _stamp(values, top, left)
            )


def _stamp(values: NDArray[Any], top: int, left: int) -> Callable[[Images], Images]:
    size = values.shape[-1]

    def apply(images: Images) -> Images:
        stamped = images.copy()
        stamped[:, :, top : top + size, left : left + size] = values
        return stamped

    return apply


def _overlays(shape: tuple[int, int, int], rng: np.random.Generator) -> Iterator[Probe]:
    _, height, width = shape
    for name, wave in (("vertical", _sine(width)[None, :]), ("horizontal", _sine(height)[:, None])):
        yield Probe(f"sinusoid {_SINE_AMPLITUDE}, {name} stripes", _add(_SINE_AMPLITUDE * wave))
    for index in range(2):
        noise = rng.random(shape).astype(np.float32)
        yield Probe(f"blend {_BLEND} with noise {index + 1}", _blend(noise))


def _sine(length: int) -> Images:
    # Below four pixels a period the samples would show another wave, or where the sine crosses zero, none.
    periods = min(_SINE_PERIODS, max(1, length // 4))
    return np.asarray(np.sin(2 * np.pi * periods * np.arange(length) / length), np.float32)


def _add(difference: NDArray[Any]) -> Callable[[Images], Images]:
    return lambda images: np.clip(images + difference, 0, 1).astype(np.float32)


def _blend(picture: Images) -> Callable[[Images], Images]:
    return lambda images: ((1 - _BLEND) * images + _BLEND * picture).astype(np.float32)


def _warp(shape: tuple[int, int, int], rng: np.random.Generator) -> Probe:
    """A smooth random displacement field, bilinear in between the points of a coarse grid."""
    _, height, width = shape
    coarse = rng.uniform(-1, 1, (2, _WARP_GRID, _WARP_GRID)).astype(np.float32)
    field = np.stack([_enlarge(plane, height, width) for plane in coarse]) * _WARP * min(height, width)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    rows = np.clip(rows + field[0], 0, height - 1)
    columns = np.clip(columns + field[1], 0, width - 1)

    def apply(images: Images) -> Images:
        return _sample(images, rows, columns)

    return Probe(f"warp by {_WARP:.0%} of the side", apply)


def _enlarge(plane: Images, height: int, width: int) -> Images:
    rows, columns = np.meshgrid(
        np.linspace(0, _WARP_GRID - 1, height, dtype=np.float32),
        np.linspace(0, _WARP_GRID - 1, width, dtype=np.float32),
        indexing="ij",
    )
    enlarged: Images = _sample(plane[None, None], rows, columns)[0, 0]
    return enlarged


def _sample(images: Images, rows: NDArray[Any], columns: NDArray[Any]) -> Images:
    """Bilinear interpolation of ``(N, C, H, W)`` at places ``(h, w)`` inside the picture."""
    top, left = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    bottom = np.minimum(top + 1, images.shape[2] - 1)
    right = np.minimum(left + 1, images.shape[3] - 1)
    down, across = (rows - top).astype(np.float32), (columns - left).astype(np.float32)
    upper = images[:, :, top, left] * (1 - across) + images[:, :, top, right] * across
    lower = images[:, :, bottom, left] * (1 - across) + images[:, :, bottom, right] * across
    return np.asarray(upper * (1 - down) + lower * down, np.float32)
