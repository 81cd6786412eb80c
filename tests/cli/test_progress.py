# SPDX-License-Identifier: Apache-2.0
"""Progress in a log: rare lines with the time left."""

from __future__ import annotations

import time

import pytest

from patcher._cli.output import ProgressLines, progress_bar


def test_a_line_every_half_minute_with_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    lines = ProgressLines(lambda: now[0])
    for step in range(0, 101):
        now[0] = step * 2.0
        lines("unit", step, 100)
    found = capsys.readouterr().err.splitlines()
    assert found[0] == "patcher: unit: 15 of 100, about 2 min 50 s left"
    assert len(found) == 6


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(False) as progress:
        for step in range(10):
            progress("fast", step, 10)
    assert capsys.readouterr().err == ""


def test_quiet_says_nothing_however_long_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(True) as progress:
        progress("anything", 1, 2)
        assert not isinstance(progress, ProgressLines)
    assert capsys.readouterr().err == ""


def test_steps_that_tell_nothing_are_not_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patcher._cli.output._SECONDS_BETWEEN_LINES", 0.1)
    with ProgressLines() as lines:
        time.sleep(0.3)
        lines("scan", 3, 3)
        time.sleep(0.3)
    time.sleep(0.1)
    found = capsys.readouterr().err.splitlines()
    assert found[0].startswith("patcher: reading and measuring, ")
    assert found[-1].startswith("patcher: scan: done; checking and measuring, ")
    time.sleep(0.3)
    assert capsys.readouterr().err == ""
