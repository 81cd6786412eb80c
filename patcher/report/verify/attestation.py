# SPDX-License-Identifier: Apache-2.0
"""Evidence that travels: the gate's verdict as an in-toto statement, and the check of one.

The predicate is in-toto's own for test results (https://in-toto.io/attestation/test-result/v0.1): subject is the
hardened file, configuration what it was judged with (original, patch, clean set, policy), and beside the names of the
checks stands the whole report. The statement is not signed: wrap it in an envelope with the tool that you sign with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from patcher.errors import InputError
from patcher.files import replace_file

PREDICATE_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_LARGEST_FILE = 64 * 2**20
_MISSING = "in-toto-attestation is not installed; run: pip install 'onnx-patcher[attest]'"


def write_attestation(document: Mapping[str, Any], path: Path) -> None:
    """Write a report of `verify` as a statement, whole or not at all; equal verdicts give equal bytes.

    Raises:
        InputError: The library is not installed, or the file cannot be written.
    """
    replace_file(path, (json.dumps(statement(document), sort_keys=True, indent=2) + "\n").encode())


def statement(document: Mapping[str, Any]) -> dict[str, Any]:
    """The statement about a report.

    Raises:
        InputError: The library is not installed.
    """
    try:
        from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped, unused-ignore]
        from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
        from in_toto_attestation.v1.statement import Statement
    except ImportError as error:
        raise InputError(_MISSING) from error
    report = {key: value for key, value in document.items() if key != "timings"}
    subject = document["hardened"]
    predicate = {
        "result": "PASSED" if document["verdict"] == "pass" else "FAILED",
        "configuration": [{"name": name, "digest": {"sha256": digest}} for name, digest in _materials(document)],
        "passedTests": [item["name"] for item in document["checks"] if item["status"] == "pass"],
        "warnedTests": [item["name"] for item in document["checks"] if item["status"] == "suppressed"],
        "failedTests": [item["name"] for item in document["checks"] if item["status"] in ("fail", "not_run")],
        "report": report,
    }
    found = Statement(
        [ResourceDescriptor(name=subject["name"], digest={"sha256": subject["sha256"]}).pb], PREDICATE_TYPE, predicate
    )
    found.validate()
    result: dict[str, Any] = MessageToDict(found.pb)
    return result


def attestation_fault(path: Path, document: Mapping[str, Any]) -> str:
    """Why a statement does not say what this run of the gate says; empty where it does.

    Args:
        path: The statement.
        document: The report of this run.

    Raises:
        InputError: The file is no statement, or the library is not installed.
    """
    found, own = _read(path), statement(document)
    subjects = [item.get("digest") for item in found["subject"]]
    if subjects != [{"sha256": document["hardened"]["sha256"]}]:
        return "it is about another file"
    if found.get("predicateType") != PREDICATE_TYPE:
        return f"it is no test result ({str(found.get('predicateType'))[:80]})"
    predicate, wanted = found["predicate"], own["predicate"]
    if predicate.get("result") != "PASSED":
        return "it says that the file did not pass"
    configuration = {item["name"]: item["digest"] for item in predicate.get("configuration", [])}
    differing = [item["name"] for item in wanted["configuration"] if configuration.get(item["name"]) != item["digest"]]
    if differing or len(configuration) != len(wanted["configuration"]):
        return f"it was judged with another {', '.join(differing) or 'configuration'}"
    return ""


def _materials(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a verdict rests on, and its hash."""
    policy = hashlib.sha256(json.dumps(document["policy"], sort_keys=True).encode()).hexdigest()
    patch = next(item for item in document["checks"] if item["name"] == "patch")["details"].get("patch_sha256")
    found = [
        ("original", document["original"]["sha256"]),
        ("clean set", document["clean_set"]["sha256"]),
        ("policy", policy),
    ]
    return [*found, ("patch", patch)] if patch else found


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InputError(f"--attested {path}: at most {_LARGEST_FILE >> 20} MiB expected")
        found = json.loads(path.read_text(encoding="utf-8"))
        sound = (
            found["_type"] == _STATEMENT_TYPE
            and isinstance(found["predicate"], dict)
            and all(isinstance(item, dict) for item in found["subject"])
            and all(isinstance(item["digest"], dict) for item in found["predicate"].get("configuration", []))
            and all(isinstance(item["name"], str) for item in found["predicate"].get("configuration", []))
        )
    except OSError as error:
        raise InputError(f"--attested {path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"--attested {path}: no in-toto statement ({type(error).__name__})") from error
    if not sound:
        raise InputError(f"--attested {path}: no in-toto statement of version 1")
    result: dict[str, Any] = found
    return result
