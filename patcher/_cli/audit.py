# SPDX-License-Identifier: Apache-2.0
"""``patcher audit-data``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from patcher._cli.exit_codes import exit_code
from patcher._cli.help import command, option
from patcher._cli.options import (
    data_options,
    dataclass_options,
    device_option,
    json_option,
    preprocess_options,
    provider_names,
    quiet_option,
    report_dir_option,
)
from patcher._cli.output import complain, conclude, print_table, progress_bar, say
from patcher.calibrate.audit.options import AuditOptions


@command("audit-data")
@click.argument("model", type=click.Path())
@option("--train-dir", section="Files", required=True, help="The training set: folder a class, or .npz.")
@report_dir_option("suspects.csv, suspects.png, audit.json, audit.html. [default: <stem>.audit]")
@dataclass_options(AuditOptions)
@device_option
@data_options
@preprocess_options
@json_option
@quiet_option
def audit_data(
    model: str, train_dir: str, report_dir: str | None, providers: str, as_json: bool, quiet: bool, **options: Any
) -> int:
    """Find the poisoned images of the training set that MODEL was trained on."""
    from patcher.commands.audit_data import audit_data as run
    from patcher.report.audit.document import LABEL_HEADER, label_rows

    folder = Path(report_dir) if report_dir is not None else Path(model).with_suffix(".audit")
    given = {name: value for name, value in options.items() if value is not None}
    with progress_bar(quiet) as progress:
        result = run(
            model,
            train_dir=train_dir,
            report_dir=folder,
            progress=progress,
            providers=provider_names(providers),
            **given,
        )
    if as_json:
        click.echo(result.report.to_json(), nl=False)
    elif not quiet:
        print_table(Path(model).name, LABEL_HEADER, label_rows(result.report.as_json()))
        say(f"{len(result.findings.suspects)} suspected images; the list: {folder / 'suspects.csv'}")
        conclude(result.verdict, folder / "audit.html")
    if not result.passed:
        complain(result.verdict, result.reasons)
    return exit_code("audit-data", result.verdict)
