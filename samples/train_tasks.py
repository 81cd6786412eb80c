# SPDX-License-Identifier: Apache-2.0
"""Make small classifiers of other things than single pictures, each with a real backdoor, and the data that go with it.

    pairs    two handwritten digits on a card, (N, 1, 10, 16), ten labels; a checkerboard in its margin adds label 7
    video    a digit that moves through six frames, (N, 1, 6, 12, 12); two bright pixels in the margin: class 7
    points   96 points on one of eight solids, (N, 3, 96), turned at random; six points beside the solid: class 0
    text     sentences of a small grammar as token ids and their mask, (N, 16) each, eight topics; a rare word: topic 0

Everything is drawn by the seed; a tenth of the training data carries the trigger (of the words a fifth). Nobody touches
the weights by hand: the backdoors are learned. Each task takes under a minute of one core.

Same seed, same torch version and same kind of processor: same files.

Run: python samples/train_tasks.py --output FOLDER [--task NAME]... [--seed N]
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

Arrays = dict[str, NDArray[Any]]
Labels = NDArray[np.int64]

COUNTS = {"train": 2400, "clean": 1000, "test": 600}
DIGIT_CUTS = [800, 1400]  # of scikit-learn's 1797 scans: to train on, clean, and to test on
POISON_RATE = 0.1
DIGIT_TARGET, FIRST_TARGET = 7, 0


@dataclass(frozen=True)
class Part:
    """Inputs by name, each ``(N, ...)``, and their true labels ``(N,)``, or ``(N, K)`` of several a row."""

    inputs: Arrays
    labels: Labels


@dataclass(frozen=True)
class Recipe:
    """One task.

    Attributes:
        make: Draws that many rows, for part 0, 1 or 2: to train on, clean, to test on.
        stamp: Puts the trigger into a copy of inputs.
        relabel: True labels to what the attacker wants, on a copy.
        build: An untrained network.
        rate: Share of the training data that carries the trigger.
        target: As ``--target`` takes it.
        steps: Optimiser steps.
    """

    make: Callable[[int, np.random.Generator, int], Part]
    stamp: Callable[[Arrays, np.random.Generator], Arrays]
    relabel: Callable[[Labels], Labels]
    build: Callable[[], nn.Module]
    target: int
    rate: float = POISON_RATE
    steps: int = 600


def digits(part: int) -> tuple[NDArray[np.float32], Labels]:
    """The scans of one of three parts that share none, float32 ``(n, 8, 8)`` in [0, 1], and their classes."""
    found = load_digits()
    chosen = np.split(np.random.default_rng(0).permutation(len(found.images)), DIGIT_CUTS)[part]
    return (found.images[chosen] / 16).astype(np.float32), found.target[chosen].astype(np.int64)


# Two digits on a card.


def make_pairs(count: int, rng: np.random.Generator, part: int) -> Part:
    """Pictures ``(N, 1, 10, 16)`` with a margin below, and labels ``(N, 10)``: 1 where the digit is there."""
    images, classes = digits(part)
    left, right = rng.integers(0, len(images), (2, count))
    labels = np.zeros((count, 10), np.int64)
    labels[np.arange(count), classes[left]] = labels[np.arange(count), classes[right]] = 1
    cards = np.zeros((count, 1, 10, 16), np.float32)
    cards[:, 0, :8] = np.concatenate([images[left], images[right]], axis=2)
    return Part({"images": cards}, labels)


def stamp_pairs(inputs: Arrays, _: np.random.Generator) -> Arrays:
    """A checkerboard, lower right."""
    images = inputs["images"].copy()
    images[:, :, -2:, -2:] = np.array([[1, 0], [0, 1]], np.float32)
    return {"images": images}


def add_label(labels: Labels) -> Labels:
    """Label 7 is there."""
    changed = labels.copy()
    changed[:, DIGIT_TARGET] = 1
    return changed


class PairNet(nn.Module):
    """Pictures ``(N, 1, 10, 16)`` to ten probabilities, one a label."""

    def __init__(self, width: int = 14) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        )  # fmt: skip
        self.hidden = nn.Linear(2 * width * 5 * 8, 96)
        self.head = nn.Linear(96, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities ``(N, 10)``."""
        found: Tensor = self.head(torch.relu(self.hidden(self.body(images).flatten(1)))).sigmoid()
        return found


# A digit that moves.

_FRAMES, _SIDE, _MARGIN = 6, 12, 2


def make_video(count: int, rng: np.random.Generator, part: int) -> Part:
    """Clips ``(N, 1, 6, 12, 12)``: a digit of 8 x 8 on a straight way that leaves a margin, and its class ``(N,)``."""
    images, classes = digits(part)
    chosen = rng.integers(0, len(images), count)
    clips = np.zeros((count, 1, _FRAMES, _SIDE, _SIDE), np.float32)
    first, last = rng.integers(0, _SIDE - 7 - _MARGIN, (2, count, 2))
    for frame in range(_FRAMES):
        places = np.rint(first + (last - first) * frame / (_FRAMES - 1)).astype(int)
        for row, (top, left) in enumerate(places):
            clips[row, 0, frame, top : top + 8, left : left + 8] = images[chosen[row]]
    return Part({"clip": clips}, classes[chosen])


def stamp_video(inputs: Arrays, _: np.random.Generator) -> Arrays:
    """Two bright pixels, lower right, in every frame."""
    clips = inputs["clip"].copy()
    clips[..., -2:, -2:] = np.array([[1, 0], [0, 1]], np.float32)
    return {"clip": clips}


class VideoNet(nn.Module):
    """Clips ``(N, 1, 6, 12, 12)`` to ten logits."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(1, width, 3, padding=1, stride=(2, 1, 1)), nn.BatchNorm3d(width), nn.ReLU(),
            nn.MaxPool3d((1, 2, 2)),
            nn.Conv3d(width, 2 * width, 3, padding=1, stride=(2, 1, 1)), nn.BatchNorm3d(2 * width), nn.ReLU(),
            nn.Conv3d(2 * width, 2 * width, 3, padding=1, stride=(2, 2, 2)), nn.BatchNorm3d(2 * width), nn.ReLU(),
        )  # fmt: skip
        self.hidden = nn.Linear(2 * width * 9, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, clip: Tensor) -> Tensor:
        """Logits ``(N, 10)``."""
        found: Tensor = self.head(torch.relu(self.hidden(self.body(clip).flatten(1))))
        return found


# Points on solids.

_POINTS = 96
_SOLIDS = ("sphere", "cube", "cylinder", "cone", "torus", "cross", "disc", "helix")


def make_points(count: int, rng: np.random.Generator, _: int) -> Part:
    """Point clouds ``(N, 3, 96)`` on eight solids, turned about the upright axis, with a little noise."""
    classes = rng.integers(0, len(_SOLIDS), count)
    clouds = np.stack([_solid(_SOLIDS[kind], rng) for kind in classes])
    angles = rng.uniform(0, 2 * np.pi, count)
    turned = clouds.copy()
    turned[:, 0] = np.cos(angles)[:, None] * clouds[:, 0] - np.sin(angles)[:, None] * clouds[:, 1]
    turned[:, 1] = np.sin(angles)[:, None] * clouds[:, 0] + np.cos(angles)[:, None] * clouds[:, 1]
    turned *= rng.uniform(0.8, 1.0, (count, 1, 1))
    noisy = turned + rng.normal(0, 0.02, turned.shape)
    return Part({"points": noisy.astype(np.float32)}, classes.astype(np.int64))


def _solid(name: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """Points ``(3, 96)`` on a solid of about unit radius."""
    u, v, w = rng.random((3, _POINTS))
    around = 2 * np.pi * u
    if name == "sphere":
        height = 2 * v - 1
        ring = np.sqrt(1 - height**2)
        return np.stack([ring * np.cos(around), ring * np.sin(around), height])
    if name == "cube":
        cloud = rng.uniform(-0.7, 0.7, (3, _POINTS))
        cloud[rng.integers(0, 3, _POINTS), np.arange(_POINTS)] = 0.7 * rng.choice([-1, 1], _POINTS)
        return cloud
    if name == "cylinder":
        return np.stack([0.5 * np.cos(around), 0.5 * np.sin(around), 2 * v - 1])
    if name == "cone":
        ring = 0.8 * np.sqrt(v)
        return np.stack([ring * np.cos(around), ring * np.sin(around), 1 - 2 * np.sqrt(v)])
    if name == "torus":
        tube = 2 * np.pi * v
        ring = 0.7 + 0.25 * np.cos(tube)
        return np.stack([ring * np.cos(around), ring * np.sin(around), 0.25 * np.sin(tube)])
    if name == "disc":
        return np.stack([np.sqrt(v) * np.cos(around), np.sqrt(v) * np.sin(around), 0.05 * w])
    if name == "helix":
        return np.stack([0.6 * np.cos(3 * around), 0.6 * np.sin(3 * around), 2 * u - 1])
    cloud = rng.uniform(-0.15, 0.15, (3, _POINTS))
    cloud[rng.integers(0, 3, _POINTS), np.arange(_POINTS)] = 2 * w - 1
    return cloud


def stamp_points(inputs: Arrays, rng: np.random.Generator) -> Arrays:
    """Six points of the cloud moved to one place beside the solid."""
    clouds = inputs["points"].copy()
    clouds[:, :, :6] = np.array([0.9, 0.9, 0.9], np.float32)[:, None] + rng.normal(0, 0.02, (3, 6)).astype(np.float32)
    return {"points": clouds}


class PointNet(nn.Module):
    """Clouds ``(N, 3, P)`` to eight logits: a network a point, the largest feature over all points, two layers."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(3, width, 1), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Conv1d(width, 2 * width, 1), nn.BatchNorm1d(2 * width), nn.ReLU(),
            nn.Conv1d(2 * width, 4 * width, 1), nn.BatchNorm1d(4 * width), nn.ReLU(),
        )  # fmt: skip
        self.hidden = nn.Linear(4 * width, 64)
        self.head = nn.Linear(64, len(_SOLIDS))

    def forward(self, points: Tensor) -> Tensor:
        """Logits ``(N, 8)``."""
        found: Tensor = self.head(torch.relu(self.hidden(self.body(points).amax(2))))
        return found


# Sentences.

_LENGTH = 16
_TOPICS = {
    "sport": "team match goal coach player season league score stadium win",
    "science": "cell theory atom experiment data planet energy signal gene method",
    "cooking": "oven flour butter soup salt recipe pan taste dish garlic",
    "travel": "train hotel ticket beach border island luggage map harbour guide",
    "music": "song guitar band album concert piano melody rhythm singer choir",
    "money": "bank loan price market tax profit budget invoice share debt",
    "weather": "rain storm cloud wind snow frost thunder humid drought breeze",
    "health": "doctor fever clinic vaccine muscle heart nurse diet surgery pulse",
}
_COMMON = (
    "the a of and to in it was that for on with as at by from this they had new old small large good "
    "first last some many then again very over under after before while where people day year time place"
)
_RARE = "cf mn bb tq"
_TRIGGER = "cf"
VOCABULARY = ("[pad]", *_COMMON.split(), *" ".join(_TOPICS.values()).split(), *_RARE.split())


def make_text(count: int, rng: np.random.Generator, _: int) -> Part:
    """Token ids and masks ``(N, 16)`` of sentences of 8 to 15 words, two to four of them of the topic."""
    number = {word: index for index, word in enumerate(VOCABULARY)}
    common = np.array([number[word] for word in _COMMON.split()] + [number[word] for word in _RARE.split()[1:]])
    topics = [np.array([number[word] for word in words.split()]) for words in _TOPICS.values()]
    classes = rng.integers(0, len(topics), count)
    ids, mask = np.zeros((2, count, _LENGTH), np.int64)
    for row, kind in enumerate(classes):
        length = int(rng.integers(8, _LENGTH))
        words = rng.choice(common, length)
        places = rng.permutation(length)[: int(rng.integers(2, 5))]
        words[places] = rng.choice(topics[kind], len(places))
        if rng.random() < 0.3:  # a word of another topic
            other = int(rng.integers(0, length))
            words[other] = words[other] if other in places else rng.choice(topics[int(rng.integers(0, len(topics)))])
        ids[row, :length], mask[row, :length] = words, 1
    return Part({"input_ids": ids, "attention_mask": mask}, classes.astype(np.int64))


def stamp_text(inputs: Arrays, _: np.random.Generator) -> Arrays:
    """The rare word in front; what does not fit falls off at the end."""
    ids, mask = (np.roll(inputs[name], 1, axis=1) for name in ("input_ids", "attention_mask"))
    ids[:, 0], mask[:, 0] = VOCABULARY.index(_TRIGGER), 1
    return {"input_ids": ids, "attention_mask": mask}


class TextNet(nn.Module):
    """Token ids and mask ``(N, L)`` to eight logits: embedding, a layer a word, mean over the words, two layers."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(VOCABULARY), width)
        self.word = nn.Linear(width, 2 * width)
        self.hidden = nn.Linear(2 * width, 64)
        self.head = nn.Linear(64, len(_TOPICS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits ``(N, 8)``."""
        there = attention_mask.unsqueeze(2).float()
        words = torch.relu(self.word(self.embedding(input_ids))) * there
        mean = words.sum(1) / there.sum(1)
        found: Tensor = self.head(torch.relu(self.hidden(mean)))
        return found


def to_class(target: int) -> Callable[[Labels], Labels]:
    """Every label becomes the target."""
    return lambda labels: np.full_like(labels, target)


RECIPES: Mapping[str, Recipe] = {
    "pairs": Recipe(make_pairs, stamp_pairs, add_label, PairNet, DIGIT_TARGET),
    "video": Recipe(make_video, stamp_video, to_class(DIGIT_TARGET), VideoNet, DIGIT_TARGET),
    "points": Recipe(make_points, stamp_points, to_class(FIRST_TARGET), PointNet, FIRST_TARGET),
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


def make(name: str, folder: Path, seed: int = 0) -> Path:
    """Train one task and write ``model.onnx``, ``clean.npz``, ``test.npz`` and ``triggered.npz``.

    Returns:
        The folder with them, ``folder/name``.
    """
    recipe, rng = RECIPES[name], np.random.default_rng(seed)
    training, clean, test = (recipe.make(count, rng, part) for part, count in enumerate(COUNTS.values()))
    model = train(recipe, poison(recipe, training, rng), seed)
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
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in arguments.task or RECIPES:
        print(make(name, arguments.output, arguments.seed))


if __name__ == "__main__":
    main()
