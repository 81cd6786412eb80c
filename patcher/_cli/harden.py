# SPDX-License-Identifier: Apache-2.0
"""``patcher harden``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from patcher._cli.conditions import condition_options
from patcher._cli.exit_codes import exit_code
from patcher._cli.help import command, option
from patcher._cli.keys import signing_options
from patcher._cli.options import (
    bake_option,
    clean_dir_option,
    data_options,
    given_options,
    method_options,
    output_option,
    preprocess_options,
    provider_names,
    quiet_option,
    report_dir_option,
    triggered_options,
)
from patcher._cli.output import complain, conclude, print_table, progress_bar, say

if TYPE_CHECKING:
    from patcher.commands.harden import HardenResult
    from patcher.export.bake import Bake
    from patcher.signing import Signing


@command("harden")
@click.argument("model", type=click.Path())
@clean_dir_option(required=False)
@output_option("Hardened model. [default: <stem>.hardened.onnx beside it]")
@report_dir_option("Reports, pictures, patch. [default: <output stem>.report]")
@method_options
@bake_option
@condition_options
@triggered_options
@data_options
@preprocess_options
@signing_options("MODEL", "the output")
@option("--dry-run", section="Output", is_flag=True, help="Print the plan and stop.")
@quiet_option
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
    signing: Signing,
    **options: Any,
) -> int:
    """Calibrate on clean images, bake the patch into MODEL, prove parity, measure, and write the result."""
    from patcher.commands.harden import harden as run
    from patcher.commands.plan import plan as plan_harden

    source = Path(model)
    destination = Path(output) if output else source.with_name(f"{source.stem}.hardened.onnx")
    reports = Path(report_dir) if report_dir else destination.with_name(f"{destination.stem}.report")
    arguments = given_options(method, options) | {"providers": provider_names(providers)}
    if dry_run:
        plan = plan_harden(model, clean_dir=clean_dir, method=method, preprocess=preprocess, **arguments)
        print_table("plan", ("", ""), [*plan, ("would write", str(destination)), ("report", str(reports))])
        return exit_code("harden", "pass")
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
            signing=signing,
            **arguments,
        )
    if not quiet:
        _show(result, source.name, reports)
    if not result.passed:
        complain("FAIL", result.reasons)
    return exit_code("harden", result.verdict)


def _show(result: HardenResult, name: str, reports: Path) -> None:
    from patcher.report.harden.choice import CANDIDATE_HEADER, candidate_rows
    from patcher.report.harden.rows import BEFORE_AFTER_HEADER, before_after

    document = result.report.as_json()
    if "auto" in document:
        print_table("candidates", CANDIDATE_HEADER, candidate_rows(document["auto"]))
        say(document["auto"]["paragraph"])
    made = document["method"]["name"]
    print_table(f"{name}, method {made}", BEFORE_AFTER_HEADER, before_after(document))
    if "verdict" in result.calibration.summary:
        say(result.calibration.summary["verdict"])
    for note in result.report.sections["notes"]:
        say(f"note: {note}")
    conclude(result.verdict, reports / "report.html")
    if result.output:
        say(f"hardened model: {result.output}")
    if result.signature:
        say(f"signature: {result.signature}")
