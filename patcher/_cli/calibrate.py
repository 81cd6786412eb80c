# SPDX-License-Identifier: Apache-2.0
"""``patcher calibrate``."""

from __future__ import annotations

from typing import Any

import click

from patcher._cli.options import data_options, given_options, method_options, preprocess_options
from patcher._cli.output import progress_bar, say


@click.command()
@click.argument("model", type=click.Path())
@click.option("--clean-dir", help="Clean images: folder a class, .npz, or module:function.")
@click.option("-o", "--output", required=True, type=click.Path(), help="Patch file, .safetensors.")
@method_options
@data_options
@preprocess_options
@click.option("-q", "--quiet", is_flag=True, help="No progress and no summary.")
def calibrate(
    model: str,
    clean_dir: str | None,
    output: str,
    method: str,
    preprocess: dict[str, Any],
    providers: str,
    quiet: bool,
    **options: Any,
) -> int:
    """Fit a patch for MODEL on clean images and write it, without changing the model."""
    from patcher.commands.calibrate import calibrate as run

    arguments = given_options(method, options) | {"providers": tuple(providers.split(","))}
    with progress_bar(quiet) as progress:
        patch, calibration = run(
            model,
            clean_dir=clean_dir,
            method=method,
            output=output,
            preprocess=preprocess,
            progress=progress,
            **arguments,
        )
    if not quiet:
        before, after = calibration.held_out_before, calibration.held_out_after
        say(f"held-out accuracy {before:.1%} -> {after:.1%}, {len(patch.corrections)} sites corrected")
        failed = "FAIL: the accuracy condition was not met; nothing was written"
        say(f"patch: {output}" if calibration.satisfied else failed)
    return 0 if calibration.satisfied else 1
