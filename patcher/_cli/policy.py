# SPDX-License-Identifier: Apache-2.0
"""``patcher policy``."""

from __future__ import annotations

from pathlib import Path

import click

from patcher._cli.output import say
from patcher.errors import InputError
from patcher.files import check_output, replace_file
from patcher.gate.policy import default_policy_text, read_policy


@click.group()
def policy() -> None:
    """Write or check the policy file of `patcher verify`."""


@policy.command()
@click.option("-o", "--output", default="patcher.toml", show_default=True, type=click.Path(), help="Where to write it.")
def init(output: str) -> int:
    """Write a commented policy file with all defaults."""
    path = Path(output)
    check_output(path)
    if path.exists():
        raise InputError(f"{path} exists and is not overwritten; choose another -o/--output")
    replace_file(path, default_policy_text().encode())
    say(f"policy: {path}")
    return 0


@policy.command()
@click.argument("path", type=click.Path())
def check(path: str) -> int:
    """Read the policy file PATH and say whether it is one."""
    from patcher.gate.check import CHECKS

    found = read_policy(path, tuple(CHECKS))
    say(f"{path}: a policy with {len(found.suppressions)} suppressions")
    return 0
