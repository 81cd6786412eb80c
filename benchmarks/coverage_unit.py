# SPDX-License-Identifier: Apache-2.0
"""Harden torchvision's classifiers with UNIT from end to end: a few steps, random weights.

    pip install --no-deps torchvision
    python -m benchmarks.coverage_unit [--only resnet18 ...]

What is checked is the machinery and not the defence: sites are found, bounds are fitted and baked into
the file, ONNX Runtime computes what was calibrated, and with neutral bounds the outputs are the
original's (`patcher.harden` refuses to hand out a model otherwise). The clean images are random
pixels with the model's own answers as labels.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

from benchmarks.architectures import ARCHITECTURES, Exporter, build, export
from benchmarks.record import RESULTS, markdown_table, write_result
from patcher.commands.harden import harden
from patcher.errors import PatcherError
from patcher.graph.interpreter import Graph

FORMS: tuple[tuple[Exporter, int], ...] = (("dynamo", 20), ("torchscript", 17))
_IMAGES = 24


@dataclass(frozen=True)
class Row:
    """One hardened file.

    Attributes:
        architecture: Torchvision's name.
        form: Exporter and opset.
        outcome: ``hardened``, or the error's type.
        sites: Bounds in the patch.
        seconds: Wall clock of `patcher.harden`.
        reason: The error's message.
    """

    architecture: str
    form: str
    outcome: str
    sites: int = 0
    seconds: float = 0.0
    reason: str = ""


def measure(name: str, exporter: Exporter, opset: int) -> Row:
    """Export and harden one architecture."""
    module, pictures = build(name)
    form = f"{exporter} {opset}"
    try:
        proto = export(module.requires_grad_(False), pictures, exporter, opset)
    except Exception as error:  # exporters raise whatever they like; that is their failure, not ours
        return Row(name, form, "not exported", reason=str(error).splitlines()[0][:200])
    start = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            clean = _clean_set(proto, pictures.shape[-1], Path(folder) / "clean.npz")
            result = harden(
                proto, clean_dir=clean, method="unit", steps=3, check_every=3, minibatch=4, batch_size=8,
                epsilon=0.9, accuracy_floor=0.0,
            )  # fmt: skip
    except PatcherError as error:
        return Row(name, form, type(error).__name__, reason=str(error)[:300])
    return Row(name, form, "hardened", len(result.patch.corrections), time.perf_counter() - start)


def _clean_set(proto: onnx.ModelProto, side: int, path: Path) -> Path:
    """Random pixels of varied contrast, labelled by the model itself, as ``.npz``."""
    random = np.random.default_rng(0)
    contrast = random.random((_IMAGES, 1, 1, 3))
    images = (random.random((_IMAGES, side, side, 3)) * contrast * 255).astype(np.uint8)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        labels = Graph(proto).run({"input": pixels})["logits"].argmax(1).numpy()
    if len(set(labels)) == 1:
        labels[:2] = (labels[:2] + 1) % 1000  # random weights may answer the same for all; a clean set has two classes
    np.savez(path, images=images, labels=labels)
    return path


def tables(rows: Sequence[Row]) -> str:
    """The summary and one line a file."""
    hardened = sum(row.outcome == "hardened" for row in rows)
    lines = [[row.architecture, row.form, row.outcome, row.sites, f"{row.seconds:.0f}", row.reason] for row in rows]
    header = ["architecture", "form", "outcome", "bounds", "seconds", "reason"]
    return f"{hardened} of {len(rows)} files hardened.\n\n{markdown_table(header, lines)}"


def main() -> int:
    """Command line; returns 1 where a file could not be hardened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    names = parser.parse_args().only
    warnings.simplefilter("ignore")
    path = RESULTS / "coverage_unit.json"
    earlier = json.loads(path.read_text())["rows"] if path.is_file() else []
    rows = [Row(**row) for row in earlier if row["architecture"] not in names]
    for name in names:
        for form in FORMS:
            row = measure(name, *form)
            print(f"{row.architecture} {row.form}: {row.outcome}, {row.sites} bounds, {row.seconds:.0f} s {row.reason}")
            sys.stdout.flush()
            rows.append(row)
        rows.sort(key=lambda row: ARCHITECTURES.index(row.architecture))
        plain = [asdict(row) for row in rows]
        write_result("coverage_unit", command="python -m benchmarks.coverage_unit", rows=plain, tables=tables(rows))
    return int(any(row.outcome != "hardened" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
