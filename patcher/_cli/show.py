# SPDX-License-Identifier: Apache-2.0
"""``patcher show``."""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path

import click

from patcher._cli.exit_codes import exit_code
from patcher._cli.help import command
from patcher._cli.options import json_option
from patcher._cli.output import print_table


@command("show")
@click.argument("patch", type=click.Path())
@json_option
def show(patch: str, as_json: bool) -> int:
    """Show what PATCH changes and where it came from."""
    from patcher.commands.show import show as run
    from patcher.report.harden.masks import MASK_HEADER, mask_rows, most_suppressed

    found = run(patch)
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
        return exit_code("show", "pass")
    about = found.about().items()
    print_table(
        Path(patch).name,
        ("", ""),
        [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in about],
    )
    if found.masks:
        print_table("masks", MASK_HEADER, mask_rows(found.masks))
        suppressed = [(name, f"{value:.3f}") for name, value in most_suppressed(found.masks)]
        print_table("most suppressed channels", ("channel", "mask"), suppressed)
    header = ("correction", "tensor", "shape", "lowest", "median", "highest")
    print_table("corrections", header, [astuple(item) for item in found.corrections])
    return exit_code("show", "pass")
