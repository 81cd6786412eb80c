# SPDX-License-Identifier: Apache-2.0
"""Where the hardened file says that it comes from, against what is at hand."""

from __future__ import annotations

import re
import string

from patcher.errors import PatcherError
from patcher.export.bake import bake_patch, baked_form
from patcher.gate.check import Check, decided
from patcher.gate.methods import changes_of, known_methods
from patcher.gate.subject import Subject
from patcher.model.file import model_sha256
from patcher.model.provenance import Provenance
from patcher.patch import patch_sha256

_VERSION = re.compile(r"[0-9][0-9A-Za-z.+-]{0,63}")
_DIGITS = frozenset(string.hexdigits.lower())


def provenance_check(subject: Subject) -> Check:
    """The metadata is complete and names the original, the preprocessing in use, and a known method."""
    found = subject.provenance
    if found is None:
        return decided("provenance", False, subject.provenance_error)
    faults = _faults(found, subject)
    same_data = found.clean_data_sha256 == subject.prepared.clean_set.sha256
    details = {
        "version": found.version,
        "method": found.method,
        "source_sha256": found.source_sha256,
        "patch_sha256": found.patch_sha256,
        "calibrated_on_the_same_clean_images": same_data,
    }
    message = "; ".join(faults) or f"complete; method {found.method}, made from this original"
    return decided("provenance", not faults, message, details=details)


def patch_check(subject: Subject) -> Check:
    """The patch, applied to the original again, gives the hardened file's bytes."""
    patch = subject.given.patch
    if patch is None:
        return Check("patch", "skipped", "no patch file given (--patch)")
    digest = patch_sha256(patch)
    details = {"patch_sha256": digest}
    if subject.provenance is not None and subject.provenance.patch_sha256 != digest:
        message = f"the metadata names the patch {subject.provenance.patch_sha256}, the file given is {digest}"
        return decided("patch", False, message, details=details)
    foreign = sorted({type(item).__name__ for item in patch.corrections} - _corrections(patch.method))
    if foreign:
        message = f"the patch holds corrections that method {patch.method[:40]!r} does not make: {', '.join(foreign)}"
        return decided("patch", False, message, details=details)
    try:
        # Whether bounds are folded is not in the patch: the file says it, and the bytes decide.
        again = bake_patch(subject.prepared.model, patch, baked_form(subject.hardened.proto)).model
    except PatcherError as error:
        return decided("patch", False, f"the patch cannot be applied to the original: {error}", details=details)
    sha256 = model_sha256(again)
    same = again == subject.hardened.proto if sha256 is None else sha256 == subject.hardened.sha256
    if same:
        return decided("patch", True, "applied again, it gives the hardened file byte for byte", details=details)
    from patcher._version import __version__

    message = "applied again, it gives another file"
    if subject.provenance is not None and subject.provenance.version != __version__:
        message += f"; the file was made by patcher {subject.provenance.version}, this is {__version__}"
    return decided("patch", False, message, details=details)


def _corrections(method: str) -> frozenset[str]:
    """What the patch of a method may hold: one of any other content explains nothing."""
    changes = changes_of(method)
    return changes.corrections if changes else frozenset()


def _faults(found: Provenance, subject: Subject) -> list[str]:
    model = subject.prepared.model
    faults = []
    if found.source_sha256 != model.sha256:
        faults.append(f"it was made from the model {found.source_sha256[:64]!r}, the original given is {model.sha256}")
    if changes_of(found.method) is None:
        faults.append(f"method {found.method[:40]!r} is not one of {', '.join(known_methods())}")
    if not _VERSION.fullmatch(found.version):
        faults.append(f"patcher.version is no version: {found.version[:40]!r}")
    for name in ("patch_sha256", "clean_data_sha256"):
        value = getattr(found, name)
        if len(value) != 64 or not set(value) <= _DIGITS:
            faults.append(f"patcher.{name} is no sha256: {value[:70]!r}")
    in_use = subject.prepared.preprocess.as_json()
    if dict(found.preprocess) != in_use:
        differing = sorted(key for key in {*in_use, *found.preprocess} if in_use.get(key) != found.preprocess.get(key))
        faults.append(f"it was calibrated with another preprocessing ({', '.join(differing)})")
    return faults
