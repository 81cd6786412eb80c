# SPDX-License-Identifier: Apache-2.0
"""Changes of the element type."""

from __future__ import annotations

import torch
from torch import Tensor

from patcher.errors import UnsupportedGraphError
from patcher.graph.host_values import torch_type
from patcher.graph.operators.registry import operator


def _convert(x: Tensor, kind: torch.dtype) -> Tensor:
    if x.dtype == kind:
        return x
    if kind == torch.bool:
        return x != 0
    return x.to(kind)


@operator("Cast")
def cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up", compute_type: torch.dtype) -> Tensor:
    """Convert to another type; the 16-bit floats are computed in the compute type.

    ``saturate`` and ``round_mode`` concern the 8-bit floats only, which are refused.
    """
    return _convert(x, torch_type(to, compute_type))


@operator("CastLike")
def cast_like(x: Tensor, target: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """Convert to the type of another tensor."""
    if target.dtype.is_floating_point and target.dtype not in (torch.float32, torch.float64):
        raise UnsupportedGraphError(f"type {target.dtype} is not supported")
    return _convert(x, target.dtype)
