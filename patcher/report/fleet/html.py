# SPDX-License-Identifier: Apache-2.0
"""The index of a fleet as one HTML page: a table that sorts by a click on a column's title.

Style, script and thumbnails are in the page, and it loads nothing. Every text from a model file is escaped; the
content security policy names the one script by its hash and forbids the network.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from patcher.report.text import share_text
from patcher.text import printable

_THUMBNAIL = 180  # pixels, the longer side
_MOST_THUMBNAILS = 3  # of one model
_STYLE = """
:root { color-scheme: light; --good: #1a7f37; --bad: #b42318; --mild: #8a6100; --line: #d9dde3; --soft: #f6f7f9 }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2128; margin: 0 auto; max-width: 1400px; padding: 24px }
h1 { font-size: 22px; margin: 0 } .verdict { border-left: 6px solid; background: var(--soft); padding: 14px 18px }
.verdict p { margin: 4px 0 0 } .scroll { overflow-x: auto; margin-top: 20px }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid var(--line); padding: 6px 10px; text-align: left; vertical-align: top }
th { background: var(--soft); white-space: nowrap } td { overflow-wrap: anywhere }
th button { font: inherit; font-weight: 600; border: 0; background: none; padding: 0; cursor: pointer }
th[aria-sort=ascending] button::after { content: " \\2191" }
th[aria-sort=descending] button::after { content: " \\2193" }
.word { font-weight: 600; white-space: nowrap } .number { text-align: right; white-space: nowrap }
.code0 { color: var(--good); border-color: var(--good) } .code1 { color: var(--bad); border-color: var(--bad) }
.code2, .code3 { color: var(--mild); border-color: var(--mild) }
.verdict p, .verdict h1 { color: #1c2128 }
img { display: inline-block; margin: 0 4px 4px 0; border: 1px solid var(--line) }
.why { font-size: 13px; max-width: 420px } code { font-size: 12.5px }
"""
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


def render(document: Mapping[str, Any], folder: Path) -> str:
    """The page.

    Args:
        document: ``fleet.json`` as plain JSON values.
        folder: Where the folders of the models lie, for thumbnails.
    """
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = "".join(f'<th><button type="button">{name}</button></th>' for name in _HEADER)
    rows = "\n".join(_row(model, folder) for model in document["models"])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>patcher fleet</title><style>{_STYLE}</style></head><body>\n{_summary(document)}\n"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>\n'
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def _summary(document: Mapping[str, Any]) -> str:
    codes = [model["exit_code"] for model in document["models"]]
    code = {"pass": 0, "fail": 1, "not applicable": 3}.get(document["verdict"], 2)
    counts = ", ".join(f"{count} {_escape(name)}" for name, count in document["counts"].items())
    versions = ", ".join(f"{_escape(name)} {_escape(number)}" for name, number in document["versions"].items())
    return (
        f'<div class="verdict code{code}"><h1>Fleet of {len(codes)}: {_escape(document["verdict"]).upper()}</h1>'
        f"<p>{counts}.</p><p>patcher {_escape(document['patcher_version'])}, {versions}</p></div>"
    )


def _row(model: Mapping[str, Any], folder: Path) -> str:
    steps = model["steps"]
    scan, harden, gate = (steps.get(name, {}) for name in ("scan", "harden", "verify"))
    targets = ", ".join(f"{item['target']} {_escape(item['name'])}" for item in scan.get("targets", ()))
    method = f" ({_escape(harden['method'])})" if "method" in harden else ""
    why = [model["error"]] if "error" in model else [why for step in steps.values() for why in step["reasons"]]
    log = f" {_link(model, model['log'], 'log')}" if "log" in model else ""
    cells = [
        f'<td>{_escape(model["name"])}<br><code title="{model["model"]["sha256"]}">'
        f"{_escape(model['model']['file'])}</code></td>",
        f'<td class="word code{model["exit_code"]}">{_escape(model["verdict"])}</td>',
        f"<td>{_step(model, scan)}</td>",
        f"<td>{targets}</td>",
        f"<td>{_thumbnails(scan.get('pictures', ()), folder / model['folder'])}</td>",
        f"<td>{_step(model, harden)}{method}</td>",
        _change(harden, "held_out"),
        _change(harden, "attack", "ASR"),
        f"<td>{_step(model, gate)}</td>",
        f'<td class="why">{"<br>".join(_escape(line) for line in why)}{log}</td>',
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _step(model: Mapping[str, Any], step: Mapping[str, Any]) -> str:
    if not step:
        return ""
    return _link(model, step["page"], step["verdict"]) if "page" in step else _escape(step["verdict"])


def _link(model: Mapping[str, Any], path: str, text: str) -> str:
    return f'<a href="{_escape(quote(model["folder"] + "/" + path))}">{_escape(text)}</a>'


def _change(harden: Mapping[str, Any], *keys: str) -> str:
    """A share before and after; it sorts by the share after."""
    sides = []
    for side in ("before", "after"):
        found: Any = harden.get(side)
        for key in keys:
            found = found.get(key) if found else None
        sides.append(found)
    before, after = sides
    if not before or not after:
        return "<td></td>"
    title = f"{share_text(before)} to {share_text(after)}"
    shown = " → ".join("" if side["value"] is None else f"{100 * side['value']:.1f} %" for side in sides)
    return f'<td class="number" data-key="{after["value"]}" title="{title}">{shown}</td>'


def _thumbnails(pictures: Sequence[str], folder: Path) -> str:
    found = []
    for name in pictures[:_MOST_THUMBNAILS]:
        data = _thumbnail(folder / name)
        found.append(f'<img alt="{_escape(Path(name).stem)}" src="data:image/png;base64,{data}">' if data else "")
    left = len(pictures) - _MOST_THUMBNAILS
    return "".join(found) + (f"and {left} more" if left > 0 else "")


def _thumbnail(path: Path) -> str:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
            small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    except OSError:
        return ""
    buffer = io.BytesIO()
    small.save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _escape(text: str) -> str:
    return html.escape(printable(str(text)), quote=True)
