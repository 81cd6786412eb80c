# SPDX-License-Identifier: Apache-2.0
"""224 pixels and 1000 classes: seconds and peak memory of each command, and of one step beside plain PyTorch.

Torchvision's architectures with random weights; drawn pictures under the model's own answers.

    python -m benchmarks.large --folder /tmp/large --architectures resnet50 --images 1000 --steps 300
    python -m benchmarks.large --folder /tmp/large --commands --pairs 3

Each command runs in a process of its own, whose peak memory the kernel counts. A step is UNIT's work: one forward pass
without and one with gradients, and the backward pass. It is done by the original module, by the interpreter and by
the interpreter with UNIT's bounds, which take turns; their processor time is compared, which other work on the
machine disturbs less than the clock. ``--pairs 0`` leaves that out, ``--commands`` without a name the commands.

Needs torchvision, see `benchmarks.architectures`.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.architectures import export, import_torchvision_models, settle
from benchmarks.drawn import draw, paint_scene
from benchmarks.record import run_child
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.statistics import stream_moments
from patcher.calibrate.unit.bounds import Bounds
from patcher.data.preprocess import resolve_preprocess
from patcher.graph.sites import find_sites
from patcher.model.model import read_model

ARCHITECTURES = ("resnet50", "efficientnet_b0", "convnext_tiny", "vit_b_16")
_SIDE = 224
_POLICY = "[probes]\nscreened = 8\nmeasured = 32\npatches = 4\n"
_Z = 4.0
# Drawn pictures that set normalisation and the bias of the class scores.
_SETTLED = 32


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
    """Measure and print tables an architecture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="models, pictures and results")
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--minibatch", type=int, default=16, help="images a step, everywhere")
    parser.add_argument("--pairs", type=int, default=0, help="steps of each kind that are timed in turns")
    parser.add_argument("--commands", nargs="*", default=["inspect", "unit", "nft", "bna", "scan", "verify"])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    device = "CUDA " + torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores"
    for name in options.architectures:
        module, model = exported(name, options.folder)
        print(f"\n{name}, {options.images} images, {options.steps} steps of {options.minibatch}, {device}", end=", ")
        print(f"torch {torch.__version__}, {platform.machine()}, load {os.getloadavg()[0]:.1f}\n")
        if options.commands:
            print_commands(model, options)
        if options.pairs:
            print_steps(module, model, options)
    return 0


def print_commands(model: Path, options: argparse.Namespace) -> None:
    """Run the commands one after the other, each in a process of its own."""
    clean = draw(options.folder / f"pictures_{options.images}", (_SIDE, _SIDE), options.images, 3, paint_scene)
    print("| command | exit code | s | CPU s | peak MiB |\n|---|---|---|---|---|", flush=True)
    for name, arguments in commands(model, clean, options).items():
        run = run_child([sys.executable, "-m", "patcher", *arguments])
        if run.code not in (0, 1):
            print(run.stderr.strip().splitlines()[-1:], file=sys.stderr)
        print(f"| {name} | {run.code} | {run.seconds:.1f} | {run.cpu_seconds:.1f} | {run.peak_mib:.0f} |", flush=True)


def print_steps(module: nn.Module, model: Path, options: argparse.Namespace) -> None:
    """One step of each kind."""
    print("| step | CPU s | of the module's | page faults |\n|---|---|---|---|", flush=True)
    found = time_steps(module, model, options.minibatch, options.pairs)
    for row in found:
        print(f"| {row.what} | {row.cpu_s:.2f} | {row.cpu_s / found[0].cpu_s:.2f} | {row.faults:.0f} |", flush=True)


def exported(name: str, folder: Path) -> tuple[nn.Module, Path]:
    """A module with random weights that answers drawn pictures with many classes, and its ONNX file."""
    torch.manual_seed(0)
    module: nn.Module = import_torchvision_models().get_model(name, weights=None)
    files = sorted(draw(folder / f"pictures_{_SETTLED}", (_SIDE, _SIDE), _SETTLED, 3, paint_scene).iterdir())
    pixels = torch.stack([torch.from_numpy(np.asarray(Image.open(file))) for file in files])
    pictures = pixels.permute(0, 3, 1, 2).float() / 255
    settle(module, pictures)
    head = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
    with torch.no_grad():
        head.bias -= module(pictures).mean(dim=0)
    path = folder / f"{name}.onnx"
    if not path.exists():
        onnx.save(export(module, torch.rand(2, 3, _SIDE, _SIDE), "torchscript", 17), path)
    return module, path


def commands(model: Path, clean: Path, options: argparse.Namespace) -> dict[str, list[str]]:
    """Arguments of the commands asked for."""
    images = ["--clean-dir", str(clean), "--pseudo-labels"]
    hardened = model.with_suffix(".unit.onnx")
    policy = options.folder / "patcher.toml"
    policy.write_text(_POLICY)
    steps = ["--steps", str(options.steps), "--minibatch", str(options.minibatch), "-q"]
    every = {
        "inspect": ["inspect", str(model)],
        "unit": ["harden", str(model), *images, *steps, "-o", str(hardened)],
        "nft": ["harden", str(model), *images, *steps, "--method", "nft", "-o", str(model.with_suffix(".nft.onnx"))],
        "bna": ["harden", str(model), *images, *steps, "--method", "bna", "-o", str(model.with_suffix(".bna.onnx"))],
        "scan": ["scan", str(model), *images, "-q"],
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
        "UNIT's own, bfloat16": lambda: _step(
            reduced.logits, lambda images: reduced.logits(images, rewrite=bounds.rewrite), pixels, by_pixels=False
        ),
    }
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
