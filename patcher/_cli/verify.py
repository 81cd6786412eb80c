# SPDX-License-Identifier: Apache-2.0
"""``patcher verify``: the release gate."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from patcher._cli.exit_codes import exit_code
from patcher._cli.help import command, option
from patcher._cli.keys import original_options, signing_options
from patcher._cli.options import (
    clean_dir_option,
    data_options,
    json_option,
    preprocess_options,
    provider_names,
    quiet_option,
    report_dir_option,
    triggered_options,
)
from patcher._cli.output import complain, conclude, print_table, progress_bar, say
from patcher._cli.watch import time_limit

if TYPE_CHECKING:
    from patcher.signing import Signing

_SUMMARY = "GITHUB_STEP_SUMMARY"


@command("verify")
@click.argument("original", type=click.Path())
@click.argument("hardened", type=click.Path())
@clean_dir_option()
@option("--policy", section="Files", type=click.Path(), help="Policy file (TOML). [default: the built-in limits]")
@option("--patch", section="Files", type=click.Path(), help="The patch; applied again, it must give the same bytes.")
@option("--triggers", section="Files", type=click.Path(), help="Triggers that 'patcher scan' estimated, .npz.")
@option("--attested", section="Files", type=click.Path(), help="An in-toto statement of an earlier run to check.")
@signing_options("HARDENED", "HARDENED if it passes")
@original_options
@triggered_options
@report_dir_option("Write report.json, .md, .html, junit.xml, results.sarif there.")
@option("--attestation", section="Output", type=click.Path(), help="Write the verdict there as an in-toto statement.")
@option("--bom", section="Output", type=click.Path(), help="Write a CycloneDX ML-BOM of HARDENED there.")
@data_options
@preprocess_options
@json_option
@quiet_option
@time_limit(1800)
def verify(
    original: str,
    hardened: str,
    report_dir: str | None,
    attestation: str | None,
    bom: str | None,
    preprocess: dict[str, Any],
    providers: str,
    as_json: bool,
    quiet: bool,
    signing: Signing,
    **options: Any,
) -> int:
    """Decide whether HARDENED may ship in place of ORIGINAL."""
    from patcher.commands.verify import verify as run
    from patcher.files import check_output
    from patcher.report.folder import check_report_dir
    from patcher.report.verify.attestation import write_attestation
    from patcher.report.verify.bom import write_bom
    from patcher.report.verify.markdown import append_summary, render
    from patcher.report.verify.rows import HEADER, check_rows

    check_report_dir(report_dir)
    check_output(attestation)
    check_output(bom)
    given = {name: value for name, value in options.items() if value is not None}
    with progress_bar(quiet or as_json) as progress:
        result = run(
            original,
            hardened,
            preprocess=preprocess,
            providers=provider_names(providers),
            progress=progress,
            signing=signing,
            **given,
        )
    if report_dir is not None:
        result.write(Path(report_dir), Path(hardened))
    document = result.report.as_json()
    if attestation is not None:
        write_attestation(document, Path(attestation))
    if bom is not None:
        write_bom(document, Path(bom))
    sha256 = document["hardened"]["sha256"]
    signature = signing.sign(Path(hardened), sha256) if result.passed else None
    if summary := os.environ.get(_SUMMARY):
        append_summary(render(document), Path(summary))
    if as_json:
        click.echo(result.report.to_json(), nl=False)
    elif not quiet:
        print_table(f"{Path(hardened).name}: {result.report.verdict.upper()}", HEADER, check_rows(document))
        say(f"sha256 to sign: {sha256}" if result.passed else "not to be released")
        if signature is not None:
            say(f"signature: {signature}")
        conclude(result.verdict, Path(report_dir) / "report.html" if report_dir is not None else None)
    if not result.passed:
        complain("FAIL", [f"{check.name}: {check.message}" for check in result.failed])
    return exit_code("verify", result.verdict)
