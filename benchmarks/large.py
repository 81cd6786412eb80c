# SPDX-License-Identifier: Apache-2.0
"""224 pixels and 1000 classes: seconds and peak memory of each command, beside plain PyTorch.

Torchvision's architectures with random weights; drawn pictures under the model's own answers. Each command runs in a
process of its own, whose peak memory the kernel counts. The last row of a table is the same number of UNIT's steps
(one forward pass without and one with gradients, and the backward pass) over the original module.

    python -m benchmarks.large --folder /tmp/large --architectures resnet50 --images 1000 --steps 300

Needs torchvision, see `benchmarks.architectures`.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import nn

from benchmarks.architectures import export, import_torchvision_models
from benchmarks.wild import draw

ARCHITECTURES = ("resnet50", "efficientnet_b0", "convnext_tiny", "vit_b_16")
_SIDE = 224
_POLICY = "[probes]\nscreened = 8\nmeasured = 32\npatches = 4\n"
_KIB_A_MIB = 1024


@dataclass(frozen=True)
class Row:
    """One command.

    Attributes:
        what: Its name.
        code: Exit code; ``None`` for the plain loop.
        seconds: From start to end.
        peak_mib: Of the process.
    """

    what: str
    code: int | None
    seconds: float
    peak_mib: float | None


def main() -> int:
    """Measure and print a table an architecture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="models, pictures and results")
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--minibatch", type=int, default=16, help="of UNIT and of the plain loop")
    parser.add_argument("--commands", nargs="+", default=["inspect", "unit", "nft", "bna", "scan", "verify"])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    clean = draw(options.folder / f"pictures_{options.images}", (_SIDE, _SIDE), options.images, 3)
    device = "CUDA " + torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores"
    for name in options.architectures:
        module, model = exported(name, options.folder)
        print(f"\n{name}, {options.images} images, {options.steps} steps of {options.minibatch}, {device}", end=", ")
        print(f"torch {torch.__version__}, {platform.machine()}, load {os.getloadavg()[0]:.1f}\n")
        print("| command | exit code | s | peak MiB |\n|---|---|---|---|", flush=True)
        for row in (*commands(model, clean, options), plain_loop(module, options.steps, options.minibatch)):
            peak = "" if row.peak_mib is None else f"{row.peak_mib:.0f}"
            code = "" if row.code is None else str(row.code)
            print(f"| {row.what} | {code} | {row.seconds:.1f} | {peak} |", flush=True)
    return 0


def exported(name: str, folder: Path) -> tuple[nn.Module, Path]:
    """A module with random weights, and its ONNX file."""
    torch.manual_seed(0)
    module: nn.Module = import_torchvision_models().get_model(name, weights=None).eval()
    path = folder / f"{name}.onnx"
    if not path.exists():
        onnx.save(export(module, torch.rand(2, 3, _SIDE, _SIDE), "torchscript", 17), path)
    return module, path


def commands(model: Path, clean: Path, options: argparse.Namespace) -> list[Row]:
    """Run the commands one after the other."""
    images = ["--clean-dir", str(clean), "--pseudo-labels"]
    hardened = model.with_suffix(".unit.onnx")
    policy = options.folder / "patcher.toml"
    policy.write_text(_POLICY)
    steps = ["--steps", str(options.steps), "--minibatch", str(options.minibatch), "-q"]
    all_commands = {
        "inspect": ["inspect", str(model)],
        "unit": ["harden", str(model), *images, *steps, "-o", str(hardened)],
        "nft": ["harden", str(model), *images, *steps, "--method", "nft", "-o", str(model.with_suffix(".nft.onnx"))],
        "bna": ["harden", str(model), *images, *steps, "--method", "bna", "-o", str(model.with_suffix(".bna.onnx"))],
        "scan": ["scan", str(model), *images, "-q"],
        "verify": ["verify", str(model), str(hardened), *images, "--policy", str(policy), "-q"],
    }
    return [_measured(name, all_commands[name]) for name in options.commands]


def plain_loop(module: nn.Module, steps: int, minibatch: int) -> Row:
    """UNIT's work over the module itself: answers without gradients, answers with them, the backward pass."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module, pictures = module.to(device), torch.rand(minibatch, 3, _SIDE, _SIDE, device=device)
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    started = time.perf_counter()
    for _ in range(steps):
        with torch.no_grad():
            wanted = module(pictures).log_softmax(dim=1)
        found = module(pictures.clone().requires_grad_()).log_softmax(dim=1)
        nn.functional.kl_div(found, wanted, log_target=True, reduction="batchmean").backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return Row("the module's own steps, PyTorch", None, time.perf_counter() - started, None)


def _measured(name: str, arguments: list[str]) -> Row:
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "patcher", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    errors = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    process.returncode = code
    if code not in (0, 1):
        print(errors.decode(errors="replace").strip().splitlines()[-1:], file=sys.stderr)
    return Row(name, code, time.perf_counter() - started, usage.ru_maxrss / _KIB_A_MIB)


if __name__ == "__main__":
    sys.exit(main())
