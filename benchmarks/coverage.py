# SPDX-License-Identifier: Apache-2.0
"""Run torchvision's classifiers, exported both ways at six opsets, through the interpreter.

    pip install --no-deps torchvision
    python -m benchmarks.coverage [--only resnet18 ...]

For each file: outputs at batch 2 and 5 against ONNX Runtime (without graph optimisation) and the torch
original; input gradients against the original, both in float64. Random weights, no download. A
difference beyond 1e-3 of the largest value counts as wrong, unless ONNX Runtime differs from the
original by as much. With `--only`, rows of other architectures in the result file are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from benchmarks.architectures import ARCHITECTURES, Exporter, build, export
from benchmarks.record import RESULTS, markdown_table, write_result
from patcher.errors import PatcherError
from patcher.graph.interpreter import Graph

COMBINATIONS: tuple[tuple[Exporter, int], ...] = (
    ("dynamo", 18),
    ("dynamo", 20),
    ("dynamo", 23),
    ("torchscript", 11),
    ("torchscript", 13),
    ("torchscript", 17),
)
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Row:
    """One exported file.

    Attributes:
        architecture: Torchvision's name.
        exporter: ``dynamo`` or ``torchscript``.
        opset: Operator set asked for.
        outcome: ``right``, ``wrong``, ``refused``, or ``not exported``.
        output: Largest difference to ONNX Runtime over the largest output.
        original: The same to the torch original.
        runtime: ONNX Runtime's own difference to the original.
        gradient: Largest difference of input gradients over the largest gradient, float64.
        reason: Why it is not right.
    """

    architecture: str
    exporter: str
    opset: int
    outcome: str
    output: float | None = None
    original: float | None = None
    runtime: float | None = None
    gradient: float | None = None
    reason: str = ""


def measure(name: str, module: nn.Module, pictures: torch.Tensor, exporter: Exporter, opset: int) -> Row:
    """Export one architecture and compare the three ways of running it."""
    try:
        proto = export(module, pictures, exporter, opset)
    except Exception as error:  # exporters raise whatever they like; that is their failure, not ours
        return Row(name, exporter, opset, "not exported", reason=_first_line(error))
    try:
        output, original, runtime = _compare_outputs(module, pictures, proto)
        gradient = _compare_gradients(module, pictures, proto)
    except PatcherError as error:
        return Row(name, exporter, opset, "refused", reason=_first_line(error))
    excused = runtime > TOLERANCE
    right = (output <= TOLERANCE or excused) and (original <= TOLERANCE or excused) and gradient <= TOLERANCE
    return Row(name, exporter, opset, "right" if right else "wrong", output, original, runtime, gradient)


def _compare_outputs(module: nn.Module, pictures: torch.Tensor, proto: onnx.ModelProto) -> tuple[float, float, float]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    graph = Graph(proto)
    worst = [0.0, 0.0, 0.0]
    for batch in (2, 5):
        feed = pictures.repeat(3, 1, 1, 1)[:batch] + torch.arange(batch).reshape(-1, 1, 1, 1) / 7
        expected = torch.from_numpy(session.run(["logits"], {"input": feed.numpy()})[0])
        with torch.no_grad():
            truth = _logits(module(feed))
            for _ in range(2):  # recorded, then replayed
                found = graph.run({"input": feed})["logits"]
        figures = (_distance(found, expected), _distance(found, truth), _distance(expected, truth))
        worst = [max(pair) for pair in zip(worst, figures, strict=True)]
    return worst[0], worst[1], worst[2]


def _compare_gradients(module: nn.Module, pictures: torch.Tensor, proto: onnx.ModelProto) -> float:
    """Smallest distance over three batches of pictures.

    The exporter folds weights in float32, and the original runs in float64: a ReLU at 0 within that
    rounding flips now and then and looks like a wrong gradient. A wrong one is wrong for all pictures.
    """
    graph = Graph(proto, dtype=torch.float64)
    module.double()
    distances = []
    for shift in (0.0, 0.3, -0.3):
        feed = (pictures.double() + shift).requires_grad_()
        found, truth = graph.run({"input": feed})["logits"], _logits(module(feed))
        weights = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).reshape(found.shape)
        ours, theirs = (torch.autograd.grad((value * weights).sum(), feed)[0] for value in (found, truth))
        distances.append(_distance(ours, theirs))
        if distances[-1] <= TOLERANCE / 10:
            break
    module.float()
    return min(distances)


def _logits(result: Any) -> torch.Tensor:
    return result if isinstance(result, torch.Tensor) else result[0]


def _distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest expected value; infinite where shapes or finiteness differ."""
    if found.shape != expected.shape or not bool(torch.isfinite(found).all()):
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


def measure_all(name: str) -> Iterator[Row]:
    """All combinations of exporter and opset for one architecture."""
    module, pictures = build(name)
    module.requires_grad_(False)
    for exporter, opset in COMBINATIONS:
        start = time.perf_counter()
        row = measure(name, module, pictures, exporter, opset)
        print(
            f"{name} {exporter} {opset}: {row.outcome} {row.reason} ({time.perf_counter() - start:.0f} s)", flush=True
        )
        yield row


def tables(rows: Sequence[Row]) -> str:
    """The summary and one line an architecture."""
    exported = [row for row in rows if row.outcome != "not exported"]
    right = sum(row.outcome == "right" for row in exported)
    wrong = sum(row.outcome == "wrong" for row in exported)
    lines = []
    for name in dict.fromkeys(row.architecture for row in rows):
        mine = [row for row in rows if row.architecture == name]
        by = {(row.exporter, row.opset): row.outcome for row in mine}
        measured = [row for row in mine if row.output is not None]
        largest = [f"{max((getattr(row, key) for row in measured), default=np.nan):.1e}" for key in _FIGURES]
        lines.append([name, *(by.get(combination, "") for combination in COMBINATIONS), *largest])
    header = ["architecture", *(f"{exporter} {opset}" for exporter, opset in COMBINATIONS), *_FIGURES.values()]
    summary = (
        f"{right} of {len(exported)} exported files right, {wrong} wrong; {len(rows) - len(exported)} not exported."
    )
    notes = "".join(
        f"- {row.architecture}, {row.exporter} {row.opset}: {row.outcome}. {row.reason}\n"
        for row in rows
        if row.outcome != "right"
    )
    return f"{summary}\n\n{markdown_table(header, lines)}\n{notes}"


_FIGURES = {
    "output": "largest difference to ONNX Runtime",
    "runtime": "ONNX Runtime to torch",
    "gradient": "gradient to torch",
}


def _earlier_rows(names: Sequence[str]) -> list[Row]:
    path = RESULTS / "coverage.json"
    if not path.is_file():
        return []
    rows = [Row(**row) for row in json.loads(path.read_text())["rows"]]
    return [row for row in rows if row.architecture not in names]


def main() -> int:
    """Command line; returns 1 where a file ran wrongly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    names = parser.parse_args().only
    warnings.simplefilter("ignore")
    rows = _earlier_rows(names)
    for name in names:
        # Written after each architecture, so that a run that is cut short leaves what it measured.
        rows = sorted([*rows, *measure_all(name)], key=lambda row: ARCHITECTURES.index(row.architecture))
        plain = [asdict(row) for row in rows]
        write_result("coverage", command="python -m benchmarks.coverage", rows=plain, tables=tables(rows))
    return int(any(row.outcome == "wrong" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
