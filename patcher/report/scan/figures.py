# SPDX-License-Identifier: Apache-2.0
"""Pictures of a scan, as PNG bytes that are the same for the same figures.

- ``sizes.png``: the sizes of all targets, one panel a family, with the size below which a target stands out;
- ``trigger-T.png``, for further families ``trigger-T-FAMILY.png``: for each flagged target the trigger alone, as its
  family shows it (a mask, arrows, a chart of colours), and held-out images without it, with it, and the difference
  amplified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from patcher.calibrate.scan.figures import Findings
from patcher.calibrate.scan.model_verdict import Decision
from patcher.report.picture import png
from patcher.report.text import shortened
from patcher.steps.prepare import Prepared
from patcher.triggers.family import Panel, family_of
from patcher.triggers.trigger import Trigger

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_EXAMPLES = 3
_BLUE, _RED, _GREY = "#3465a4", "#cc0000", "#888a85"
_MOST_NAMES, _LONGEST_NAME = 20, 14
_UNITS = {"rms": "rms, pixels 0 to 1"}
_ARROWS = 12  # along the longer side


def scan_figures(prepared: Prepared, findings: Findings, decision: Decision) -> dict[str, bytes]:
    """Draw what there is to draw: file name to PNG bytes."""
    drawn: dict[str, bytes] = {}
    if findings.candidates:
        drawn["sizes.png"] = png(_sizes(prepared, findings, decision))
    if not prepared.model.is_picture:
        return drawn
    # Of each target and family the first: the smallest.
    for trigger in {(item.target, item.family): item for item in reversed(decision.triggers)}.values():
        first = next(item for item in decision.triggers if item.target == trigger.target)
        name = f"trigger-{trigger.target}" + ("" if trigger.family == first.family else f"-{trigger.family}")
        drawn[f"{name}.png"] = png(_trigger(prepared, trigger))
    return drawn


def _sizes(prepared: Prepared, findings: Findings, decision: Decision) -> Figure:
    """Bars of the sizes, hollow where not reached, and the line at half the median."""
    from matplotlib.figure import Figure

    families = list(dict.fromkeys(item.family for item in findings.candidates))
    flagged = {item.target for item in decision.targets if item.level in ("backdoor", "suspicious")}
    names = prepared.clean_set.class_names
    figure = Figure(figsize=(8, 0.8 + 2.2 * len(families)), layout="constrained")
    panels = figure.subplots(len(families), 1, squeeze=False)[:, 0]
    for panel, family in zip(panels, families, strict=True):
        tried = [item for item in findings.candidates if item.family == family]
        for place, item in enumerate(tried):
            colour = _RED if item.target in flagged else _BLUE
            panel.bar(place, item.size, facecolor=colour if item.reached else "none", edgecolor=colour)
        panel.axhline(float(np.median([item.size for item in tried])) / 2, color=_GREY, linestyle="--")
        panel.set_xticks([])
        if len(tried) <= _MOST_NAMES:
            shown = [shortened(names[item.target], _LONGEST_NAME) for item in tried]
            panel.set_xticks(range(len(tried)), shown, rotation=30 if max(map(len, shown)) > 4 else 0, fontsize=8)
        panel.set_title(family, fontsize=10, loc="left")
        panel.set_ylabel(_UNITS.get(family_of(family).unit, family_of(family).unit), fontsize=8)
    panels[-1].set_xlabel("class", fontsize=8)
    figure.suptitle("smallest change of each kind that sends images to each class", fontsize=10)
    figure.legend(handles=_marks(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _marks() -> list[Artist]:
    """What the marks of ``sizes.png`` are."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        Patch(facecolor=_RED, edgecolor=_RED, label="a flagged class"),
        Patch(facecolor=_BLUE, edgecolor=_BLUE, label="another class"),
        Patch(facecolor="none", edgecolor=_GREY, label="hollow: not reached; the largest change tried"),
        Line2D([], [], color=_GREY, linestyle="--", label="half the median: below it a class stands out"),
    ]


def _trigger(prepared: Prepared, trigger: Trigger) -> Figure:
    """The trigger alone, then images without it, with it, and the difference amplified."""
    from matplotlib.figure import Figure

    clean_set = prepared.clean_set
    pool = clean_set.held_out if len(clean_set.held_out) else clean_set.fit
    own = pool[clean_set.task.carries(clean_set.labels[pool], trigger.target, trigger.sources)]
    chosen = (own if len(own) else pool)[:: max(1, len(own) // _EXAMPLES)][:_EXAMPLES]
    images = clean_set.images(chosen)
    changed = np.asarray(trigger.apply(images), np.float32)
    gain = 0.5 / max(float(np.abs(changed - images).max()), 1e-6)
    figure = Figure(figsize=(2 * (_EXAMPLES + 1), 6.4), layout="constrained")
    grid = figure.subplots(3, _EXAMPLES + 1)
    for panel in grid.ravel():
        panel.set_axis_off()
    for panel, part in zip(grid[:, 0], trigger.panels(), strict=False):
        _draw(panel, part)
    for column, (plain, after) in enumerate(zip(images, changed, strict=True), start=1):
        difference = np.asarray(0.5 + gain * (after - plain), np.float32)
        rows = (("clean", plain), ("with the trigger", after), (f"difference x {gain:.1f}; grey: none", difference))
        for panel, (title, picture) in zip(grid[:, column], rows, strict=True):
            _draw(panel, Panel(title, picture))
    name = clean_set.class_names[trigger.target]
    figure.suptitle(f"{trigger.family} trigger to class {trigger.target} ({name})", fontsize=10)
    return figure


def _draw(axes: Axes, panel: Panel) -> None:
    """One panel: a picture, or arrows from where pixels come to where they go."""
    axes.set_title(panel.title, fontsize=8)
    if panel.kind == "picture":
        axes.imshow(_shown(panel.values), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        return
    down, right = panel.values
    step = max(1, max(down.shape) // _ARROWS)
    rows, columns = np.mgrid[step // 2 : down.shape[0] : step, step // 2 : down.shape[1] : step]
    longest = max(float(np.hypot(down, right).max()), 1e-6)
    axes.quiver(
        columns, rows, right[rows, columns], down[rows, columns],
        angles="xy", scale_units="xy", scale=longest / step, width=0.008, color=_BLUE,
    )  # fmt: skip
    axes.set_xlim(-1, down.shape[1])
    axes.set_ylim(down.shape[0], -1)
    axes.set_aspect("equal")
    axes.set_title(f"{panel.title}\n(longest: {longest:.2g} pixels)", fontsize=8)


def _shown(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(C, H, W)`` as matplotlib takes it; one grey plane unless there are three colours."""
    picture = picture.clip(0, 1)
    return picture.transpose(1, 2, 0) if len(picture) == 3 else picture.mean(axis=0)
