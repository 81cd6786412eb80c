# SPDX-License-Identifier: Apache-2.0
"""One check's outcome, and the names of all checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["pass", "fail", "not_run", "suppressed", "skipped"]
Interval = tuple[float, float]

# Name to one sentence: what the check asks. The order is that of every report.
CHECKS: Mapping[str, str] = {
    "interface": "The hardened model has the original's inputs and outputs, in order, its opset and IR version.",
    "operators": "Every operator is of the ONNX standard, so that any runtime can load the model.",
    "reconstruction": "The original and the corrections in the file, applied again, give the same bytes.",
    "graph": "The graph is the original's plus operators that the method is known to add.",
    "weights": "No weight of the original was changed, unless the method changes weights.",
    "provenance": "The metadata is complete and names the original by its hash.",
    "patch": "Applying the patch file to the original gives the hardened file, byte for byte.",
    "clean_images": "There are enough clean images to decide on.",
    "accuracy": "Accuracy on clean images did not fall by more than the policy allows.",
    "agreement": "The hardened model gives clean images the original's class.",
    "effect": "The corrections change the scores of clean images: a file that answers as the original disarms nothing.",
    "consistency": "An image's answer depends on nothing but the image: not on batch, order, neighbours or run.",
    "probes": "No built-in probe (patch, sinusoid, blend, warp) sends images to one class.",
    "scanned_triggers": "The triggers that a scan estimated no longer reach their targets.",
    "triggered_images": "The given triggered images no longer reach the attacker's class.",
    "false_alarms": "trigger_detected stays off on clean images.",
    "flag_response": "A flag that looks for no trigger comes on for pictures that are plainly unusual.",
    "detections": "trigger_detected comes on for triggered images.",
    "latency": "The hardened model is not much slower than the original, in paired runs.",
    "memory": "Running the hardened model does not take much more memory.",
    "size": "The file did not grow much.",
    "signature": "The signatures of the models are by the given keys, and of these bytes.",
    "attestation": "The statement that came with the file is about this file, judged with the same things, and passed.",
    "suppressions": "No suppression for this model has expired.",
}


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: A key of `CHECKS`.
        status: ``pass`` or ``fail``; ``not_run`` where it could not be run, which counts as failed;
            ``suppressed`` for a failure that the policy accepts; ``skipped`` where there is nothing to check.
        message: One sentence for people.
        count: Images it rests on; ``None`` where it counts no images.
        value: What was measured; ``None`` where it is no number, or differs between equal runs.
        threshold: The limit of the policy.
        interval: 95 % interval of the value.
        details: Further figures as plain JSON values.
        measured: Figures that differ between equal runs; they go to the report's ``timings``.
    """

    name: str
    status: Status
    message: str
    count: int | None = None
    value: float | None = None
    threshold: float | None = None
    interval: Interval | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether it stands in the way of a release."""
        return self.status in ("fail", "not_run")

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, without what differs between equal runs."""
        return {
            "name": self.name,
            "status": self.status,
            "message": self.message,
            "count": self.count,
            "value": self.value,
            "threshold": self.threshold,
            "interval_95": list(self.interval) if self.interval else None,
            "details": dict(self.details),
        }


def decided(name: str, passed: bool, message: str, **found: Any) -> Check:
    """A check that was run."""
    return Check(name, "pass" if passed else "fail", message, **found)
