# SPDX-License-Identifier: Apache-2.0
"""``patcher scan``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from patcher._cli.exit_codes import exit_code
from patcher._cli.help import command, option
from patcher._cli.options import (
    clean_dir_option,
    data_options,
    dataclass_options,
    device_option,
    json_option,
    preprocess_options,
    provider_names,
    quiet_option,
    report_dir_option,
)
from patcher._cli.output import complain, conclude, print_table, progress_bar
from patcher.calibrate.scan.options import DEFAULT_MEMORY_MIB, Options
from patcher.errors import InputError

if TYPE_CHECKING:
    from patcher.report.report import Report


@command("scan")
@click.argument("model", type=click.Path())
@clean_dir_option(required=False)
@option("--no-data", section="Clean images", is_flag=True, help="Rank classes without images: never clears a model.")
@report_dir_option("scan.json, .md, .html, pictures, triggers.npz. [default: <stem>.scan]")
@dataclass_options(Options)
@option(
    "--memory",
    "memory_mib",
    section="Run",
    type=int,
    default=DEFAULT_MEMORY_MIB,
    show_default=True,
    help="MiB for activations and gradients.",
)
@device_option
@data_options
@preprocess_options
@json_option
@quiet_option
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
    """Search MODEL for a backdoor: its target, its sources and its trigger."""
    from patcher.commands.scan import scan as run
    from patcher.commands.scan_without_data import MARGIN_HEADER, margin_rows, scan_without_data
    from patcher.report.scan.document import TARGET_HEADER, target_rows

    if no_data == (clean_dir is not None):
        raise InputError("scan: one of --clean-dir and --no-data expected, found both or neither")
    folder = Path(report_dir) if report_dir is not None else Path(model).with_suffix(".scan")
    given = {name: value for name, value in options.items() if value is not None}
    if "both" in given.get("family", ()):  # what it was when there were two
        given["family"] = ("patch", "additive")
    with progress_bar(quiet) as progress:
        if clean_dir is None:
            taken = ("preprocess", "seed", "batch_size", "device", "scores")
            kept = {name: given[name] for name in taken if name in given}
            ranked = scan_without_data(model, report_dir=folder, progress=progress, **kept)
            return _finish(ranked, Path(model), folder, MARGIN_HEADER, margin_rows, as_json, quiet)
        result = run(
            model,
            clean_dir=clean_dir,
            report_dir=folder,
            progress=progress,
            providers=provider_names(providers),
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
        conclude(report.verdict, folder / "scan.html")
    code = exit_code("scan", report.verdict)
    if code:
        complain(report.verdict, report.reasons)
    return code
