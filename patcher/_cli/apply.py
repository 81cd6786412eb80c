# SPDX-License-Identifier: Apache-2.0
"""``patcher apply``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from patcher._cli.exit_codes import exit_code
from patcher._cli.help import command
from patcher._cli.options import bake_option, output_option, scores_option
from patcher._cli.output import say

if TYPE_CHECKING:
    from patcher.export.bake import Bake


@command("apply")
@click.argument("model", type=click.Path())
@click.argument("patch", type=click.Path())
@output_option("Hardened model.", required=True)
@bake_option
@scores_option
def apply(model: str, patch: str, output: str, bake: Bake, scores: str | None) -> int:
    """Bake PATCH into MODEL and prove that nothing else changed."""
    from patcher.commands.apply import apply as run

    run(model, patch, output=output, bake=bake, scores=scores)
    say(f"hardened model: {output}")
    return exit_code("apply", "pass")
