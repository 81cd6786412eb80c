# SPDX-License-Identifier: Apache-2.0
"""``patcher audit-data``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from patcher._cli.options import data_options, dataclass_options, preprocess_options
from patcher._cli.output import print_table, progress_bar, say
from patcher.calibrate.audit.options import AuditOptions

_HEADER = ("label", "images", "second group", "lose the label", "others lose it", "verdict")


@click.command("audit-data")
@click.argument("model", type=click.Path())
@click.option("--train-dir", required=True, help="The training set: folder a class, or .npz.")
@click.option("--report-dir", type=click.Path(), help="suspects.csv, suspects.png, audit.json. [default: <stem>.audit]")
@dataclass_options(AuditOptions)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@data_options
@preprocess_options
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no tables.")
def audit_data(
    model: str, train_dir: str, report_dir: str | None, providers: str, as_json: bool, quiet: bool, **options: Any
) -> int:
    """Find the poisoned images of the training set that MODEL was trained on.

    Exit codes: 0 no image is suspected, 1 some are, 2 could not decide.
    """
    from patcher.commands.audit_data import audit_data as run

    folder = Path(report_dir) if report_dir is not None else Path(model).with_suffix(".audit")
    given = {name: value for name, value in options.items() if value is not None}
    with progress_bar(quiet) as progress:
        result = run(
            model,
            train_dir=train_dir,
            report_dir=folder,
            progress=progress,
            providers=tuple(providers.split(",")),
            **given,
        )
    if as_json:
        click.echo(result.report.to_json(), nl=False)
    elif not quiet:
        print_table(Path(model).name, _HEADER, [_row(group) for group in result.report.as_json()["labels"]])
        for reason in result.report.reasons:
            say(reason)
        say(f"{len(result.findings.suspects)} suspected images; list and pictures: {folder}")
    return 1 if result.findings.suspects else 0


def _row(group: dict[str, Any]) -> tuple[str, ...]:
    return (
        group["name"],
        str(group["images"]),
        str(group["suspects"]),
        f"{group['flips']:.0%}",
        f"{group['flips_of_others']:.0%}",
        "poisoned" if group["confirmed"] else "natural",
    )
