# SPDX-License-Identifier: Apache-2.0
"""``fleet.html``: a fleet's index as a page, one table that sorts by a click on a column's title."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from patcher.report.page.blocks import Cell, Picture, Section, Table, Tone
from patcher.report.page.page import Page, render, tone_of
from patcher.report.page.pictures import data_uri
from patcher.report.text import class_text, share_text

_THUMBNAIL = 150  # pixels, the longer side
_MOST_THUMBNAILS = 3  # of one model
_TONES: Mapping[int, Tone] = {0: "good", 1: "bad"}
_SCRIPT = """
document.querySelectorAll("th button").forEach(function (button) {
  button.addEventListener("click", function () {
    var head = button.parentNode, body = document.querySelector("tbody"), place = head.cellIndex;
    var down = head.getAttribute("aria-sort") === "ascending";
    document.querySelectorAll("th").forEach(function (other) { other.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    function key(row) { return row.cells[place].getAttribute("data-key") || row.cells[place].textContent; }
    Array.from(body.rows).sort(function (a, b) {
      var left = key(a), right = key(b), numbers = left !== "" && right !== "" && !isNaN(left) && !isNaN(right);
      return (numbers ? left - right : left.localeCompare(right)) * (down ? -1 : 1);
    }).forEach(function (row) { body.appendChild(row); });
  });
});
"""
_HEADER = ("model", "verdict", "scan", "targets", "triggers", "harden", "accuracy", "attack success", "gate", "why")


def fleet_page(document: Mapping[str, Any], folder: Path) -> str:
    """The page's text.

    Args:
        document: ``fleet.json`` as plain JSON values.
        folder: Where the folders of the models lie, for thumbnails.
    """
    models = document["models"]
    counts = ", ".join(f"{count} {name}" for name, count in document["counts"].items())
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    note = "A click on a title sorts; verdicts lead to the reports. Shares: before and after, held-out images."
    table = Table(_HEADER, [tuple(_row(model, folder)) for model in models], note, sortable=True, cards=True)
    summary = f"{counts}. patcher {document['patcher_version']}, {versions}."
    sections = [Section("Models", [table])]
    return render(Page("fleet", f"{len(models)} models", document["verdict"], summary, (), sections, _SCRIPT))


def _row(model: Mapping[str, Any], folder: Path) -> Iterator[str | Cell]:
    steps = model["steps"]
    scan, harden, gate = (steps.get(name, {}) for name in ("scan", "harden", "verify"))
    yield Cell(model["name"], full=f"{model['model']['file']}, sha256 {model['model']['sha256']}")
    yield Cell(model["verdict"], _TONES.get(model["exit_code"], "mild"))
    yield _step(model, scan)
    yield ", ".join(class_text(item["target"], item["name"]) for item in scan.get("targets", ()))
    yield _thumbnails(scan.get("pictures", ()), folder / model["folder"])
    yield _step(model, harden, f" ({harden['method']})" if "method" in harden else "")
    yield _change(harden, "held_out")
    yield _change(harden, "attack", "ASR")
    yield _step(model, gate)
    yield _why(model)


def _step(model: Mapping[str, Any], step: Mapping[str, Any], remark: str = "") -> str | Cell:
    if not step:
        return ""
    link = _address(model, step["page"]) if "page" in step else ""
    return Cell(step["verdict"] + remark, tone_of(step["verdict"]), link=link)


def _why(model: Mapping[str, Any]) -> str | Cell:
    """The reasons; of a model that ended with an error that one, with its log."""
    if "error" in model:
        return Cell(model["error"], link=_address(model, model["log"]) if "log" in model else "")
    return "; ".join(why for step in model["steps"].values() for why in step["reasons"])


def _address(model: Mapping[str, Any], path: str) -> str:
    return quote(f"{model['folder']}/{path}")


def _change(harden: Mapping[str, Any], *keys: str) -> str | Cell:
    """A share before and after; it sorts by the share after."""
    sides = []
    for side in ("before", "after"):
        found: Any = harden.get(side)
        for key in keys:
            found = found.get(key) if found else None
        sides.append(found)
    before, after = sides
    if not before or not after:
        return ""
    shown = " → ".join("" if side["value"] is None else f"{100 * side['value']:.1f} %" for side in sides)
    return Cell(shown, full=f"{share_text(before)} to {share_text(after)}", key=str(after["value"]))


def _thumbnails(pictures: Sequence[str], folder: Path) -> str | Cell:
    shown = [small for name in pictures[:_MOST_THUMBNAILS] if (small := _thumbnail(folder / name))]
    left = len(pictures) - _MOST_THUMBNAILS
    return Cell(f"and {left} more" if left > 0 else "", pictures=shown) if shown else ""


def _thumbnail(path: Path) -> Picture | None:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
            small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    except OSError:
        return None
    buffer = io.BytesIO()
    small.save(buffer, format="png", optimize=True)
    return Picture(data_uri(buffer.getvalue()), path.stem)
