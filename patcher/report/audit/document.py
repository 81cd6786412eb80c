# SPDX-License-Identifier: Apache-2.0
"""The report of `audit-data`: the labels with a second group of images, and how many are suspected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from patcher.calibrate.audit.options import AuditOptions
from patcher.calibrate.findings import Findings
from patcher.report.report import Report
from patcher.report.sections import model_section
from patcher.settings import Settings
from patcher.steps.prepare import Prepared


def audit_report(
    prepared: Prepared, settings: Settings, options: AuditOptions, findings: Findings, seconds: float
) -> Report:
    """Put together what `audit_data` found.

    Args:
        prepared: The model and its training set.
        settings: Shared settings.
        options: What made a neuron compromised and an image suspected.
        findings: The suspects, and every label with a second group of images.
        seconds: Duration of the whole.
    """
    names, count = prepared.clean_set.class_names, len(findings.suspects)
    labels = sorted({found.label for found in findings.suspects})
    reasons = tuple(
        f"{sum(found.label == label for found in findings.suspects)} images labelled {names[label]!r} are suspected"
        for label in labels
    )
    sections = {
        "model": model_section(prepared.model),
        "preprocess": prepared.preprocess.as_json(),
        "training_set": {"images": len(prepared.clean_set), "sha256": prepared.clean_set.sha256},
        "accuracy": prepared.accuracy.as_json(),
        "per_class": prepared.task.per_class(prepared.clean_set.labels, prepared.predicted, names),
        "options": {"seed": settings.seed, **asdict(options)},
        "suspects": count,
        "labels": [{"name": names[group.label], **group.as_json()} for group in findings.groups],
    }
    return Report("audit-data", "suspicious" if count else "clean", reasons, sections, {"audit_s": seconds})


LABEL_HEADER = ("label", "images", "second group", "lose the label", "others lose it", "verdict")


def label_rows(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of text, one a label with a second group; the header is `LABEL_HEADER`."""
    return [
        (
            group["name"],
            str(group["images"]),
            str(group["suspects"]),
            f"{group['flips']:.0%}",
            f"{group['flips_of_others']:.0%}",
            "poisoned" if group["confirmed"] else "natural",
        )
        for group in document["labels"]
    ]
