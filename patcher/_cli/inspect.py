# SPDX-License-Identifier: Apache-2.0
"""``patcher inspect``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from patcher._cli.exit_codes import exit_code
from patcher._cli.help import command
from patcher._cli.options import json_option, scores_option
from patcher._cli.output import print_table
from patcher._cli.watch import time_limit

if TYPE_CHECKING:
    from patcher.graph.site import Site


@command("inspect")
@click.argument("model", type=click.Path())
@scores_option
@json_option
@time_limit(120)
def inspect(model: str, scores: str | None, as_json: bool) -> int:
    """Show MODEL's input, outputs, sites, and which methods apply and why not."""
    from patcher.commands.inspect import inspect as run

    found = run(model, scores=scores)
    document = found.as_json()
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return exit_code("inspect", "pass")
    about = found.about()
    print_table(about["name"], ("", ""), [(key, value) for key, value in about.items() if key != "name"])
    print_table("methods", ("method", "applies"), list(document["methods"].items()))
    header = ("tensor", "kind", "operator", "shape", "channel axis", "channels", "weight")
    print_table("sites", header, [_row(site) for site in found.sites])
    return exit_code("inspect", "pass")


def _row(site: Site) -> tuple[str, ...]:
    from patcher.commands.inspect import shape_text

    shape = shape_text(site.shape)
    return (site.tensor, site.kind, site.operator, shape, str(site.channel_axis), str(site.channels), site.weight or "")
