# SPDX-License-Identifier: Apache-2.0
"""Pictures of a calibration, as PNG bytes that are the same for the same figures.

- ``activations.png``: one panel a site, clean activations relative to their bound, the bound at 1;
- ``masks.png``: one panel a masked constant, its masks sorted, the floor below them;
- ``curve.png``: held-out accuracy and tightness over the optimiser's steps, one panel a method.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patcher.report.harden.masks import LayerMasks, layer_masks
from patcher.report.picture import png
from patcher.report.text import shortened
from patcher.steps.fit import Fitted, Stage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 3
_HISTOGRAM_LIMIT = 1.5
_BLUE, _RED, _GREY = "#3465a4", "#cc0000", "#888a85"


def figures(fitted: Fitted) -> dict[str, bytes]:
    """Draw what there is to draw: file name to PNG bytes."""
    drawn: dict[str, bytes] = {}
    if histograms := {name: shares for stage in fitted.stages for name, shares in stage.histograms.items()}:
        drawn["activations.png"] = png(_activations(histograms))
    if layers := layer_masks(fitted.patch):
        drawn["masks.png"] = png(_masks(layers))
    curves = [stage for stage in fitted.stages if len(stage.calibration.curve) > 1]
    if curves := [stage for stage in curves if "tightness" in stage.calibration.curve[0]]:
        drawn["curve.png"] = png(_curves(curves))
    return drawn


def _activations(histograms: Mapping[str, NDArray[np.float64]]) -> Figure:
    """A grid of histograms, logarithmic counts."""
    names = list(histograms)
    figure, panels = _grid(names)
    for panel, name in zip(panels, names, strict=True):
        shares = histograms[name]
        edges = np.linspace(0, _HISTOGRAM_LIMIT, len(shares) + 1)
        panel.stairs(shares, edges, fill=True, color=_BLUE, label="clean activations; last bar: 1.5 and more")
        panel.axvline(1, color=_RED, linewidth=1.2, label="the bound; what is beyond is cut off")
        panel.set_yscale("log")
        clipped = shares[edges[:-1] >= 1].sum()
        panel.text(0.97, 0.9, f"beyond: {clipped:.2%}", transform=panel.transAxes, ha="right", va="top", fontsize=7)
        panel.minorticks_off()
    _explain(figure, panels[0], "clean activations before the patch, relative to their bound")
    figure.supxlabel("activation / bound", fontsize=8)
    figure.supylabel("share of values", fontsize=8)
    return figure


def _masks(layers: Sequence[LayerMasks]) -> Figure:
    """A grid of sorted masks with their floor."""
    figure, panels = _grid([layer.initializer for layer in layers])
    for panel, layer in zip(panels, layers, strict=True):
        values = layer.ordered
        panel.stairs(values, np.linspace(0, 1, len(values) + 1), fill=True, color=_BLUE, label="masks, sorted")
        if layer.floor is not None:
            panel.axhline(layer.floor, color=_RED, linewidth=1.2, label="the lowest that a mask may be")
        panel.set_ylim(0, 1.05)
        text = f"{(values < 0.5).sum()} of {len(values)} below 1/2"
        panel.text(0.9, 0.6, text, transform=panel.transAxes, ha="right", va="bottom", fontsize=7, color="white")
    _explain(figure, panels[0], "channel masks: 1 leaves a channel as it is, 0 would silence it")
    figure.supxlabel("share of the channels", fontsize=8)
    figure.supylabel("mask", fontsize=8)
    return figure


def _explain(figure: Figure, panel: Any, title: str) -> None:
    """Title, and below it what each mark of a panel is."""
    height = figure.get_figheight()
    # In inches from the upper edge: matplotlib's own place is a share of the height, below the legend of a tall figure.
    figure.suptitle(title, fontsize=10, y=1 - 0.06 / height)
    place = (0.5, 1 - 0.24 / height)
    figure.legend(*panel.get_legend_handles_labels(), loc="upper center", bbox_to_anchor=place, ncols=2, fontsize=8)


def _grid(names: Sequence[str]) -> tuple[Figure, list[Any]]:
    """A figure with one titled panel a name."""
    from matplotlib.figure import Figure

    rows = math.ceil(len(names) / _COLUMNS)
    height = 1.2 + 1.7 * rows
    figure = Figure(figsize=(3.0 * _COLUMNS, height))
    axes = figure.subplots(rows, _COLUMNS, squeeze=False, sharex=True, sharey=True).ravel()
    # Margins in inches: the automatic layouts measure every label of every panel, many times over.
    figure.subplots_adjust(left=0.08, right=0.99, bottom=0.5 / height, top=1 - 0.95 / height, hspace=0.35, wspace=0.06)
    for panel, name in zip(axes, names, strict=False):
        panel.set_title(shortened(name, 36), fontsize=8, pad=3)
        panel.tick_params(labelsize=7)
    for panel in axes[len(names) :]:
        panel.set_visible(False)
    return figure, list(axes[: len(names)])


def _curves(stages: Sequence[Stage]) -> Figure:
    """One panel a method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2 * len(stages)), layout="constrained")
    for panel, stage in zip(figure.subplots(len(stages), squeeze=False).ravel(), stages, strict=True):
        _curve(panel, stage)
    return figure


def _curve(left: Any, stage: Stage) -> None:
    """Two lines over the steps, the condition, and the kept step."""
    calibration = stage.calibration
    steps = [point["step"] for point in calibration.curve]
    accuracy = [100 * point["held_out_accuracy"] for point in calibration.curve]
    left.plot(steps, accuracy, color=_BLUE, marker=".", label="held-out accuracy")
    if stage.epsilon is not None:
        limit = 100 * (calibration.held_out_before - stage.epsilon)
        left.axhline(limit, color=_BLUE, linestyle=":", linewidth=1, label="lowest allowed")
    left.set_xlabel("optimiser step")
    left.set_ylabel("accuracy, %", color=_BLUE)
    right = left.twinx()
    tightness = [point["tightness"] for point in calibration.curve]
    cost = calibration.summary.get("cost", "tightness (mean bound)")
    right.plot(steps, tightness, color=_RED, marker=".", label=f"{cost}, right axis")
    right.set_ylabel(cost, color=_RED)
    kept = calibration.summary.get("kept_step")
    if kept is not None:
        left.axvline(kept, color=_GREY, linestyle="--", linewidth=1, label=f"kept: step {kept}")
    marks = [axes.get_legend_handles_labels() for axes in (left, right)]
    lines, names = ([*first, *second] for first, second in zip(*marks, strict=True))
    left.legend(lines, names, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=8)
    left.set_title(f"calibration: {stage.method}", fontsize=10)
