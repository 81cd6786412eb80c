# SPDX-License-Identifier: Apache-2.0
"""The report of `harden`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from patcher.export import ParityReport
from patcher.export.bake import Baked
from patcher.graph.site import Site
from patcher.model.file import model_sha256
from patcher.patch import Correction, MeanBound, Part, UpperBound, WeightMask, flat_corrections, patch_sha256
from patcher.report.harden.choice import auto_section
from patcher.report.harden.masks import layer_masks, masks_section
from patcher.report.harden.notes import notes, too_few_to_tell
from patcher.report.report import Report
from patcher.report.sections import clean_set_section, model_section
from patcher.steps.before_after import Measured
from patcher.steps.fit import Fitted, Stage

if TYPE_CHECKING:
    import onnx


_ROWS = {"picture": "picture", "array": "row", "tokens": "text"}


def harden_report(
    fitted: Fitted,
    hardened: onnx.ModelProto,
    parity: ParityReport,
    measured: Measured,
    seconds: Mapping[str, float],
    baked: Baked,
) -> Report:
    """Put together what `harden` found.

    Args:
        fitted: The patch and where it came from.
        hardened: The hardened model.
        parity: The proof.
        measured: Before against after.
        seconds: Duration of each stage.
        baked: How bounds were baked.
    """
    calibration, prepared = fitted.calibration, fitted.prepared
    reasons = _reasons(fitted, measured)
    labels, names = prepared.clean_set.labels, prepared.clean_set.class_names
    sections: dict[str, Any] = {
        "model": model_section(prepared.model),
        "hardened": {
            "sha256": model_sha256(hardened),
            "bytes": measured.bytes_after,
            "nodes_added": measured.nodes_added,
            "bounds": baked.as_json(),
        },
        "patch_sha256": patch_sha256(fitted.patch),
        "preprocess": prepared.preprocess.as_json(),
        **({"task": prepared.task.name} if prepared.task.right_means else {}),
        "clean_set": clean_set_section(prepared.clean_set),
        "method": {
            "name": fitted.patch.method,
            "seed": fitted.settings.seed,
            "options": {key: value for key, value in fitted.patch.options.items() if key != "seed"},
            "satisfied": calibration.satisfied,
            **calibration.summary,
        },
        **_choice(fitted),
        "before": measured.before.as_json(),
        "after": measured.after.as_json(),
        "agreement": measured.agreement.as_json(),
        **_other_outputs(measured),
        "per_class": {
            "before": prepared.task.per_class(labels, prepared.predicted, names),
            "after": prepared.task.per_class(labels, measured.predicted, names),
        },
        "notes": notes(fitted, measured, baked),
        "sites": [row for stage in fitted.stages for row in _sites(stage)],
        **({"masks": masks_section(fitted.patch)} if layer_masks(fitted.patch) else {}),
        "parity": {"images": parity.images, "checks": [asdict(check) for check in parity.checks]},
        "curve": [{"method": stage.method, **point} for stage in fitted.stages for point in stage.calibration.curve],
    }
    timings = {**seconds, "latency": measured.latency.as_json()}
    return Report("harden", "fail" if reasons else "pass", reasons, sections, timings)


def _other_outputs(measured: Measured) -> dict[str, Any]:
    others = {name: item.as_json() for name, item in measured.others.items()}
    return {"other_outputs": others} if others else {}


def _choice(fitted: Fitted) -> dict[str, Any]:
    clean_set, row = fitted.prepared.clean_set, _ROWS[fitted.prepared.model.kind]
    if fitted.choice is None:
        return {}
    return {"auto": auto_section(fitted.choice, clean_set.class_names, len(clean_set), row)}


def tensor_of(correction: Correction | Part) -> str:
    """The tensor or initializer that a correction names."""
    return str(getattr(correction, "tensor", None) or getattr(correction, "initializer", ""))


def _sites(stage: Stage) -> list[dict[str, Any]]:
    made = flat_corrections(stage.calibration.corrections)
    corrections = {tensor_of(item): item for item in made if not isinstance(item, MeanBound)}
    return [_site(site, corrections.get(site.tensor)) for site in stage.sites]


def _site(site: Site, correction: Correction | Part | None) -> dict[str, Any]:
    values = correction.bound if isinstance(correction, UpperBound) else None
    if isinstance(correction, WeightMask):
        values = correction.mask
    spread: list[float | None] = [None, None, None]
    if values is not None:
        spread = [float(values.min()), float(np.median(values)), float(values.max())]
    return {
        "tensor": site.tensor,
        "operator": site.operator,
        "channels": site.channels,
        "shape": list(site.shape),
        "bound": spread,
    }


def _reasons(fitted: Fitted, measured: Measured) -> tuple[str, ...]:
    calibration, reasons = fitted.calibration, []
    if not calibration.satisfied:
        before, after = calibration.held_out_before, calibration.held_out_after
        coarse = too_few_to_tell(fitted)
        reasons.append(
            f"held-out accuracy fell from {before:.1%} to {after:.1%}, more than --epsilon "
            f"{fitted.patch.options.get('epsilon', 0.0):.1%} allows; nothing was written under the output's name: "
            f"give more clean images, a larger --epsilon, or another --method{'; ' if coarse else ''}{coarse}"
        )
    wanted = fitted.settings.min_agreement
    for name, agreement in {"": measured.agreement, **measured.others}.items():
        if agreement.value < wanted:
            where = f" in the output {name!r}" if name else ""
            reasons.append(
                f"the hardened model keeps the original's class{where} on {agreement.value:.1%} of the clean images, "
                f"at least {wanted:.1%} expected; nothing was written under the output's name: give more clean images, "
                "or lower --min-agreement"
            )
    return tuple(reasons)
