# SPDX-License-Identifier: Apache-2.0
"""The report of `audit-data`: the labels with a second group of images, and how many are suspected."""

from __future__ import annotations

from dataclasses import asdict

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
        "options": {"seed": settings.seed, **asdict(options)},
        "suspects": count,
        "labels": [{"name": names[group.label], **group.as_json()} for group in findings.groups],
    }
    return Report("audit-data", "suspicious" if count else "clean", reasons, sections, {"audit_s": seconds})
