# SPDX-License-Identifier: Apache-2.0
"""A site: a named tensor of the ONNX graph where a method may act."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SiteKind = Literal["activation", "channel"]


@dataclass(frozen=True)
class Site:
    """One place where a correction can be put.

    Attributes:
        tensor: Name of the ONNX tensor. Names are unique in a graph, so this identifies the site.
        kind: ``activation``: the output of a non-linearity (or of an attention layer);
            ``channel``: the output of a Conv/Gemm/MatMul, or of the BatchNormalization behind it.
        operator: The operator (or decomposed pattern) that produces it: ``Relu``, ``SiLU``, ``Conv``.
        channel_axis: Axis of the channels in the tensor, counted from 0 with the batch axis as 0.
        channels: Number of channels.
        shape: Shape with the batch axis first; ``None`` where the graph leaves a length open.
        weight: For channel sites, the initializer that holds the weight; else ``None``.
        normalization: For channel sites, the output tensor of the BatchNormalization that follows
            the linear operator directly; ``None`` where there is none.
    """

    tensor: str
    kind: SiteKind
    operator: str
    channel_axis: int
    channels: int
    shape: tuple[int | None, ...]
    weight: str | None = None
    normalization: str | None = None
