# SPDX-License-Identifier: Apache-2.0
"""Print which operators the interpreter runs, and how it does in the standard's node tests.

python -m benchmarks.operators            print the page
python -m benchmarks.operators --write    write it to docs/operators.md
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import onnx

import patcher.graph.operators  # noqa: F401 - registers the kernels
from benchmarks.conformance import Verdict, judge_all
from benchmarks.record import markdown_table
from patcher.graph.functions import NEWEST_OPSET
from patcher.graph.operators.registry import find_kernel, operator_names
from patcher.graph.preparation import OPSETS

PAGE = Path(__file__).parents[1] / "docs" / "operators.md"
_COLUMNS = ("passed", "refused", "wrong", "crashed")


def page(verdicts: Sequence[Verdict]) -> str:
    """The page as Markdown."""
    floats = [verdict for verdict in verdicts if verdict.float_tensor]
    passed = sum(verdict.outcome == "passed" for verdict in floats)
    total = Counter(verdict.outcome for verdict in verdicts)
    names = [name for domain, name in operator_names() if domain == ""]
    return f"""# Operators

Made by `python -m benchmarks.operators --write` with onnx {onnx.__version__}; do not edit.

The interpreter has kernels for {len(names)} operators of the standard, opset {OPSETS[0]} to {NEWEST_OPSET}. An
operator without one runs if the standard defines it by others (a function body), and so do functions that the
model brings along. Anything else is refused with `UnsupportedGraphError`, which names node, operator and opset;
so is an attribute or element type that a kernel does not know.

The standard's node tests: {total["passed"]} of {len(verdicts)} pass, {total["refused"]} are refused,
{total["wrong"]} wrong, {total["crashed"]} crashed. Of the {len(floats)} float-tensor tests (plain dense tensors,
at least one of floats) {passed} pass: {passed / len(floats):.1%}. Tests written for an older
or newer opset run at {OPSETS[0]} or {NEWEST_OPSET} where the standard's checker accepts them there.

## By operator

A test of a function body counts for the function's operator.

{markdown_table(["operator", "how", *_COLUMNS], _lines(verdicts))}"""


def _lines(verdicts: Sequence[Verdict]) -> list[list[object]]:
    singles = {verdict.test: verdict.operators[0] for verdict in verdicts if len(verdict.operators) == 1}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for verdict in verdicts:
        counts[_subject(verdict, singles)][verdict.outcome] += 1
    for domain, name in operator_names():
        counts.setdefault(f"{domain}.{name}" if domain else name, Counter())
    return [
        [name, _how(name, count), *(count[column] or "" for column in _COLUMNS)]
        for name, count in sorted(counts.items(), key=lambda item: item[0].lower())
    ]


def _subject(verdict: Verdict, singles: dict[str, str]) -> str:
    """The operator that a test is about."""
    stem = verdict.test.split("_expanded")[0]
    if stem in singles:
        return singles[stem]
    return verdict.operators[0] if len(verdict.operators) == 1 else f"({stem.removeprefix('test_')})"


def _how(name: str, count: Counter[str]) -> str:
    if find_kernel("", name) is not None:
        return "kernel"
    return "function body" if count["passed"] else "refused"


def main() -> int:
    """Command line; returns 1 where a test is wrong or crashed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name} instead of printing it")
    verdicts = list(judge_all())
    text = page(verdicts)
    if parser.parse_args().write:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(text)
    else:
        print(text)
    failed = [verdict for verdict in verdicts if verdict.outcome in ("wrong", "crashed")]
    for verdict in failed:
        print(f"{verdict.outcome}: {verdict.test}: {verdict.reason}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
