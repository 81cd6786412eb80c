# SPDX-License-Identifier: Apache-2.0
"""224 pixels and 1000 classes: seconds and peak memory of each command, and of one step beside plain PyTorch.

Torchvision's architectures with random weights; drawn pictures under the model's own answers.

    python -m benchmarks.large --folder build/large --architectures resnet50 --images 1000 --steps 300
    python -m benchmarks.large --folder build/large --commands --pairs 3

Each command runs in a process of its own, whose peak memory the kernel counts; NFT and BNA are handed what the scan
found. A step is UNIT's work: one forward pass without and one with gradients, and the backward pass. It is done by the
original module, by the interpreter and by the interpreter with UNIT's bounds, which take turns; their processor time is
compared, which other work on the machine disturbs less than the clock. ``--pairs 0`` leaves that out, ``--commands``
without a name the commands.

Needs torchvision, see `benchmarks.architectures`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.architectures import export, import_torchvision_models, settle
from benchmarks.drawn import draw, paint_scene
from benchmarks.record import RESULTS, markdown_table, run_child, write_result
from patcher.allocator import keep_freed_memory
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.precision import has_fast_bfloat16
from patcher.calibrate.statistics import stream_moments
from patcher.calibrate.unit.bounds import Bounds
from patcher.data.preprocess import resolve_preprocess
from patcher.graph.sites import find_sites
from patcher.model.model import read_model

ARCHITECTURES = ("resnet50", "efficientnet_b0", "convnext_tiny", "vit_b_16")
_COMMANDS = ("inspect", "evaluate", "unit", "scan", "nft", "bna", "verify")
_FITTED = ("unit", "nft", "bna")
_SIDE = 224
_POLICY = "[probes]\nscreened = 8\nmeasured = 32\npatches = 4\n"
_Z = 4.0
_COMMAND_COLUMNS = ("architecture", "command", "images", "steps", "exit code", "s", "CPU s", "peak MiB", "load")
_STEP_COLUMNS = (
    "architecture",
    "minibatch",
    "step",
    "device",
    "pairs",
    "CPU s",
    "of the module's",
    "page faults",
    "load",
)
Row = dict[str, Any]
_MINIBATCH = 16
# Drawn pictures that set normalisation and the bias of the class scores.
_SETTLED = 16


@dataclass(frozen=True)
class StepTime:
    """One kind of step.

    Attributes:
        what: Who does it.
        cpu_s: Median processor time.
        faults: Median of the page faults.
    """

    what: str
    cpu_s: float
    faults: float


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="models, pictures and results")
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--minibatch", type=int, help="images a step (default: the commands' own; 16 in --pairs)")
    parser.add_argument("--pairs", type=int, default=0, help="steps of each kind that are timed in turns")
    parser.add_argument("--commands", nargs="*", default=list(_COMMANDS))
    parser.add_argument("--name", help="write benchmarks/results/NAME.json and .md, beside what stands there")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()  # as the commands do
    path = RESULTS / f"{options.name}.json"
    kept = json.loads(path.read_text())["rows"] if options.name and path.exists() else []
    rows = {_key(row): row for row in kept}
    for name in options.architectures:
        module, model = exported(name, options.folder)
        for row in chain(run_commands(model, options), step_rows(module, model, options)):
            row = {"architecture": name, **row, "load": round(os.getloadavg()[0], 1)}
            rows[_key(row)] = row
            print(tables([row]), flush=True)
            if options.name:
                command = shlex.join(["python", "-m", "benchmarks.large", *sys.argv[1:]])
                write_result(options.name, command=command, rows=list(rows.values()), tables=tables([*rows.values()]))
    return 0


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("architecture", "minibatch", "images", "steps", "command", "step"))


def tables(rows: Sequence[Row]) -> str:
    """Commands and steps, a table each."""
    found = [
        markdown_table(header, [[row[name] for name in header] for row in rows if kind in row])
        for kind, header in (("command", _COMMAND_COLUMNS), ("step", _STEP_COLUMNS))
        if any(kind in row for row in rows)
    ]
    return "\n".join(found)


def run_commands(model: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Run the commands one after the other, each in a process of its own."""
    if not options.commands:
        return
    clean = draw(options.folder / f"pictures_{options.images}", (_SIDE, _SIDE), options.images, 3, paint_scene)
    for name, arguments in commands(model, clean, options).items():
        run = run_child([sys.executable, "-m", "patcher", *arguments])
        if run.code not in (0, 1):
            print(run.stderr.strip().splitlines()[-1:], file=sys.stderr)
        yield {
            "command": name,
            "minibatch": options.minibatch,
            "images": options.images,
            "steps": options.steps if name in _FITTED else "",
            "exit code": run.code,
            "s": round(run.seconds, 1),
            "CPU s": round(run.cpu_seconds, 1),
            "peak MiB": round(run.peak_mib),
        }


def step_rows(module: nn.Module, model: Path, options: argparse.Namespace) -> Iterator[Row]:
    """One step of each kind."""
    if not options.pairs:
        return
    threads = torch.get_num_threads()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {threads} thread{'s'[: threads - 1]}"
    minibatch = options.minibatch or _MINIBATCH
    found = time_steps(module, model, minibatch, options.pairs)
    for row in found:
        ratio = round(row.cpu_s / found[0].cpu_s, 2)
        yield {
            "step": row.what,
            "minibatch": minibatch,
            "pairs": options.pairs,
            "device": device,
            "CPU s": round(row.cpu_s, 2),
            "of the module's": ratio,
            "page faults": round(row.faults),
        }


def exported(name: str, folder: Path) -> tuple[nn.Module, Path]:
    """A module with random weights that answers drawn pictures with many classes, and its ONNX file."""
    torch.manual_seed(0)
    module: nn.Module = import_torchvision_models().get_model(name, weights=None)
    files = sorted(draw(folder / f"pictures_{_SETTLED}", (_SIDE, _SIDE), _SETTLED, 3, paint_scene).iterdir())
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(file))) for file in files])
    pictures = pixels.permute(0, 3, 1, 2).float() / 255
    settle(module, pictures)
    head = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
    with torch.no_grad():
        head.bias.sub_(module(pictures).mean(dim=0))
    path = folder / f"{name}.onnx"
    if not path.exists():
        onnx.save(export(module, torch.rand(2, 3, _SIDE, _SIDE), "torchscript", 17), path)
    return module, path


def commands(model: Path, clean: Path, options: argparse.Namespace) -> dict[str, list[str]]:
    """Arguments of the commands asked for."""
    images = ["--clean-dir", str(clean), "--pseudo-labels"]
    hardened = model.with_suffix(".unit.onnx")
    harden = ["harden", str(model), *images]
    policy = options.folder / "patcher.toml"
    policy.write_text(_POLICY)
    steps = ["--steps", str(options.steps), "-q"]
    steps += ["--minibatch", str(options.minibatch)] if options.minibatch else []
    scan = model.with_suffix(f".{options.images}.scan")
    # Without what a scan found they would scan first, each for itself.
    found = ["--scan", str(scan / "scan.json")] if (scan / "scan.json").exists() or "scan" in options.commands else []
    every = {
        "inspect": ["inspect", str(model)],
        "evaluate": ["evaluate", str(model), "--data", str(clean), "--pseudo-labels"],
        "unit": [*harden, *steps, "-o", str(hardened)],
        "scan": ["scan", str(model), *images, "-q", "--report-dir", str(scan)],
        **{
            method: [*harden, *steps, *found, "--method", method, "-o", str(model.with_suffix(f".{method}.onnx"))]
            for method in ("nft", "bna")
        },
        "verify": ["verify", str(model), str(hardened), *images, "--policy", str(policy), "-q"],
    }
    return {name: every[name] for name in options.commands}


def time_steps(module: nn.Module, path: Path, minibatch: int, pairs: int) -> list[StepTime]:
    """Steps by the module, by the interpreter, and by the interpreter with bounds, in turns."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pixels = torch.rand(minibatch, 3, _SIDE, _SIDE, device=device).contiguous(memory_format=torch.channels_last)
    module = module.to(device, memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
    model = read_model(path)
    classifier = Classifier(model, resolve_preprocess(model), device=device)
    sites = [site for site in find_sites(model) if site.kind == "activation"]
    labels = torch.zeros(minibatch, dtype=torch.int64, device=device)
    bounds = Bounds(stream_moments(classifier, sites, [(pixels, labels)], granularity="channel"), _Z)
    reduced = classifier.at(torch.bfloat16)
    kinds: dict[str, Callable[[], None]] = {
        "the module, PyTorch": lambda: _step(module, module, pixels, by_pixels=True),
        "the interpreter": lambda: _step(classifier.logits, classifier.logits, pixels, by_pixels=True),
        "UNIT's own": lambda: _step(
            classifier.logits, lambda images: classifier.logits(images, rewrite=bounds.rewrite), pixels, by_pixels=False
        ),
    }
    if has_fast_bfloat16(device):
        kinds["UNIT's own, bfloat16"] = lambda: _step(
            reduced.logits, lambda images: reduced.logits(images, rewrite=bounds.rewrite), pixels, by_pixels=False
        )
    measured: dict[str, list[tuple[float, int]]] = {what: [] for what in kinds}
    for turn in range(-1, pairs):
        for what, step in kinds.items():
            figures = _timed(step)
            if turn >= 0:
                measured[what].append(figures)
    return [
        StepTime(what, statistics.median(part[0] for part in parts), statistics.median(part[1] for part in parts))
        for what, parts in measured.items()
    ]


def _step(
    plain: Callable[[Tensor], Tensor], changed: Callable[[Tensor], Tensor], pixels: Tensor, *, by_pixels: bool
) -> None:
    """Answers without gradients, answers with them, the backward pass; to the pixels, or to the bounds."""
    with torch.no_grad():
        wanted = plain(pixels).log_softmax(dim=1)
    found = changed(pixels.clone().requires_grad_() if by_pixels else pixels).log_softmax(dim=1)
    nn.functional.kl_div(found, wanted, log_target=True, reduction="batchmean").backward()
    if pixels.is_cuda:
        torch.cuda.synchronize()


def _timed(step: Callable[[], None]) -> tuple[float, int]:
    """Processor seconds (on a GPU by the clock) and page faults."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    faults, started = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, clock()
    step()
    return clock() - started, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults


if __name__ == "__main__":
    sys.exit(main())
