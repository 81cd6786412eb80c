# SPDX-License-Identifier: Apache-2.0
"""Forward and backward through the interpreter against the eager PyTorch module it was exported from.

    pip install --no-deps torchvision
    python -m benchmarks.interpreter_speed [--device cpu] [--pairs 30] [--threads 2]

Random weights, frozen on both sides; the gradient is taken with respect to the images. The two take
turns; the figure is the ratio of their medians with a bootstrap interval. With channels-last, both
sides keep images and weights in that order.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import onnx
import torch
from torch import nn

from benchmarks.architectures import Exporter, build, export, import_torchvision_models
from benchmarks.record import PairedTiming, markdown_table, time_pairs, write_result
from patcher.graph.interpreter import Graph

FORMS: tuple[tuple[Exporter, int], ...] = (("torchscript", 17), ("dynamo", 20))
TARGET = 1.15


@dataclass(frozen=True)
class Row:
    """One architecture in one form.

    Attributes:
        architecture: Its name.
        exporter: Exporter and opset.
        channels_last: Whether both sides used that memory order.
        device: Where it ran.
        threads: Threads of each side on a CPU.
        batch: Images per step.
        side: Image side in pixels.
        timing: Medians and their ratio, eager first.
    """

    architecture: str
    exporter: str
    channels_last: bool
    device: str
    threads: int
    batch: int
    side: int
    timing: PairedTiming


def small_vit() -> tuple[nn.Module, torch.Tensor]:
    """A vision transformer of 6 layers and width 192 (ViT-Tiny's), for pictures of 64 pixels."""
    models = import_torchvision_models()
    torch.manual_seed(0)
    module: nn.Module = models.VisionTransformer(
        image_size=64, patch_size=8, num_layers=6, num_heads=3, hidden_dim=192, mlp_dim=768, num_classes=1000
    )
    nn.init.normal_(module.get_parameter("heads.head.weight"), std=0.05)
    return module.eval(), torch.randn(2, 3, 64, 64)


def architecture(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A module in evaluation mode and pictures for it."""
    return small_vit() if name == "vit_small" else build(name)


def step(run: Callable[[torch.Tensor], torch.Tensor], pictures: torch.Tensor) -> Callable[[], None]:
    """One forward and backward pass."""

    def once() -> None:
        leaf = pictures.detach().requires_grad_()
        run(leaf).square().sum().backward()
        if pictures.is_cuda:
            torch.cuda.synchronize()

    return once


def measure(name: str, exporter: Exporter, opset: int, arguments: argparse.Namespace) -> list[Row]:
    """Time one exported form in both memory orders."""
    module, pictures = architecture(name)
    module.requires_grad_(False)
    proto = export(module, pictures, exporter, opset)
    rows = []
    for channels_last in (False, True):
        order = torch.channels_last if channels_last else torch.contiguous_format
        eager = module.to(arguments.device, memory_format=order)  # type: ignore[call-overload]
        feed = pictures[:1].repeat(arguments.batch, 1, 1, 1).to(arguments.device).contiguous(memory_format=order)
        timing = _time(eager, proto, feed, channels_last, arguments)
        rows.append(
            Row(
                architecture=name,
                exporter=f"{exporter} {opset}",
                channels_last=channels_last,
                device=_device_name(arguments.device),
                threads=torch.get_num_threads(),
                batch=arguments.batch,
                side=feed.shape[-1],
                timing=timing,
            )
        )
        print(f"{name} {exporter} {opset} channels_last={channels_last}: {timing}", flush=True)
    return rows


def _time(
    eager: nn.Module, proto: onnx.ModelProto, feed: torch.Tensor, channels_last: bool, arguments: argparse.Namespace
) -> PairedTiming:
    graph = Graph(proto, device=arguments.device, channels_last=channels_last)
    ours = step(lambda leaf: graph.run({"input": leaf})["logits"], feed)
    return time_pairs(step(eager, feed), ours, pairs=arguments.pairs)


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device


def tables(rows: list[Row]) -> str:
    """One line an architecture, form and memory order."""
    header = ["architecture", "exporter", "order", "eager ms", "interpreter ms", "ratio [95 % interval]"]
    lines: list[list[Any]] = [
        [
            row.architecture,
            row.exporter,
            "channels last" if row.channels_last else "default",
            f"{row.timing.base_ms:.1f}",
            f"{row.timing.other_ms:.1f}",
            str(row.timing),
        ]
        for row in rows
    ]
    first = rows[0]
    setting = f"{first.device}, {first.threads} threads, batch {first.batch}, {first.side} pixels"
    note = f"Forward and backward, {setting}, {first.timing.pairs} pairs. Target: {TARGET}.\n"
    return f"{markdown_table(header, lines)}\n{note}"


def main() -> int:
    """Command line; returns 1 where a ratio is clearly beyond the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["resnet18", "mobilenet_v2", "vit_small"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--name", default="interpreter_speed", help="stem of the result files")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [row for name in arguments.only for form in FORMS for row in measure(name, *form, arguments)]
    command = f"python -m benchmarks.interpreter_speed {' '.join(sys.argv[1:])}".strip()
    write_result(arguments.name, command=command, rows=[asdict(row) for row in rows], tables=tables(rows))
    return int(any(row.timing.low > TARGET for row in rows))


if __name__ == "__main__":
    sys.exit(main())
