# SPDX-License-Identifier: Apache-2.0
"""A ``harden`` report's tables as rows of text, for the terminal, Markdown and the page alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from patcher.report.text import share_text, size_text

BEFORE_AFTER_HEADER = ("measured", "before", "after")
SITE_HEADER = ("tensor", "operator", "channels", "bound: lowest", "median", "highest")
_DETECTION = (
    ("TPR", "triggered images: flagged (TPR)"),
    ("FPR_target", "clean images of a flagged class: flagged (FPR)"),
    ("FPR", "all clean images: flagged (FPR)"),
)


def before_after(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows under `BEFORE_AFTER_HEADER`.

    Args:
        document: The report as plain JSON values.
    """
    before, after = document["before"], document["after"]
    rows = [
        (f"accuracy, {name} ({before[key]['count']} images)", share_text(before[key]), share_text(after[key]))
        for key, name in (("held_out", "held-out"), ("fit", "fit"))
        if before[key]["count"]
    ]
    figures = before.get("figures", {}), after.get("figures", {})
    rows += [
        (f"{name}, same images as above", f"{figures[0][name]:.1%}", f"{figures[1][name]:.1%}") for name in figures[0]
    ]
    rows.append(("agreement with the original", "", share_text(document["agreement"])))
    for name, agreement in document.get("other_outputs", {}).items():
        rows.append((f"agreement in the output {name}", "", share_text(agreement)))
    for key, name in (("ASR", "attack success (ASR)"), ("SIA", "true class (SIA)")):
        if "attack" in before:
            count = before["attack"][key]["count"]
            label = f"triggered images: {name} ({count})"
            rows.append((label, share_text(before["attack"][key]), share_text(after["attack"][key])))
    for key, name in _DETECTION:
        found = after.get("detection", {}).get(key)
        if found:
            rows.append((f"{name} ({found['count']})", "", share_text(found)))
    rows += [(name, "", text) for name, text in score_rows(after.get("detection", {}))]
    rows.append(("sites corrected", "", str(len(document["sites"]))))
    added = document["hardened"]["nodes_added"]
    rows.append(("nodes added", "", ", ".join(f"{count} {name}" for name, count in added.items()) or "none"))
    bounds = document["hardened"].get("bounds", {})
    if bounds.get("folded"):
        parts = (f"{bounds['folded']} of {bounds['folded'] + len(bounds['nodes'])}", *_what_is_left(bounds))
        rows.append(("bounds folded", "", ", ".join(parts)))
    rows.append(("size", size_text(document["model"]["bytes"]), size_text(document["hardened"]["bytes"])))
    latency = document["timings"].get("latency")
    if latency:
        label = f"latency, batch {latency['batch']}"
        after_text = f"{latency['after_ms']:.2f} ms ({latency['ratio']:.2f}x)"
        rows.append((label, f"{latency['before_ms']:.2f} ms", after_text))
    return rows


def site_rows(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows under `SITE_HEADER`."""
    return [
        (site["tensor"], site["operator"], str(site["channels"]), *map(_number, site["bound"]))
        for site in document["sites"]
    ]


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.3g}"


def _what_is_left(bounds: Mapping[str, Any]) -> list[str]:
    count = len(bounds["rescaled"])
    return [f"{count} residual tensor{'s' if count > 1 else ''} rescaled"] if count else []


def score_rows(detection: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The flag's score over all thresholds, as ``(what, text)``; nothing for a flag without a score."""
    if "AUROC" not in detection:
        return []
    caught = [
        (f"triggered images: flagged at {float(rate):.0%} false alarms", f"{value:.1%}")
        for rate, value in detection["TPR_at_FPR"].items()
    ]
    return [("score of the flag: AUROC", f"{detection['AUROC']:.3f}"), *caught]
