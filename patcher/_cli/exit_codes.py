# SPDX-License-Identifier: Apache-2.0
"""The one table of exit codes: what each outcome of each command means to a pipeline.

Help texts, the table in the documentation (`python -m patcher._cli.exit_codes` prints it) and every command's
return are made from it. Errors carry codes of their own, 2 or 3; see `patcher.errors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

COULD_NOT_DECIDE = 2
NOT_APPLICABLE = 3

MEANINGS: Mapping[int, str] = {
    0: "every condition was met",
    1: "a condition was not met; no model was written, the report says why",
    COULD_NOT_DECIDE: "could not decide: bad input, wrong flags, an interrupt",
    NOT_APPLICABLE: "nothing applicable: the model has no site for the method",
}


@dataclass(frozen=True)
class Outcome:
    """How a command can end without an error.

    Attributes:
        name: As the command's result names it.
        code: The exit code.
        meaning: For help and documentation.
    """

    name: str
    code: int
    meaning: str


_DONE = (Outcome("pass", 0, "done"),)

# Commands that are not named here end with 0, or with an error's code.
OUTCOMES: Mapping[str, tuple[Outcome, ...]] = {
    "scan": (
        Outcome("clean", 0, "no target stands out"),
        Outcome("backdoor", 1, "a backdoor was found"),
        Outcome("suspicious", COULD_NOT_DECIDE, "a target is suspicious"),
        Outcome("inconclusive", COULD_NOT_DECIDE, "too few classes or images to judge"),
    ),
    "harden": (
        Outcome("pass", 0, "written, every condition was met"),
        Outcome("fail", 1, "a condition was not met, no model was written"),
    ),
    "compare": (
        Outcome("pass", 0, "the best model was written"),
        Outcome("fail", 1, "no method met its conditions, no model was written"),
    ),
    "audit-data": (
        Outcome("clean", 0, "no image is suspected"),
        Outcome("suspicious", 1, "some images are suspected"),
    ),
    "calibrate": (
        Outcome("pass", 0, "the patch was written"),
        Outcome("fail", 1, "accuracy fell too far, no patch was written"),
    ),
    "verify": (
        Outcome("pass", 0, "every check passed, was skipped or is suppressed"),
        Outcome("fail", 1, "a check failed or could not be run"),
    ),
    "fleet": (
        Outcome("pass", 0, "every model ends with 0"),
        Outcome("fail", 1, "a model ends with 1"),
        Outcome("inconclusive", COULD_NOT_DECIDE, "none with 1, one with 2 or an error"),
        Outcome("not applicable", NOT_APPLICABLE, "none with 1 or 2, one with 3"),
    ),
}


def exit_code(command: str, outcome: str) -> int:
    """The exit code of an outcome.

    Raises:
        KeyError: The command has no such outcome.
    """
    return {item.name: item.code for item in OUTCOMES.get(command, _DONE)}[outcome]


def describe(command: str | None = None) -> str:
    """One line for a help text: of a command, or of all."""
    if command is None:
        return "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in MEANINGS.items()) + "."
    texts: dict[int, list[str]] = {}
    for item in OUTCOMES.get(command, _DONE):
        texts.setdefault(item.code, []).append(item.meaning)
    texts.setdefault(COULD_NOT_DECIDE, []).append(MEANINGS[COULD_NOT_DECIDE])
    return "Exit codes: " + "; ".join(f"{code} {', or '.join(parts)}" for code, parts in sorted(texts.items())) + "."


def table() -> str:
    """The table in Markdown: a row a command, a column a code."""
    rows = ["| command | 0 | 1 | 2 | 3 |", "|---|---|---|---|---|"]
    rows.append("| every command | " + " | ".join(MEANINGS[code] for code in sorted(MEANINGS)) + " |")
    for command, outcomes in OUTCOMES.items():
        cells = [", or ".join(item.meaning for item in outcomes if item.code == code) for code in sorted(MEANINGS)]
        rows.append(f"| `{command}` | " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
