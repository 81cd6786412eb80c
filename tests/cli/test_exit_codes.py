# SPDX-License-Identifier: Apache-2.0
"""One table of exit codes: help, documentation, errors and commands agree with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from patcher import errors
from patcher._cli import _COMMANDS, exit_codes
from tests.cli.conftest import Run

ROOT = Path(__file__).resolve().parents[2]


def test_the_readme_has_the_table() -> None:
    assert exit_codes.table() in (ROOT / "docs" / "exit-codes.md").read_text(encoding="utf-8")


def test_errors_agree_with_it() -> None:
    codes = {
        kind.__name__: kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.PatcherError)
    }
    assert codes.pop("NotApplicableError") == exit_codes.NOT_APPLICABLE
    assert set(codes.values()) == {exit_codes.COULD_NOT_DECIDE}


def test_every_outcome_has_a_code_that_is_explained() -> None:
    for outcomes in exit_codes.OUTCOMES.values():
        assert {item.code for item in outcomes} <= set(exit_codes.MEANINGS)
        assert len({item.name for item in outcomes}) == len(outcomes)
    assert set(exit_codes.OUTCOMES) <= set(_COMMANDS)


@pytest.mark.parametrize("command", [name for name in _COMMANDS if name != "policy"])
def test_help_says_what_the_codes_mean(command: str, run: Run) -> None:
    shown = " ".join(run(command, "--help").out.split())
    assert exit_codes.describe(command) in shown


def test_no_command_returns_a_literal_code() -> None:
    for module in {module for module, _ in _COMMANDS.values()}:
        text = (ROOT / "patcher" / "_cli" / f"{module}.py").read_text(encoding="utf-8")
        assert not re.search(r"^    return [0-9]", text, re.MULTILINE), module


def test_the_page_of_the_scan_agrees_with_it() -> None:
    page = (ROOT / "docs" / "scan.md").read_text(encoding="utf-8")
    for outcome in exit_codes.OUTCOMES["scan"]:
        row = next(line for line in page.splitlines() if line.startswith(f"| {outcome.code} |"))
        assert f"`{outcome.name}`" in row
