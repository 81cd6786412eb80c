# SPDX-License-Identifier: Apache-2.0
"""``patcher fleet``."""

from __future__ import annotations

import sys

import click

from patcher._cli.exit_codes import exit_code
from patcher._cli.help import command, option
from patcher._cli.options import json_option, quiet_option
from patcher._cli.output import complain, conclude, print_table, progress_bar


@command("fleet")
@click.argument("description", metavar="FLEET.TOML", type=click.Path())
@option("--results", section="Files", type=click.Path(), help="Folder of the results. [default: as the file says]")
@option(
    "--engine",
    section="Run",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Processes of this machine, or a Ray cluster.",
)
@option("--address", section="Run", help="Of a Ray cluster: auto or HOST:PORT. [default: one is started here]")
@option("--workers", section="Run", type=int, help="Tasks at a time at most. [default: cores / threads]")
@option("--threads", section="Run", type=int, help="Threads of a task. [default: as the file says, else 1]")
@option("--timeout", section="Run", type=float, help="Seconds of a task. [default: as the file says, else 3600]")
@option("--force", section="Run", is_flag=True, help="Do again what an earlier run did.")
@json_option
@quiet_option
def fleet(
    description: str,
    results: str | None,
    engine: str,
    address: str | None,
    workers: int | None,
    threads: int | None,
    timeout: float | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Scan, harden and verify the models that FLEET.TOML names, as tasks on many processes."""
    from patcher.fleet.description import read_description
    from patcher.fleet.fleet import fleet as run
    from patcher.fleet.fleet import fleet_report

    fleet_of = read_description(description)
    with progress_bar(quiet or as_json, rate=True) as progress:
        found = {
            result.name: result
            for result in run(
                fleet_of,
                engine=engine,
                address=address,
                force=force,
                results=results,
                progress=progress,
                note=None if quiet else lambda line: print(f"patcher: {line}", file=sys.stderr),
                workers=workers,
                threads=threads,
                timeout=timeout,
            )
        }
    ordered = [found[entry.name] for entry in fleet_of.models]
    report = fleet_report(ordered)
    if as_json:
        click.echo(report.to_json(), nl=False)
    elif not quiet:
        header = ("model", "verdict", "scan", "harden", "verify")
        rows = [
            (item.name, item.verdict, *(item.entry["steps"].get(name, {}).get("verdict", "") for name in header[2:]))
            for item in ordered
        ]
        print_table("fleet", header, rows)
        place = ordered[0].folder.parent
        conclude(report.verdict, place / "fleet.html")
    code = exit_code("fleet", report.verdict)
    if code:
        complain(report.verdict, report.reasons)
    return code
