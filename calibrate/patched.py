# SPDX-License-Identifier: Apache-2.0
"""A patch in PyTorch: each correction as a rewrite of the tensor it names.

This is the reference that the exported graph is checked against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from patcher.calibrate.classifier import Classifier
from patcher.errors import CalibrationError
from patcher.patch import Affine, Bias, Branch, Correction, Normalization, UpperBound, WeightMask, Weights

Function = Callable[[Tensor], Tensor]


def patch_rewrite(classifier: Classifier, corrections: Iterable[Correction]) -> dict[str, Function]:
    """Rewrites by tensor name, for `Classifier.run`.

    Args:
        classifier: The model the patch is for; gives device and the names of statistics.
        corrections: Of one patch; several corrections of one tensor are applied in order.

    Raises:
        CalibrationError: A corrected BatchNormalization is not in the graph.
    """
    rewrites: dict[str, Function] = {}
    for correction in corrections:
        for name, function in _rewrites(classifier, correction):
            rewrites[name] = _after(rewrites[name], function) if name in rewrites else function
    return rewrites


def _rewrites(classifier: Classifier, correction: Correction) -> list[tuple[str, Function]]:
    def constant(value: object) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float32).to(classifier.device)

    match correction:
        case UpperBound(tensor, bound):
            limit = constant(bound)
            return [(tensor, lambda value: torch.minimum(value, limit))]
        case WeightMask(initializer, mask):
            factor = constant(mask)
            return [(initializer, lambda value: value * factor)]
        case Bias(tensor, shift):
            offset = constant(shift)
            return [(tensor, lambda value: value + offset)]
        case Affine(tensor, scale, shift):
            factor, offset = constant(scale), constant(shift)
            return [(tensor, lambda value: value * factor + offset)]
        case Weights(initializer, value):
            replacement = constant(value)
            return [(initializer, lambda _: replacement)]
        case Branch():
            raise CalibrationError("a second pass is no rewrite of the first; see patcher.calibrate.second_pass")
        case Normalization(tensor, mean, var):
            names = _statistics(classifier, tensor)
            return [(name, _replace(constant(value))) for name, value in zip(names, (mean, var), strict=True)]


def _statistics(classifier: Classifier, tensor: str) -> tuple[str, str]:
    """Names of the running mean and variance of the BatchNormalization that makes `tensor`."""
    for node in classifier.model.proto.graph.node:
        if node.op_type == "BatchNormalization" and node.output[0] == tensor:
            return node.input[3], node.input[4]
    raise CalibrationError(f"no BatchNormalization makes {tensor!r}; the patch is for another model")


def _replace(value: Tensor) -> Function:
    return lambda _: value


def _after(first: Function, second: Function) -> Function:
    return lambda value: second(first(value))
