# SPDX-License-Identifier: Apache-2.0
"""Where the hardened file says that it comes from, against what is at hand."""

from __future__ import annotations

import json
import re
import string

from patcher.gate.check import Check, decided
from patcher.gate.methods import changes_of, known_methods
from patcher.gate.reconstruction import Reconstruction
from patcher.gate.subject import Subject
from patcher.model.provenance import Provenance
from patcher.patch import patch_sha256

_VERSION = re.compile(r"[0-9][0-9A-Za-z.+-]{0,63}")
_LARGEST_OPTIONS = 1 << 14  # a method's options take some hundred; anything may be written in what nobody reads
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


def patch_check(subject: Subject, again: Reconstruction, proof: Check) -> Check:
    """The patch is the one that the file names, and applied to the original again, it gives the file.

    Args:
        subject: The two models and the patch.
        again: What applying it gave.
        proof: The check ``reconstruction``: whether a rewritten file is as good.
    """
    patch = subject.given.patch
    if patch is None:
        return Check("patch", "skipped", "no patch file given (--patch)")
    digest = patch_sha256(patch)
    details = {"patch_sha256": digest}
    found = subject.provenance
    if found is not None and found.patch_sha256 != digest:
        message = f"the metadata names the patch {found.patch_sha256[:64]}, the file given is {digest}"
        return decided("patch", False, message, details=details)
    if found is not None and found.method != patch.method:
        message = f"the metadata names method {found.method[:40]!r}, the patch is of method {patch.method!r}"
        return decided("patch", False, message, details=details)
    if again.identical:
        return decided("patch", True, "applied again, it gives the hardened file byte for byte", details=details)
    if proof.status == "pass":
        return decided("patch", True, "applied again, it computes what the hardened file does", details=details)
    from patcher._version import __version__

    message = again.reason
    if found is not None and found.version != __version__:
        message += f"; the file was made by patcher {found.version[:20]}, this is {__version__}"
    return decided("patch", False, message, details=details)


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
    size = len(json.dumps(found.options))
    if size > _LARGEST_OPTIONS:
        faults.append(f"patcher.options of at most {_LARGEST_OPTIONS} characters expected, found {size}")
    in_use = subject.prepared.preprocess.as_json()
    if dict(found.preprocess) != in_use:
        differing = sorted(key for key in {*in_use, *found.preprocess} if in_use.get(key) != found.preprocess.get(key))
        faults.append(f"it was calibrated with another preprocessing ({', '.join(differing)})")
    return faults
