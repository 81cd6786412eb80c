# SPDX-License-Identifier: Apache-2.0
"""``patcher compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from patcher._cli.options import (
    bake_option,
    data_options,
    given_options,
    method_flags,
    preprocess_options,
    triggered_options,
)
from patcher._cli.output import print_table, progress_bar, say
from patcher.calibrate import METHODS


@click.command()
@click.argument("model", type=click.Path())
@click.option("--clean-dir", required=True, help="Clean images: folder a class, .npz, or module:function.")
@click.option("-o", "--output", type=click.Path(), help="The best model. [default: <stem>.hardened.onnx beside it]")
@click.option("--report-dir", type=click.Path(), help="One report a method. [default: <output stem>.report]")
@click.option(
    "--method", "methods", type=click.Choice(list(METHODS)), multiple=True, required=True, help="Two or more times."
)
@method_flags
@bake_option
@triggered_options
@data_options
@preprocess_options
@click.option("-q", "--quiet", is_flag=True, help="No progress and no tables.")
def compare(
    model: str,
    clean_dir: str,
    output: str | None,
    report_dir: str | None,
    methods: tuple[str, ...],
    providers: str,
    quiet: bool,
    **options: Any,
) -> int:
    """Harden MODEL with each method, show them side by side, and write the best.

    A flag goes to every method that has it. Exit code 1: no method met its condition, no model was written.
    """
    from patcher.commands.compare import compare as run

    source = Path(model)
    destination = Path(output) if output else source.with_name(f"{source.stem}.hardened.onnx")
    reports = Path(report_dir) if report_dir else destination.with_name(f"{destination.stem}.report")
    arguments = given_options(methods, options) | {"providers": tuple(providers.split(","))}
    with progress_bar(quiet) as progress:
        found = run(
            model,
            clean_dir=clean_dir,
            methods=methods,
            output=destination,
            report_dir=reports,
            progress=progress,
            **arguments,
        )
    if not quiet:
        print_table(source.name, found.header(), found.rows())
        for name, why in found.failures.items():
            say(f"{name}: {why}")
        say(found.reason)
        say(f"report: {reports / 'comparison.md'}")
        if found.best:
            say(f"hardened model: {destination}")
    return 0 if found.best else 1
