# SPDX-License-Identifier: Apache-2.0
"""What a page is made of, as plain data. Nothing here is HTML: the template escapes every text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

Tone = Literal["good", "bad", "mild", "quiet", ""]


@dataclass(frozen=True)
class Picture:
    """A picture in the page.

    Attributes:
        source: A data URI.
        alternative: For those who cannot see it.
        caption: What it shows, every mark explained.
        wide: A chart, which takes the page's width and scrolls in a narrow window.
        tone: Of its frame.
    """

    source: str
    alternative: str
    caption: str = ""
    wide: bool = False
    tone: Tone = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a table that is more than a text.

    Attributes:
        text: What it says.
        tone: Its colour.
        full: The whole of a shortened text, shown under the pointer.
        code: Whether it is a name from a file.
        bar: A share to draw as a bar, 0 to 1.
        mark: The limit to draw on that bar, 0 to 1.
        link: Where a click leads, relative to the page.
        key: What the column is sorted by, instead of the text.
        pictures: Small pictures before the text.
    """

    text: str
    tone: Tone = ""
    full: str = ""
    code: bool = False
    bar: float | None = None
    mark: float | None = None
    link: str = ""
    key: str | None = None
    pictures: Sequence[Picture] = ()


Row = Sequence[str | Cell]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        header: Titles of the columns; each says something.
        rows: Texts, or cells.
        note: What the columns mean, below the table.
        sortable: Whether a click on a title sorts.
        cards: Whether a narrow window shows a card a row: for long texts in many columns.
    """

    kind: ClassVar[str] = "table"
    header: Sequence[str]
    rows: Sequence[Row]
    note: str = ""
    sortable: bool = False
    cards: bool = False


@dataclass(frozen=True)
class Facts:
    """Pairs of a name and a value, without a header."""

    kind: ClassVar[str] = "facts"
    pairs: Sequence[tuple[str, str | Cell]]


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side, as many as fit."""

    kind: ClassVar[str] = "pictures"
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Notes:
    """Sentences, one a line."""

    kind: ClassVar[str] = "notes"
    lines: Sequence[str]


@dataclass(frozen=True)
class Section:
    """A titled part of a page.

    Attributes:
        title: Its title.
        blocks: What is in it, in order.
        folded: Whether it is closed until somebody opens it.
    """

    title: str
    blocks: Sequence[Table | Facts | Pictures | Notes]
    folded: bool = False
