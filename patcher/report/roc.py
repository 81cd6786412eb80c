# SPDX-License-Identifier: Apache-2.0
"""``roc.png``: how many triggered images a flag's score catches at how many false alarms."""

from __future__ import annotations

from patcher.measure.scores import roc_curve
from patcher.report.picture import png
from patcher.steps.flags import Detection

ROC = "roc.png"
_LEAST_RATE = 1e-3


def roc_picture(detection: Detection | None) -> dict[str, bytes]:
    """File name to PNG bytes; empty where there is no score, or nothing triggered to hold it against.

    False alarms stand on a logarithmic axis: what matters lies below 5 %.
    """
    if detection is None or detection.scores is None or not all(map(len, detection.scores)):
        return {}
    from matplotlib.figure import Figure

    alarms, caught = roc_curve(*detection.scores)
    figure = Figure(figsize=(5, 4), layout="constrained")
    panel = figure.subplots()
    panel.step(alarms.clip(_LEAST_RATE), caught, where="post", color="#3465a4", label=f"AUROC {detection.auroc:.3f}")
    for rate, share in detection.tpr_at.items():
        panel.plot([rate], [share], "o", color="#cc0000", label=f"TPR {share:.1%} at {rate:.0%} FPR")
    own = detection.fpr.value, detection.tpr.value if detection.tpr else 0.0
    panel.plot([max(own[0], _LEAST_RATE)], [own[1]], "x", color="black", label="the file's threshold")
    panel.set_xscale("log")
    panel.set_xlim(_LEAST_RATE, 1)
    panel.set_ylim(0, 1.02)
    panel.set_xlabel("clean images flagged (FPR)")
    panel.set_ylabel("triggered images flagged (TPR)")
    panel.legend(loc="lower right", fontsize=8)
    return {ROC: png(figure)}
