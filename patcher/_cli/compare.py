# SPDX-License-Identifier: Apache-2.0
"""``patcher compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from patcher._cli.exit_codes import exit_code
from patcher._cli.help import command, option
from patcher._cli.options import (
    bake_option,
    clean_dir_option,
    data_options,
    given_options,
    method_flags,
    output_option,
    preprocess_options,
    provider_names,
    quiet_option,
    report_dir_option,
    triggered_options,
)
from patcher._cli.output import complain, conclude, print_table, progress_bar, say
from patcher._cli.values import MethodName


@command("compare")
@click.argument("model", type=click.Path())
@clean_dir_option()
@output_option("The best model. [default: <stem>.hardened.onnx beside it]")
@report_dir_option("One report a method. [default: <output stem>.report]")
@option(
    "--method",
    "methods",
    section="Method",
    type=MethodName(),
    multiple=True,
    required=True,
    help="Two or more times.",
)
@method_flags
@bake_option
@triggered_options
@data_options
@preprocess_options
@quiet_option
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

    A flag goes to every method that has it.
    """
    from patcher.commands.compare import compare as run

    source = Path(model)
    destination = Path(output) if output else source.with_name(f"{source.stem}.hardened.onnx")
    reports = Path(report_dir) if report_dir else destination.with_name(f"{destination.stem}.report")
    arguments = given_options(methods, options) | {"providers": provider_names(providers)}
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
        conclude(found.verdict, reports / "comparison.html")
        if found.best:
            say(f"hardened model: {destination}")
    if not found.passed:
        complain("FAIL", found.reasons)
    return exit_code("compare", found.verdict)
