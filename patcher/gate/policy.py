# SPDX-License-Identifier: Apache-2.0
"""The policy of the release gate: thresholds with defaults, requirements, suppressions.

A TOML file, ``patcher.toml``, or the table ``[tool.patcher]`` of a ``pyproject.toml``. An unknown key is
an error: a misspelt threshold must not silently leave its default in force.
"""

from __future__ import annotations

import datetime
import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from patcher.errors import InputError

_SHA256_DIGITS = 64
_MAX_FILE_BYTES = 1 << 20


def _threshold(default: float, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What is still acceptable; shares from 0 to 1, ratios to the original from 0 on."""

    min_images: int = _threshold(50, "fewest clean images a verdict may rest on")
    accuracy_drop: float = _threshold(0.03, "largest loss of accuracy on clean images")
    map_drop: float = _threshold(0.03, "largest loss of mAP on clean images, of models with several labels a row")
    agreement: float = _threshold(0.90, "smallest share of clean images with the original's class")
    probe_success: float = _threshold(0.20, "largest share of images that a built-in probe sends to one class")
    trigger_success: float = _threshold(0.10, "largest attack success of the triggers of --triggers and --triggered")
    false_alarms: float = _threshold(0.02, "largest share of clean images that trigger_detected flags")
    detections: float = _threshold(0.50, "smallest share of triggered images that trigger_detected flags")
    latency_ratio: float = _threshold(1.50, "largest latency, as a multiple of the original's")
    latency_allowance_ms: float = _threshold(0.5, "added ms (batch of 8) accepted whatever the ratio")
    memory_ratio: float = _threshold(1.50, "largest peak memory of a process that runs the model, as a multiple")
    size_ratio: float = _threshold(1.10, "largest file, as a multiple of the original's")
    size_allowance_kib: float = _threshold(1024.0, "added KiB accepted whatever the ratio")


@dataclass(frozen=True)
class Probes:
    """How hard the gate looks for triggers that nobody gave it."""

    screened: int = _threshold(32, "clean images on which every probe is tried")
    measured: int = _threshold(256, "clean images on which the worst probes are measured again")
    patches: int = _threshold(24, "random colour patches at random places, for each of three sizes")
    seed: int = _threshold(0, "of the random patches and of the choice of images")


@dataclass(frozen=True)
class Accept:
    """Files that cannot be proven byte for byte."""

    rewritten: bool = _threshold(False, "files that a later tool rewrote: the same data flow is enough")
    weights: bool = _threshold(False, "other values of weights (method none) without the patch that made them")


@dataclass(frozen=True)
class Suppression:
    """A failed check that somebody answers for, until a day, for one file.

    Attributes:
        id: Name of the check.
        sha256: Hash of the hardened model it holds for.
        expires: Last day on which it holds.
        statement: Why the failure is acceptable.
    """

    id: str
    sha256: str
    expires: datetime.date
    statement: str

    def as_json(self) -> dict[str, str]:
        """Plain JSON values."""
        return asdict(self) | {"expires": self.expires.isoformat()}


@dataclass(frozen=True)
class Policy:
    """Everything a policy file can say.

    Attributes:
        thresholds: Limits of the checks.
        probes: Size of the search for triggers.
        accept: Files that cannot be proven byte for byte.
        require: Checks that must have run: one that is skipped for want of a flag then fails.
        suppressions: Failures that are accepted.
    """

    thresholds: Thresholds = field(default_factory=Thresholds)
    probes: Probes = field(default_factory=Probes)
    accept: Accept = field(default_factory=Accept)
    require: tuple[str, ...] = ()
    suppressions: tuple[Suppression, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "thresholds": asdict(self.thresholds),
            "probes": asdict(self.probes),
            "accept": asdict(self.accept),
            "require": list(self.require),
            "suppressions": [item.as_json() for item in self.suppressions],
        }


def read_policy(path: str | os.PathLike[str] | None, checks: tuple[str, ...]) -> Policy:
    """Read a policy file.

    Args:
        path: A TOML file; ``None`` for the defaults.
        checks: Names of all checks, against which ``require`` and suppressions are checked.

    Raises:
        InputError: The file is missing or no TOML, or a key or value in it is not known.
    """
    if path is None:
        return Policy()
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise InputError(f"--policy {path}: a file of at most {_MAX_FILE_BYTES >> 20} MiB expected")
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--policy {path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or ["too deeply nested"])[0]
        raise InputError(f"--policy {path}: not a TOML file ({reason})") from error
    table = document if path.name != "pyproject.toml" else document.get("tool", {}).get("patcher")
    if not isinstance(table, dict):
        raise InputError(f"--policy {path}: a table [tool.patcher] expected, found none")
    return _policy(table, str(path), checks)


def default_policy_text() -> str:
    """The commented policy file that ``patcher policy init`` writes: all defaults, nothing suppressed."""
    lines = [
        "# Policy of `patcher verify`. Every value below is the default; delete what you do not change.",
        "# An unknown key is an error.",
        "",
        "# Checks that must have run: skipped for want of a flag (--triggers, --triggered, --patch), they fail.",
        'require = []  # e.g. ["patch", "scanned_triggers"]',
    ]
    for title, kind in (("thresholds", Thresholds), ("probes", Probes), ("accept", Accept)):
        lines += ["", f"[{title}]"]
        width = max(len(f"{part.name} = {_toml(part.default)}") for part in fields(kind))
        for part in fields(kind):
            lines.append(f"{f'{part.name} = {_toml(part.default)}':{width}}  # {part.metadata['help']}")
    lines += [
        "",
        "# A failure that is accepted: for one file, until a day. From the next day on it fails again.",
        "# [[suppressions]]",
        '# id = "latency"',
        '# sha256 = "<sha256 of the hardened model>"',
        "# expires = 2030-01-31",
        '# statement = "Batch job at night; asked and answered in ticket 123."',
    ]
    return "\n".join(lines) + "\n"


def _policy(table: Mapping[str, Any], where: str, checks: tuple[str, ...]) -> Policy:
    _known_keys(table, {part.name for part in fields(Policy)}, where)
    require = table.get("require", [])
    if not isinstance(require, list) or not all(name in checks for name in require):
        raise InputError(f"{where}: require: a list of checks ({', '.join(checks)}) expected, found {require!r}")
    entries = table.get("suppressions", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{where}: suppressions: tables [[suppressions]] expected")
    return Policy(
        thresholds=_numbers(Thresholds, table.get("thresholds", {}), f"{where}: [thresholds]"),
        probes=_numbers(Probes, table.get("probes", {}), f"{where}: [probes]"),
        accept=_switches(Accept, table.get("accept", {}), f"{where}: [accept]"),
        require=tuple(require),
        suppressions=tuple(_suppression(entry, f"{where}: [[suppressions]]", checks) for entry in entries),
    )


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _switches(kind: type[Any], table: Any, where: str) -> Any:
    if not isinstance(table, dict):
        raise InputError(f"{where}: a table expected, found {table!r}")
    _known_keys(table, {part.name for part in fields(kind)}, where)
    if wrong := sorted(name for name, value in table.items() if not isinstance(value, bool)):
        raise InputError(f"{where}: {wrong[0]}: true or false expected, found {table[wrong[0]]!r}")
    return kind(**table)


def _numbers(kind: type[Any], table: Any, where: str) -> Any:
    if not isinstance(table, dict):
        raise InputError(f"{where}: a table expected, found {table!r}")
    parts = {part.name: part for part in fields(kind)}
    _known_keys(table, set(parts), where)
    for name, value in table.items():
        whole = isinstance(parts[name].default, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not 0 <= value < 1e6:
            expected = "a whole number" if whole else "a number"
            raise InputError(f"{where}: {name}: {expected} from 0 to 1e6 expected, found {value!r}")
        if name in ("screened", "measured", "min_images") and value < 1:
            raise InputError(f"{where}: {name}: at least 1 expected, found {value!r}")
    return kind(**table)


def _suppression(entry: Mapping[str, Any], where: str, checks: tuple[str, ...]) -> Suppression:
    names = {part.name for part in fields(Suppression)}
    _known_keys(entry, names, where)
    if missing := sorted(names - set(entry)):
        raise InputError(f"{where}: {', '.join(sorted(names))} expected, missing: {', '.join(missing)}")
    found = Suppression(**entry)
    if found.id not in checks:
        raise InputError(f"{where}: id: a check ({', '.join(checks)}) expected, found {found.id!r}")
    if not isinstance(found.sha256, str) or len(found.sha256) != _SHA256_DIGITS:
        raise InputError(
            f"{where}: sha256: the 64 digits of the hardened model's hash expected, found {found.sha256!r}"
        )
    if not isinstance(found.expires, datetime.date) or isinstance(found.expires, datetime.datetime):
        raise InputError(f"{where}: expires: a date such as 2030-01-31 expected, found {found.expires!r}")
    if not isinstance(found.statement, str) or not found.statement.strip():
        raise InputError(f"{where}: statement: the reason in words expected, found {found.statement!r}")
    return found


def _known_keys(table: Mapping[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(set(table) - known):
        raise InputError(f"{where}: keys {', '.join(sorted(known))} expected, found {', '.join(unknown)}")
