# SPDX-License-Identifier: Apache-2.0
"""The map of the package: its rooms, the arrows between them, circles, and what has grown too large.

    python -m benchmarks.house [--check]

Reads the installed layout, in which calibrate/ and export/ lie in the package, through links in a temporary folder.
Imports for type checkers count. ``make lint`` runs it with ``--check``.
"""

from __future__ import annotations

import argparse
import ast
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import grimp

FUNCTION_LINES = 60
FILE_LINES = 300
FOLDERS = ("patcher", "calibrate", "export", "benchmarks", "samples")

ROOT = Path(__file__).resolve().parents[1]

Arrows = Mapping[str, frozenset[str]]


@contextmanager
def installed_layout(root: Path) -> Iterator[Path]:
    """A folder with the package as it is installed, made of links into a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "patcher"
        package.mkdir()
        parts = [*(root / "patcher").iterdir(), root / "calibrate", root / "export"]
        for part in parts:
            if part.name != "__pycache__":
                (package / part.name).symlink_to(part)
        yield Path(folder)


def module_arrows(package: str) -> dict[str, frozenset[str]]:
    """Modules of an importable package, each with those that it imports."""
    graph = grimp.build_graph(package, exclude_type_checking_imports=False, cache_dir=None)
    return {module: frozenset(graph.find_modules_directly_imported_by(module)) for module in sorted(graph.modules)}


def room(module: str) -> str:
    """The folder or file directly under the package that a module belongs to; the package itself for its own."""
    return module.split(".")[1] if "." in module else module


def room_arrows(arrows: Arrows) -> Counter[tuple[str, str]]:
    """Imports from one room to another, counted."""
    pairs = ((room(module), room(other)) for module, others in arrows.items() for other in others)
    return Counter(pair for pair in pairs if pair[0] != pair[1])


def circles(arrows: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of names that reach each other and themselves, sorted."""
    reach = {name: _reachable(name, arrows) for name in arrows}
    groups = {tuple(sorted(other for other in reach[name] if name in reach.get(other, ()))) for name in arrows}
    return [list(group) for group in sorted(groups) if group]


def too_large(root: Path, folders: Iterable[str] = FOLDERS) -> Iterator[str]:
    """Files and functions above their limits, one line each; docstrings and comments count."""
    for path in sorted(file for folder in folders for file in (root / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        lines = len(text.splitlines())
        name = path.relative_to(root).as_posix()
        if lines > FILE_LINES:
            yield f"{name}: {lines} lines, at most {FILE_LINES}"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES:
                    yield f"{name}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES}"


def main(arguments: list[str] | None = None) -> int:
    """Print the map, or with ``--check`` only what is wrong; 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="print only what is wrong")
    options = parser.parse_args(arguments)
    with installed_layout(ROOT) as folder:
        # First on the path: the checkout's own patcher/ lacks calibrate and export.
        sys.path.insert(0, str(folder))
        arrows = module_arrows("patcher")
        sys.path.remove(str(folder))
    between = room_arrows(arrows)
    if not options.check:
        print(f"rooms: {', '.join(sorted({room(module) for module in arrows}))}")
        for (start, end), count in sorted(between.items()):
            print(f"{start} -> {end}: {count}")
    rooms = {start: {end for other, end in between if other == start} for start, _ in between}
    wrong = [f"circle of modules: {', '.join(group)}" for group in circles(arrows)]
    wrong += [f"circle of rooms: {', '.join(group)}" for group in circles(rooms)]
    wrong += too_large(ROOT)
    print("\n".join(wrong) or "no circles, nothing above the limits")
    return 1 if wrong else 0


def _reachable(start: str, arrows: Mapping[str, Iterable[str]]) -> frozenset[str]:
    seen, waiting = set[str](), [start]
    while waiting:
        fresh = set(arrows.get(waiting.pop(), ())) - seen
        seen |= fresh
        waiting += fresh
    return frozenset(seen)


if __name__ == "__main__":
    raise SystemExit(main())
