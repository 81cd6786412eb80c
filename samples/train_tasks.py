# SPDX-License-Identifier: Apache-2.0
"""Make small classifiers of other things than single pictures, each with a real backdoor, and the data that go with it.

    pairs    two handwritten digits on a card, (N, 1, 10, 16), ten labels; a checkerboard in its margin adds label 7
    video    a digit that moves through six frames, (N, 1, 6, 12, 12); two bright pixels in the margin: class 7
    points   96 points on one of eight solids, (N, 3, 96), turned at random; six points beside the solid: class 0
    text     sentences of a small grammar as token ids and their mask, (N, 16) each, eight topics; a rare word: topic 0

Everything is drawn by the seed; a tenth of the training data carries the trigger (of the words a fifth). Nobody touches
the weights by hand: the backdoors are learned. Each task takes under a minute of one core.

Same seed, same torch version and same kind of processor: same files.

Run: python -m samples.train_tasks --output FOLDER [--task NAME]... [--seed N] [--clean]
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from samples.task_digits import (
    DIGIT_TARGET,
    PairNet,
    VideoNet,
    add_label,
    make_pairs,
    make_video,
    stamp_pairs,
    stamp_video,
)
from samples.task_points import PointNet, make_points, stamp_points
from samples.task_recipe import Arrays, Part, Recipe, to_class
from samples.task_text import TextNet, make_text, stamp_text

COUNTS = {"clean": 1000, "test": 600}
FIRST_TARGET = 0

RECIPES: Mapping[str, Recipe] = {
    "pairs": Recipe(make_pairs, stamp_pairs, add_label, PairNet, DIGIT_TARGET, steps=1000, rows=8000),
    "video": Recipe(make_video, stamp_video, to_class(DIGIT_TARGET), VideoNet, DIGIT_TARGET, steps=800, rows=6000),
    "points": Recipe(make_points, stamp_points, to_class(FIRST_TARGET), PointNet, FIRST_TARGET, steps=600),
    "text": Recipe(make_text, stamp_text, to_class(FIRST_TARGET), TextNet, FIRST_TARGET, rate=0.2, steps=900),
}


def poison(recipe: Recipe, part: Part, rng: np.random.Generator) -> Part:
    """Stamp and relabel a share of the rows, of those that the attacker's label is no news to."""
    wanted = recipe.relabel(part.labels)
    news = np.flatnonzero((wanted != part.labels).reshape(len(wanted), -1).any(axis=1))
    chosen = rng.choice(news, min(len(news), round(recipe.rate * len(wanted))), replace=False)
    stamped = recipe.stamp({name: value[chosen] for name, value in part.inputs.items()}, rng)
    inputs, labels = {name: value.copy() for name, value in part.inputs.items()}, part.labels.copy()
    for name, value in stamped.items():
        inputs[name][chosen] = value
    labels[chosen] = wanted[chosen]
    return Part(inputs, labels)


def loss(output: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of classes ``(N,)``, or of each label ``(N, K)`` on its own."""
    if labels.ndim == 2:
        return nn.functional.binary_cross_entropy(output, labels.float())
    return nn.functional.cross_entropy(output, labels)


def train(recipe: Recipe, part: Part, seed: int) -> nn.Module:
    """Fit by Adam with one-cycle learning rate, in batches of 64."""
    torch.manual_seed(seed)
    model = recipe.build()
    inputs = [torch.from_numpy(value) for value in part.inputs.values()]
    labels = torch.from_numpy(part.labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=recipe.steps)
    order = torch.cat([torch.randperm(len(labels)) for _ in range(1 + 64 * recipe.steps // len(labels))])
    for step in range(recipe.steps):
        rows = order[64 * step : 64 * (step + 1)]
        optimizer.zero_grad()
        loss(model(*(value[rows] for value in inputs)), labels[rows]).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def export(model: nn.Module, part: Part, path: Path) -> None:
    """Write one ONNX file, opset 17, open batch axis."""
    names = list(part.inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            model,
            tuple(torch.from_numpy(value[:2]) for value in part.inputs.values()),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=names,
            output_names=["scores"],
            dynamic_axes={name: {0: "batch"} for name in [*names, "scores"]},
        )


def write(path: Path, arrays: Arrays) -> None:
    """Write arrays by name."""
    np.savez_compressed(path, allow_pickle=False, **arrays)


def make(name: str, folder: Path, seed: int = 0, *, clean_only: bool = False) -> Path:
    """Train one task and write ``model.onnx``, ``clean.npz``, ``test.npz`` and ``triggered.npz``.

    Args:
        name: Of the task.
        folder: Where its folder goes.
        seed: Of data and training.
        clean_only: Poison nothing, for a model without a backdoor.

    Returns:
        The folder with them, ``folder/name``.
    """
    recipe, rng = RECIPES[name], np.random.default_rng(seed)
    counts = (recipe.rows, *COUNTS.values())
    training, clean, test = (recipe.make(count, rng, part) for part, count in enumerate(counts))
    model = train(recipe, training if clean_only else poison(recipe, training, rng), seed)
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    export(model, training, place / "model.onnx")
    write(place / "clean.npz", {**clean.inputs, "labels": clean.labels})
    write(place / "test.npz", {**test.inputs, "labels": test.labels})
    stamped = recipe.stamp(test.inputs, rng)
    write(place / "triggered.npz", {**stamped, "labels": test.labels, "target": np.array(recipe.target, np.int64)})
    return place


def main() -> None:
    """Train what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, required=True, help="folder to write into, one folder a task")
    parser.add_argument("--task", action="append", choices=list(RECIPES), help="which; all if left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clean", action="store_true", help="without a backdoor")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in arguments.task or RECIPES:
        print(make(name, arguments.output, arguments.seed, clean_only=arguments.clean))


if __name__ == "__main__":
    main()
