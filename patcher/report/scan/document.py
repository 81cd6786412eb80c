# SPDX-License-Identifier: Apache-2.0
"""The report of `scan`: ``scan.json``, and ``scan.md`` made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from patcher.calibrate.scan.figures import Candidate, Findings, Universal
from patcher.calibrate.scan.model_verdict import Decision, TargetVerdict
from patcher.calibrate.scan.target_verdict import Judgement
from patcher.report.report import Report
from patcher.report.sections import clean_set_section, model_section
from patcher.report.table import table
from patcher.steps.prepare import Prepared


def scan_report(
    prepared: Prepared,
    findings: Findings,
    decision: Decision,
    options: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> Report:
    """Put together what a scan found.

    Args:
        prepared: The model and the images.
        findings: Figures.
        decision: Verdicts.
        options: What was run.
        seconds: Durations.
    """
    names = prepared.clean_set.class_names
    left_out = prepared.model.num_classes - len(findings.inverted)
    sections = {
        "model": model_section(prepared.model),
        "preprocess": prepared.preprocess.as_json(),
        "clean_set": clean_set_section(prepared.clean_set),
        "ACC": prepared.accuracy.as_json(),
        "options": dict(options),
        "mode": decision.mode,
        "targets": [_target(item, names) for item in decision.targets],
        "targets_not_inverted": left_out,
        "universal": [
            _universal(item, judged) for item, judged in zip(findings.universal, decision.all_to_all, strict=True)
        ],
        "maximum_margins": None if findings.margins is None else [float(value) for value in findings.margins],
    }
    return Report("scan", decision.level, decision.reasons, sections, dict(seconds))


def render_scan(report: Report, pictures: Sequence[str] = ()) -> str:
    """The text of ``scan.md``."""
    document = report.as_json()
    accuracy = document["ACC"]["value"]
    mode = f" ({document['mode']})" if document["mode"] else ""
    lines = [
        f"# patcher scan: {report.verdict.upper()}{mode}",
        "",
        f"`{document['model']['name']}`, {document['clean_set']['images']} clean images, accuracy {accuracy:.1%}, "
        f"seed {document['options']['seed']}.",
        "",
        *[f"- {reason}" for reason in report.reasons],
        "",
        *table(TARGET_HEADER, target_rows(document)),
        "",
        "Norm: sum of the mask in pixels (patch), L2 of the difference (additive); median over the seeds. "
        "Score: deviations of the log-norm below the median of all targets.",
    ]
    if document["targets_not_inverted"]:
        lines += ["", f"{document['targets_not_inverted']} targets were ranked lower and not inverted."]
    for picture in pictures:
        lines += ["", f"![{picture}]({picture})"]
    return "\n".join(lines) + "\n"


TARGET_HEADER = ("target", "verdict", "family", "norm", "score", "median / norm", "gap", "held-out", "seeds", "sources")


def target_rows(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of text, one a target and family; the header is `TARGET_HEADER`."""
    return [
        (
            f"{item['target']} {item['name']}" if row == 0 else "",
            item["verdict"] if row == 0 else "",
            figures["family"],
            f"{figures['norm']:.2f}" if figures["reached"] else "not reached",
            *(_number(figures[key]) for key in ("score", "ratio", "gap")),
            f"{figures['held_out_hits']}/{figures['held_out_count']}",
            f"{figures['agreement']:.0%} of {len(figures['norms'])}",
            str(len(item["pair_sources"] or figures["sources"])),
        )
        for item in document["targets"]
        for row, figures in enumerate(item["families"])
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _target(item: TargetVerdict, names: Sequence[str]) -> dict[str, Any]:
    return {
        "target": item.target,
        "name": names[item.target],
        "verdict": item.level,
        "pair_sources": list(item.pair_sources),
        "families": [_family(figures, judged) for figures, judged in zip(item.figures, item.judgements, strict=True)],
    }


def _family(figures: Candidate, judged: Judgement) -> dict[str, Any]:
    outlier = figures.outlier
    return {
        "family": figures.family,
        "verdict": judged.level,
        "reasons": list(judged.reasons),
        "norm": figures.norm,
        "norms": list(figures.norms),
        "relative": figures.relative,
        "reached": figures.reached,
        "score": outlier.score if outlier else None,
        "ratio": outlier.ratio if outlier else None,
        "gap": outlier.gap if outlier else None,
        "held_out_hits": figures.held_out[0],
        "held_out_count": figures.held_out[1],
        "agreement": figures.agreement,
        "sources": list(figures.sources),
    }


def _universal(item: Universal, judged: Judgement) -> dict[str, Any]:
    return {
        "family": item.family,
        "verdict": judged.level,
        "reasons": list(judged.reasons),
        "norm": item.norm,
        "relative": item.relative,
        "ratio": item.ratio,
        "reached": item.reached,
        "pairs": [[source, target] for source, target in sorted(item.pairs.items())],
    }
