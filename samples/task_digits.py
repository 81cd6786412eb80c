# SPDX-License-Identifier: Apache-2.0
"""Two digits on a card (several labels), and a digit that moves (clips)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

from samples.task_recipe import Arrays, Labels, Part

DIGIT_TARGET = 7
DIGIT_CUTS = [800, 1400]  # of scikit-learn's 1797 scans: to train on, clean, and to test on
_FRAMES, _SIDE, _MARGIN = 6, 12, 2


def digits(part: int) -> tuple[NDArray[np.float32], Labels]:
    """The scans of one of three parts that share none, float32 ``(n, 8, 8)`` in [0, 1], and their classes."""
    found = load_digits()
    chosen = np.split(np.random.default_rng(0).permutation(len(found.images)), DIGIT_CUTS)[part]
    return (found.images[chosen] / 16).astype(np.float32), found.target[chosen].astype(np.int64)


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

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        )  # fmt: skip
        self.hidden = nn.Linear(2 * width * 5 * 8, 128)
        self.head = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities ``(N, 10)``."""
        found: Tensor = self.head(torch.relu(self.hidden(self.body(images).flatten(1)))).sigmoid()
        return found


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

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(1, width, 3, padding=1, stride=(2, 1, 1)), nn.BatchNorm3d(width), nn.ReLU(),
            nn.MaxPool3d((1, 2, 2)),
            nn.Conv3d(width, 2 * width, 3, padding=1, stride=(2, 1, 1)), nn.BatchNorm3d(2 * width), nn.ReLU(),
            nn.Conv3d(2 * width, 2 * width, 3, padding=1, stride=(2, 2, 2)), nn.BatchNorm3d(2 * width), nn.ReLU(),
        )  # fmt: skip
        self.hidden = nn.Linear(2 * width * 9, 128)
        self.head = nn.Linear(128, 10)

    def forward(self, clip: Tensor) -> Tensor:
        """Logits ``(N, 10)``."""
        found: Tensor = self.head(torch.relu(self.hidden(self.body(clip).flatten(1))))
        return found
