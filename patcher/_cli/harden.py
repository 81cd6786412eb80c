# SPDX-License-Identifier: Apache-2.0
"""``patcher harden``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from patcher._cli.options import (
    bake_option,
    data_options,
    given_options,
    method_options,
    preprocess_options,
    triggered_options,
)
from patcher._cli.output import print_table, progress_bar, say
from patcher.report.harden.rows import before_after

if TYPE_CHECKING:
    from patcher.export.bake import Bake


@click.command()
@click.argument("model", type=click.Path())
@click.option("--clean-dir", help="Clean images: folder a class, .npz, or module:function.")
@click.option("-o", "--output", type=click.Path(), help="Hardened model. [default: <stem>.hardened.onnx beside it]")
@click.option("--report-dir", type=click.Path(), help="Reports, pictures, patch. [default: <output stem>.report]")
@method_options
@bake_option
@triggered_options
@data_options
@preprocess_options
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no tables.")
def harden(
    model: str,
    clean_dir: str | None,
    output: str | None,
    report_dir: str | None,
    method: str,
    bake: Bake,
    triggered: str | None,
    target: Any,
    preprocess: dict[str, Any],
    providers: str,
    dry_run: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Calibrate on clean images, bake the patch into MODEL, prove parity, measure, and write the result.

    Exit code 0: written and every condition met. 1: a condition was not met, no model was written.
    """
    from patcher.commands.harden import harden as run
    from patcher.commands.plan import plan as plan_harden

    source = Path(model)
    destination = Path(output) if output else source.with_name(f"{source.stem}.hardened.onnx")
    reports = Path(report_dir) if report_dir else destination.with_name(f"{destination.stem}.report")
    arguments = given_options(method, options) | {"providers": tuple(providers.split(","))}
    if dry_run:
        plan = plan_harden(model, clean_dir=clean_dir, method=method, preprocess=preprocess, **arguments)
        print_table("plan", ("", ""), [*plan, ("would write", str(destination)), ("report", str(reports))])
        return 0
    with progress_bar(quiet) as progress:
        result = run(
            model,
            clean_dir=clean_dir,
            method=method,
            output=destination,
            report_dir=reports,
            triggered=triggered,
            target=target,
            preprocess=preprocess,
            progress=progress,
            bake=bake,
            **arguments,
        )
    if not quiet:
        print_table(f"{source.name}, method {method}", ("", "before", "after"), before_after(result.report.as_json()))
        if "verdict" in result.calibration.summary:
            say(result.calibration.summary["verdict"])
        for reason in result.report.reasons:
            say(f"FAIL: {reason}")
        say(f"report: {reports / 'report.md'}")
        if result.output:
            say(f"hardened model: {result.output}")
    return 0 if result.report.verdict == "pass" else 1
