# SPDX-License-Identifier: Apache-2.0
"""Half the work where it changes nothing: steps of a search or a fit in bfloat16 on processors that multiply in it.

Convolutions and matrix products take bfloat16 operands and the rest stays as it is (torch's autocast); about twice as
fast on an AVX-512 processor with the instructions for it. Only steps may use it: whatever they come to is measured in
float32. Tried on the model at hand before it is used, because a graph is free to do what eight bits of mantissa break.
"""

from __future__ import annotations

from typing import Literal

import torch

from patcher.calibrate.classifier import Classifier
from patcher.data.clean_set import CleanSet

# Chosen, not measured.
_AGREEMENT = 0.97  # of the classes
_DEVIATION = 0.1  # of the logits, in their standard deviations
_TRIED = 32  # clean images


def for_steps(classifier: Classifier, clean_set: CleanSet, precision: Literal["auto", "float32"]) -> Classifier:
    """The classifier that the steps of a fit run on.

    Args:
        classifier: The model, in float32.
        clean_set: Some of its fit images are tried.
        precision: ``auto`` for what `reduced_precision` gives.
    """
    if precision == "float32":
        return classifier
    return reduced_precision(classifier, classifier.tensor(clean_set.images(clean_set.fit[:_TRIED])))


def reduced_precision(classifier: Classifier, images: torch.Tensor) -> Classifier:
    """The same classifier in bfloat16, where the device is faster in it and the model answers as in float32.

    Args:
        classifier: The model.
        images: Some clean images ``(N, C, H, W)`` to try it on.
    """
    if not has_fast_bfloat16(classifier.device):
        return classifier
    reduced = classifier.at(torch.bfloat16)
    try:
        with torch.no_grad():
            wanted, found = classifier.logits(images), reduced.logits(images)
        slope, slope_found = _slope(classifier, images), _slope(reduced, images)
    except RuntimeError:  # an operator that takes no bfloat16 beside float32
        return classifier
    same = (wanted.argmax(dim=1) == found.argmax(dim=1)).float().mean().item()
    deviation = ((found - wanted).square().mean().sqrt() / wanted.std().clamp_min(1e-12)).item()
    along = torch.nn.functional.cosine_similarity(slope, slope_found, dim=1).median().item()
    kept = same >= _AGREEMENT and deviation <= _DEVIATION and along >= 1 - _DEVIATION
    return reduced if kept else classifier


def _slope(classifier: Classifier, images: torch.Tensor) -> torch.Tensor:
    """Gradient of the margin between the two best classes with respect to the pixels, ``(N, pixels)``."""
    pixels = images.detach().requires_grad_()
    best = classifier.logits(pixels).topk(2, dim=1).values
    (slope,) = torch.autograd.grad((best[:, 0] - best[:, 1]).sum(), pixels)
    return slope.flatten(1)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 itself; emulated it is several times slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))
