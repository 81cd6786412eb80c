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

import onnx

from patcher.errors import PatcherError
from patcher.export.apply import apply_guard
from patcher.export.bake import bake_patch, baked_form
from patcher.export.reading.corrections import read_corrections, read_second_file
from patcher.gate.check import Check, decided
from patcher.gate.equivalence import FREE_KEYS, flow_fault
from patcher.gate.methods import changes_of
from patcher.gate.subject import Subject
from patcher.gate.values import value_fault
from patcher.model.file import serialize
from patcher.model.provenance import Provenance
from patcher.patch import Branch, Correction, Patch

# What graphs of strangers raise in code that reads graphs of this project.
_UNFIT = (PatcherError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


@dataclass(frozen=True)
class Reconstruction:
    """The file made again.

    Attributes:
        corrections: What was applied.
        identical: Whether it gave the same bytes.
        equivalent: Whether it computes the same, where the bytes are others.
        reason: Why the bytes are others; empty where they are not.
        model: The file made again; ``None`` where it could not be.
    """

    corrections: tuple[Correction, ...]
    identical: bool
    reason: str = ""
    model: onnx.ModelProto | None = None
    equivalent: bool = False

    @property
    def proven(self) -> bool:
        """Whether the file is the original and its corrections, in these bytes or in others."""
        return self.identical or self.equivalent


def reconstruct(subject: Subject) -> Reconstruction:
    """Apply the corrections to the original again and compare."""
    if not subject.hardened.canonical:
        return Reconstruction((), False, "its file holds bytes that its model does not: it may be two models in one")
    again = _reconstruct(subject)
    # A second file is proven with the first or not at all.
    if again.identical or again.model is None or subject.hardened.guard is not None:
        return again
    fault = flow_fault(again.model, subject.hardened.proto)
    return replace(again, equivalent=not fault, reason=f"{again.reason}; {fault}" if fault else again.reason)


def _reconstruct(subject: Subject) -> Reconstruction:
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
    except _UNFIT as error:
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
        if subject.given.patch is None:
            patch = _with_guard(subject, patch)
        again, guard = bake_patch(model, patch, baked_form(hardened)).model, apply_guard(model, patch)
    except _UNFIT as error:
        return Reconstruction(patch.corrections, False, f"its corrections do not fit the original: {error}")
    reason = "" if _comparable(again) == _comparable(hardened) else _first_difference(again, hardened)
    reason = reason or _guard_fault(subject, guard)
    return Reconstruction(patch.corrections, not reason, reason, again)


def _with_guard(subject: Subject, patch: Patch) -> Patch:
    """The corrections of a ``two-files`` branch stand in the second file, unless the first one carries them."""
    guard = subject.hardened.guard
    branch = next((item for item in patch.corrections if isinstance(item, Branch)), None)
    if guard is None or branch is None or branch.form != "two-files" or branch.corrections:
        return patch
    return replace(patch, corrections=read_second_file(subject.prepared.model, guard, patch.corrections))


def _guard_fault(subject: Subject, again: onnx.ModelProto | None) -> str:
    """What is wrong with the second file; empty where it is the one made again, or none is needed."""
    found = subject.hardened.guard
    if again is None:
        return ""
    if found is None:
        return f"its second file {subject.hardened.guard_path.name} is missing or no model"
    return "" if _comparable(again) == _comparable(found) else "made again, its second file differs"


def _comparable(proto: onnx.ModelProto) -> bytes:
    """A model's bytes with the keys blanked that differ between equal hardenings."""
    blank = onnx.ModelProto()
    blank.CopyFrom(proto)
    for entry in blank.metadata_props:
        if entry.key in FREE_KEYS:
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


def reconstruction_check(subject: Subject, found: Reconstruction, interface: Check) -> Check:
    """The check ``reconstruction``: identical, or where the policy accepts rewritten files, equivalent."""
    kinds = sorted({type(item).__name__ for item in found.corrections})
    accepted = found.equivalent and subject.policy.accept.rewritten and not interface.failed
    verdict = "identical" if found.identical else "equivalent" if accepted else "other"
    details = {"verdict": verdict, "corrections": kinds}
    if verdict == "other":
        return decided("reconstruction", False, found.reason, details=details)
    explained = subject.given.patch is not None or subject.policy.accept.weights
    fault = value_fault(subject.prepared.model, found.corrections, weights=explained)
    how = "byte for byte" if found.identical else "equivalent: the same data flow in a rewritten file"
    return decided("reconstruction", not fault, fault or f"the original and its corrections, {how}", details=details)
