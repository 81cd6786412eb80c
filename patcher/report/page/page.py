# SPDX-License-Identifier: Apache-2.0
"""A report as one HTML page that needs nothing else: style and pictures are in it, and it loads nothing.

Every text is escaped by the template's engine and freed of control characters; a content security policy forbids the
network, and every script but the page's own, which it names by its hash.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patcher.report.page.blocks import Section, Tone
from patcher.report.page.meaning import meaning_of
from patcher.text import printable

if TYPE_CHECKING:
    from jinja2 import Template

_HERE = Path(__file__).parent
TONES: dict[str, Tone] = {"pass": "good", "clean": "good", "fail": "bad", "backdoor": "bad"}


@dataclass(frozen=True)
class Page:
    """One command's report as a page.

    Attributes:
        command: ``scan``, ``harden``, ...
        name: Of the model, or of what else the report is about.
        verdict: The report's.
        summary: One line below the verdict.
        reasons: Why the verdict is what it is.
        sections: What follows.
        script: JavaScript of the page; empty for none.
        word: What stands in place of the verdict where nothing is judged.
    """

    command: str
    name: str
    verdict: str
    summary: str
    reasons: Sequence[str]
    sections: Sequence[Section]
    script: str = ""
    word: str = ""


def tone_of(verdict: str) -> Tone:
    """The colour of a verdict: neither good nor bad where nothing is decided."""
    return TONES.get(verdict, "mild")


def render(page: Page) -> str:
    """The page's text."""
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return _template().render(
        page=page,
        tone="quiet" if page.word else tone_of(page.verdict),
        meaning=meaning_of(page.command, page.verdict),
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        policy=policy if page.script else policy.rpartition(";")[0],
    )


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_plain,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html.jinja")


def _plain(value: Any) -> Any:
    """Text without control characters; what the template has marked as markup stays."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
