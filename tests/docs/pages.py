# SPDX-License-Identifier: Apache-2.0
"""The pages of the documentation, and the code that stands in them, as CommonMark reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "samples" / "README.md",
    ROOT / "samples" / "service" / "README.md",
)
_EXPECTED = re.compile(r"\s+# exit code (\d)$")
_CALLED = ("patcher", "python -m benchmarks.", "python -m patcher", "make", "openssl", "mkdir")


@dataclass(frozen=True)
class Code:
    """A block of code, or code within a line.

    Attributes:
        line: Where it begins in the page, from 1.
        language: What the block says it is; empty where it says nothing.
        text: The code.
        inline: Whether it stands within a line.
    """

    line: int
    language: str
    text: str
    inline: bool


@dataclass(frozen=True)
class Command:
    """A command line of a page.

    Attributes:
        line: Of the code that it stands in.
        text: One line, continued lines joined.
        code: The exit code that the page promises.
    """

    line: int
    text: str
    code: int = 0


def code_of(page: Path) -> Iterator[Code]:
    """All code of a page, in order."""
    for token in MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8")):
        yield from _code(token)


def commands_of(page: Path) -> Iterator[Command]:
    """The command lines of a page, in order."""
    for code in code_of(page):
        yield from commands_in(code)


def commands_in(code: Code) -> Iterator[Command]:
    """The command lines of a block, or the one within a line: they begin with a program that is known."""
    if code.language not in ("", "bash", "sh", "console"):
        return
    text = " ".join(code.text.split()) if code.inline else re.sub(r"\\\n\s*", "", code.text)
    for line in map(str.strip, text.splitlines()):
        if line.startswith(_CALLED) and " " in line:
            yield _command(code.line, line)


def _command(line: int, text: str) -> Command:
    expected = _EXPECTED.search(text)
    return Command(line, _EXPECTED.sub("", text), int(expected.group(1)) if expected else 0)


def _code(token: Token) -> Iterator[Code]:
    line = token.map[0] + 1 if token.map else 0
    if token.type in ("fence", "code_block"):
        yield Code(line, token.info.split()[0] if token.info.split() else "", token.content, inline=False)
    for child in token.children or ():
        if child.type == "code_inline":
            yield Code(line, "", child.content, inline=True)
