# SPDX-License-Identifier: Apache-2.0
"""``patcher apply`` and ``patcher show``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from patcher._cli.options import bake_option
from patcher._cli.output import print_table, say
from patcher.patch import Correction, Realignment, flat_corrections, patch_sha256, read_patch
from patcher.report.harden.masks import MASK_HEADER, layer_masks, mask_rows, masks_section, most_suppressed

if TYPE_CHECKING:
    from patcher.export.bake import Bake


@click.command()
@click.argument("model", type=click.Path())
@click.argument("patch", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="Hardened model.")
@bake_option
def apply(model: str, patch: str, output: str, bake: Bake) -> int:
    """Bake PATCH into MODEL and prove that nothing else changed."""
    from patcher.commands.apply import apply as run

    run(model, patch, output=output, bake=bake)
    say(f"hardened model: {output}")
    return 0


@click.command()
@click.argument("patch", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def show(patch: str, as_json: bool) -> int:
    """Show what PATCH changes and where it came from."""
    found = read_patch(patch)
    about = {
        "method": found.method,
        "source_sha256": found.source_sha256,
        "clean_data_sha256": found.clean_data_sha256,
        "patch_sha256": patch_sha256(found),
        "options": dict(found.options),
        "preprocess": dict(found.preprocess),
    }
    rows = [_row(item) for item in flat_corrections(found.corrections)]
    if as_json:
        keys = ("correction", "tensor", "shape", "lowest", "median", "highest")
        shown = {"corrections": [dict(zip(keys, row, strict=True)) for row in rows]}
        masks = {"masks": masks_section(found)} if layer_masks(found) else {}
        click.echo(json.dumps({**about, **shown, **masks}, indent=2))
        return 0
    texts = [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in about.items()]
    print_table(Path(patch).name, ("", ""), texts)
    if layers := layer_masks(found):
        print_table("masks", MASK_HEADER, mask_rows(layers))
        suppressed = [(name, f"{value:.3f}") for name, value in most_suppressed(layers)]
        print_table("most suppressed channels", ("channel", "mask"), suppressed)
    print_table("corrections", ("correction", "tensor", "shape", "lowest", "median", "highest"), rows)
    return 0


def _row(item: Correction | Realignment) -> tuple[str, ...]:
    """A correction's kind, tensor, shape and spread of values."""
    import numpy as np

    values = next(value for value in vars(item).values() if isinstance(value, np.ndarray))
    name = next(value for value in vars(item).values() if isinstance(value, str))
    spread = (values.min(), np.median(values), values.max()) if values.size else ()
    return (
        type(item).__name__,
        name,
        "x".join(map(str, values.shape)) or "scalar",
        *(f"{value:.4g}" for value in spread),
    )
