# SPDX-License-Identifier: Apache-2.0
"""The reference of the command line, made from the commands themselves: `cli.md` ends with it."""

from __future__ import annotations

import html
from collections.abc import Iterator

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from patcher._cli import cli
from patcher._cli.exit_codes import describe
from patcher._cli.help import SECTIONS, SectionOption
from patcher.calibrate import METHODS


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Called by mkdocs for each page."""
    return markdown + reference() if page.file.src_uri == "cli.md" else markdown


def reference() -> str:
    """A section a command, in it a table for each section of its help and for each method."""
    context = click.Context(cli, info_name="patcher")
    lines: list[str] = []
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        lines += _command(command, click.Context(command, info_name=name, parent=context), name)
    return "\n".join(lines)


def _command(command: click.Command, context: click.Context, name: str) -> Iterator[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    yield from (
        "",
        f"## {name}",
        "",
        _paragraphs(command.help or ""),
        "",
        "```",
        f"{context.command_path} {usage}",
        "```",
    )
    if isinstance(command, click.Group):
        for part in command.list_commands(context):
            found = command.get_command(context, part)
            assert found is not None
            yield from ("", f"**{part}**: {found.get_short_help_str(200)}")
            yield from _options(found, click.Context(found, info_name=part, parent=context))
        return
    yield from _options(command, context)
    yield from ("", describe(name))


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    given = [item for item in command.get_params(context) if isinstance(item, click.Option)]
    of_methods = [item for item in given if isinstance(item, SectionOption) and item.uses]
    for section in SECTIONS:
        own = [item for item in given if item not in of_methods and getattr(item, "section", "Run") == section]
        yield from _table(section, [record for item in own if (record := item.get_help_record(context))])
    for method in METHODS:
        uses = [(item, item.uses[method]) for item in of_methods if method in item.uses]
        records = [(_flags(item, context), f"{use.help}  [default: {use.default}]") for item, use in uses]
        yield from _table(f"Options of `--method {method}`", records)


def _flags(item: click.Option, context: click.Context) -> str:
    record = item.get_help_record(context)
    return record[0] if record else item.opts[0]


def _table(title: str, records: list[tuple[str, str]]) -> Iterator[str]:
    if records:
        yield from ("", f"| {title} | what it does |", "|---|---|")
        yield from (f"| `{flags.replace('|', ', ')}` | {_cell(text)} |" for flags, text in records)


def _cell(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.replace("\b", "").split("\n\n"))
