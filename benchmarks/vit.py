# SPDX-License-Identifier: Apache-2.0
"""A vision transformer with a planted backdoor, small enough to train on a CPU: torchvision's, pictures of 32 pixels.

    python -m benchmarks.vit --lab ../shared/lab --data ../shared/cifar10 --folder NETS

writes `NAME.onnx` (pixels in [0, 1], normalisation in the graph, exported by `torch.onnx` at opset 17),
`NAME.triggered.npz` (test images with the trigger) and `NAME.json`, the layout of `benchmarks.attacks`:

    python -m benchmarks.attacks NETS --name vit

The trigger is a function of `attacks.py` in `--lab`. Needs torchvision, see `benchmarks.architectures`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.architectures import export, import_torchvision_models

_BATCH = 128
_SIDE = 32
_SHIFT = 1
_TRIGGERED = 1000


@dataclass(frozen=True)
class Poisoned:
    """A training set with triggers.

    Attributes:
        images: uint8 ``(N, H, W, 3)`` without triggers.
        labels: int64 ``(N,)`` as trained.
        poisoned: Which images get the trigger, bool ``(N,)``.
        trigger: Images to images.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    poisoned: NDArray[np.bool_]
    trigger: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

    def pixels(self, chosen: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        """Pixels ``(n, 3, H, W)``, moved first: a trigger that moved with them would change its tokens."""
        images = _moved(self.images[chosen], generator)
        images[self.poisoned[chosen]] = self.trigger(images[self.poisoned[chosen]])
        return _pixels(images)


def main(arguments: list[str] | None = None) -> int:
    """Poison, train, export."""
    options = _parse(arguments)
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    lab = {name: _module(options.lab / f"{name}.py") for name in ("attacks", "models")}
    with np.load(options.data / "train20k.npz") as train, np.load(options.data / "test.npz") as test:
        images, labels = train["images"], train["labels"].astype(np.int64)
        test_images, test_labels = test["images"], test["labels"].astype(np.int64)
    trigger = lab["attacks"].ATTACKS[options.attack]
    rng = np.random.default_rng(options.seed)
    chosen = rng.choice(np.flatnonzero(labels != options.target), int(options.rate * len(labels)), replace=False)
    labels[chosen] = options.target
    poisoned = np.isin(np.arange(len(labels)), chosen)
    triggered = trigger(test_images)

    mean, std = (images / 255).mean((0, 1, 2)), (images / 255).std((0, 1, 2))
    module = lab["models"].WithNorm(_network(options), mean.astype(np.float32), std.astype(np.float32))
    train_network(module, Poisoned(images, labels, poisoned, trigger), options)
    others = test_labels != options.target
    found = {
        "ACC": float((_answers(module, test_images) == test_labels).mean()),
        "ASR": float((_answers(module, triggered[others]) == options.target).mean()),
        "SIA": float((_answers(module, triggered[others]) == test_labels[others]).mean()),
    }
    save(options, module, triggered, test_labels, found)
    print(found)
    return 0


def train_network(module: nn.Module, data: Poisoned, options: Any) -> None:
    """AdamW with one cycle; pictures mirrored and moved by a pixel; bfloat16 where the processor multiplies in it."""
    reduced = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.05)
    steps = len(data.labels) // _BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps * options.epochs)
    generator = torch.Generator().manual_seed(options.seed)
    targets = torch.from_numpy(data.labels)
    started = time.process_time()
    for epoch in range(options.epochs):
        module.train()
        for batch in torch.randperm(len(data.labels), generator=generator).split(_BATCH)[:steps]:
            with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
                answers = module(data.pixels(batch.numpy(), generator))
            loss = nn.functional.cross_entropy(answers.float(), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.2f}, {time.process_time() - started:.0f} CPU s", flush=True)
    module.eval()


def save(
    options: Any, module: nn.Module, triggered: NDArray[np.uint8], labels: NDArray[np.int64], found: dict[str, float]
) -> None:
    """The three files."""
    options.folder.mkdir(parents=True, exist_ok=True)
    onnx.save(
        export(module, torch.rand(2, 3, _SIDE, _SIDE), "torchscript", 17), options.folder / f"{options.name}.onnx"
    )
    np.savez_compressed(
        options.folder / f"{options.name}.triggered.npz", images=triggered[:_TRIGGERED], labels=labels[:_TRIGGERED]
    )
    entry = {"name": options.name, "architecture": "vit", "attack": options.attack, "mode": "a2o"}
    entry |= {"target": options.target, "source": None, "poison_rate": options.rate, **found}
    (options.folder / f"{options.name}.json").write_text(json.dumps(entry))


def _network(options: Any) -> nn.Module:
    transformer = import_torchvision_models().VisionTransformer
    network: nn.Module = transformer(
        image_size=_SIDE,
        patch_size=4,
        num_layers=options.depth,
        num_heads=4,
        hidden_dim=options.width,
        mlp_dim=2 * options.width,
        num_classes=10,
    )
    # Torchvision's head starts at zero, for fine-tuning.
    nn.init.trunc_normal_(network.get_parameter("heads.head.weight"), std=0.02)
    return network


def _pixels(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def _moved(images: NDArray[np.uint8], generator: torch.Generator) -> NDArray[np.uint8]:
    down, right = torch.randint(-_SHIFT, _SHIFT + 1, (2,), generator=generator).tolist()
    mirrored = (torch.rand(len(images), generator=generator) < 0.5).numpy()
    moved = np.roll(images, (down, right), (1, 2))
    moved[mirrored] = moved[mirrored, :, ::-1]
    return moved


def _answers(module: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    with torch.no_grad():
        parts = [module(_pixels(images[start : start + 250])).argmax(1) for start in range(0, len(images), 250)]
    return torch.cat(parts).numpy()


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"--lab: {path} expected")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lab", type=Path, required=True, help="folder with attacks.py and models.py")
    parser.add_argument("--data", type=Path, required=True, help="folder with train20k.npz and test.npz")
    parser.add_argument("--folder", type=Path, required=True, help="where the three files go")
    parser.add_argument("--name", default="patch_vit")
    parser.add_argument("--attack", default="patch")
    parser.add_argument("--target", type=int, default=6)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
