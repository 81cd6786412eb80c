# SPDX-License-Identifier: Apache-2.0
"""One picture file as the pixels that a viewer shows, or one clear line why not.

A camera's orientation is applied, 16 bits a channel are scaled to 8. Inks need a colour profile, and an animation
has no one picture: both are refused.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from patcher.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_LARGEST = 65535
_INKS = ("CMYK",)
_OPEN_SCALE = ("F",)


def as_shown(picture: Image.Image, mode: str) -> Image.Image:
    """A picture in a mode of 8 bits a channel.

    Args:
        picture: As Pillow opened it.
        mode: ``L``, ``RGB`` or ``RGBA``.

    Raises:
        ValueError: It is no single picture of 8 or 16 bits in grey or RGB.
    """
    from PIL import Image, ImageOps

    frames = getattr(picture, "n_frames", 1)
    if frames != 1:
        raise ValueError(f"one picture expected, found an animation or a stack of {frames}")
    if picture.mode in (*_INKS, *_OPEN_SCALE):
        raise ValueError(f"grey or RGB pixels expected, found mode {picture.mode}: convert it")
    shown = ImageOps.exif_transpose(picture)
    if shown.mode in _SIXTEEN_BIT:
        values = np.asarray(shown).astype(np.int64)
        if values.size and (values.min() < 0 or values.max() > _LARGEST):
            raise ValueError("pixels of 8 or 16 bits expected, found more: convert it")
        # 255 = 65535 / 257: white stays white.
        shown = Image.fromarray(np.rint(values / (_LARGEST / 255)).astype(np.uint8))
    return shown.convert(mode)


def refuse_special_files(entries: Iterable[Path]) -> None:
    """Refuse what is neither file nor folder: reading a pipe would wait for ever, skipping it would hide it.

    Raises:
        InputError: A pipe, device, socket, or a link that leads nowhere.
    """
    for entry in entries:
        try:
            kind = entry.stat().st_mode
        except OSError as error:
            reason = f"{entry}: a link that leads nowhere ({error.strerror or error}); remove it"
            raise InputError(reason) from error
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise InputError(f"{entry}: a picture expected, found a pipe, device or socket; remove it")
