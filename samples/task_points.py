# SPDX-License-Identifier: Apache-2.0
"""Points on solids."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from samples.task_recipe import Arrays, Part

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
