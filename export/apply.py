# SPDX-License-Identifier: Apache-2.0
"""Apply a patch: each correction by its own graph edit, then provenance, then the checker."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import onnx

from patcher.errors import InputError, UnsupportedGraphError
from patcher.export.branch.branch import add_branch, guard_model, write_targets
from patcher.export.branch.flag import add_flag, flag_guard, write_flag
from patcher.export.edits.affine import add_affine
from patcher.export.edits.bias import add_bias
from patcher.export.edits.mean_bound import add_mean_bound
from patcher.export.edits.normalization import set_normalization
from patcher.export.edits.upper_bound import add_upper_bound
from patcher.export.edits.weight_mask import add_weight_mask
from patcher.export.edits.weights import set_weights
from patcher.export.surgery.surgery import OpenGraph, close_graph, open_graph
from patcher.model.file import fits_inline, model_sha256
from patcher.model.model import Model, read_model
from patcher.model.provenance import provenance_of, write_provenance
from patcher.patch import (
    Affine,
    Bias,
    Branch,
    Flag,
    MeanBound,
    Normalization,
    Patch,
    UpperBound,
    WeightMask,
    Weights,
    patch_bytes,
)
from patcher.two_files import GUARD_HASH_KEY

CORRECTIONS_KEY = "patcher.corrections"

_EDITS: Mapping[type, Callable[[OpenGraph, Model, Any], None]] = {
    UpperBound: add_upper_bound,
    MeanBound: add_mean_bound,
    WeightMask: add_weight_mask,
    Bias: add_bias,
    Affine: add_affine,
    Normalization: set_normalization,
    Weights: set_weights,
}


def apply_patch(model: Model, patch: Patch) -> onnx.ModelProto:
    """Bake a patch into a copy of a model.

    Corrections are applied in the patch's order; where two act on one tensor, the later one sees what
    the earlier one made. The same model and patch give the same bytes.

    Args:
        model: The model the patch was calibrated on; it is not modified.
        patch: The patch.

    Returns:
        The hardened model: same inputs, outputs, opset and IR version; provenance in its metadata.

    Raises:
        InputError: The patch was made for another model, or a correction does not fit.
        UnsupportedGraphError: A correction names a tensor that cannot be patched.
    """
    if patch.source_sha256 != model.sha256:
        raise InputError(
            f"the patch was made for the model with sha256 {patch.source_sha256 or 'unknown'}, "
            f"this one has {model.sha256}; calibrate again or give the right model"
        )
    if not patch.corrections:
        # Nothing was found, nothing is changed: not even a metadata key.
        unchanged = onnx.ModelProto()
        unchanged.CopyFrom(model.proto)
        return unchanged
    graph = open_graph(model.proto)
    for correction in patch.corrections:
        if not isinstance(correction, Branch | Flag):
            _EDITS[type(correction)](graph, model, correction)
    hardened = close_graph(graph)
    write_provenance(hardened, provenance_of(patch))
    second = second_of(patch)
    if isinstance(second, Branch):
        add_branch(hardened, first_pass(model, patch), second)
        write_targets(hardened, model, second)
    elif second is not None:
        add_flag(hardened, first_pass(model, patch), second)
        write_flag(hardened, model, second)
        carry_corrections(hardened, patch)
    guard = apply_guard(model, patch)
    if guard is not None and (digest := model_sha256(guard)) is not None:
        hardened.metadata_props.add(key=GUARD_HASH_KEY, value=digest)
    _check(hardened)
    return hardened


def second_of(patch: Patch) -> Branch | Flag | None:
    """The second pass of a patch.

    Raises:
        InputError: It has several.
    """
    found = [item for item in patch.corrections if isinstance(item, Branch | Flag)]
    if len(found) > 1:
        raise InputError(f"the patch has {len(found)} second passes, a graph takes one")
    return found[0] if found else None


def first_pass(model: Model, patch: Patch) -> Model:
    """What a second pass is a second pass of: the model with all other corrections of the patch in place.

    Raises:
        InputError: As `apply_patch`.
        UnsupportedGraphError: As `apply_patch`.
    """
    others = tuple(item for item in patch.corrections if not isinstance(item, Branch | Flag))
    if not others:
        return model
    return read_model(apply_patch(model, replace(patch, corrections=others)), scores=model.logits)


def apply_guard(model: Model, patch: Patch) -> onnx.ModelProto | None:
    """The second file of a patch whose branch asks for two files; ``None`` where it does not.

    Raises:
        InputError: A correction does not fit.
        UnsupportedGraphError: The graph cannot take a second pass.
    """
    second = second_of(patch)
    if second is None or second.form != "two-files":
        return None
    first = first_pass(model, patch)
    guard = guard_model(first, second) if isinstance(second, Branch) else flag_guard(first, second)
    write_provenance(guard, provenance_of(patch))
    if isinstance(second, Branch):
        write_targets(guard, model, second)
    else:
        write_flag(guard, model, second)
    _check(guard)
    return guard


def carry_corrections(proto: onnx.ModelProto, patch: Patch) -> None:
    """Put a patch into the metadata of a form that its values cannot be read out of again, for the gate."""
    proto.metadata_props.add(key=CORRECTIONS_KEY, value=base64.b64encode(patch_bytes(patch)).decode())


def _check(hardened: onnx.ModelProto) -> None:
    if not fits_inline(hardened):
        # The checker takes no larger model from memory; parity runs the model in any case.
        return
    try:
        onnx.checker.check_model(hardened)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UnsupportedGraphError(f"the patched graph is not valid ONNX: {reason}") from error
