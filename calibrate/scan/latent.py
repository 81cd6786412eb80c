# SPDX-License-Identifier: Apache-2.0
"""How far is each class? The smallest shift of the last features that gives it, without any form of trigger.

    phi: input of the last linear layer, rows w of its weight
    s_k  = argmin |s|  with  (w_k - w_j) s >= the 95 % quantile, over clean images of other classes, of z_j - z_k,
           for every other class j
    score_k = (median_u log |s_u| - log |s_k|) / max(1.4826 MAD, 0.05)

Whatever its form, a trigger ends in such a shift; a backdoor leaves its target much too close. One forward pass,
then a quadratic programme with one constraint a class. (After "TAC reconstruction", 2025.)

When it does not hold: all-to-all backdoors leave no single class close; several layers behind the features (two
linear ones, say) bend the distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from scipy.optimize import nnls

from patcher.calibrate.classifier import Classifier
from patcher.calibrate.scan.outliers import robust_deviation
from patcher.data.clean_set import CleanSet, Indices
from patcher.model.model import Model

_QUANTILE = 0.95
_SMALLEST_SPREAD = 0.05
_TOLERANCE = 1e-9
_JOIN = 32  # constraints a round
_THROUGH = ("Add", "Identity", "Softmax", "LogSoftmax", "Reshape", "Flatten", "Squeeze", "Cast")


@dataclass(frozen=True)
class LatentSpace:
    """What the last linear layer makes of clean images.

    Attributes:
        logits: Class scores, float64 ``(N, K)``.
        labels: int64 ``(N,)``.
        rows: The layer's weight, float64 ``(K, D)``.
    """

    logits: NDArray[np.float64]
    labels: NDArray[np.int64]
    rows: NDArray[np.float64]

    def shift(self, images: NDArray[np.bool_], target: int) -> float:
        """Length of the smallest shift that gives `target` on 95 % of these images, NaN where there is none."""
        others = np.delete(np.arange(len(self.rows)), target)
        scores = np.ascontiguousarray(self.logits[images].T)
        needed = np.quantile(scores[others] - scores[target], _QUANTILE, axis=1)
        return _smallest_shift(self.rows[target] - self.rows[others], needed)


@torch.no_grad()
def latent_space(
    classifier: Classifier, clean_set: CleanSet, indices: Indices, *, batch_size: int
) -> LatentSpace | None:
    """One pass over clean images; ``None`` where the model does not end in one linear layer.

    Args:
        classifier: The model.
        clean_set: Clean images.
        indices: Which of them.
        batch_size: Images in memory at a time.
    """
    layer = last_linear(classifier.model)
    if layer is None:
        return None
    batches = classifier.batches(clean_set, indices, batch_size)
    logits = np.concatenate([classifier.logits(images).double().cpu().numpy() for images, _ in batches])
    return LatentSpace(logits, clean_set.labels[indices], layer[1])


def latent_distances(space: LatentSpace) -> NDArray[np.float64] | None:
    """Length of the smallest shift of the last features to each class, float64 ``(K,)``.

    ``None`` where a class cannot be reached by a shift.
    """
    distances = np.full(len(space.rows), np.nan)
    for target in range(len(space.rows)):
        if (foreign := space.labels != target).any():
            distances[target] = space.shift(foreign, target)
    return distances if np.isfinite(distances).all() and (distances > 0).all() else None


def latent_scores(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each distance lies under the median of all, in deviations of their logarithms, ``(K,)``."""
    logs = np.log(distances)
    spread = max(robust_deviation(logs), _SMALLEST_SPREAD)
    return np.asarray((np.median(logs) - logs) / spread, np.float64)


def last_linear(model: Model) -> tuple[str, NDArray[np.float64]] | None:
    """The features' tensor name and the rows ``(K, D)`` of the layer that turns them into class scores."""
    makers = {name: node for node in model.proto.graph.node for name in node.output}
    constants = {item.name: item for item in model.proto.graph.initializer}
    name = model.logits
    while (node := makers.get(name)) is not None and node.op_type in _THROUGH:
        inner = [given for given in node.input if given not in constants]
        name = inner[0] if len(inner) == 1 else ""
    if node is None or node.op_type not in ("Gemm", "MatMul") or node.input[1] not in constants:
        return None
    weight = numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
    rows = weight if _attribute(node, "transB") else weight.T
    return (node.input[0], rows) if rows.ndim == 2 and len(rows) == model.num_classes else None


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), 0)


def _smallest_shift(directions: NDArray[np.float64], needed: NDArray[np.float64]) -> float:
    """Smallest ``|s|`` with ``directions s >= needed``, NaN where there is none.

    Few constraints bind: the nearest are tried, then those that their solution violates join.
    """
    lengths = np.linalg.norm(directions, axis=1)
    scale, unit = float(np.abs(needed).max()), float(np.median(lengths))
    if scale == 0 or unit == 0:
        return 0.0 if scale == 0 else float("nan")
    directions, wanted = directions / unit, needed / scale
    shift, chosen = np.zeros(directions.shape[1]), np.zeros(len(wanted), bool)
    while True:
        short = (wanted - directions @ shift) / np.maximum(lengths / unit, _TOLERANCE)
        ahead = np.flatnonzero(~chosen & (short > _TOLERANCE))
        if not len(ahead):
            return float(np.linalg.norm(shift)) * scale / unit
        chosen[ahead[np.argsort(-short[ahead], kind="stable")[:_JOIN]]] = True
        found = _least_distance(directions[chosen], wanted[chosen])
        if found is None:
            return float("nan")
        shift = found


def _least_distance(directions: NDArray[np.float64], needed: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Least distance programming by non-negative least squares (Lawson and Hanson, 1974, chapter 23.4)."""
    system = np.vstack([directions.T, needed])
    wanted = np.append(np.zeros(len(system) - 1), 1.0)
    try:
        residual = system @ nnls(system, wanted)[0] - wanted
    except RuntimeError:  # too many rounds
        return None
    return None if abs(residual[-1]) < _TOLERANCE else -residual[:-1] / residual[-1]
