# SPDX-License-Identifier: Apache-2.0
"""A CycloneDX ML-BOM of the hardened model: what it is, what it was made from, and how it measured.

The hardened file is a component ``machine-learning-model`` with its hash. Its pedigree names the original as ancestor
and the corrections as a patch that resolves a security issue; its model card holds the figures of the gate. The library
`cyclonedx` has no model cards yet, so that part is added to the JSON that it writes.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from patcher._version import __version__
from patcher.errors import InputError
from patcher.files import replace_file

_MISSING = "cyclonedx-python-lib is not installed; run: pip install 'onnx-patcher[bom]'"
_REFERENCE = "hardened-model"
_BACKDOOR = "A backdoor: inputs with a trigger get a class of the attacker's choice."


def write_bom(document: Mapping[str, Any], path: Path) -> None:
    """Write the ML-BOM of a report of `verify`, whole or not at all; equal verdicts give equal bytes.

    Raises:
        InputError: The library is not installed, or the file cannot be written.
    """
    replace_file(path, (json.dumps(bill_of_materials(document), indent=2) + "\n").encode())


def bill_of_materials(document: Mapping[str, Any]) -> dict[str, Any]:
    """The ML-BOM of a report, CycloneDX 1.6.

    Raises:
        InputError: The library is not installed.
    """
    try:
        from cyclonedx.model import HashAlgorithm, HashType, Property, XsUri
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType, Diff, Patch, PatchClassification, Pedigree
        from cyclonedx.model.issue import IssueClassification, IssueType
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError as error:
        raise InputError(_MISSING) from error

    def model(section: Mapping[str, Any], **more: Any) -> Component:
        digest = HashType(alg=HashAlgorithm.SHA_256, content=section["sha256"])
        kind = ComponentType.MACHINE_LEARNING_MODEL
        return Component(name=section["name"], type=kind, hashes=[digest], version=section["sha256"][:12], **more)

    checks = {check["name"]: check for check in document["checks"]}
    found = {**checks["provenance"]["details"], **checks["patch"]["details"]}
    issue = IssueType(type=IssueClassification.SECURITY, name="neural network backdoor", description=_BACKDOOR)
    patch = Patch(
        type=PatchClassification.UNOFFICIAL,
        diff=Diff(url=XsUri(f"urn:sha256:{found.get('patch_sha256', 'unknown')}")),
        resolves=[issue],
    )
    notes = f"method {found.get('method', 'unknown')}; reconstruction: {checks['reconstruction']['message']}"
    hardened = model(
        document["hardened"],
        bom_ref=_REFERENCE,
        pedigree=Pedigree(ancestors=[model(document["original"])], patches=[patch], notes=notes),
        properties=[
            Property(name="onnx-patcher:verdict", value=document["verdict"]),
            Property(name="onnx-patcher:clean_set:sha256", value=document["clean_set"]["sha256"]),
        ],
    )
    bom = Bom(
        components=[hardened],
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(_without_timings(document), sort_keys=True)),
    )
    tool = Component(name="onnx-patcher", type=ComponentType.APPLICATION, version=__version__)
    bom.metadata.tools.components.add(tool)
    made: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    made["metadata"].pop("timestamp", None)
    component = next(item for item in made["components"] if item["bom-ref"] == _REFERENCE)
    component["modelCard"] = _model_card(document)
    return made


def _without_timings(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "timings"}


def _model_card(document: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of the checks; one that counts images has its interval."""
    scores = document["original"]["scores"]
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "image classification",
            "inputs": [{"format": f"image {document['original']['input']['layout']}"}],
            "outputs": [{"format": f"{scores['classes']} class scores ({scores['head']})"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": [*_metrics(document)]},
        "considerations": {
            "technicalLimitations": ["No check can prove the absence of a backdoor; see the report of patcher verify."]
        },
    }


def _metrics(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for check in document["checks"]:
        if check["value"] is None:
            continue
        metric = {"type": check["name"], "value": f"{check['value']:.6g}", "slice": f"{check['count'] or 0} images"}
        if check["interval_95"] is not None:
            low, high = check["interval_95"]
            metric["confidenceInterval"] = {"lowerBound": f"{low:.6g}", "upperBound": f"{high:.6g}"}
        yield metric
