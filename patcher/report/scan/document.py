# SPDX-License-Identifier: Apache-2.0
"""The report of `scan`: ``scan.json``, and ``scan.md`` made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from patcher.calibrate.scan.figures import Candidate, Findings, Searched, Universal
from patcher.calibrate.scan.latent import latent_scores
from patcher.calibrate.scan.model_verdict import Decision, TargetVerdict
from patcher.calibrate.scan.target_verdict import Judgement
from patcher.report.report import Report
from patcher.report.sections import clean_set_section, model_section
from patcher.report.table import table
from patcher.report.text import class_text
from patcher.steps.prepare import Prepared
from patcher.triggers.family import family_of


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
        "per_class": prepared.task.per_class(prepared.clean_set.labels, prepared.predicted, names),
        "options": dict(options),
        "mode": decision.mode,
        "triggers": len(decision.triggers),
        "targets": [_target(item, names) for item in decision.targets],
        "targets_not_inverted": left_out,
        "universal": [
            _universal(item, judged) for item, judged in zip(findings.universal, decision.all_to_all, strict=True)
        ],
        "searched": [_searched(item) for item in findings.searched],
        "precision": findings.precision,
        "latent": _latent(findings),
        "one_ways": [{"source": item.source, "target": item.target, "score": item.score} for item in findings.one_ways],
        "single_sources": [
            {
                "family": item.family,
                "source": item.source,
                "target": item.target,
                "size": item.size,
                "ratio": item.ratio,
            }
            for item in findings.single_sources
        ],
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
        "Size: in the family's own unit, median over the seeds; `>` where the target was not reached, with the "
        "largest size tried. Score: deviations of the log-size below the median of all targets.",
        "",
        *table(SEARCHED_HEADER, searched_rows(document)),
        "",
        latent_text(document),
    ]
    if document["targets_not_inverted"]:
        lines += ["", f"{document['targets_not_inverted']} targets were ranked lower and not inverted."]
    for picture in pictures:
        lines += ["", f"![{picture}]({picture})"]
    return "\n".join(lines) + "\n"


TARGET_HEADER = ("target", "verdict", "family", "size", "score", "median / size", "gap", "held-out", "seeds", "sources")


def target_rows(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of text, one a target and family; the header is `TARGET_HEADER`."""
    return [
        (
            f"{item['target']} {item['name']}" if row == 0 else "",
            item["verdict"] if row == 0 else "",
            figures["family"],
            f"{'' if figures['reached'] else '> '}{figures['size']:.3g}",
            *(_number(figures[key]) for key in ("score", "ratio", "gap")),
            f"{figures['held_out_hits']}/{figures['held_out_count']}",
            f"{figures['agreement']:.0%} of {len(figures['sizes'])}",
            str(len(item["pair_sources"] or figures["sources"])),
        )
        for item in document["targets"]
        for row, figures in enumerate(item["families"])
    ]


SEARCHED_HEADER = ("family", "unit of size", "targets reached", "rounds", "steps", "seconds", "why it stopped")


def searched_rows(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of text, one a family that was searched; the header is `SEARCHED_HEADER`."""
    return [
        (
            item["family"],
            item["unit"],
            f"{item['reached']} of {item['targets']}",
            str(item["rounds"]),
            str(item["steps"]),
            f"{item['seconds']:.0f}",
            item["stopped"],
        )
        for item in document["searched"]
    ]


def _searched(item: Searched) -> dict[str, Any]:
    return {
        "family": item.family,
        "unit": family_of(item.family).unit,
        "targets": item.targets,
        "reached": item.reached,
        "rounds": item.rounds,
        "steps": item.steps,
        "seconds": round(item.seconds, 1),
        "stopped": item.stopped,
    }


def _latent(findings: Findings) -> dict[str, Any] | None:
    if findings.distances is None:
        return None
    scores = latent_scores(findings.distances)
    return {"distances": [float(value) for value in findings.distances], "scores": [float(value) for value in scores]}


def latent_text(document: Mapping[str, Any]) -> str:
    """What the last features say, in one or two sentences."""
    latent, names = document["latent"], document["clean_set"]["class_names"]
    if latent is None:
        return "The model does not end in one linear layer: no latent distances."
    nearest = min(range(len(names)), key=latent["distances"].__getitem__)
    text = (
        f"Nearest class by the last features, whatever the form of a trigger: {class_text(nearest, names[nearest])}, "
        f"score {latent['scores'][nearest]:.1f}."
    )
    for item in document["one_ways"][:1]:
        text += (
            f" Way that is shortest beside the way back: from {class_text(item['source'], names[item['source']])} "
            f"to {class_text(item['target'], names[item['target']])}, score {item['score']:.1f}."
        )
    return text


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
        "size": figures.size,
        "sizes": list(figures.sizes),
        "unit": family_of(figures.family).unit,
        "means": family_of(figures.family).describe(figures.size, figures.trigger.shape),
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
        "size": item.size,
        "relative": item.relative,
        "ratio": item.ratio,
        "reached": item.reached,
        "pairs": [[source, target] for source, target in sorted(item.pairs.items())],
    }
