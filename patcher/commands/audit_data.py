# SPDX-License-Identifier: Apache-2.0
"""Find the poisoned images of a training set: `patcher audit-data` as a function."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patcher.calibrate import METHODS
from patcher.calibrate.audit.audit import audit, findings_of
from patcher.calibrate.audit.options import AuditOptions
from patcher.calibrate.classifier import Classifier, choose_device
from patcher.calibrate.findings import Findings
from patcher.calibrate.run import Run
from patcher.data.preprocess import resolve_preprocess
from patcher.files import Source
from patcher.graph.weight_channels import find_layers
from patcher.model.inputs import refuse_arrays
from patcher.model.model import read_model
from patcher.progress import Progress, no_progress
from patcher.report.audit.document import audit_report
from patcher.report.audit.files import write_audit
from patcher.report.folder import check_report_dir
from patcher.report.report import Report, Reported
from patcher.settings import refuse_unknown, split_options
from patcher.steps.fit import sites_for
from patcher.steps.prepare import prepare

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class AuditResult(Reported):
    """What `audit_data` found.

    Attributes:
        report: What was measured; its verdict is ``clean`` or ``suspicious``.
        findings: The suspects, and every label with a second group of images.
    """

    report: Report
    findings: Findings


def audit_data(
    model: Source | bytes | onnx.ModelProto,
    *,
    train_dir: Source,
    report_dir: Source | None = None,
    preprocess: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> AuditResult:
    """Look for poisoned images in the training set of a model; nothing is changed.

    Args:
        model: Path, bytes or ``ModelProto`` of the model that was trained on it.
        train_dir: The training set with the labels it was trained on.
        report_dir: Folder for ``suspects.csv``, ``suspects.png`` and ``audit.json``.
        preprocess: Keyword arguments of `resolve_preprocess`.
        progress: Told of each step.
        options: Fields of `Settings` and of `AuditOptions`.

    Raises:
        InputError: A file, folder or option cannot be used, or the model is not accurate on the images.
        NotApplicableError: The model has no neurons to look at.
        UnsupportedGraphError: The model holds something that cannot be run faithfully.
    """
    started = time.perf_counter()
    check_report_dir(report_dir)
    settings, own = split_options(options)
    refuse_unknown("audit-data", own, (part.name for part in fields(AuditOptions)))
    audit_options = AuditOptions(**own)
    read = read_model(model, scores=settings.scores)
    refuse_arrays(read.kind, "audit-data")
    sites = sites_for(read, METHODS["none"])
    prepared = prepare(read, train_dir, resolve_preprocess(read, **(preprocess or {})), settings)
    training_set = prepared.clean_set
    classifier = Classifier(read, prepared.preprocess, device=choose_device(settings.device))
    verdict = audit(
        Run(classifier, settings.seed, settings.batch_size, progress or no_progress),
        find_layers(read, sites),
        training_set,
        training_set.everything,
        audit_options,
        description="audit: read activations",
    )
    findings = findings_of(verdict)
    report = audit_report(prepared, settings, audit_options, findings, time.perf_counter() - started)
    if report_dir is not None:
        write_audit(report, Path(report_dir), findings, training_set)
    return AuditResult(report, findings)
