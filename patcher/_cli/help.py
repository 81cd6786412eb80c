# SPDX-License-Identifier: Apache-2.0
"""Help that a person can read: options in sections, those of a method only where it is asked for.

`patcher harden --help` shows one line a method; `patcher harden --method bna --help` shows the options of bna,
with its own defaults.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from patcher._cli.exit_codes import describe
from patcher.calibrate import METHODS
from patcher.calibrate.stack import Stack, stacks_of
from patcher.errors import InputError

SECTIONS = ("Files", "Method", "Clean images", "Preprocessing", "Output", "Run")
_ARGUMENTS = "patcher.arguments"


@dataclass(frozen=True)
class Use:
    """What a flag means to one method.

    Attributes:
        help: One line.
        default: As shown.
    """

    help: str
    default: str


class SectionOption(click.Option):
    """An option that knows its section.

    Args:
        section: One of `SECTIONS`.
        uses: For the options of methods: what the flag means to each; shown only where a method is named.
    """

    def __init__(self, *args: Any, section: str = "Run", uses: Mapping[str, Use] | None = None, **kwargs: Any):
        self.section, self.uses = section, dict(uses or {})
        super().__init__(*args, **kwargs)


def option(*names: str, section: str, **settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``click.option`` in a section of the help."""
    return click.option(*names, cls=SectionOption, section=section, **settings)


def command(name: str) -> Callable[[Callable[..., Any]], click.Command]:
    """``click.command`` with sections, and its exit codes below."""
    return click.command(name, cls=SectionCommand, epilog=describe(name))


class _ShortHelp(click.Command):
    """Takes ``-h`` in every context: click keeps the option that a command was first asked for."""

    def get_help_option_names(self, ctx: click.Context) -> list[str]:
        """The names of the option."""
        return ["-h", "--help"]


class Group(_ShortHelp, click.Group):
    """A command with commands of its own."""


class SectionCommand(_ShortHelp):
    """Shows its options by section."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the raw arguments: help is shown before --method has been read where it comes first."""
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections in the order of `SECTIONS`."""
        records: dict[str, list[tuple[str, str]]] = {section: [] for section in SECTIONS}
        of_methods: list[SectionOption] = []
        for parameter in self.get_params(ctx):
            if isinstance(parameter, SectionOption) and parameter.uses:
                of_methods.append(parameter)
            elif isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)) is not None:
                records[getattr(parameter, "section", "Run")].append(record)
        for section, rows in records.items():
            if rows:
                with formatter.section(section):
                    formatter.write_dl(rows)
        if of_methods:
            _write_methods(ctx, formatter, of_methods)


def _write_methods(ctx: click.Context, formatter: click.HelpFormatter, options: Sequence[SectionOption]) -> None:
    named = methods_named(ctx.meta.get(_ARGUMENTS, ()))
    for name in named:
        with formatter.section(f"Options of --method {name}"):
            formatter.write_dl([_record(item, item.uses[name], ctx) for item in options if name in item.uses])
    if not named:
        with formatter.section(f"Methods (options of one: {ctx.command_path} --method NAME --help)"):
            formatter.write_dl([(method.name, method.summary) for method in METHODS.values()])


def methods_named(arguments: Sequence[str]) -> tuple[str, ...]:
    """The methods that ``--method`` names on a command line, in order."""
    values = [value for flag, value in itertools.pairwise(arguments) if flag == "--method"]
    values += [item.partition("=")[2] for item in arguments if item.startswith("--method=")]
    parts = [part for value in values for stack in _stacks(value) for part in stack.names]
    return tuple(name for name in dict.fromkeys(parts) if name in METHODS)


def _stacks(value: str) -> tuple[Stack, ...]:
    try:
        return stacks_of(value)
    except InputError:
        return ()


def _record(item: SectionOption, use: Use, ctx: click.Context) -> tuple[str, str]:
    shown = item.get_help_record(ctx)
    flags = shown[0] if shown else item.opts[0]
    return flags, f"{use.help}  [default: {use.default}]"
