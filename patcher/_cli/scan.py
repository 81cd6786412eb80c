# SPDX-License-Identifier: Apache-2.0
"""``patcher scan``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from patcher._cli.options import data_options, preprocess_options
from patcher._cli.output import print_table, progress_bar, say
from patcher.calibrate.scan.options import DEFAULT_MEMORY_MIB
from patcher.commands.scan_without_data import MARGIN_HEADER, margin_rows, scan_without_data
from patcher.errors import InputError
from patcher.report.report import Report
from patcher.report.scan.document import TARGET_HEADER, target_rows

_EXIT_CODES = {"clean": 0, "backdoor": 1, "suspicious": 2, "inconclusive": 2}


@click.command()
@click.argument("model", type=click.Path())
@click.option("--clean-dir", help="Clean images: folder a class, .npz, or module:function.")
@click.option("--no-data", is_flag=True, help="Rank classes without images: much weaker, never clears a model.")
@click.option(
    "--report-dir", type=click.Path(), help="scan.json, scan.md, pictures, triggers.npz. [default: <stem>.scan]"
)
@click.option("--family", type=click.Choice(["both", "patch", "additive"]), help="Kind of trigger. [default: both]")
@click.option("--steps", type=int, help="Optimiser steps an inversion at most. [default: 80]")
@click.option("--images", type=int, help="Images a step and target. [default: 16]")
@click.option("--seeds", type=int, help="Independent searches of the most suspect targets. [default: 3]")
@click.option("--repeat", type=int, help="Most suspect targets, searched under every seed. [default: 3]")
@click.option("--top", type=int, help="Targets inverted, by rank, above 43 classes. [default: 20]")
@click.option(
    "--memory",
    "memory_mib",
    type=int,
    default=DEFAULT_MEMORY_MIB,
    show_default=True,
    help="MiB for activations and gradients.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@data_options
@preprocess_options
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no tables.")
def scan(
    model: str,
    clean_dir: str | None,
    no_data: bool,
    report_dir: str | None,
    providers: str,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Search MODEL for a backdoor: its target, its sources and its trigger.

    Exit codes: 0 no target stands out, 1 a backdoor was found, 2 could not decide (a target is
    suspicious, or there were too few classes or images).
    """
    from patcher.commands.scan import scan as run

    if no_data == (clean_dir is not None):
        raise InputError("scan: one of --clean-dir and --no-data expected, found both or neither")
    folder = Path(report_dir) if report_dir is not None else Path(model).with_suffix(".scan")
    given = {name: value for name, value in options.items() if value is not None}
    with progress_bar(quiet) as progress:
        if clean_dir is None:
            kept = {name: given[name] for name in ("preprocess", "seed", "batch_size", "device")}
            ranked = scan_without_data(model, report_dir=folder, progress=progress, **kept)
            return _finish(ranked, Path(model), folder, MARGIN_HEADER, margin_rows, as_json, quiet)
        result = run(
            model,
            clean_dir=clean_dir,
            report_dir=folder,
            progress=progress,
            providers=tuple(providers.split(",")),
            **given,
        )
    return _finish(result.report, Path(model), folder, TARGET_HEADER, target_rows, as_json, quiet)


def _finish(
    report: Report,
    model: Path,
    folder: Path,
    header: tuple[str, ...],
    rows: Callable[[dict[str, Any]], list[Any]],
    as_json: bool,
    quiet: bool,
) -> int:
    """Print what was found; the exit code."""
    if as_json:
        click.echo(report.to_json(), nl=False)
    elif not quiet:
        print_table(model.name, header, rows(report.as_json()))
        for reason in report.reasons:
            say(reason)
        say(f"verdict: {report.verdict}; report: {folder}")
    return _EXIT_CODES[report.verdict]
