# SPDX-License-Identifier: Apache-2.0
"""Pictures as part of a page. Every picture that a report writes has its caption here, which explains every mark."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from patcher.report.page.blocks import Picture, Pictures, Section

_SIDE = 112  # pixels on the page, at least

CAPTIONS: Mapping[str, str] = {
    "activations": "One panel for each bounded tensor, before the patch. Blue: the share of the clean images' "
    "activations of each size, relative to the bound of their channel, on a logarithmic axis; the first bar holds the "
    "zeros of the activation, the last one everything from 1.5 on. Red line: the bound. Beyond it, with the share "
    "written there, is what the patch cuts off.",
    "masks": "One panel for each masked constant. Blue: the masks of its channels from the smallest to the largest; "
    "1 leaves a channel as it is. Red line: the floor, below which no mask may go.",
    "curve": "Blue: accuracy on held-out images after each check of the search. Dotted: the lowest that --epsilon "
    "allows. Red, right axis: the method's own cost, which the search lowers. Dashed: the state that was kept.",
    "roc": "How many triggered images the flag's score catches (up) at how many false alarms on clean images (right, "
    "logarithmic). Red points: at fixed rates of false alarms, written beside them. "
    "Cross: the threshold in the file.",
    "sizes": "One panel for each kind of trigger that was searched, each with its own unit. A bar is the smallest "
    "change that sent nearly all images to that class; hollow: no change did, and the bar is the largest tried. Red: a "
    "flagged class. Dashed: half the median, below which a class stands out.",
    "trigger": "Left: the trigger alone, as its kind describes it. Then three clean images that played no part in the "
    "search, the same with the trigger, and the difference, amplified by the factor above it; grey is no difference.",
    "suspects": "The suspects of each label with the highest scores first; the label they carry and how many there are "
    "stands above each row.",
}


def data_uri(content: bytes) -> str:
    """A PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def pixel_uri(pixels: NDArray[np.uint8]) -> str:
    """Pixels uint8 ``(C, H, W)`` as a data URI; small pictures are enlarged without smoothing."""
    from PIL import Image

    array = pixels.transpose(1, 2, 0)
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    factor = max(1, -(-_SIDE // array.shape[0]))
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=False)
    return data_uri(buffer.getvalue())


def chart(name: str, content: bytes) -> Picture:
    """One of the pictures that are named in `CAPTIONS`.

    Args:
        name: File name; ``trigger-7-waves.png`` has the caption of ``trigger``.
        content: PNG bytes.
    """
    kind = name.removesuffix(".png").partition("-")[0]
    return Picture(data_uri(content), name, CAPTIONS[kind], wide=True)


def charts(title: str, files: Mapping[str, bytes], *, folded: bool = False) -> list[Section]:
    """A section with these pictures; none where there are none."""
    if not files:
        return []
    return [Section(title, [Pictures([chart(name, content) for name, content in files.items()])], folded)]
