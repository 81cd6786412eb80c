# SPDX-License-Identifier: Apache-2.0
"""Pictures of a scan, as PNG bytes that are the same for the same figures.

- ``norms.png``: the norms of all targets, one panel a family, with the norm below which a target stands out;
- ``trigger-T.png``: for each flagged target the trigger and three held-out images without and with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from patcher.calibrate.scan.figures import Findings
from patcher.calibrate.scan.model_verdict import Decision
from patcher.report.picture import png
from patcher.steps.prepare import Prepared
from patcher.triggers.trigger import Trigger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EXAMPLES = 3
_BLUE, _RED, _GREY = "#3465a4", "#cc0000", "#888a85"
_MOST_NAMES = 20


def scan_figures(prepared: Prepared, findings: Findings, decision: Decision) -> dict[str, bytes]:
    """Draw what there is to draw: file name to PNG bytes."""
    drawn: dict[str, bytes] = {}
    if findings.candidates:
        drawn["norms.png"] = png(_norms(prepared, findings, decision))
    # Of each target the first: the smallest.
    for trigger in {item.target: item for item in reversed(decision.triggers)}.values():
        drawn[f"trigger-{trigger.target}.png"] = png(_trigger(prepared, trigger))
    return drawn


def _norms(prepared: Prepared, findings: Findings, decision: Decision) -> Figure:
    """Bars of the norms that were reached, and the line at half the median."""
    from matplotlib.figure import Figure

    families = list(dict.fromkeys(item.family for item in findings.candidates))
    flagged = {item.target for item in decision.targets if item.level in ("backdoor", "suspicious")}
    names = prepared.clean_set.class_names
    figure = Figure(figsize=(8, 2.9 * len(families)), layout="constrained")
    panels = figure.subplots(len(families), 1, squeeze=False)[:, 0]
    for panel, family in zip(panels, families, strict=True):
        reached = [item for item in findings.candidates if item.family == family and item.reached]
        norms = [item.norm for item in reached]
        colours = [_RED if item.target in flagged else _BLUE for item in reached]
        panel.bar(range(len(reached)), norms, color=colours)
        if norms:
            panel.axhline(float(np.median(norms)) / 2, color=_GREY, linestyle="--", label="half the median")
            panel.legend(fontsize=8)
        if len(reached) <= _MOST_NAMES:
            panel.set_xticks(range(len(reached)), [names[item.target] for item in reached], rotation=40, fontsize=8)
        panel.set_title(f"{family}: size of the smallest change that reaches each target", fontsize=10)
        panel.set_ylabel("norm, pixels", fontsize=8)
    return figure


def _trigger(prepared: Prepared, trigger: Trigger) -> Figure:
    """Mask and pattern (or the amplified difference), then images without and with the trigger."""
    from matplotlib.figure import Figure

    clean_set = prepared.clean_set
    pool = clean_set.held_out if len(clean_set.held_out) else clean_set.fit
    labels = clean_set.labels[pool]
    own = pool[np.isin(labels, trigger.sources)] if trigger.sources else pool[labels != trigger.target]
    chosen = (own if len(own) else pool)[:: max(1, len(own) // _EXAMPLES)][:_EXAMPLES]
    images = clean_set.images(chosen)
    figure = Figure(figsize=(2 * (_EXAMPLES + 1), 4.4), layout="constrained")
    grid = figure.subplots(2, _EXAMPLES + 1)
    for panel in grid.ravel():
        panel.set_axis_off()
    for panel, (title, picture) in zip(grid[:, 0], _parts(trigger), strict=False):
        panel.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        panel.set_title(title, fontsize=8)
    for column, (plain, changed) in enumerate(zip(images, trigger.apply(images), strict=True), start=1):
        for panel, picture, title in zip(grid[:, column], (plain, changed), ("clean", "with the trigger"), strict=True):
            panel.imshow(_shown(picture), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            panel.set_title(title, fontsize=8)
    name = clean_set.class_names[trigger.target]
    figure.suptitle(f"{trigger.family} trigger to class {trigger.target} ({name})", fontsize=10)
    return figure


def _parts(trigger: Trigger) -> list[tuple[str, NDArray[np.float32]]]:
    if trigger.family == "patch":
        return [("mask", trigger.mask[0]), ("mask x pattern", _shown(trigger.mask * trigger.pattern))]
    gain = 0.5 / max(float(np.abs(trigger.pattern).max()), 1e-6)
    return [(f"difference x {gain:.1f}, grey is 0", _shown(0.5 + gain * trigger.pattern))]


def _shown(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(C, H, W)`` as matplotlib takes it; one grey plane unless there are three colours."""
    return picture.transpose(1, 2, 0) if len(picture) == 3 else picture.mean(axis=0)
