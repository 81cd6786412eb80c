# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from patcher.errors import InputError
from patcher.gate import CHECKS, Check
from patcher.gate.policy import Policy, Suppression, default_policy_text, read_policy
from patcher.gate.policy_outcome import apply_policy

HASH = "ab" * 32
TODAY = datetime.date(2030, 1, 31)
FAILED = Check("latency", "fail", "too slow")


def read(tmp_path: Path, text: str, name: str = "patcher.toml") -> Policy:
    (tmp_path / name).write_text(text)
    return read_policy(tmp_path / name, tuple(CHECKS))


def suppression(**changed: object) -> Policy:
    entry = {"id": "latency", "sha256": HASH, "expires": TODAY, "statement": "asked and answered"} | changed
    return Policy(suppressions=(Suppression(**entry),))


def statuses(policy: Policy, *checks: Check, today: datetime.date = TODAY) -> dict[str, str]:
    return {check.name: check.status for check in apply_policy(checks, policy, HASH, today)}


def test_the_written_policy_is_the_default(tmp_path: Path) -> None:
    assert read(tmp_path, default_policy_text()) == Policy() == read_policy(None, ())


def test_every_threshold_is_documented() -> None:
    text = default_policy_text()
    for name in Policy().as_json()["thresholds"] | Policy().as_json()["probes"]:
        line = next(line for line in text.splitlines() if line.startswith(f"{name} = "))
        assert len(line.split("#")[1]) > 20
    page = (Path(__file__).parents[2] / "docs" / "gate.md").read_text()
    for name in (*Policy().as_json()["thresholds"], *CHECKS):
        assert f"`{name}`" in page


def test_pyproject_takes_a_table(tmp_path: Path) -> None:
    text = '[project]\nname = "x"\n[tool.patcher]\nrequire = ["patch"]\n[tool.patcher.thresholds]\nagreement = 0.5\n'
    found = read(tmp_path, text, "pyproject.toml")
    assert (found.require, found.thresholds.agreement) == (("patch",), 0.5)
    with pytest.raises(InputError, match=r"tool\.patcher"):
        read(tmp_path, "[project]\n", "pyproject.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("agreement = 1\n", "agreement"),
        ("[thresholds]\nagrement = 1\n", "agrement"),
        ("[thresholds]\nagreement = true\n", "a number"),
        ("[thresholds]\nagreement = nan\n", "a number"),
        ("[thresholds]\nagreement = -1\n", "a number"),
        ("[thresholds]\nmin_images = 0\n", "at least 1"),
        ("[probes]\npatches = 1.5\n", "a whole number"),
        ("thresholds = 3\n", "a table"),
        ('require = ["magic"]\n', "require"),
        ("suppressions = 3\n", "suppressions"),
        ("[[suppressions]]\nid = 'latency'\n", "missing: expires, sha256, statement"),
        (f"[[suppressions]]\nid = 'magic'\nsha256 = '{HASH}'\nexpires = 2030-01-31\nstatement = 'x'\n", "magic"),
        ("[[suppressions]]\nid = 'latency'\nsha256 = 'ab'\nexpires = 2030-01-31\nstatement = 'x'\n", "64 digits"),
        (f"[[suppressions]]\nid = 'latency'\nsha256 = '{HASH}'\nexpires = 'soon'\nstatement = 'x'\n", "a date"),
        (f"[[suppressions]]\nid = 'latency'\nsha256 = '{HASH}'\nexpires = 2030-01-31\nstatement = ' '\n", "reason"),
        ("not toml", "not a TOML file"),
        ("a = " + "[" * 5000 + "]" * 5000, "not a TOML file"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, text)


def test_a_suppression_holds_through_its_last_day_and_for_its_file() -> None:
    assert statuses(suppression(), FAILED) == {"latency": "suppressed", "suppressions": "pass"}
    assert statuses(suppression(sha256="cd" * 32), FAILED) == {"latency": "fail", "suppressions": "skipped"}
    tomorrow = TODAY + datetime.timedelta(days=1)
    assert statuses(suppression(), FAILED, today=tomorrow) == {"latency": "fail", "suppressions": "fail"}


def test_an_expired_suppression_fails_even_where_nothing_else_does() -> None:
    tomorrow = TODAY + datetime.timedelta(days=1)
    found = statuses(suppression(), Check("latency", "pass", "quick"), today=tomorrow)
    assert found == {"latency": "pass", "suppressions": "fail"}


def test_what_is_required_must_have_run() -> None:
    skipped = Check("patch", "skipped", "no patch file given")
    assert statuses(Policy(), skipped)["patch"] == "skipped"
    assert statuses(Policy(require=("patch",)), skipped)["patch"] == "not_run"
