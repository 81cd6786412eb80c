# SPDX-License-Identifier: Apache-2.0
"""Every verdict that a command can end with says what it means and what to do next."""

from __future__ import annotations

import pytest

from patcher._cli.exit_codes import OUTCOMES
from patcher.report.page.meaning import MEANINGS, markdown, meaning_of

# Commands without a report: `calibrate` writes a patch, and says the rest in one line.
REPORTED = [(command, item.name) for command, items in OUTCOMES.items() if command != "calibrate" for item in items]


@pytest.mark.parametrize(("command", "verdict"), [*REPORTED, ("evaluate", "pass")])
def test_every_outcome_has_a_meaning(command: str, verdict: str) -> None:
    meaning = meaning_of(command, verdict)
    assert meaning.means.endswith(".")
    assert meaning.next
    assert all(step.text.endswith(".") for step in meaning.next)


def test_nothing_is_explained_that_cannot_happen() -> None:
    explained = {(command, verdict) for command, verdicts in MEANINGS.items() for verdict in verdicts}
    assert explained == {*REPORTED, ("evaluate", "pass")}


def test_the_page_of_the_documentation_has_them_all() -> None:
    text = markdown()
    assert all(f"### {command}: {verdict}\n" in text for command, verdict in REPORTED)
