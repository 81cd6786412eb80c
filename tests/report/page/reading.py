# SPDX-License-Identifier: Apache-2.0
"""A page read back, as a browser would: its elements must nest."""

from __future__ import annotations

import re
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path

_VOID = {"meta", "img", "br", "link", "input"}


class Reading(HTMLParser):
    """Tags, texts and attributes of a page; an element that does not nest is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, set[str]] = defaultdict(set)
        self.headers: list[str] = []
        self.text = ""
        self.policy = ""
        self._open: list[str] = []

    @classmethod
    def of(cls, page: str) -> Reading:
        """Read a whole page."""
        found = cls()
        found.feed(page)
        found.close()
        assert not found._open, f"never closed: {found._open}"
        return found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = {name: value or "" for name, value in attrs}
        for name, value in given.items():
            self.attributes[name].add(value)
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "th":
            self.headers.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> without a beginning"
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "th" in self._open:
            self.headers[-1] += data


def report_page(path: Path) -> Reading:
    """A report's page, held to what every one of them promises."""
    text = path.read_text(encoding="utf-8")
    read = Reading.of(text)
    assert read.policy.startswith("default-src 'none'; img-src data:")
    assert "http" not in text.replace("http-equiv", "")
    assert "What it means" in read.text
    assert "What to do next" in read.text
    assert all(header.strip() for header in read.headers)
    assert all(source.startswith("data:image/png;base64,") for source in read.attributes["src"])
    assert not re.findall(r"\{'|\['|\bNone\b|\bnan\b", read.text), "a Python value in a report"
    return read
