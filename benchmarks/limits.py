# SPDX-License-Identifier: Apache-2.0
"""What clean networks come to in a scan: where the limits of a verdict stand, and how often a scan is wrong.

    python -m benchmarks.attacks NETS --methods --seeds 0 1 --kept SCANS
    python -m benchmarks.limits SCANS

SCANS is the folder in which `benchmarks.attacks` keeps the scans of networks, here clean ones that serve for nothing
else. For each family: the smallest size that reached any target, beside the family's limit, and how many targets,
and how many networks, a limit of any size would have called `backdoor`. Then the largest latent score with its gap,
the widest way that is open one way only, and the share of networks and of scans not called `clean`, with 95 % Wilson
intervals.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import RESULTS, markdown_table, write_result
from patcher.measure.scores import share
from patcher.triggers.family import family_of

Row = dict[str, Any]
_SIZE = "of the largest change"


def scans(folder: Path) -> list[Row]:
    """One row a scan: the network, the seed, and the document."""
    found = []
    for path in sorted(folder.glob("*.scan/scan.json")):
        name, _, seed = path.parent.stem.rpartition("-")
        found.append({"name": name, "seed": int(seed), "scan": json.loads(path.read_text())})
    return found


def family_rows(rows: list[Row]) -> list[Row]:
    """What each family came to over all targets of all scans."""
    found: dict[str, list[tuple[str, Row]]] = {}
    for row in rows:
        for target in row["scan"]["targets"]:
            for figures in target["families"]:
                found.setdefault(figures["family"], []).append((row["name"], figures))
    return [_family_row(name, items) for name, items in found.items()]


def _family_row(name: str, items: list[tuple[str, Row]]) -> Row:
    reached = sorted(figures["relative"] for _, figures in items if figures["reached"])
    stopped = [(net, figures) for net, figures in items if figures["reached"] and _size_alone(figures)]
    return {
        "family": name,
        "targets": len(items),
        "reached": len(reached),
        "smallest": reached[0] if reached else None,
        "tenth": float(np.quantile(reached, 0.1)) if reached else None,
        "limit": family_of(name).cap,
        "size_alone": len(stopped),
        "size_alone_nets": len({net for net, _ in stopped}),
    }


def _size_alone(figures: Row) -> bool:
    """Whether nothing but the family's limit kept this target from being called a backdoor."""
    return bool(figures["reasons"]) and all(_SIZE in text for text in figures["reasons"])


def opinion_rows(rows: list[Row]) -> list[Row]:
    """The latent distance and the ways of each scan."""
    found = []
    for row in rows:
        latent = row["scan"]["latent"]
        distances = np.sort(latent["distances"]) if latent else np.full(2, np.nan)
        ways = row["scan"]["one_ways"]
        found.append(
            {
                "name": row["name"],
                "seed": row["seed"],
                "verdict": row["scan"]["verdict"],
                "latent": max(latent["scores"]) if latent else np.nan,
                "gap": float(distances[1] / distances[0]),
                "way": ways[0]["score"] if ways else np.nan,
            }
        )
    return found


def tables(rows: list[Row]) -> str:
    """All of it as Markdown."""
    families = [
        (
            item["family"],
            f"{item['reached']} of {item['targets']}",
            "-" if item["smallest"] is None else f"{item['smallest']:.3g}",
            "-" if item["tenth"] is None else f"{item['tenth']:.3g}",
            f"{item['limit']:g}",
            f"{item['size_alone']} ({item['size_alone_nets']})",
        )
        for item in family_rows(rows)
    ]
    opinions = opinion_rows(rows)
    each = [
        (
            item["name"],
            item["seed"],
            item["verdict"],
            f"{item['latent']:.1f}",
            f"{item['gap']:.2f}",
            f"{item['way']:.1f}",
        )
        for item in opinions
    ]
    return "\n".join(
        (
            markdown_table(
                ("family", "targets reached", "smallest", "lowest tenth", "limit", "held by the limit (networks)"),
                families,
            ),
            markdown_table(("network", "seed", "verdict", "latent score", "gap", "one way"), each),
            _wrong(opinions),
            "",
        )
    )


def _wrong(opinions: list[Row]) -> str:
    """The false-alarm rate, over scans and over networks (a network counts if any of its scans does)."""
    texts = []
    for levels in (("backdoor",), ("backdoor", "suspicious")):
        each = np.array([item["verdict"] in levels for item in opinions])
        names = sorted({item["name"] for item in opinions})
        nets = np.array([any(item["verdict"] in levels for item in opinions if item["name"] == name) for name in names])
        texts.append(
            f"Called {' or '.join(levels)}: "
            + ", ".join(
                f"{found.hits} of {found.count} {what} (95 % interval {found.low:.1%} to {found.high:.1%})"
                for what, found in (("scans", share(each)), ("networks", share(nets)))
            )
        )
    return "; ".join(texts) + "."


def main(arguments: list[str] | None = None) -> int:
    """Print and write the tables of a folder of scans."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="SCANS", help="folder that benchmarks.attacks kept its scans in")
    parser.add_argument("--name", default="limits", help="stem of the result files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    options = parser.parse_args(arguments)
    rows = scans(options.folder)
    if not rows:
        print(f"SCANS: folder with NAME-SEED.scan/scan.json expected, found none in {options.folder}", file=sys.stderr)
        return 2
    text = tables(rows)
    write_result(
        options.name,
        command="python -m benchmarks.limits SCANS",
        rows=[*family_rows(rows), *opinion_rows(rows)],
        tables=text,
        folder=options.results,
    )
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
