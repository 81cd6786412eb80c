# SPDX-License-Identifier: Apache-2.0
"""Sliding windows: what convolutions and poolings have in common.

Paddings are given per spatial axis as ``(before, after)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812 - the field's usual name
from torch import Tensor

from patcher.errors import UnsupportedGraphError


@dataclass(frozen=True)
class Windows:
    """Geometry of windows over the spatial axes, every field with one entry an axis.

    Attributes:
        kernel: Window lengths.
        strides: Steps.
        dilations: Distances between the elements of a window.
        pads: Padding ``(before, after)``.
        extra: Padding after the last element, on top of ``pads``, that rounding up asks for.
        output: Number of windows.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    extra: tuple[int, ...]
    output: tuple[int, ...]

    @property
    def symmetric(self) -> tuple[int, ...] | None:
        """The padding per axis where it is the same on both sides and nothing is added, else ``None``."""
        if any(before != after for before, after in self.pads) or any(self.extra):
            return None
        return tuple(before for before, _ in self.pads)


def make_windows(
    size: Sequence[int],
    kernel: Sequence[int],
    *,
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str,
    ceil_mode: bool = False,
) -> Windows:
    """Resolve ONNX's window attributes for one input size.

    Args:
        size: Lengths of the spatial axes.
        kernel: Window lengths.
        strides: Steps; 1 if left out.
        dilations: Distances within a window; 1 if left out.
        pads: ONNX order: all beginnings, then all ends; 0 if left out.
        auto_pad: ``NOTSET``, ``VALID``, ``SAME_UPPER`` or ``SAME_LOWER``.
        ceil_mode: Count a last window that reaches beyond the padding, if it starts before its end
            padding (as PyTorch and the standard from opset 22 on have it).

    Raises:
        UnsupportedGraphError: The attributes do not fit together.
    """
    rank = len(size)
    strides = tuple(strides or [1] * rank)
    dilations = tuple(dilations or [1] * rank)
    spans = tuple((length - 1) * dilation + 1 for length, dilation in zip(kernel, dilations, strict=True))
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        paddings = _same_padding(size, spans, strides, auto_pad)
    elif auto_pad in ("NOTSET", "VALID"):
        flat = list(pads) if pads and auto_pad == "NOTSET" else [0] * (2 * rank)
        paddings = tuple(zip(flat[:rank], flat[rank:], strict=True))
    else:
        raise UnsupportedGraphError(f"auto_pad {auto_pad!r} is not known")
    output, extra = [], []
    for length, span, stride, (before, after) in zip(size, spans, strides, paddings, strict=True):
        room = length + before + after - span
        count = (-(-room // stride) if ceil_mode else room // stride) + 1
        if ceil_mode and (count - 1) * stride >= length + before:
            count -= 1
        output.append(count)
        extra.append(max(0, (count - 1) * stride + span - length - before - after))
    return Windows(tuple(kernel), strides, dilations, paddings, tuple(extra), tuple(output))


def _same_padding(
    size: Sequence[int], spans: Sequence[int], strides: Sequence[int], auto_pad: str
) -> tuple[tuple[int, int], ...]:
    """Padding that gives ``ceil(length / stride)`` windows; the odd element goes to the named side."""
    paddings = []
    for length, span, stride in zip(size, spans, strides, strict=True):
        total = max(0, (-(-length // stride) - 1) * stride + span - length)
        small, large = total // 2, total - total // 2
        paddings.append((small, large) if auto_pad == "SAME_UPPER" else (large, small))
    return tuple(paddings)


def pad_spatial(x: Tensor, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Pad the last axes of a tensor with a value; negative lengths crop."""
    flat = [length for pair in reversed(pads) for length in pair]
    return F.pad(x, flat, value=value) if any(flat) else x
