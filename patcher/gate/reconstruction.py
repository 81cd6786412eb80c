# SPDX-License-Identifier: Apache-2.0
"""Is the hardened file the original and a patch, and nothing else? Proof by making it again.

A hardened file follows from the original and the patch, and the patch's values stand in the file. So the
corrections are taken from ``--patch``, or read out of the graph; applied to the original again in the form that
the file has, they give a file. Byte for byte the same: the two are *identical*, and whatever was not reproduced
would have been seen. What remains to be judged are the values.

Metadata says which method, options and clean set to write again, and the check ``provenance`` judges what it says;
a lie about the method changes the bytes or asks for corrections that the method may not make.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx

from patcher.errors import PatcherError
from patcher.export.apply import apply_guard
from patcher.export.bake import bake_patch, baked_form
from patcher.export.reading.corrections import read_corrections, read_second_file
from patcher.gate.check import Check, decided
from patcher.gate.methods import changes_of
from patcher.gate.subject import Subject
from patcher.model.file import serialize
from patcher.model.provenance import Provenance
from patcher.patch import (
    Affine,
    Bias,
    Branch,
    Correction,
    Flag,
    MeanBound,
    Normalization,
    Part,
    Patch,
    Realignment,
    UpperBound,
    Watch,
    WeightMask,
    Weights,
    flat_corrections,
)

# Written anew with every file: the version of this project, and a hash of corrections that were rounded since.
_FREE_KEYS = frozenset({"patcher.version", "patcher.patch_sha256"})
_LARGEST_SURPRISE = 1e3  # in nats; a score of 30 is one clean image in ten thousand billion
_LARGEST = 1e6  # of a scale or shift: calibrated ones are far below, and 1e6 drowns any activation


@dataclass(frozen=True)
class Reconstruction:
    """The file made again.

    Attributes:
        corrections: What was applied.
        identical: Whether it gave the same bytes.
        reason: Why it did not; empty where it did.
        model: The file made again; ``None`` where it could not be.
    """

    corrections: tuple[Correction, ...]
    identical: bool
    reason: str = ""
    model: onnx.ModelProto | None = None


def reconstruct(subject: Subject) -> Reconstruction:
    """Apply the corrections to the original again and compare."""
    found = subject.provenance
    if found is None:
        return Reconstruction((), False, subject.provenance_error)
    changes = changes_of(found.method)
    if changes is None:
        return Reconstruction((), False, f"method {found.method[:40]!r} is not known")
    given = subject.given.patch
    if given is not None:
        return _made_again(subject, given, found)
    model = subject.prepared.model
    order = [kinds.corrections for name in found.method.split("+") if (kinds := changes_of(name)) is not None]
    try:
        corrections = read_corrections(model, subject.hardened.proto, order)
        patch = _patch(found, corrections)
    except (PatcherError, ValueError) as error:
        return Reconstruction((), False, f"its corrections cannot be read: {error}")
    return _made_again(subject, patch, found)


def _patch(found: Provenance, corrections: tuple[Correction, ...]) -> Patch:
    return Patch(
        method=found.method,
        source_sha256=found.source_sha256,
        corrections=corrections,
        options=found.options,
        clean_data_sha256=found.clean_data_sha256,
        preprocess=found.preprocess,
    )


def _made_again(subject: Subject, patch: Patch, found: Provenance) -> Reconstruction:
    changes = changes_of(found.method)
    made = {type(item).__name__ for item in patch.corrections}
    foreign = sorted(made - (changes.corrections if changes else frozenset()))
    if foreign:
        reason = f"it holds corrections that method {found.method[:40]!r} does not make: {', '.join(foreign)}"
        return Reconstruction(patch.corrections, False, reason)
    if not patch.corrections:
        return Reconstruction((), False, "no correction can be read in it")
    hardened, model = subject.hardened.proto, subject.prepared.model
    try:
        again = bake_patch(model, patch, baked_form(hardened)).model
    except (PatcherError, ValueError, TypeError, IndexError, KeyError) as error:
        return Reconstruction(patch.corrections, False, f"its corrections do not fit the original: {error}")
    if _comparable(again) != _comparable(hardened):
        return Reconstruction(patch.corrections, False, _first_difference(again, hardened), again)
    if reason := _guard_fault(subject, patch):
        return Reconstruction(patch.corrections, False, reason, again)
    return Reconstruction(patch.corrections, True, "", again)


def _comparable(proto: onnx.ModelProto) -> bytes:
    """A model's bytes with the keys blanked that differ between equal hardenings."""
    blank = onnx.ModelProto()
    blank.CopyFrom(proto)
    for entry in blank.metadata_props:
        if entry.key in _FREE_KEYS:
            entry.value = ""
    return serialize(blank)


def _first_difference(again: onnx.ModelProto, hardened: onnx.ModelProto) -> str:
    """Where two models differ, for people."""
    for part in ("node", "initializer", "output", "input", "value_info"):
        ours, theirs = getattr(again.graph, part), getattr(hardened.graph, part)
        for one, other in zip(ours, theirs, strict=False):
            if one != other:
                name = other.name or next(iter(getattr(other, "output", ())), "")
                return f"made again, it differs at {part} {name[:80]!r}"
        if len(ours) != len(theirs):
            extra = theirs[len(ours) :] or ours[len(theirs) :]
            return f"made again, it has {len(ours)} entries {part} and not {len(theirs)} ({extra[0].name[:80]!r})"
    return "made again, it differs outside of its graph"


def _guard_fault(subject: Subject, patch: Patch) -> str:
    """What is wrong with the second file of a ``two-files`` branch or flag; empty where it is right or not needed."""
    branch = next((item for item in patch.corrections if isinstance(item, Branch | Flag)), None)
    if branch is None or branch.form != "two-files":
        return ""
    guard = subject.hardened.guard
    if guard is None:
        return f"its second file {subject.hardened.guard_path.name} is missing or no model"
    model = subject.prepared.model
    try:
        if subject.given.patch is None and isinstance(branch, Branch):
            patch = replace(patch, corrections=read_second_file(model, guard, patch.corrections))
        again = apply_guard(model, patch)
    except (PatcherError, ValueError, TypeError, IndexError, KeyError) as error:
        return f"its second file cannot be made again: {error}"
    if again is None or _comparable(again) != _comparable(guard):
        return "made again, its second file differs"
    return ""


def reconstruction_check(subject: Subject, found: Reconstruction, structure: list[Check]) -> Check:
    """The check ``reconstruction``: identical, or where the policy accepts rewritten files, equivalent."""
    kinds = sorted({type(item).__name__ for item in found.corrections})
    details = {"verdict": "identical" if found.identical else "other", "corrections": kinds}
    if found.identical:
        fault = value_fault(subject, found)
        message = fault or "the original and its corrections, byte for byte"
        return decided("reconstruction", not fault, message, details=details)
    # A second file is proven with the first or not at all.
    if not subject.policy.accept.rewritten or subject.hardened.guard is not None:
        return decided("reconstruction", False, found.reason, details=details)
    failed = [check.name for check in structure if check.failed]
    if failed:
        message = f"{found.reason}; and not equivalent either: {', '.join(failed)}"
        return decided("reconstruction", False, message, details=details)
    details["verdict"] = "equivalent"
    return decided("reconstruction", True, "equivalent: the same data flow in a rewritten file", details=details)


def value_fault(subject: Subject, found: Reconstruction) -> str:
    """Why values cannot come from a calibration; empty where they can."""
    for item in flat_corrections(found.corrections):
        if reason := _out_of_range(item):
            name = str(getattr(item, "tensor", "") or getattr(item, "initializer", ""))
            return f"{reason} at {name[:80]!r}"
    flag = next((item for item in found.corrections if isinstance(item, Flag)), None)
    if flag is not None and not max(abs(flag.gate), abs(flag.threshold)) <= _LARGEST_SURPRISE:
        return f"a flag that never fires: threshold {flag.threshold:.3g}, gate {flag.gate:.3g}"
    bounds = [item.bound for item in found.corrections if isinstance(item, UpperBound)]
    if bounds and not any((bound <= _LARGEST).any() for bound in bounds):
        return "no upper bound is within the reach of any activation"
    weights = [item for item in found.corrections if isinstance(item, Weights)]
    if weights and subject.given.patch is None and not subject.policy.accept.weights:
        return (
            f"{len(weights)} weights have other values, which nothing but the patch tells from tampering: "
            "give --patch, or accept it with weights = true in the policy's [accept]"
        )
    return ""


def _out_of_range(item: Correction | Part) -> str:
    """Why the values of a correction are impossible for its kind."""
    match item:
        case UpperBound(_, bound) if np.isnan(bound).any() or np.isneginf(bound).any():
            return "an upper bound that is no number"
        case MeanBound(_, bound) if not (np.isfinite(bound).all() and (bound > 0).all()):
            return "a bound on a mean that is no positive number"
        case WeightMask(_, mask) if not (np.isfinite(mask).all() and (mask >= 0).all() and (mask <= 1).all()):
            return "a mask outside of 0 to 1"
        case Bias(_, shift) if not (np.abs(shift) <= _LARGEST).all():
            return "a shift beyond any activation"
        case Affine(_, scale, shift) if not ((np.abs(scale) <= _LARGEST).all() and (np.abs(shift) <= _LARGEST).all()):
            return "a scale or shift beyond any activation"
        case Normalization(_, mean, var) if not (
            np.isfinite(mean).all() and np.isfinite(var).all() and (var >= 0).all()
        ):
            return "statistics that are none"
        case Realignment(_, scale, shift, upper, lower):
            finite = (np.abs(scale) <= _LARGEST).all() and (np.abs(shift) <= _LARGEST).all()
            return "" if finite and (lower <= upper).all() else "a realignment that no images give"
        case Watch(_, mean, _, bound) if np.isneginf(bound).any() or not (np.abs(mean) <= _LARGEST).all():
            return "a usual value or a bound that no images give"
        case Weights(_, value) if not np.isfinite(value.astype(np.float64)).all():
            return "a weight that is not finite"
    return ""
