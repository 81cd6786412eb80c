# SPDX-License-Identifier: Apache-2.0
"""What ``--method auto`` looked for, found and did: for people, and for those who answer for the release."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from patcher.report.table import table
from patcher.report.text import share_text
from patcher.steps.choice import Choice

CANDIDATE_HEADER = (
    "candidate",
    "accuracy, all clean images",
    "found triggers: success (ASR)",
    "true class (SIA)",
    "remark",
)


def auto_section(choice: Choice, names: Sequence[str], images: int, row: str = "picture") -> dict[str, Any]:
    """The choice as plain JSON values, the paragraph first.

    Args:
        choice: How ``auto`` came to its result.
        names: Class names.
        images: Clean images in all.
        row: What the model looks at, in one word.
    """
    paragraph = " ".join(_sentences(choice, names, images))
    return {
        "paragraph": paragraph.replace("clean images", f"clean {row}s").replace("picture", row)
        if row != "picture"
        else paragraph,
        "scan": choice.evidence.level,
        "families": list(choice.evidence.families),
        "targets": sorted({item.target for item in choice.evidence.triggers}),
        "before": choice.before.as_json(),
        "chosen": choice.chosen or None,
        "candidates": [item.as_json() for item in choice.candidates],
        "epsilon": choice.epsilon,
    }


def candidate_rows(section: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of text under `CANDIDATE_HEADER`, the original first."""
    rows: list[tuple[str, ...]] = [("the original", *_shares(section["before"]), "" if section["chosen"] else "kept")]
    for item in section["candidates"]:
        remark = item["reason"] or ("" if item["satisfied"] else "loses too much accuracy")
        rows.append((item["name"], *_shares(item), "chosen" if item["name"] == section["chosen"] else remark))
    return rows


def auto_lines(document: Mapping[str, Any]) -> list[str]:
    """The choice in Markdown; nothing for a report without one."""
    section = document.get("auto")
    if section is None:
        return []
    return ["", section["paragraph"], "", *table(CANDIDATE_HEADER, candidate_rows(section))]


def _shares(values: Mapping[str, Any]) -> tuple[str, str, str]:
    accuracy, asr, sia = (share_text(values[key]) if key in values else "" for key in ("ACC", "ASR", "SIA"))
    return accuracy, asr, sia


def _sentences(choice: Choice, names: Sequence[str], images: int) -> Iterator[str]:
    yield _sought(choice, len(names), images)
    yield _found(choice, names)
    yield _done(choice)
    yield _unknown(choice)


def _sought(choice: Choice, classes: int, images: int) -> str:
    if choice.evidence.level == "given":
        return "Looked for: nothing; the triggers of a file were taken as found."
    kinds = ", ".join(choice.evidence.families)
    return (
        f"Looked for: a backdoor, that is a change of the picture that makes the model answer one of its {classes} "
        f"classes, of the kinds {kinds}, tried on {images} clean images."
    )


def _found(choice: Choice, names: Sequence[str]) -> str:
    targets = sorted({item.target for item in choice.evidence.triggers})
    classes = ", ".join(f"{target} ({names[target]})" for target in targets)
    success = choice.before.asr
    if targets and success is not None:
        sure = "" if choice.evidence.level in ("backdoor", "given") else " It is suspicious, not certain."
        return (
            f"Found: a trigger for {'class' if len(targets) == 1 else 'the classes'} {classes}; put into pictures that "
            f"played no part in the search, it succeeds on {success.value:.1%} of them.{sure}"
        )
    if choice.evidence.level == "clean":
        return "Found: nothing."
    return f"Found: no trigger, but the model is {choice.evidence.level}: {'; '.join(choice.evidence.reasons)}."


_DOES = {
    "nft": "channels that the trigger uses were turned down",
    "unit": "activations were bounded to what clean pictures need",
    "bna": "a second look was added for pictures of the attacked class, which answers and flags triggered ones",
}


def _done(choice: Choice) -> str:
    before, after = choice.before, choice.outcome
    if not choice.chosen:
        cost = ""
        for outcome in (item.outcome for item in choice.candidates if item.outcome):
            cost = (
                f" Precautionary bounds would cost {before.accuracy.value - outcome.accuracy.value:.1%} of "
                f"accuracy, more than the {choice.epsilon:.1%} that a model without findings may lose."
            )
        return f"Done: nothing; the model is the original, byte for byte.{cost}"
    text = "; ".join(_DOES[part] for part in choice.chosen.split("+"))
    text = f"Done: {text} (method {choice.chosen}). Accuracy on all {after.accuracy.count} clean pictures: "
    text += f"{before.accuracy.value:.1%} before, {after.accuracy.value:.1%} now."
    if after.asr is not None and after.sia is not None:
        text += f" The found trigger now succeeds on {after.asr.value:.1%}; {after.sia.value:.1%} get their true class."
    return text


def _unknown(choice: Choice) -> str:
    return (
        "Unknown: whether there is a trigger of another kind, or one that works on few pictures only, and how far the "
        "attacker's own trigger differs from "
        + ("the one found." if choice.evidence.triggers else "what was tried.")
        + " A model that must not fail should not come from someone you do not trust."
    )
