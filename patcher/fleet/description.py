# SPDX-License-Identifier: Apache-2.0
"""``fleet.toml``: which models, with which images, what to do with them, and where results go.

Keys are the keyword arguments of `patcher.scan`, `patcher.harden` and `patcher.verify`. A key that is not known is an
error: a misspelt one must not silently leave its default in force.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from patcher.calibrate import METHODS
from patcher.calibrate.scan.options import Options
from patcher.calibrate.scan.target_verdict import Thresholds
from patcher.errors import InputError
from patcher.files import Source
from patcher.fleet.task import STEPS, Step
from patcher.settings import Settings

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
_MAX_FILE_BYTES = 1 << 22
_PREPROCESS = ("file", "size", "mean", "std", "layout", "color", "range")
_SETTINGS = tuple(part.name for part in fields(Settings))
_SCAN = ("memory_mib", *(part.name for kind in (Options, Thresholds) for part in fields(kind)))
# Names of files and folders among the options; what they hold is part of a result's identity.
_SHARED_FILES = ("clean_dir", "triggered", "classes_file")
_HARDEN_FILES = ("scan", "triggers", "train_dir")
_GENERAL = ("do", "target", "preprocess", *STEPS, *_SHARED_FILES)
_ONE_MODEL = ("path", "glob", "name")
_RUN = ("workers", "threads", "timeout", "memory_gib", "attempts")
_REFUSED = ("checkpoint", "resume")


@dataclass(frozen=True)
class Running:
    """How the tasks of a fleet are run; ``[run]``.

    Attributes:
        workers: Processes at most; ``None`` for as many as there are cores, or GPUs, for their threads.
        threads: Of each process: its share of the cores. Figures may depend on it by rounding, those of `workers` not.
        timeout: Seconds that a task may take.
        memory_gib: GiB that the process of a task may hold; ``None`` for the machine's share.
        attempts: How often a task is tried whose process is lost.
    """

    workers: int | None = None
    threads: int = 1
    timeout: float = 3600.0
    memory_gib: float | None = None
    attempts: int = 3

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "attempts"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise InputError(f"run: {name}: a number from 1 expected, found {value!r}")
        for name in ("timeout", "memory_gib"):
            value = getattr(self, name)
            if value is not None and (type(value) not in (int, float) or not 0 < value < float("inf")):
                raise InputError(f"run: {name}: a number above 0 expected, found {value!r}")


@dataclass(frozen=True)
class Entry:
    """One model of the fleet.

    Attributes:
        name: Of the model and of its folder of results.
        path: The ONNX file.
        do: Steps in order.
        common: Keyword arguments of every step: settings, images, preprocessing.
        scan: Those of `patcher.scan` alone.
        methods: Names of methods; several are compared.
        harden: Those of `patcher.harden` alone.
        verify: Those of `patcher.verify` alone.
    """

    name: str
    path: Path
    do: tuple[Step, ...]
    common: Mapping[str, Any]
    scan: Mapping[str, Any] = field(default_factory=dict)
    methods: tuple[str, ...] = ("unit",)
    harden: Mapping[str, Any] = field(default_factory=dict)
    verify: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Description:
    """A fleet.

    Attributes:
        models: In the order of the file.
        results: Folder of the results.
        cache: Folder of what was computed.
        running: How tasks are run.
    """

    models: tuple[Entry, ...]
    results: Path
    cache: Path
    running: Running


def read_description(source: Source | Mapping[str, Any]) -> Description:
    """Read a fleet.

    Args:
        source: A TOML file, or what one holds; its paths are relative to its folder, or to the working directory.

    Raises:
        InputError: The file is missing or no TOML, a key or value is not known, a file is missing, or two models have
            one name.
    """
    if isinstance(source, Mapping):
        table, base, where = source, Path.cwd(), "fleet"
    else:
        path = Path(source)
        table, base, where = _load(path), path.resolve().parent, path.name
    _refuse(table, ("results", "cache", "run", "defaults", "models"), where)
    defaults, running = _table(table, "defaults", where), _table(table, "run", where)
    _refuse(running, _RUN, f"{where}: [run]")
    listed = table.get("models")
    if not isinstance(listed, Sequence) or not listed or not all(isinstance(item, Mapping) for item in listed):
        raise InputError(f"{where}: at least one table [[models]] expected, found none")
    _refuse(defaults, (*_GENERAL, *_SETTINGS), f"{where}: [defaults]")
    models = [entry for item in listed for entry in _entries(item, defaults, base, where)]
    by_name: dict[str, Path] = {}
    for entry in models:
        if (other := by_name.setdefault(entry.name, entry.path)) is not entry.path:
            raise InputError(f"{where}: two models are named {entry.name!r}, {other} and {entry.path}: give one a name")
    results = _path(base, table.get("results", "fleet-results"), f"{where}: results")
    cache = _path(base, table["cache"], f"{where}: cache") if "cache" in table else results / ".cache"
    return Description(tuple(models), results, cache, Running(**running))


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise InputError(f"{path}: a file of at most {_MAX_FILE_BYTES >> 20} MiB expected")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or ["too deeply nested"])[0]
        raise InputError(f"{path}: not a TOML file ({reason})") from error


def _entries(item: Mapping[str, Any], defaults: Mapping[str, Any], base: Path, where: str) -> list[Entry]:
    """The models of one table ``[[models]]``."""
    called = item.get("name", item.get("path", item.get("glob", "")))
    place = f"{where}: [[models]] {called}"
    _refuse(item, (*_ONE_MODEL, *_GENERAL, *_SETTINGS), place)
    if ("path" in item) == ("glob" in item) or ("glob" in item and "name" in item):
        raise InputError(f"{place}: path (and name), or glob, expected")
    if "path" in item:
        paths = [_existing(base, item["path"], f"{place}: path")]
    elif not (paths := sorted(found for found in base.glob(_text(item["glob"], f"{place}: glob")) if found.is_file())):
        raise InputError(f"{place}: glob: no file matches {str(base / item['glob'])!r}")
    merged = {**defaults, **item}
    for key in ("preprocess", *STEPS):
        general, own = _table(defaults, key, f"{where}: [defaults]"), _table(item, key, place)
        # One way to name methods takes the place of the other.
        named = set(own) & {"method", "methods"}
        merged[key] = {**{k: v for k, v in general.items() if not named or k not in ("method", "methods")}, **own}
    return [_entry(path, item.get("name", path.stem), merged, base, place) for path in paths]


def _entry(path: Path, name: Any, table: Mapping[str, Any], base: Path, where: str) -> Entry:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(f"{where}: name: letters, digits and ._+- expected, found {name!r}")
    do = table.get("do", ["scan"])
    if not isinstance(do, Sequence) or not do or not set(do) <= set(STEPS) or isinstance(do, str):
        raise InputError(f"{where}: do: some of {', '.join(STEPS)} expected, found {do!r}")
    if "verify" in do and "harden" not in do:
        raise InputError(f"{where}: do: verify needs harden, found {', '.join(do)}")
    if "clean_dir" not in table:
        raise InputError(f"{where}: clean_dir expected: a folder of images or an .npz file")
    common = {key: _tuples(table[key]) for key in (*_SETTINGS, "target") if key in table}
    common |= {key: _existing(base, table[key], f"{where}: {key}") for key in _SHARED_FILES if key in table}
    common["preprocess"] = _preprocess(table["preprocess"], base, where)
    scan = {key: _tuples(value) for key, value in table["scan"].items()}
    _refuse(scan, _SCAN, f"{where}: scan")
    methods, harden = _harden(table["harden"], base, f"{where}: harden")
    _refuse(table["verify"], ("policy",), f"{where}: verify")
    verify = {key: _existing(base, value, f"{where}: verify: {key}") for key, value in table["verify"].items()}
    _try(where, common, scan, methods, harden)
    return Entry(name, path, tuple(step for step in STEPS if step in do), common, scan, methods, harden, verify)


def _harden(table: Mapping[str, Any], base: Path, where: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Names of the methods, and their options."""
    if "method" in table and "methods" in table:
        raise InputError(f"{where}: method or methods expected, found both")
    methods = table.get("methods", [table.get("method", "unit")])
    if not isinstance(methods, Sequence) or isinstance(methods, str) or len(set(methods)) < len(methods) or not methods:
        raise InputError(f"{where}: methods: a list of different methods expected, found {methods!r}")
    known = {"method", "methods", "bake"} | {name for method in methods for name in options_of(method)}
    _refuse(table, sorted(known - set(_REFUSED)), where)
    rest = {key: _tuples(value) for key, value in table.items() if key not in ("method", "methods")}
    rest |= {key: _existing(base, rest[key], f"{where}: {key}") for key in _HARDEN_FILES if key in rest}
    return tuple(methods), rest


def options_of(method: str) -> tuple[str, ...]:
    """Options that a method has; several are joined by ``+``, ``auto`` may use any.

    Raises:
        InputError: There is no such method.
    """
    names = list(METHODS) if method == "auto" else str(method).split("+")
    if unknown := [name for name in names if name not in METHODS]:
        raise InputError(f"harden: method: one of {', '.join(METHODS)} expected, found {unknown[0]!r}")
    return tuple(dict.fromkeys(part.name for name in names for part in fields(METHODS[name].options())))


def _preprocess(table: Mapping[str, Any], base: Path, where: str) -> dict[str, Any]:
    _refuse(table, _PREPROCESS, f"{where}: preprocess")
    found = {key: _tuples(value) for key, value in table.items()}
    if isinstance(found.get("size"), int):
        found["size"] = (found["size"], found["size"])
    if "file" in found and not str(found["file"]).startswith("keras:"):
        found["file"] = _existing(base, found["file"], f"{where}: preprocess: file")
    return found


def _try(
    where: str, common: Mapping[str, Any], scan: Mapping[str, Any], methods: Sequence[str], harden: Mapping[str, Any]
) -> None:
    """Make the options that a task would make: what is out of range is said before any work."""
    try:
        Settings(**{key: value for key, value in common.items() if key in _SETTINGS})
        for kind in (Options, Thresholds):
            kind(**{part.name: scan[part.name] for part in fields(kind) if part.name in scan})
        for method in methods:
            for name in method.split("+") if method != "auto" else ():
                kind = METHODS[name].options()
                kind(**{part.name: harden[part.name] for part in fields(kind) if part.name in harden})
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where}: a value of another type expected ({error})") from error


def _refuse(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    if unknown := sorted(set(table) - set(known)):
        raise InputError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(known)}")


def _table(table: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    found = table.get(key, {})
    if not isinstance(found, Mapping):
        raise InputError(f"{where}: {key}: a table expected, found {found!r}")
    return found


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"{where}: a text expected, found {value!r}")
    return value


def _path(base: Path, value: Any, where: str) -> Path:
    return base / (value if isinstance(value, Path) else _text(value, where))


def _existing(base: Path, value: Any, where: str) -> Path:
    path = _path(base, value, where)
    if not path.exists():
        raise InputError(f"{where}: file or folder not found: {path}")
    return path
