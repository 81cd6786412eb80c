# SPDX-License-Identifier: Apache-2.0
"""Flags of `harden` and `calibrate`: when a patch is made and a model written at all."""

from __future__ import annotations

from patcher._cli.help import option
from patcher._cli.options import Command


def condition_options(command: Command) -> Command:
    """Add the conditions under which a patch is made and a model written at all."""
    for decorator in (
        option("--again", section="Clean images", is_flag=True, help="Allow a model that was hardened before."),
        option(
            "--min-agreement",
            section="Clean images",
            type=float,
            default=0.5,
            show_default=True,
            help="Least share of clean images that keep their class.",
        ),
        option(
            "--min-held-out",
            section="Clean images",
            type=int,
            default=10,
            show_default=True,
            help="Fewest images that may decide.",
        ),
    ):
        command = decorator(command)
    return command
