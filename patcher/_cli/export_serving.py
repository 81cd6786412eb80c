# SPDX-License-Identifier: Apache-2.0
"""``patcher export-serving``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from patcher._cli.exit_codes import exit_code
from patcher._cli.help import command, option
from patcher._cli.options import output_option
from patcher._cli.output import print_table, say

if TYPE_CHECKING:
    from patcher.commands.export_serving import Server


@command("export-serving")
@click.argument("model", type=click.Path())
@option("--to", section="Output", type=click.Choice(["triton", "kserve"]), required=True, help="The server.")
@output_option("Folder to write; a new or empty one.", required=True)
@option("--name", section="Output", help="Name on the server. [default: from the file's]")
@option("--max-batch", section="Output", type=int, default=64, show_default=True, help="Images a run at most.")
@option("--storage-uri", section="Output", help="For KServe: where the folder models will lie.")
def export_serving(model: str, to: Server, **options: Any) -> int:
    """Write the folder from which Triton or KServe serves a hardened MODEL."""
    from patcher.commands.export_serving import export_serving as run

    result = run(model, to=to, **options)
    rows = [
        (kind, tensor.name, tensor.datatype, " x ".join(map(str, tensor.shape)) or "one value")
        for kind, tensors in (("input", result.interface.inputs), ("output", result.interface.outputs))
        for tensor in tensors
    ]
    shape = "shape of an image" if result.interface.batched else "shape"
    print_table(f"{result.name} for {to}", ("", "tensor", "type", shape), rows)
    for file in result.files:
        say(f"{result.folder / file}")
    return exit_code("export-serving", "pass")
