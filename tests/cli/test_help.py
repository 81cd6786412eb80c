# SPDX-License-Identifier: Apache-2.0
"""Help: sections, the options of the method asked for only, no torch."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from patcher._cli import _COMMANDS, cli
from patcher.calibrate import METHODS
from tests.cli.conftest import Run


def test_plain_help_has_one_line_a_method_and_none_of_their_options(run: Run) -> None:
    shown = run("harden", "--help").out
    for section in ("Files:", "Clean images:", "Preprocessing:", "Output:", "Method:"):
        assert section in shown
    for method in METHODS.values():
        assert f"{method.name} " in shown
    assert "--alpha-schedule" not in shown
    assert "--branch" not in shown


@pytest.mark.parametrize(
    "order", [("--method", "bna", "--help"), ("--help", "--method", "bna"), ("--method=bna", "-h")]
)
def test_help_of_a_method_shows_its_options_with_its_defaults(order: tuple[str, ...], run: Run) -> None:
    outcome = run("harden", *order)
    assert (outcome.code, outcome.err) == (0, "")
    shown = outcome.out
    assert "Options of --method bna" in shown
    assert "--branch" in shown
    assert "--alpha-schedule" not in shown
    steps = shown[shown.index("--steps") :]
    assert "for each target" in steps
    assert str(METHODS["bna"].options()().steps) in steps


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_knows_both_names_of_help_whoever_asks_first(name: str, run: Run) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    command._help_option = None  # as in a new process
    option = command.get_help_option(click.Context(command, info_name=name))
    assert option is not None
    assert set(option.opts) == {"-h", "--help"}
    assert run(name, "-h").code == 0


def test_help_of_compare_shows_every_method_named(run: Run) -> None:
    shown = run("compare", "--method", "unit", "--method", "nft", "--help").out
    assert "Options of --method unit" in shown
    assert "Options of --method nft" in shown


def test_no_help_text_imports_torch_or_onnx() -> None:
    program = (
        "import sys, io, contextlib\n"
        "from patcher._cli import main\n"
        f"for name in {list(_COMMANDS)!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()):\n"
        "        assert main([name, '--help']) == 0, name\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'rich'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
