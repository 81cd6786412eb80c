# SPDX-License-Identifier: Apache-2.0
"""A patch in PyTorch: each correction as a rewrite of the tensor it names.

This is the reference that the exported graph is checked against. A second pass is run beside the first:

    f(x) where its class is no target, or where g(x) gives the same class; else g(x), and the image is flagged
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from patcher.calibrate.classifier import Classifier, Rewrite, chain
from patcher.errors import CalibrationError, NotApplicableError
from patcher.patch import (
    Affine,
    Bias,
    Branch,
    Correction,
    Flag,
    MeanBound,
    Normalization,
    Realignment,
    UpperBound,
    Watch,
    WeightMask,
    Weights,
)
from patcher.tasks import Task
from patcher.two_files import FLAG_OUTPUT, SCORE_OUTPUT, SCORE_TOLERANCE

Function = Callable[[Tensor], Tensor]

# Nats. Rounding leaves about 1e-6 of a divergence undecided, which a logarithm must not blow up.
_SMALLEST_DIVERGENCE = 1e-3
_ROUNDING = 1e-2  # of the excess, in standard deviations


def refuse_single_score(classifier: Classifier, what: str) -> None:
    """Refuse what compares the classes of two passes inside the graph, for a model with one score of two classes.

    Raises:
        NotApplicableError: The model gives one score an image.
    """
    if classifier.model.single_score:
        raise NotApplicableError(
            f"{what} needs one score a class; output {classifier.model.logits!r} holds one score of two classes: "
            "choose another --method"
        )


def refuse_several(task: Task, what: str) -> None:
    """Refuse what asks for the class of a row, where a row has several labels.

    Raises:
        NotApplicableError: The task has them.
    """
    if not task.exclusive:
        raise NotApplicableError(
            f"{what} needs one class a row; --task {task.name} has several: choose another --method"
        )


def corrected(classifier: Classifier, corrections: Iterable[Correction]) -> Classifier:
    """The classifier with the corrections of a patch in place; a second pass is left to `run_branch` and `run_flag`."""
    return classifier.under(patch_rewrite(classifier, first_pass(corrections)))


@torch.no_grad()
def run_patch(classifier: Classifier, corrections: Sequence[Correction], images: Tensor) -> dict[str, Tensor]:
    """What the patched model answers.

    Args:
        classifier: The model.
        corrections: Of one patch.
        images: float32 ``(N, C, H, W)`` pixels.

    Returns:
        Raw class scores ``(N, K)``, and the score and flag of each row where there is a second pass, by output name.
    """
    found, name = corrected(classifier, corrections), classifier.model.logits
    second = next((item for item in corrections if isinstance(item, Branch | Flag)), None)
    if isinstance(second, Branch):
        scores, flags, _ = run_branch(found, second, images)
        return {name: scores.float(), FLAG_OUTPUT: flags}
    if isinstance(second, Flag):
        scores, unusual, flags = run_flag(found, second, images)
        return {name: scores.float(), SCORE_OUTPUT: unusual, FLAG_OUTPUT: flags}
    return {name: found.run(images)[name].float()}


def first_pass(corrections: Iterable[Correction]) -> list[Correction]:
    """Corrections that every image sees."""
    return [item for item in corrections if not isinstance(item, Branch | Flag)]


def patch_rewrite(classifier: Classifier, corrections: Iterable[Correction]) -> Rewrite:
    """Rewrites by tensor name, for `Classifier.run`.

    Args:
        classifier: The model the patch is for; gives device and the names of statistics.
        corrections: Of one patch; several corrections of one tensor are applied in order.

    Raises:
        CalibrationError: A corrected BatchNormalization is not in the graph.
    """
    rewrites: Rewrite = {}
    for correction in corrections:
        rewrites = chain(rewrites, dict(_rewrites(classifier, correction)))
    return rewrites


def _rewrites(classifier: Classifier, correction: Correction) -> list[tuple[str, Function]]:
    def constant(value: object) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float32).to(classifier.device)

    match correction:
        case UpperBound(tensor, bound):
            limit = constant(bound)
            return [(tensor, lambda value: torch.minimum(value, limit))]
        case MeanBound(tensor, bound):
            highest = constant(bound)
            return [(tensor, lambda value: limit_mean(value, highest))]
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
        case Branch() | Flag():
            raise CalibrationError("a second pass is no rewrite of the first; see run_branch and run_flag")
        case Normalization(tensor, mean, var):
            names = _statistics(classifier, tensor)
            return [(name, _replace(constant(value))) for name, value in zip(names, (mean, var), strict=True)]


def limit_mean(value: Tensor, bound: Tensor) -> Tensor:
    """``value * bound / max(mean, bound)``, the mean over all axes on which `bound` is 1 but the first."""
    axes = [axis for axis, length in enumerate(bound.shape) if axis and length == 1]
    return value * (bound / torch.maximum(value.mean(axes, keepdim=True), bound))


def _statistics(classifier: Classifier, tensor: str) -> tuple[str, str]:
    """Names of the running mean and variance of the BatchNormalization that makes `tensor`."""
    for node in classifier.model.proto.graph.node:
        if node.op_type == "BatchNormalization" and node.output[0] == tensor:
            return node.input[3], node.input[4]
    raise CalibrationError(f"no BatchNormalization makes {tensor!r}; the patch is for another model")


def _replace(value: Tensor) -> Function:
    return lambda _: value


def realignment_rewrite(classifier: Classifier, branch: Branch, rows: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Rewrites of the second pass, for images whose row of the statistics is `rows`, int64 ``(N,)``."""
    return {item.tensor: _realign(classifier, item, rows) for item in branch.corrections}


def _realign(classifier: Classifier, item: Realignment, rows: Tensor) -> Callable[[Tensor], Tensor]:
    parts = (item.scale, item.shift, item.upper, item.lower)
    scale, shift, upper, lower = (torch.from_numpy(part).to(classifier.device)[rows] for part in parts)
    return lambda value: torch.maximum(torch.minimum(scale * value + shift, upper), lower)


@torch.no_grad()
def run_branch(classifier: Classifier, branch: Branch, images: Tensor) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
    """Run both passes.

    Args:
        classifier: The model, perhaps `corrected`: then both passes are.
        branch: The second pass.
        images: float32 ``(N, C, H, W)`` pixels.

    Returns:
        Raw class scores ``(N, K)`` as the hardened model gives them, flags bool ``(N,)``, and all outputs of
        the first pass by name.
    """
    first = classifier.run(images)
    scores = first[classifier.model.logits].clone()
    classes = scores.flatten(1).argmax(dim=1)
    flags = torch.zeros(len(images), dtype=torch.bool, device=scores.device)
    for row, target in enumerate(branch.targets):
        chosen = torch.nonzero(classes == target).flatten()
        if len(chosen):
            rows = torch.full((1,), row, device=scores.device)
            second = classifier.run(images[chosen], rewrite=realignment_rewrite(classifier, branch, rows))
            other = second[classifier.model.logits]
            differs = other.flatten(1).argmax(dim=1) != target
            flags[chosen[differs]] = True
            scores[chosen[differs]] = other[differs].to(scores.dtype)
    return scores, flags, first


@torch.no_grad()
def run_flag(classifier: Classifier, flag: Flag, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run both views; see `patcher.patch.Flag`.

    Args:
        classifier: The model, perhaps `corrected`: then both views are.
        flag: What is usual, the second view, the threshold.
        images: float32 ``(N, C, H, W)`` pixels.

    Returns:
        Raw class scores ``(N, K)`` as the hardened model gives them, scores of the flag float32 ``(N,)``, and
        flags bool ``(N,)``.
    """
    name = classifier.model.logits
    first = classifier.run(images, fetch=[site.tensor for site in flag.sites])
    excess = excess_of(first, flag)
    slopes = torch.from_numpy(flag.tails).to(excess.device)
    score = (slopes[0, 0] * excess + slopes[0, 1]).clamp_min(0)
    scores = first[name].clone()
    rows = torch.nonzero(excess > flag.gate).flatten()
    if len(rows):
        bounds = {site.tensor: torch.from_numpy(site.bound).to(classifier.device) for site in flag.sites}
        second = classifier.run(images[rows], rewrite=bound_rewrite(bounds))[name]
        divergence = log_divergence(classifier.as_logits(second), classifier.as_logits(first[name][rows]))
        score[rows] += (slopes[1, 0] * divergence + slopes[1, 1]).clamp_min(0)
        raised = score[rows] > flag.threshold
        scores[rows[raised]] = second[raised]
    return scores, score, score > flag.threshold


@torch.no_grad()
def hangs_on_rounding(classifier: Classifier, flag: Flag, images: Tensor) -> Tensor:
    """Images so near the gate or the threshold that another runtime may decide otherwise, bool ``(N,)``."""
    values = classifier.run(images, fetch=[site.tensor for site in flag.sites], scores=False)
    near_gate = (excess_of(values, flag) - flag.gate).abs() < _ROUNDING
    near_threshold = (run_flag(classifier, flag, images)[1] - flag.threshold).abs() < SCORE_TOLERANCE
    return near_gate | near_threshold


def bound_rewrite(bounds: Mapping[str, Tensor]) -> dict[str, Function]:
    """Upper bounds as rewrites."""

    def bounded(limit: Tensor) -> Function:
        return lambda value: torch.minimum(value, limit)

    return {name: bounded(limit) for name, limit in bounds.items()}


def excess_of(values: Mapping[str, Tensor], flag: Flag) -> Tensor:
    """Largest standardised standard score at any site, float32 ``(N,)``."""
    tops = [largest_score(values[site.tensor], site) for site in flag.sites]
    levels = torch.from_numpy(flag.levels).to(tops[0].device)
    return ((torch.stack(tops, dim=1) - levels[:, 0]) / levels[:, 1]).amax(dim=1)


def largest_score(value: Tensor, site: Watch) -> Tensor:
    """Largest standard score of each row at one site, float32 ``(N,)``."""
    mean, std = (torch.from_numpy(part).to(value.device) for part in (site.mean, site.std))
    return ((value.float() - mean) / std).flatten(1).amax(dim=1)


def log_divergence(second: Tensor, first: Tensor) -> Tensor:
    """log(KL(second || first) + 1e-3) of logits ``(N, K)``, float32 ``(N,)``; finite where both agree."""
    after, before = second.float().log_softmax(dim=1), first.float().log_softmax(dim=1)
    return ((after.exp() * (after - before)).sum(dim=1).clamp_min(0) + _SMALLEST_DIVERGENCE).log()
