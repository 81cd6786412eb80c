# SPDX-License-Identifier: Apache-2.0
"""What the rows of `benchmarks.attacks` come to: verdicts, and what each method leaves."""

from __future__ import annotations

from typing import Any

import numpy as np

Row = dict[str, Any]


def summary(rows: list[Row], methods: tuple[str, ...]) -> str:
    """Counts of verdicts, and what each method leaves of what was found."""
    planted = [row for row in rows if row["attack"] != "none" and "verdict" in row]
    levels = [row["verdict"] for row in rows if row["attack"] == "none" and "verdict" in row]
    found = [row for row in planted if row["right"]]
    text = (
        f"Backdoored: {len(found)} of {len(planted)} found with the right target. Clean: {levels.count('backdoor')} of "
        f"{len(levels)} called backdoor, {levels.count('suspicious')} suspicious."
    )
    text += _undone("The better of NFT and BNA", found, ("nft", "bna"))
    for method in methods:
        text += _undone(method, found, (method,))
    return text


def _undone(name: str, found: list[Row], methods: tuple[str, ...]) -> str:
    """What is left, of several methods by the one worth most by ACC + SIA - ASR; nothing where none was measured."""
    rows = [row for row in found if any("asr" in row.get(method, {}) for method in methods)]
    if not rows:
        return ""
    cured = [[row[method] for method in methods if "asr" in row.get(method, {})] for row in rows]
    after = [max(given, key=lambda item: item["acc"] + item["sia"] - item["asr"]) for given in cured]
    before = [row["before"] for row in rows]
    asr, plain = [item["asr"] for item in after], [item["asr_plain"] for item in before]
    kept = [new["sia"] / old["acc_sources"] for new, old in zip(after, before, strict=True)]
    loss = np.mean([old["acc"] - new["acc"] for new, old in zip(after, before, strict=True)])
    return (
        f"\n\n{name} on {len(rows)} found: mean ASR {np.mean(asr):.1%}, worst {max(asr):.1%} (on clean images, before: "
        f"{np.mean(plain):.1%}, {max(plain):.1%}), at most {max(np.subtract(asr, plain)):.1%} above; mean loss of "
        f"accuracy {loss:.1%}; SIA over the accuracy of the same classes, mean {np.mean(kept):.2f}, "
        f"worst {min(kept):.2f}."
    )
