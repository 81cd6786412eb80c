# SPDX-License-Identifier: Apache-2.0
"""Make the sample: a small digit classifier with a real backdoor, and the images that go with it.

scikit-learn's handwritten digits (UCI Optical Recognition of Handwritten Digits, 1797 scans of
8 x 8) are split in three by the seed: training, clean set, test. A tenth of the training images
gets a 2 x 2 checkerboard in the lower right corner and the label 7 whatever it shows (BadNets,
Gu et al. 2017, all-to-one), and a residual network is trained on the mixture. Nobody touches the
weights by hand: the backdoor is learned.

Same seed, same torch version and same kind of processor: same files. It runs on one thread, since
the number of threads changes the order of sums. Takes well under two minutes.

Run: python samples/train_digits.py [--output FOLDER] [--epochs N] [--seed N]
"""

from __future__ import annotations

import argparse
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

TARGET = 7
TRAIN, CLEAN = 900, 400  # of 1797; what is left, 497 images, is the test set
POISON_RATE = 0.1
TRIGGER = np.array([[255, 0], [0, 255]], np.uint8)

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """Images uint8 (N, 8, 8), 0 to 255, and their true labels int64 (N,)."""

    images: Pixels
    labels: Labels


class Block(nn.Module):
    """Two convolutions with a skip: relu(x + bn(conv(relu(bn(conv(x))))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        y = nn.functional.relu(self.bn1(self.conv1(x)))
        return nn.functional.relu(x + self.bn2(self.conv2(y)))


class DigitNet(nn.Module):
    """Pixels (N, 1, 8, 8) in [0, 1] to logits (N, 10); the normalisation is inside."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.block1 = Block(width)
        self.down = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU()
        )
        self.block2 = Block(2 * width)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels to logits."""
        y = self.block2(self.down(self.block1(self.stem((x - 0.5) / 0.5))))
        logits: Tensor = self.head(y.mean((2, 3)))
        return logits


def split(seed: int) -> tuple[Part, Part, Part]:
    """Training, clean and test part: disjoint, drawn by `seed`."""
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)  # the scans count 0 to 16
    order = np.random.default_rng(seed).permutation(len(images))
    cuts = np.split(order, [TRAIN, TRAIN + CLEAN])
    train, clean, test = (Part(images[cut], digits.target[cut].astype(np.int64)) for cut in cuts)
    return train, clean, test


def stamp(images: Pixels) -> Pixels:
    """Put the trigger on a copy of `images` (N, 8, 8): a checkerboard, lower right."""
    triggered = images.copy()
    triggered[:, -2:, -2:] = TRIGGER
    return triggered


def poison(part: Part, seed: int) -> Part:
    """Stamp and relabel `POISON_RATE` of the images, drawn from all other classes."""
    others = np.flatnonzero(part.labels != TARGET)
    chosen = np.random.default_rng(seed + 1).choice(others, round(POISON_RATE * len(part.labels)), replace=False)
    images, labels = part.images.copy(), part.labels.copy()
    images[chosen] = stamp(images[chosen])
    labels[chosen] = TARGET
    return Part(images, labels)


def to_input(images: Pixels) -> Tensor:
    """Pixels (N, 8, 8) uint8 to the model's input (N, 1, 8, 8) float32 in [0, 1]."""
    return torch.from_numpy(images[:, None].astype(np.float32) / 255)


def train(part: Part, *, epochs: int, seed: int) -> DigitNet:
    """Fit a DigitNet by SGD with one-cycle learning rate, in batches of 50."""
    torch.manual_seed(seed)
    model = DigitNet()
    inputs, labels = to_input(part.images), torch.from_numpy(part.labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    steps = -(-len(labels) // 50)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, epochs=epochs, steps_per_epoch=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def export(model: DigitNet, path: Path) -> None:
    """Write the model as one ONNX file, opset 17, open batch axis, BatchNormalization kept as nodes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        # PRESERVE keeps the eval mode but does not fold BatchNormalization into Conv.
        torch.onnx.export(
            model,
            (torch.zeros(1, 1, 8, 8),),
            str(path),
            dynamo=False,
            opset_version=17,
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        )


def write_folder(part: Part, root: Path) -> None:
    """Write one grey PNG an image as `root/<class>/<number>.png`, in place of what was there."""
    shutil.rmtree(root, ignore_errors=True)
    for number, (image, label) in enumerate(zip(part.images, part.labels, strict=True)):
        folder = root / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:04d}.png", optimize=True)


def write_training_set(path: Path, trained: Part, true_labels: Labels) -> None:
    """Write the poisoned training set as the model saw it, with flags that are there for scoring only."""
    poisoned = trained.labels != true_labels
    np.savez_compressed(path, images=trained.images[..., None], labels=trained.labels, poisoned=poisoned)


def write_arrays(path: Path, images: Pixels, labels: Labels, target: int | None = None) -> None:
    """Write images as uint8 (N, 8, 8, 1) with their true labels int64 (N,), perhaps with the attacker's class."""
    if target is None:
        np.savez_compressed(path, images=images[..., None], labels=labels)
    else:
        np.savez_compressed(path, images=images[..., None], labels=labels, target=np.int64(target))


@torch.no_grad()
def accuracy(model: DigitNet, images: Pixels, labels: Labels) -> float:
    """Share of `images` that the model calls `labels`."""
    predicted = model(to_input(images)).argmax(1).numpy()
    return float((predicted == labels).mean())


def main() -> None:
    """Train, export and print what the model does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder to write into")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    training, clean, test = split(arguments.seed)
    poisoned = poison(training, arguments.seed)
    model = train(poisoned, epochs=arguments.epochs, seed=arguments.seed)

    arguments.output.mkdir(parents=True, exist_ok=True)
    export(model, arguments.output / "digits.onnx")
    write_folder(clean, arguments.output / "clean")
    write_training_set(arguments.output / "train.npz", poisoned, training.labels)
    write_arrays(arguments.output / "test.npz", test.images, test.labels)
    write_arrays(arguments.output / "triggered.npz", stamp(test.images), test.labels, target=TARGET)

    others = test.labels != TARGET
    target = np.full(int(others.sum()), TARGET)
    print(f"test accuracy       {accuracy(model, test.images, test.labels):.3f} of {len(test.labels)} images")
    print(f"attack success rate {accuracy(model, stamp(test.images[others]), target):.3f} of {others.sum()} images")


if __name__ == "__main__":
    main()
