# SPDX-License-Identifier: Apache-2.0
"""Layouts in which other projects keep pictures and labels, told apart by what lies there.

| given as ``--clean-dir`` | layout | module |
|---|---|---|
| ``test.parquet``, or a folder of one split of them | Hugging Face parquet, columns `image` and `label` | `tables` |
| a folder with ``state.json`` and ``.arrow`` files | Hugging Face `datasets`, saved to disk | `tables` |
| a folder with ``metadata.csv`` | Hugging Face image folder, columns `file_name` and `label` | `metadata_csv` |
| ``shard.tar``, or a folder of them | WebDataset: pictures and `.cls` | `webdataset` |
| ``t10k-images-idx3-ubyte``, or a folder with one such file | IDX: MNIST and its kin | `idx` |

CIFAR's Python files are pickles, and a pickle is a program: they are refused, never loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from patcher.data.encoded import Names
from patcher.data.idx import IMAGES, read_idx
from patcher.data.image_sources import Pictures
from patcher.data.metadata_csv import TABLE, read_metadata_csv
from patcher.data.preprocess import Preprocess
from patcher.data.tables import DICTIONARY, STATE, read_saved, read_tables
from patcher.data.webdataset import read_webdataset
from patcher.errors import InputError

_CIFAR = ("data_batch_1", "test_batch", "batches.meta", "cifar-10-batches-py", "cifar-100-python")


Reader = Callable[[int, Preprocess, Names], Pictures]
"""Reads pictures: classes of the model, how pictures are resized, names of ``--classes``."""


def layout_of(path: Path) -> Reader | None:
    """How the pictures at a path are read.

    Args:
        path: What was given as ``--clean-dir``.

    Returns:
        The reader of its layout, or ``None`` where it is none of them.

    Raises:
        InputError: It holds pickles, or several splits.
    """
    inside = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")} if path.is_dir() else set()
    if {path.name, *inside} & set(_CIFAR):
        raise InputError(
            f"{path}: CIFAR's Python files are pickles, which are never loaded; save images and labels with numpy.savez"
        )
    if TABLE in inside:
        return partial(read_metadata_csv, path)
    if DICTIONARY in inside:
        raise InputError(f"{path}: one split expected, found a folder of several; give the folder of one of them")
    if STATE in inside:
        return partial(read_saved, path)
    if found := _of_kind(path, ".parquet"):
        return partial(read_tables, found, path)
    if found := _of_kind(path, ".tar"):
        return partial(read_webdataset, found, path)
    if path.is_file() and IMAGES in path.name:
        return partial(read_idx, path)
    if found := sorted(path / name for name in inside if IMAGES in name):
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise InputError(f"{path}: one split expected, found {names}; give one of these files")
        return partial(read_idx, found[0])
    return None


def _of_kind(path: Path, suffix: str) -> list[Path]:
    """The file itself, or all such files of a folder; none where it has folders, which may be classes."""
    if path.is_dir():
        entries = list(path.iterdir())
        folders = any(entry.is_dir() for entry in entries if not entry.name.startswith("."))
        return [] if folders else sorted(entry for entry in entries if entry.suffix == suffix)
    return [path] if path.suffix == suffix and path.is_file() else []
