# SPDX-License-Identifier: Apache-2.0
"""A gate report as Markdown: ``report.md``, and what a GitHub job shows as its summary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from patcher.errors import InputError
from patcher.report.table import table
from patcher.report.verify.rows import HEADER, check_rows
from patcher.text import printable

# GitHub refuses more in one step.
_SUMMARY_LIMIT = 1024 * 1024


def render(document: Mapping[str, Any]) -> str:
    """The Markdown text.

    Args:
        document: A ``verify`` report as plain JSON values.
    """
    original, hardened = document["original"], document["hardened"]
    lines = [
        f"# patcher verify: {document['verdict'].upper()}",
        "",
        f"`{hardened['name']}` against its original `{original['name']}`, "
        f"{document['clean_set']['images']} clean images.",
        "",
    ]
    lines += [f"- {_plain(reason)}" for reason in document["reasons"]] + ([""] if document["reasons"] else [])
    lines += table(HEADER, [tuple(map(_plain, row)) for row in check_rows(document)])
    rows = [
        ("hardened sha256", f"`{hardened['sha256']}`"),
        ("original sha256", f"`{original['sha256']}`"),
        ("clean images sha256", f"`{document['clean_set']['sha256']}`"),
        ("versions", ", ".join(f"{name} {number}" for name, number in document["versions"].items())),
    ]
    return "\n".join([*lines, "", *table(("what", "value"), rows)]) + "\n"


def append_summary(text: str, path: Path) -> None:
    """Append to the file that ``$GITHUB_STEP_SUMMARY`` names.

    Raises:
        InputError: It cannot be written.
    """
    content = text.encode()
    if len(content) > _SUMMARY_LIMIT:
        return
    try:
        with path.open("ab") as file:
            file.write(content)
    except OSError as error:
        raise InputError(f"$GITHUB_STEP_SUMMARY {path}: cannot be written ({error.strerror or error})") from error


def _plain(text: str) -> str:
    """Names from a model file must not become markup or break the table."""
    return printable(text).replace("\n", " ").replace("<", "&lt;").replace("`", "'")
