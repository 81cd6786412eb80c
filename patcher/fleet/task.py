# SPDX-License-Identifier: Apache-2.0
"""A task: the smallest piece of work that is handed to a process, what it needs and how it ends.

This file imports nothing that is slow to import: the process that hands tasks out needs neither torch nor ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

Files = Mapping[str, bytes]
"""A folder in memory: path below it to content."""

Step = Literal["scan", "harden", "verify"]
STEPS: tuple[Step, ...] = ("scan", "harden", "verify")
Kind = Literal["ranking", "family", "source", "judge", "harden", "verify"]


@dataclass(frozen=True)
class Content:
    """A file or folder that a task reads.

    Attributes:
        path: Where it lies.
        sha256: Of what is in it: names and contents.
        bytes_sha256: Of the bytes of its files alone, one after the other: what reports call a model's hash.
        files: What belongs to it, as paths below `root`.
        root: The folder that holds the files.
    """

    path: str
    sha256: str
    bytes_sha256: str
    files: tuple[str, ...] = field(repr=False)
    root: str

    def below(self, folder: Path) -> str:
        """Where it lies once its files are copied to another folder."""
        return str(folder / Path(self.path).relative_to(self.root))


@dataclass(frozen=True)
class Task:
    """One piece of work.

    Attributes:
        model: Name of the model in the fleet.
        kind: What is done.
        detail: Which family, target or method.
        arguments: Keyword arguments, plain values and `Content`.
        digests: Of the contents, once paths stand in their place.
    """

    model: str
    kind: Kind
    detail: tuple[str, ...]
    arguments: Mapping[str, Any] = field(repr=False)
    digests: tuple[str, ...] = field(default=(), repr=False)

    @property
    def name(self) -> str:
        """Unique in the fleet."""
        return f"{self.model}/{self.place}"

    @property
    def place(self) -> str:
        """Unique among the tasks of the model; its files lie below this path among the inputs of other tasks."""
        return "/".join((self.kind, *self.detail))

    def located(self, locate: Callable[[Content], str]) -> Task:
        """The same with paths for contents, as the process that does it needs them."""
        digests = tuple(content.sha256 for content in contents_of(self.arguments))
        return replace(self, arguments=map_contents(self.arguments, locate), digests=digests)


@dataclass(frozen=True)
class Failure:
    """Why a task has no result.

    Attributes:
        message: One line.
        code: Exit code, 2 or 3.
        log: What the process wrote meanwhile, or where it was.
        lost: Whether the process was lost, so that another attempt may succeed.
    """

    message: str
    code: int = 2
    log: str = ""
    lost: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Attributes:
        result: Its files, or why there are none.
        seconds: Of the clock, in the process that did it.
    """

    result: Files | Failure
    seconds: float


@dataclass(frozen=True)
class Limits:
    """What one task may use.

    Attributes:
        seconds: Of the clock.
        memory: Resident bytes of its process.
        threads: Of its process.
    """

    seconds: float
    memory: int
    threads: int


def map_contents(value: Any, use: Callable[[Content], Any]) -> Any:
    """`value` with every `Content` in its mappings and sequences replaced by ``use(content)``."""
    if isinstance(value, Content):
        return use(value)
    if isinstance(value, Mapping):
        return {key: map_contents(item, use) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_contents(item, use) for item in value)
    return value


def contents_of(value: Any) -> list[Content]:
    """Every `Content` in mappings and sequences."""
    found: list[Content] = []
    map_contents(value, found.append)
    return found


def below(files: Files, place: str) -> dict[str, bytes]:
    """The files below a path, by their names there."""
    return {name.removeprefix(f"{place}/"): content for name, content in files.items() if name.startswith(f"{place}/")}


def moved(files: Files, place: str) -> dict[str, bytes]:
    """The same files below a path."""
    return {f"{place}/{name}": content for name, content in files.items()}
