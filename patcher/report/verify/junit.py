# SPDX-License-Identifier: Apache-2.0
"""A gate report as JUnit XML: one ``testcase`` a check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from patcher.report.verify.rows import check_rows
from patcher.text import printable


def render(document: Mapping[str, Any]) -> str:
    """The XML text.

    Args:
        document: A ``verify`` report as plain JSON values.
    """
    checks = document["checks"]
    failed = sum(check["status"] == "fail" for check in checks)
    broken = sum(check["status"] == "not_run" for check in checks)
    skipped = sum(check["status"] in ("skipped", "suppressed") for check in checks)
    counts = {"tests": len(checks), "failures": failed, "errors": broken, "skipped": skipped}
    suites = ElementTree.Element("testsuites", {name: str(count) for name, count in counts.items()})
    suite = ElementTree.SubElement(
        suites, "testsuite", {"name": "patcher verify", **{name: str(count) for name, count in counts.items()}}
    )
    for check, row in zip(checks, check_rows(document), strict=True):
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": f"patcher.verify.{_clean(document['hardened']['name'])}", "name": row[0]}
        )
        message = _clean(check["message"])
        measured = f"value {row[2] or 'none'}, limit {row[3] or 'none'}, images {row[4] or 'none'}"
        if check["status"] == "fail":
            ElementTree.SubElement(case, "failure", {"message": message}).text = measured
        elif check["status"] == "not_run":
            ElementTree.SubElement(case, "error", {"message": message}).text = measured
        elif check["status"] in ("skipped", "suppressed"):
            ElementTree.SubElement(case, "skipped", {"message": f"{check['status']}: {message}"})
        else:
            ElementTree.SubElement(case, "system-out").text = f"{message}; {measured}"
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _clean(text: str) -> str:
    return printable(text)
