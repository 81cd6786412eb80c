# SPDX-License-Identifier: Apache-2.0
"""``report.html`` of `harden`: a hardening as a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from patcher.report.harden.choice import CANDIDATE_HEADER, candidate_rows
from patcher.report.harden.masks import MASK_HEADER, suppressed_rows
from patcher.report.harden.rows import BEFORE_AFTER_HEADER, SITE_HEADER, before_after, site_rows
from patcher.report.page.blocks import Facts, Notes, Row, Section, Table
from patcher.report.page.page import Page, render
from patcher.report.page.parts import class_section, named, run_section
from patcher.report.page.pictures import charts

_SHARES = (
    "Shares carry their 95 % Wilson interval. ASR: triggered images with the attacker's class; SIA: with their own."
)


def harden_page(document: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page's text.

    Args:
        document: ``report.json`` as plain JSON values.
        pictures: File name to PNG bytes.
    """
    method, classes = document["method"], document["per_class"]
    summary = f"Method {method['name']}, {document['clean_set']['images']} clean images, seed {method['seed']}."
    sections = [
        *_choice(document),
        Section("Before and after", [Table(BEFORE_AFTER_HEADER, before_after(document), _SHARES), *_notes(document)]),
        class_section(classes["before"], classes["after"]),
        *charts("Pictures", pictures),
        *_masks(document),
        Section("Corrected tensors", _sites(document), folded=True),
        run_section(document, _hashes(document), method["options"]),
    ]
    return render(
        Page("harden", document["model"]["name"], document["verdict"], summary, document["reasons"], sections)
    )


def _choice(document: Mapping[str, Any]) -> list[Section]:
    if "auto" not in document:
        return []
    section = document["auto"]
    table = Table(CANDIDATE_HEADER, candidate_rows(section), cards=True)
    return [Section("What was looked for, found and done", [Notes([section["paragraph"]]), table])]


def _notes(document: Mapping[str, Any]) -> list[Notes]:
    verdict = document["method"].get("verdict")
    lines = [*([verdict] if verdict else []), *document["notes"]]
    return [Notes(lines)] if lines else []


def _masks(document: Mapping[str, Any]) -> list[Section]:
    if "masks" not in document:
        return []
    rows: list[Row] = [(named(row[0]), *row[1:]) for row in document["masks"]["rows"]]
    most = [(named(name), value) for name, value in suppressed_rows(document["masks"])]
    blocks = [
        Table(
            MASK_HEADER,
            rows,
            "l counts the masked constants in the graph's order; no mask is below its floor.",
            cards=True,
        )
    ]
    if most:
        blocks.append(Table(("most suppressed channel", "mask"), most))
    return [Section("Channel masks", blocks, folded=True)]


def _sites(document: Mapping[str, Any]) -> list[Table | Facts]:
    rows: list[Row] = [(named(row[0]), *row[1:]) for row in site_rows(document)]
    blocks: list[Table | Facts] = [Table(SITE_HEADER, rows, cards=True)]
    kept = document["hardened"].get("bounds", {})
    if kept.get("folded") and kept["nodes"]:
        left = [(named(tensor), reason) for tensor, reason in kept["nodes"].items()]
        blocks.append(Table(("bound that stayed a node", "why"), left))
    return blocks


def _hashes(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("model sha256", document["model"]["sha256"]),
        ("hardened sha256", document["hardened"]["sha256"] or "not written"),
        ("patch sha256", document["patch_sha256"]),
        ("clean images sha256", document["clean_set"]["sha256"]),
    ]
