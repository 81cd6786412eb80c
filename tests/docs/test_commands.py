# SPDX-License-Identifier: Apache-2.0
"""Every command line of the documentation is one: flags and choices are read by the real commands, which then stop.

What a page runs from beginning to end is run in `test_tutorial.py`; here nothing is computed, so that a flag that was
renamed fails on every page that shows it, the ones that need hours and networks included.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from patcher._cli import cli
from patcher._cli.options import given_options
from patcher.report.page.meaning import MEANINGS
from tests.docs.pages import PAGES, ROOT, code_of, commands_of

# A page may leave out what stands above or does not matter there; it may not name what there is not.
_LEFT_OUT = click.MissingParameter


def lines() -> Iterator[object]:
    for page in PAGES:
        for command in commands_of(page):
            yield pytest.param(command.text, id=f"{page.relative_to(ROOT)}:{command.line}")
    for name, verdicts in MEANINGS.items():
        for verdict, meaning in verdicts.items():
            for step in filter(lambda item: item.command, meaning.next):
                yield pytest.param(step.command, id=f"{name}:{verdict}")


@pytest.mark.parametrize("line", list(lines()))
def test_a_command_line_is_understood(line: str) -> None:
    program, *arguments = shlex.split(line, comments=True)
    if program == "make":
        assert_target(arguments)
    elif line.startswith("python -m benchmarks."):
        assert_module(arguments[1], arguments[2:])
    elif line.startswith("python -m patcher"):
        assert importlib.util.find_spec(arguments[1]) is not None
    elif program == "patcher":
        parse(arguments)


def parse(arguments: list[str]) -> None:
    """Read the arguments with click, down to the last subcommand, and call nothing."""
    group: click.Command = cli
    context = click.Context(cli, info_name="patcher")
    while isinstance(group, click.Group):
        if not arguments or arguments[0].startswith("-"):
            with contextlib.suppress(click.exceptions.Exit):
                group.make_context("patcher", list(arguments), parent=context)
            return
        name, found, arguments = group.resolve_command(context, list(arguments))
        assert name is not None
        assert found is not None
        group = found
        context = click.Context(group, info_name=name, parent=context)
    # Three dots behind a flag are its value; elsewhere they stand for more of the same.
    before = ["", *arguments]
    values = [item for last, item in zip(before, arguments, strict=False) if item != "..." or last.startswith("-")]
    with contextlib.suppress(_LEFT_OUT, click.exceptions.Exit):
        made = group.make_context(context.info_name, values, parent=context.parent)
        if "method" in made.params or "methods" in made.params:
            given_options(made.params.get("method") or made.params["methods"], dict(made.params))


def assert_target(targets: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in targets:
        if not target.startswith("-") and "=" not in target:
            assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"make {target}: no such target"


def assert_module(module: str, arguments: list[str]) -> None:
    """The benchmark exists, and its source names each flag; arguments behind ``--`` are another command's."""
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.submodule_search_locations:
        spec = importlib.util.find_spec(f"{module}.__main__")
    assert spec is not None, module
    assert spec.origin is not None
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    folder = ROOT / "benchmarks"
    source = Path(spec.origin).read_text(encoding="utf-8")
    source += "".join(
        file.read_text(encoding="utf-8")
        for name in re.findall(r"from benchmarks\.(\w+) import", source)
        if (file := folder / f"{name}.py").exists()
    )
    for flag in (argument.partition("=")[0] for argument in own if argument.startswith("--")):
        assert f'"{flag}"' in source, f"{module} has no {flag}"


def snippets() -> Iterator[object]:
    for page in PAGES:
        for code in code_of(page):
            if code.language == "python":
                yield pytest.param(code.text, id=f"{page.relative_to(ROOT)}:{code.line}")


@pytest.mark.parametrize("snippet", list(snippets()))
def test_what_a_snippet_imports_is_there(snippet: str) -> None:
    for node in ast.walk(ast.parse(snippet)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("patcher"):
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name), f"{node.module} has no {name.name}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "patcher":
            assert hasattr(importlib.import_module("patcher"), node.attr), f"patcher has no {node.attr}"
