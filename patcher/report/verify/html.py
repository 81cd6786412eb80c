# SPDX-License-Identifier: Apache-2.0
"""A gate report as one HTML page that needs nothing else: style and pictures are in it, and it loads nothing.

Every text from a model file is escaped, and a content security policy forbids scripts and the network.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patcher.report.text import share_text
from patcher.report.verify.rows import HEADER, STATUS_WORDS, check_rows
from patcher.text import printable

if TYPE_CHECKING:
    from patcher.gate.triggers import Picture

_PICTURE_SIDE = 112  # pixels on the page, at least
_STYLE = """
:root { color-scheme: light; --good: #1a7f37; --bad: #b42318; --mild: #8a6100; --line: #d9dde3; --soft: #f6f7f9 }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2128; margin: 0 auto; max-width: 1120px; padding: 24px }
h1 { font-size: 22px; margin: 0 } h2 { font-size: 17px; margin: 32px 0 8px }
.verdict { border-left: 6px solid; background: var(--soft); padding: 14px 18px; margin-bottom: 20px }
.verdict.pass { border-color: var(--good) } .verdict.fail { border-color: var(--bad) }
.verdict p { margin: 4px 0 0 } .verdict ul { margin: 8px 0 0; padding-left: 20px }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid var(--line); padding: 6px 10px; text-align: left; vertical-align: top }
th { background: var(--soft); font-weight: 600; white-space: nowrap } td { overflow-wrap: anywhere }
td:first-child, td.status, td.number { white-space: nowrap } .number { text-align: right }
.status { font-weight: 600 } .pass .status { color: var(--good) }
.fail .status, .not_run .status { color: var(--bad) } .suppressed .status { color: var(--mild) }
.skipped { color: #68707a } .skipped .status { font-weight: 400 }
.bar { display: block; position: relative; height: 6px; width: 120px; background: var(--line); margin-top: 4px }
.bar i { position: absolute; inset: 0 auto 0 0; background: currentColor }
.bar b { position: absolute; top: -3px; bottom: -3px; width: 2px; background: #1c2128 }
.pictures { display: flex; flex-wrap: wrap; gap: 16px } figure { margin: 0; font-size: 13px }
figure img { image-rendering: pixelated; display: block } figcaption { max-width: 240px; margin-top: 4px }
.bad { color: var(--bad) } .good { color: var(--good) } code { font-size: 12.5px }
"""


def escape(text: str, *, quote: bool = True) -> str:
    """Text of a model or picture file as HTML, without control characters."""
    return html.escape(printable(text), quote=quote)


def render(document: Mapping[str, Any], pictures: Sequence[Picture], class_names: Sequence[str]) -> str:
    """The page.

    Args:
        document: A ``verify`` report as plain JSON values.
        pictures: Pictures with triggers in them.
        class_names: In class order.
    """
    title = f"patcher verify: {document['hardened']['name']}"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        _verdict(document),
        "<h2>Checks</h2>",
        _checks(document),
        _triggers(pictures, class_names),
        _worst_probes(document, class_names),
        "<h2>What was compared</h2>",
        _facts(document),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _verdict(document: Mapping[str, Any]) -> str:
    passed = document["verdict"] == "pass"
    counts = [(status, sum(check["status"] == status for check in document["checks"])) for status in STATUS_WORDS]
    summary = ", ".join(f"{count} {STATUS_WORDS[status].lower()}" for status, count in counts if count)
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in document["reasons"])
    return (
        f'<div class="verdict {document["verdict"]}"><h1>{"PASS" if passed else "FAIL"}: '
        f"<code>{escape(document['hardened']['name'])}</code></h1>"
        f"<p>against its original <code>{escape(document['original']['name'])}</code>, "
        f"{document['clean_set']['images']} clean images. Checks: {summary}.</p>"
        f"{f'<ul>{reasons}</ul>' if reasons else ''}</div>"
    )


def _checks(document: Mapping[str, Any]) -> str:
    header = "".join(f"<th>{escape(name)}</th>" for name in HEADER)
    rows = []
    for check, (name, status, value, limit, count, message) in zip(
        document["checks"], check_rows(document), strict=True
    ):
        rows.append(
            f'<tr class="{check["status"]}"><td>{escape(name)}</td><td class="status">{status}</td>'
            f"<td>{escape(value)}{_bar(check)}</td>"
            f'<td class="number">{limit}</td><td class="number">{count}</td><td>{escape(message)}</td></tr>'
        )
    return f'<div class="scroll"><table><tr>{header}</tr>{"".join(rows)}</table></div>'


def _bar(check: Mapping[str, Any]) -> str:
    """A share as a bar, with the limit as a mark."""
    if check["interval_95"] is None or check["threshold"] is None:
        return ""
    width, mark = (100 * min(1.0, max(0.0, number)) for number in (check["value"], check["threshold"]))
    colour = "bad" if check["status"] in ("fail", "not_run") else "good"
    return f'<span class="bar {colour}"><i style="width:{width:.1f}%"></i><b style="left:{mark:.1f}%"></b></span>'


def _triggers(pictures: Sequence[Picture], class_names: Sequence[str]) -> str:
    if not pictures:
        return ""
    figures = "".join(_figure(picture, class_names) for picture in pictures)
    return f'<h2>Pictures with triggers</h2><div class="pictures">{figures}</div>'


def _figure(picture: Picture, class_names: Sequence[str]) -> str:
    def named(index: int) -> str:
        colour = "good" if index == picture.label else "bad"
        return f'<span class="{colour}">{escape(class_names[index])}</span>'

    pair = np.concatenate([picture.clean, picture.triggered], axis=2)
    alternative = escape(f"clean and with {picture.trigger}", quote=True)
    return (
        f'<figure><img alt="{alternative}" src="data:image/png;base64,{_png(pair)}">'
        f"<figcaption>{escape(picture.trigger)}<br>class {escape(class_names[picture.label])}; original says "
        f"{named(picture.before)}, hardened says {named(picture.after)}</figcaption></figure>"
    )


def _png(pixels: NDArray[np.uint8]) -> str:
    """uint8 ``(C, H, W)`` as a PNG in base64; small pictures are enlarged without smoothing."""
    from PIL import Image

    array = pixels.transpose(1, 2, 0)
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    factor = max(1, -(-_PICTURE_SIDE // array.shape[0]))
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=False)
    return base64.b64encode(buffer.getvalue()).decode()


def _worst_probes(document: Mapping[str, Any], class_names: Sequence[str]) -> str:
    check = next(check for check in document["checks"] if check["name"] == "probes")

    def flow(success: Mapping[str, Any], target: int) -> str:
        return f'<td class="number">{share_text(success)} to {escape(class_names[target])}</td>'

    rows = "".join(
        f"<tr><td>{escape(row['probe'])}</td>{flow(row['original'], row['original_target'])}"
        f"{flow(row['after'], row['target'])}</tr>"
        for row in check["details"].get("worst", [])
    )
    if not rows:
        return ""
    header = '<tr><th>probe</th><th class="number">original</th><th class="number">hardened</th></tr>'
    return f'<h2>Worst built-in probes</h2><div class="scroll"><table>{header}{rows}</table></div>'


def _facts(document: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    facts = [
        ("hardened sha256", document["hardened"]["sha256"]),
        ("original sha256", document["original"]["sha256"]),
        ("clean images sha256", document["clean_set"]["sha256"]),
        ("preprocessing", ", ".join(f"{name} {value}" for name, value in document["preprocess"].items())),
        ("versions", f"patcher {document['patcher_version']}, {versions}"),
    ]
    rows = "".join(f"<tr><td>{name}</td><td><code>{escape(value)}</code></td></tr>" for name, value in facts)
    return f'<div class="scroll"><table>{rows}</table></div>'
