# SPDX-License-Identifier: Apache-2.0
"""``patcher policy``."""

from __future__ import annotations

from pathlib import Path

import click

from patcher._cli.exit_codes import exit_code
from patcher._cli.help import Group, SectionCommand
from patcher._cli.output import say
from patcher.errors import InputError
from patcher.files import check_output, replace_file


@click.group(cls=Group)
def policy() -> None:
    """Write or check the policy file of `patcher verify`."""


@policy.command(cls=SectionCommand)
@click.option("-o", "--output", default="patcher.toml", show_default=True, type=click.Path(), help="Where to write it.")
def init(output: str) -> int:
    """Write a commented policy file with all defaults."""
    from patcher.gate.policy import default_policy_text

    path = Path(output)
    check_output(path)
    if path.exists():
        raise InputError(f"{path} exists and is not overwritten; choose another -o/--output")
    replace_file(path, default_policy_text().encode())
    say(f"policy: {path}")
    return exit_code("policy", "pass")


@policy.command(cls=SectionCommand)
@click.argument("path", type=click.Path())
def check(path: str) -> int:
    """Read the policy file PATH and say whether it is one."""
    from patcher.gate.check import CHECKS
    from patcher.gate.policy import read_policy

    found = read_policy(path, tuple(CHECKS))
    say(f"{path}: a policy with {len(found.suppressions)} suppressions")
    return exit_code("policy", "pass")
