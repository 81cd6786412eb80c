# SPDX-License-Identifier: Apache-2.0
"""Where NFT's masks go: to the channels that the trigger drives, or to others?

    python -m benchmarks.nft_layers --triggers FOLDER

For each model, masks fitted on clean images alone (MixUp) and masks fitted with estimated triggers (Eq. 3).
A channel's *response* is how far the attacker's own trigger moves its mean, in clean standard deviations;
the triggered test images of the zoo are read here, for that, and nowhere by calibration. `suppression` is
the mean of 1 - m; `on the tenth` is the share of all suppression that falls on the tenth of the channels
with the largest response (10 % where masks know nothing of the trigger).
Results: `benchmarks/results/nft-layers.json|.md`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.record import markdown_table, write_result
from patcher.calibrate.classifier import Classifier
from patcher.commands.calibrate import calibrate
from patcher.data.clean_set import CleanSet, read_clean_set
from patcher.data.preprocess import resolve_preprocess
from patcher.graph.sites import find_sites
from patcher.graph.weight_channels import MaskLayer, mask_layers
from patcher.model.model import read_model
from patcher.patch import WeightMask

_IMAGES = 400
_PER_CLASS = 50
_LARGEST = 0.1
_SHOWN = 3


def responses(
    classifier: Classifier,
    layers: Sequence[MaskLayer],
    clean: CleanSet,
    triggered: CleanSet,
    indices: NDArray[np.int64],
) -> dict[str, NDArray[np.float64]]:
    """Shift of each channel's mean under the attacker's trigger, in clean standard deviations, by constant."""
    found = {}
    with torch.no_grad():
        runs = [
            classifier.run(classifier.tensor(data.images(rows)), fetch=[layer.tensor for layer in layers])
            for data, rows in ((clean, indices), (triggered, np.arange(len(indices))))
        ]
    for layer in layers:
        before, after = (run[layer.tensor].movedim(layer.channel_axis, 0).flatten(1).double() for run in runs)
        found[layer.initializer] = ((after.mean(1) - before.mean(1)).abs() / before.std(1).clamp_min(1e-6)).numpy()
    return found


def row(
    name: str,
    loss: str,
    layers: Sequence[MaskLayer],
    masks: Mapping[str, NDArray[np.float32]],
    response: Mapping[str, NDArray[np.float64]],
) -> dict[str, Any]:
    """One line of the table."""
    moved = {layer.initializer: 1 - masks[layer.initializer][_one_each(layer)] for layer in layers}
    everything = np.concatenate([moved[layer.initializer] for layer in layers])
    shifts = np.concatenate([response[layer.initializer] for layer in layers])
    largest = shifts >= np.quantile(shifts, 1 - _LARGEST)
    means = {layer.initializer: float(moved[layer.initializer].mean()) for layer in layers}
    order = sorted(range(len(layers)), key=lambda index: -means[layers[index].initializer])[:_SHOWN]
    return {
        "model": name,
        "loss": loss,
        "suppression": float(everything.mean()),
        "on the tenth": float(everything[largest].sum() / max(everything.sum(), 1e-12)),
        "most in layers": ", ".join(f"{index + 1} ({means[layers[index].initializer]:.2f})" for index in order),
        "layers": len(layers),
        "by layer": {str(index + 1): round(means[layer.initializer], 4) for index, layer in enumerate(layers)},
    }


def _one_each(layer: MaskLayer) -> tuple[NDArray[np.int64], ...]:
    """Where in the constant each channel's mask value stands first."""
    _, first = np.unique(layer.index, return_index=True)
    return np.unravel_index(first, layer.index.shape)


def measure(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Both losses on one model."""
    path = options.shared / "zoo" / f"{name}.onnx"
    model = read_model(path)
    preprocess = resolve_preprocess(model)
    classifier = Classifier(model, preprocess, device=torch.device("cpu"))
    layers, _ = mask_layers(model, tuple(site for site in find_sites(model) if site.kind == "channel"))
    layers = tuple({layer.initializer: layer for layer in layers}.values())
    clean = read_clean_set(options.shared / "cifar10" / "test.npz", model, preprocess)
    attacked = options.shared / "zoo" / f"{name}.triggered.npz"
    triggered = read_clean_set(attacked, model, preprocess)
    with np.load(attacked) as file:
        indices = file["indices"][:_IMAGES]
    response = responses(classifier, layers, clean, triggered, indices)
    triggers: dict[str, Any] = {"triggers": str(options.triggers / f"{name}.npz")}
    fits: list[tuple[str, dict[str, Any]]] = [("MixUp", {}), ("Eq. 3", triggers)]
    rows = []
    for loss, given in fits:
        patch = calibrate(
            path,
            clean_dir=options.shared / "cifar10" / "clean",
            method="nft",
            limit_per_class=_PER_CLASS,
            epsilon=0.2,
            seed=options.seed,
            **given,
        ).patch
        masks = {item.initializer: item.mask for item in patch.corrections if isinstance(item, WeightMask)}
        rows.append(row(name, loss, layers, masks, response))
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the results."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.nft_layers", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with zoo/ and cifar10/")
    parser.add_argument("--triggers", type=Path, required=True, help="folder with NAME.npz of 'patcher scan'")
    parser.add_argument("--models", nargs="+", default=["badnets_r18", "blend_r18"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rows = [item for name in options.models for item in measure(name, options)]
    header = ("model", "loss", "suppression", "on the tenth", "most in layers")
    lines = [
        (
            item["model"],
            item["loss"],
            f"{item['suppression']:.3f}",
            f"{item['on the tenth']:.0%}",
            f"{item['most in layers']} of {item['layers']}",
        )
        for item in rows
    ]
    text = markdown_table(header, lines)
    command = shlex.join(["python", "-m", "benchmarks.nft_layers", *arguments])
    write_result("nft-layers", command=command, rows=rows, tables=text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
