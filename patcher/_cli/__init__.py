# SPDX-License-Identifier: Apache-2.0
"""The command line: flags, tables, exit codes, and nothing else.

`exit_codes` says what each outcome is worth; `main` is the one place that maps exceptions to codes.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence

import click

from patcher._cli.exit_codes import COULD_NOT_DECIDE, describe
from patcher._cli.help import Group
from patcher._cli.watch import watch_commands
from patcher._version import __version__
from patcher.errors import PatcherError
from patcher.text import printable

# Name to module and help line: a command's module, and what it imports, is loaded when it is used.
_COMMANDS = {
    "inspect": ("inspect", "Show a model's sites and which methods apply."),
    "scan": ("scan", "Search a model for a backdoor and its trigger."),
    "harden": ("harden", "Calibrate, apply, verify: write a hardened model."),
    "compare": ("compare", "Harden with several methods side by side, keep the best."),
    "audit-data": ("audit", "Find the poisoned images of a training set."),
    "calibrate": ("calibrate", "Fit a patch and write it to a file."),
    "apply": ("apply", "Bake a patch into a model."),
    "show": ("show", "Show what a patch changes."),
    "verify": ("verify", "The release gate: may the hardened model ship?"),
    "policy": ("policy", "Write or check the gate's policy file."),
    "fleet": ("fleet", "Scan, harden and verify many models, on one machine or a cluster."),
    "export-serving": ("export_serving", "Write the folder from which Triton or KServe serves a model."),
    "evaluate": ("evaluate", "Measure ACC, and ASR and SIA of triggered images."),
}


class _Commands(Group):
    """Loads a command's module only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])


_CONTEXT = {"max_content_width": 110}


@click.command(cls=_Commands, context_settings=_CONTEXT, epilog=describe())
@click.version_option(__version__, prog_name="patcher")
@click.option("-v", "--verbose", is_flag=True, help="Log what the library does to stderr.")
def cli(verbose: bool) -> None:
    """Disarm backdoors in ONNX image classifiers before they are deployed."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Command line without the program's name; ``None`` takes ``sys.argv``.

    Returns:
        The exit code.
    """
    if arguments is None:
        watch_commands()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # Flags may be written with underscores as well; values and file names stay as they are.
        result = cli.main([_hyphenated(item) for item in given], prog_name="patcher", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except PatcherError as error:
        return _fail(str(error), error.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _fail("interrupted; nothing was written", COULD_NOT_DECIDE)
    except click.ClickException as error:
        return _fail(error.format_message(), COULD_NOT_DECIDE)
    except BrokenPipeError:
        # The reader of the table went away; keep Python from complaining again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return COULD_NOT_DECIDE
    except MemoryError:
        return _fail("out of memory; lower --batch-size or --minibatch", COULD_NOT_DECIDE)
    except Exception as error:
        logging.getLogger(__name__).info("unexpected error", exc_info=True)
        name = type(error).__name__
        reason = " ".join(str(error).split())[:300]
        return _fail(f"unexpected {name}: {reason}; run with -v for details and report it", COULD_NOT_DECIDE)


def _fail(message: str, code: int) -> int:
    click.echo(f"patcher: error: {printable(' '.join(message.split()))}", err=True)
    return code


def _hyphenated(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value
