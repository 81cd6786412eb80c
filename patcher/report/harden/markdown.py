# SPDX-License-Identifier: Apache-2.0
"""``report.md``: the report for people, and for a job summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from patcher.report.harden.choice import auto_lines
from patcher.report.harden.masks import MASK_HEADER, suppressed_rows
from patcher.report.harden.rows import BEFORE_AFTER_HEADER, SITE_HEADER, before_after, site_rows
from patcher.report.report import Report
from patcher.report.table import table
from patcher.report.text import words


def render(report: Report, pictures: Sequence[str] = ()) -> str:
    """The Markdown text.

    Args:
        report: What was measured by ``harden``.
        pictures: File names of pictures beside the report, in order.
    """
    document = report.as_json()
    lines = [
        f"# patcher {report.command}: {report.verdict.upper()}",
        "",
        f"`{document['model']['name']}`, method **{document['method']['name']}**, "
        f"{document['clean_set']['images']} clean images, seed {document['method']['seed']}.",
        "",
    ]
    lines += [f"- {reason}" for reason in report.reasons] + ([""] if report.reasons else [])
    lines += [*auto_lines(document), ""] if "auto" in document else []
    lines += table(BEFORE_AFTER_HEADER, before_after(document))
    lines += ["", *(f"- {note}" for note in document["notes"])] if document["notes"] else []
    lines += ["", "Shares carry their 95 % Wilson interval.", "", "## Sites", ""]
    lines += table(SITE_HEADER, [(f"`{row[0]}`", *row[1:]) for row in site_rows(document)])
    kept = document["hardened"].get("bounds", {})
    if kept.get("folded") and kept["nodes"]:
        lines += ["", "Bounds that stayed nodes:", ""]
        lines += table(("tensor", "why"), [(f"`{tensor}`", reason) for tensor, reason in kept["nodes"].items()])
    if "masks" in document:
        lines += ["", "## Masks", "", *table(MASK_HEADER, document["masks"]["rows"])]
        lines += [
            "",
            "The most suppressed channels:",
            "",
            *table(("channel", "mask"), suppressed_rows(document["masks"])),
        ]
    for picture in pictures:
        lines += ["", f"![{picture}]({picture})"]
    lines += ["", "## What was run", ""]
    lines += table(("what", "value"), _provenance_rows(document))
    return "\n".join(lines) + "\n"


def _provenance_rows(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("model sha256", f"`{document['model']['sha256']}`"),
        ("hardened sha256", f"`{document['hardened']['sha256']}`" if document["hardened"]["sha256"] else "not written"),
        ("patch sha256", f"`{document['patch_sha256']}`"),
        ("clean images sha256", f"`{document['clean_set']['sha256']}`"),
        ("preprocessing", words(document["preprocess"])),
        ("options", words(document["method"]["options"])),
        ("versions", ", ".join(f"{name} {number}" for name, number in document["versions"].items())),
    ]
