# SPDX-License-Identifier: Apache-2.0
"""Where clean images come from: an ImageFolder, a flat folder, an ``.npz``, a calibration reader.

Every reader returns the same `Pictures`. Nothing is executed from a data file: ``allow_pickle`` is
never on.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patcher.data.npz import load_arrays
from patcher.data.picture import refuse_special_files
from patcher.data.preprocess import Preprocess
from patcher.errors import InputError

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"})
_IN_MEMORY = 2**30
_WORKERS = min(8, os.cpu_count() or 1)


Pixels = NDArray[np.uint8] | NDArray[np.float32]
"""``(N, C, H, W)``: uint8, or float32 in [0, 1]."""


def as_float(pixels: Pixels) -> NDArray[np.float32]:
    """Pixels as float32 in [0, 1]."""
    return np.asarray(pixels / np.float32(255) if pixels.dtype == np.uint8 else pixels, np.float32)


@dataclass(frozen=True)
class Pictures:
    """What a source held.

    Attributes:
        pixels: ``(N, C, H, W)``, uint8, or float32 in [0, 1].
        labels: int64 ``(N,)``, or ``(N, K)`` of several a row; ``None`` where the source has no labels.
        class_names: In class order, or ``None``.
        sha256: Hash of names, labels and contents.
        files: Path of each picture below the folder; empty for arrays.
        class_order: Where the order of the classes comes from, in words; empty for arrays.
    """

    pixels: Pixels
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...] | None
    sha256: str
    files: tuple[str, ...] = ()
    class_order: str = ""


def read_folder(
    folder: Path, num_classes: int, preprocess: Preprocess, class_names: tuple[str, ...] | None = None
) -> Pictures:
    """Read ``folder/class/xxx.png``, or ``folder/xxx.png`` without labels.

    Raises:
        InputError: No pictures, pictures of different sizes, or folders that do not fit the classes.
    """
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    refuse_special_files(entries)
    folders = [entry for entry in entries if entry.is_dir()]
    if folders:
        names, label_of, order = _label_folders(folder, [entry.name for entry in folders], num_classes, class_names)
        files = [(path, label_of[entry.name]) for entry in folders for path in _pictures_in(entry)]
    else:
        names, order, files = None, "", [(path, -1) for path in _pictures_in(folder)]
    if not files:
        raise InputError(f"{folder}: pictures expected ({', '.join(sorted(PICTURE_SUFFIXES))}), found none")
    pixels, contents = decode_pictures([path for path, _ in files], preprocess)
    digest = hashlib.sha256()
    for (path, label), content in zip(files, contents, strict=True):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{label}\0".encode() + content)
    labels = np.array([label for _, label in files], np.int64) if folders else None
    paths = tuple(path.relative_to(folder).as_posix() for path, _ in files)
    return Pictures(pixels, labels, names, digest.hexdigest(), paths, order)


def decode_pictures(paths: list[Path], preprocess: Preprocess) -> tuple[NDArray[np.uint8], list[bytes]]:
    """Decode picture files, see `decode_all`.

    Returns:
        uint8 ``(N, C, H, W)``, and the sha256 of each file.
    """
    contents = [b""] * len(paths)

    def decode(index: int) -> NDArray[np.uint8]:
        picture = preprocess.load_picture(paths[index])
        contents[index] = hashlib.sha256(paths[index].read_bytes()).digest()
        return picture

    return decode_all([str(path) for path in paths], decode), contents


def decode_all(names: Sequence[str], decode: Callable[[int], NDArray[np.uint8]], within: str = "") -> NDArray[np.uint8]:
    """Decode pictures into one array of bytes, by several workers; no second copy of the set is ever there.

    Args:
        names: Of the pictures, for messages; at least one.
        decode: Gives the picture of an index, uint8 ``(C, H, W)``.
        within: What messages begin with.

    Returns:
        uint8 ``(N, C, H, W)``.

    Raises:
        InputError: A picture cannot be decoded, or has another size than the first.
    """
    first = decode(0)
    pixels = _room((len(names), *first.shape))

    def load(index: int) -> None:
        picture = decode(index)
        if picture.shape != first.shape:
            sizes = ["x".join(map(str, item.shape[1:])) for item in (first, picture)]
            raise InputError(
                f"{within}{names[index]}: {sizes[0]} pixels expected as in {names[0]}, found {sizes[1]}; resize with "
                "--size"
            )
        pixels[index] = picture

    # Pillow decodes and resizes without the interpreter's lock.
    with ThreadPoolExecutor(_WORKERS) as workers:
        list(workers.map(load, range(len(names))))
    return pixels


def _room(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An empty array: in memory, or beyond a GiB in a temporary file whose pages the system may take back.

    Raises:
        InputError: The temporary folder has no room for it.
    """
    size = math.prod(shape)
    if size <= _IN_MEMORY:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile(prefix="patcher-") as file:
        try:
            # A hole that cannot be filled later would end the process by a signal.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.uint8, "r+", shape=shape)
        except OSError as error:
            where = tempfile.gettempdir()
            raise InputError(
                f"{size / 2**30:.1f} GiB expected in {where} for the decoded pictures ({error.strerror}); give fewer "
                "pictures, or another folder in TMPDIR"
            ) from error


def read_npz(path: Path, preprocess: Preprocess) -> Pictures:
    """Read an ``.npz`` with ``images`` (N, H, W, C), (N, C, H, W) or (N, H, W), and ``labels`` (N,).

    Images are uint8, or floating in [0, 1].

    Raises:
        InputError: The file is missing, damaged, pickled, or of another shape.
    """
    arrays = load_arrays(path, ("images", "labels"))
    if "images" not in arrays:
        raise InputError(f"{path}: an array named 'images' expected, found none")
    pixels = as_pixels(arrays["images"], preprocess, path)
    labels = arrays.get("labels")
    found = None if labels is None else read_labels(labels, len(pixels), path)
    return Pictures(pixels, found, None, hashlib.sha256(path.read_bytes()).hexdigest())


def read_labels(labels: NDArray[Any], count: int, path: Path) -> NDArray[np.int64]:
    """Labels int64 ``(N,)``, or ``(N, K)`` of several a row.

    Raises:
        InputError: They are no whole numbers, or not one a row.
    """
    several = labels.ndim == 2 and len(labels) == count
    if (labels.shape != (count,) and not several) or labels.dtype.kind not in ("iub" if several else "iu"):
        found = f"{labels.dtype} {labels.shape}"
        raise InputError(f"{path}: integer labels of shape ({count},) expected, found {found}")
    return labels.astype(np.int64)


def read_reader(module: str, function: str, input_name: str, preprocess: Preprocess) -> Pictures:
    """Exhaust an ONNX Runtime ``CalibrationDataReader``; its feeds are already preprocessed, so that is undone.

    Raises:
        InputError: The function cannot be imported, or what it returns is no such reader.
    """
    feeds = [np.asarray(feed[input_name]) for feed in read_feeds(module, function, (input_name,))]
    if any(feed.ndim != 4 for feed in feeds):
        raise InputError(f"--clean-dir {module}:{function}: at least one batch of rank 4 expected")
    pixels = preprocess.from_input(np.concatenate(feeds).astype(np.float32))
    return Pictures(pixels, None, None, hashlib.sha256(pixels.tobytes()).hexdigest())


def read_feeds(module: str, function: str, names: Sequence[str]) -> list[Mapping[str, Any]]:
    """All feeds of an ONNX Runtime ``CalibrationDataReader``, at least one, each with the inputs of these names.

    Raises:
        InputError: The function cannot be imported, or what it returns is no such reader.
    """
    if "" not in sys.path:
        # The user names a module of her project, and console scripts do not search the current folder.
        sys.path.insert(0, "")
    try:
        reader = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise InputError(f"--clean-dir {module}:{function}: cannot be imported ({error})") from error
    if not hasattr(reader, "get_next"):
        raise InputError(
            f"--clean-dir {module}:{function}: a CalibrationDataReader expected, found {type(reader).__name__}"
        )
    feeds: list[Mapping[str, Any]] = []
    while (feed := reader.get_next()) is not None:
        for name in names:
            if name not in feed:
                raise InputError(
                    f"--clean-dir {module}:{function}: feeds for input {name!r} expected, found {sorted(feed)}"
                )
        feeds.append(feed)
    if not feeds:
        raise InputError(f"--clean-dir {module}:{function}: at least one batch expected, found none")
    return feeds


def as_pixels(images: NDArray[Any], preprocess: Preprocess, path: Path) -> Pixels:
    """Bring images to ``(N, C, H, W)`` and check dtype and range."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not len(images):
        raise InputError(f"{path}: images of shape (N, H, W, C) expected, found {images.shape}")
    channels = preprocess.channels
    if images.shape[3] == channels:
        images = images.transpose(0, 3, 1, 2)
    elif images.shape[1] != channels:
        raise InputError(f"{path}: images with {channels} channels expected, found {images.shape}")
    if images.dtype != np.uint8:
        if images.dtype.kind != "f" or not np.isfinite(images).all() or images.min() < 0 or images.max() > 1:
            raise InputError(f"{path}: uint8 images, or floating images in [0, 1], expected, found {images.dtype}")
        images = images.astype(np.float32)
    if preprocess.size is not None and images.shape[2:] != preprocess.size:
        found = "x".join(map(str, images.shape[2:]))
        raise InputError(f"{path}: --size resizes pictures, not arrays; resize the {found} images before saving them")
    return np.ascontiguousarray(images)


def _pictures_in(folder: Path) -> list[Path]:
    """Files of one class folder in sorted order; a file with another ending is refused, not skipped."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    refuse_special_files(entries)
    files = [entry for entry in entries if entry.is_file()]
    for file in files:
        if file.suffix.lower() not in PICTURE_SUFFIXES:
            raise InputError(f"{file}: not a picture; expected {', '.join(sorted(PICTURE_SUFFIXES))}; remove it")
    return files


def _label_folders(
    folder: Path, found: list[str], num_classes: int, class_names: tuple[str, ...] | None
) -> tuple[tuple[str, ...], dict[str, int], str]:
    """Give each class folder its class index, and say by which rule; refuse where the order would be a guess."""
    if class_names is not None:
        unknown = [name for name in found if name not in class_names]
        if unknown:
            raise InputError(f"{folder / unknown[0]}: a class named in --classes expected, found {unknown[0]!r}")
        return class_names, {name: class_names.index(name) for name in found}, "as in --classes"
    if len(found) > num_classes:
        raise InputError(
            f"{folder}: {num_classes} classes expected from the model's outputs, found {len(found)} folders"
        )
    numbers = [int(name) for name in found if name.isascii() and name.isdecimal()]
    if len(numbers) == len(found):
        if len(set(numbers)) == len(found) and max(numbers) < num_classes:
            names = {index: str(index) for index in range(num_classes)} | dict(zip(numbers, found, strict=True))
            return tuple(names.values()), dict(zip(found, numbers, strict=True)), "folder names are class indices"
        if numbers != sorted(numbers):
            raise InputError(
                f"{folder}: numbers from 0 to {num_classes - 1} expected as folder names, found {min(numbers)} to "
                f"{max(numbers)}, whose order as numbers is not that as text; name the class order with --classes"
            )
    if len(found) == num_classes:
        return tuple(found), {name: index for index, name in enumerate(found)}, "folder names in sorted order"
    if len(found) == 1:
        raise InputError(f"{folder}: images of at least 2 classes expected, found 1 folder ({found[0]!r})")
    raise InputError(
        f"{folder}: {num_classes} class folders expected, found {len(found)}; name the class order with --classes"
    )
