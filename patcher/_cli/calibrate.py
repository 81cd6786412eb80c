# SPDX-License-Identifier: Apache-2.0
"""``patcher calibrate``."""

from __future__ import annotations

from typing import Any

import click

from patcher._cli.conditions import condition_options
from patcher._cli.exit_codes import exit_code
from patcher._cli.help import command
from patcher._cli.options import (
    clean_dir_option,
    data_options,
    given_options,
    method_options,
    output_option,
    preprocess_options,
    provider_names,
    quiet_option,
)
from patcher._cli.output import complain, progress_bar, say


@command("calibrate")
@click.argument("model", type=click.Path())
@clean_dir_option(required=False)
@output_option("Patch file, .safetensors.", required=True)
@method_options
@condition_options
@data_options
@preprocess_options
@quiet_option
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

    arguments = given_options(method, options) | {"providers": provider_names(providers)}
    with progress_bar(quiet) as progress:
        result = run(
            model,
            clean_dir=clean_dir,
            method=method,
            output=output,
            preprocess=preprocess,
            progress=progress,
            **arguments,
        )
    accuracy = f"held-out accuracy {result.accuracy.before:.1%} -> {result.accuracy.after:.1%}"
    if not quiet:
        say(f"{accuracy}, {len(result.patch.corrections)} sites corrected")
        if result.output:
            say(f"patch: {result.output}")
    if not result.passed:
        complain("FAIL", [f"{accuracy}: more than --epsilon was lost; nothing was written"])
    return exit_code("calibrate", result.verdict)
