# SPDX-License-Identifier: Apache-2.0
"""``patcher evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from patcher._cli.exit_codes import exit_code
from patcher._cli.help import command, option
from patcher._cli.options import (
    data_options,
    json_option,
    preprocess_options,
    provider_names,
    report_dir_option,
    triggered_options,
)
from patcher._cli.output import print_table, say

_MOST_CLASSES_SHOWN = 20


@command("evaluate")
@click.argument("model", type=click.Path())
@option("--data", section="Files", required=True, help="Labelled images: folder a class, or .npz.")
@report_dir_option("report.json, report.html, and roc.png for a model whose flag has a score.")
@triggered_options
@data_options
@preprocess_options
@json_option
def evaluate(
    model: str,
    data: str,
    triggered: str | None,
    target: Any,
    preprocess: dict[str, Any],
    providers: str,
    report_dir: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Measure the accuracy of MODEL, and the attack's success where triggered images are given.

    ACC: clean images that get their label. ASR: triggered images of other classes that get the target.
    SIA: triggered images that get their true class. For a model that flags: TPR: triggered images that are
    flagged; FPR: clean images that are, among those of a flagged class and among all.
    """
    from patcher.commands.evaluate import evaluate as run
    from patcher.report.evaluation import SCORE_HEADER, score_shares
    from patcher.report.harden.rows import score_rows

    settings = {name: value for name, value in options.items() if value is not None}
    result = run(
        model,
        data=data,
        triggered=triggered,
        target=target,
        preprocess=preprocess,
        providers=provider_names(providers),
        report_dir=report_dir,
        **settings,
    )
    if as_json:
        click.echo(result.report.to_json(), nl=False)
        return exit_code("evaluate", result.verdict)
    document = result.report.as_json()
    rows = [(name, text, count) for name, text, count, _ in score_shares(document)]
    rows += [(name, f"{document[name]:.1%}", "") for name in result.figures]
    rows += [(name, text, "") for name, text in score_rows(document)]
    print_table(document["model"]["name"], SCORE_HEADER, rows)
    classes = document["per_class"]
    if len(classes) <= _MOST_CLASSES_SHOWN:
        header = ("class", "images", "accuracy", "mostly taken for")
        print_table("by class", header, [_class_row(item) for item in classes])
    for line in document["mistaken"]:
        say(f"{line}: check the class order (--classes)")
    if report_dir is not None:
        say(f"report: {Path(report_dir) / 'report.html'}")
    return exit_code("evaluate", result.verdict)


def _class_row(item: dict[str, Any]) -> tuple[str, ...]:
    other, share = item["most_taken_for"], item["most_taken_for_share"]
    wrong = "" if other is None else f"{other} ({100 * share:.0f} %)"
    return f"{item['class']} {item['name']}", str(item["images"]), f"{100 * item['accuracy']:.1f} %", wrong
