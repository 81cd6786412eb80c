# SPDX-License-Identifier: Apache-2.0
"""Pictures with any number of labels each: a table, or the layouts of COCO and VOC.

| given as ``--clean-dir`` | layout | order of the labels |
|---|---|---|
| ``labels.csv`` | ``file,cat,dog,...`` in the first row, below it a picture and 0s and 1s | that of the columns |
| ``labels.json`` | ``{"classes": [...], "images": {"a.png": ["cat"]}}`` | ``classes`` |
| ``instances.json`` | COCO: ``images``, ``annotations``, ``categories`` | ids of the categories |
| a folder with ``Annotations`` and ``JPEGImages`` | Pascal VOC, one XML a picture | names in sorted order |

``--classes`` names another order. Pictures lie beside the file, or in a folder ``images`` beside it or one above.
Objects are taken for labels, however many there are of a kind and wherever they lie.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from patcher.data.image_sources import Pictures, decode_pictures
from patcher.data.preprocess import Preprocess
from patcher.errors import InputError

_FOLDERS = (".", "images", "..", "../images")
_VOC = ("Annotations", "JPEGImages")
_VOC_SUFFIXES = (".jpg", ".jpeg", ".png")
Found = tuple[tuple[str, ...], Mapping[str, Sequence[str]]]  # labels in order, and those of each picture


def is_annotated(path: Path) -> bool:
    """Whether a path is one of the layouts."""
    if path.is_dir():
        return all((path / name).is_dir() for name in _VOC)
    return path.suffix in (".csv", ".json")


def read_annotated(
    path: Path, num_classes: int, preprocess: Preprocess, class_names: tuple[str, ...] | None = None
) -> Pictures:
    """Read pictures with labels int64 ``(N, K)``.

    Raises:
        InputError: The layout is damaged, a picture is missing, or the labels are not those of the model.
    """
    read = {".csv": _table, ".json": _json}.get(path.suffix, _voc)
    try:
        known, found = read(path)
    except (OSError, ValueError, RecursionError, csv.Error, ElementTree.ParseError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be read as labels of pictures ({reason})") from error
    names = class_names or known
    if unknown := sorted({label for labels in found.values() for label in labels} - set(names)):
        raise InputError(f"{path}: labels of --classes expected, found {unknown[0]!r}")
    if len(names) != num_classes or len(set(names)) != len(names):
        raise InputError(
            f"{path}: {num_classes} different labels expected from the model's outputs, found {len(set(names))}; name "
            "all in the model's order with --classes"
        )
    if not found:
        raise InputError(f"{path}: pictures with labels expected, found none")
    files = sorted(found)
    pixels, contents = decode_pictures([_located(path, file) for file in files], preprocess)
    labels = np.array([[int(name in found[file]) for name in names] for file in files], np.int64)
    digest = hashlib.sha256()
    for file, row, content in zip(files, labels, contents, strict=True):
        digest.update(f"{file}\0".encode() + row.tobytes() + content)
    order = "as in --classes" if class_names else f"as in {path.name}"
    return Pictures(pixels, labels, names, digest.hexdigest(), tuple(files), order)


def _table(path: Path) -> Found:
    with path.open(newline="", encoding="utf-8-sig") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    names = tuple(name.strip() for name in header[1:])
    found: dict[str, Sequence[str]] = {}
    for number, row in enumerate(rows, start=2):
        if not row:
            continue
        if len(row) != len(header) or not {value.strip() for value in row[1:]} <= {"0", "1"}:
            raise ValueError(f"line {number}: a file and {len(names)} values of 0 or 1 expected")
        found[row[0]] = [name for name, value in zip(names, row[1:], strict=True) if value.strip() == "1"]
    return names, found


def _json(path: Path) -> Found:
    document = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(document, dict) and {"images", "annotations", "categories"} <= set(document):
        return _coco(document)
    if not isinstance(document, dict) or not {"classes", "images"} <= set(document):
        raise ValueError("an object with 'classes' and 'images', or one of COCO, expected")
    names, images = document["classes"], document["images"]
    fits = isinstance(images, dict) and all(isinstance(labels, list) for labels in images.values())
    if not fits or not isinstance(names, list):
        raise ValueError("'classes' as a list and 'images' from file to list of labels expected")
    return tuple(map(str, names)), {str(file): [str(label) for label in labels] for file, labels in images.items()}


def _coco(document: Mapping[str, Any]) -> Found:
    try:
        names = {item["id"]: str(item["name"]) for item in sorted(document["categories"], key=lambda item: item["id"])}
        files = {item["id"]: str(item["file_name"]) for item in document["images"]}
        found: dict[str, list[str]] = {file: [] for file in files.values()}
        for item in document["annotations"]:
            found[files[item["image_id"]]].append(names[item["category_id"]])
    except (KeyError, TypeError) as error:
        raise ValueError(f"COCO with ids, file_name and category_id expected, missing {error}") from error
    return tuple(names.values()), found


def _voc(folder: Path) -> Found:
    found: dict[str, list[str]] = {}
    for path in sorted((folder / _VOC[0]).glob("*.xml")):
        content = path.read_bytes()
        if b"<!" in content.replace(b"<!--", b""):
            raise ValueError(f"{path.name}: plain XML without declarations expected")
        root = ElementTree.fromstring(content)
        pictures = [folder / _VOC[1] / (path.stem + suffix) for suffix in _VOC_SUFFIXES]
        picture = next((item for item in pictures if item.is_file()), pictures[0])
        found[f"{_VOC[1]}/{picture.name}"] = [item.text or "" for item in root.iterfind("object/name")]
    return tuple(sorted({label for labels in found.values() for label in labels})), found


def _located(path: Path, file: str) -> Path:
    """Where a picture lies: below the folder that is given, or near the file."""
    base = path if path.is_dir() else path.parent
    places = [base / folder / file for folder in _FOLDERS]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputError(f"{path}: a picture {file!r} expected beside it or in a folder 'images', found none")
    return found
