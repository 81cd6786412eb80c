# SPDX-License-Identifier: Apache-2.0
"""The index of a fleet as JUnit XML: one ``testcase`` a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from patcher.text import printable


def render(document: Mapping[str, Any]) -> str:
    """The XML text.

    Args:
        document: ``fleet.json`` as plain JSON values.
    """
    models = document["models"]
    kinds = [_kind(model) for model in models]
    counts = {
        "tests": len(models),
        "failures": kinds.count("failure"),
        "errors": kinds.count("error"),
        "skipped": kinds.count("skipped"),
    }
    numbers = {name: str(count) for name, count in counts.items()}
    suites = ElementTree.Element("testsuites", numbers)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "patcher fleet", **numbers})
    for model, kind in zip(models, kinds, strict=True):
        case = ElementTree.SubElement(suite, "testcase", {"classname": "patcher.fleet", "name": model["name"]})
        lines = [f"{name}: {step['verdict']}: {'; '.join(step['reasons'])}" for name, step in model["steps"].items()]
        text = printable("\n".join(lines))
        if kind:
            message = printable(model.get("error") or model["verdict"])
            ElementTree.SubElement(case, kind, {"message": message}).text = text
        else:
            ElementTree.SubElement(case, "system-out").text = text
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _kind(model: Mapping[str, Any]) -> str:
    """``failure``: bad; ``error``: could not be decided; ``skipped``: nothing applicable; empty: good."""
    return {0: "", 1: "failure", 3: "skipped"}.get(model["exit_code"], "error")
