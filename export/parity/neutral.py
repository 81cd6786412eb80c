# SPDX-License-Identifier: Apache-2.0
"""The patch that changes nothing: same edits, neutral values. It proves the surgery alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from patcher.errors import UnsupportedGraphError
from patcher.graph.flow import DataFlow
from patcher.model.model import Model
from patcher.patch import (
    Affine,
    Bias,
    Branch,
    Correction,
    Flag,
    MeanBound,
    Normalization,
    Patch,
    Realignment,
    UpperBound,
    WeightMask,
    Weights,
)

_HIGHEST = np.finfo(np.float16).max  # finite in every type: infinity over infinity is no factor


def neutral_patch(model: Model, patch: Patch) -> Patch:
    """Give every correction of a patch the value that leaves the model as it is.

    Args:
        model: The model the patch was made for.
        patch: The patch.

    Returns:
        A patch with bounds of infinity, masks and scales of one, shifts of zero, and the model's own
        statistics and weights.

    Raises:
        UnsupportedGraphError: The patch names something the model does not have.
    """
    flow = DataFlow(model.proto.graph, model.input_names)
    corrections = tuple(_neutral(item, flow) for item in patch.corrections)
    return Patch(patch.method, patch.source_sha256, corrections, patch.options, patch.clean_data_sha256)


def _neutral(item: Correction, flow: DataFlow) -> Correction:
    if isinstance(item, UpperBound):
        return UpperBound(item.tensor, np.full_like(item.bound, np.inf))
    if isinstance(item, MeanBound):
        return MeanBound(item.tensor, np.full_like(item.bound, _HIGHEST))
    if isinstance(item, WeightMask):
        return replace(item, mask=np.ones_like(item.mask))
    if isinstance(item, Bias):
        return Bias(item.tensor, np.zeros_like(item.shift))
    if isinstance(item, Affine):
        return Affine(item.tensor, np.ones_like(item.scale), np.zeros_like(item.shift))
    if isinstance(item, Branch):
        return replace(item, corrections=tuple(map(_neutral_realignment, item.corrections)))
    if isinstance(item, Flag):
        # Nothing is flagged: every row keeps its first answer, whatever the second view says.
        return replace(item, threshold=float("inf"))
    if isinstance(item, Weights):
        return Weights(item.initializer, _value(flow, item.initializer))
    return _neutral_normalization(item, flow)


def _neutral_realignment(item: Realignment) -> Realignment:
    one, infinity = np.ones_like(item.scale), np.full_like(item.scale, np.inf)
    return Realignment(item.tensor, one, np.zeros_like(one), infinity, -infinity)


def _neutral_normalization(item: Normalization, flow: DataFlow) -> Normalization:
    node = flow.producer(item.tensor)
    if node is None or node.op_type != "BatchNormalization":
        raise UnsupportedGraphError(f"tensor {item.tensor!r} is not the output of a BatchNormalization")
    mean, var = (_value(flow, tensor).astype(np.float32) for tensor in node.input[3:5])
    return Normalization(item.tensor, mean, var)


def _value(flow: DataFlow, tensor: str) -> np.ndarray:
    value = flow.value(tensor)
    if value is None:
        raise UnsupportedGraphError(f"the model has no constant {tensor!r}")
    return value
