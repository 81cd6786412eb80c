# SPDX-License-Identifier: Apache-2.0
"""A folder of pictures with ``metadata.csv`` in it, as Hugging Face's image folders have it.

The first row names the columns. ``file_name`` is the path of a picture below the folder, ``label`` its class, by index
or by name; further columns are not read.
"""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

from patcher.data.encoded import Names, to_labels
from patcher.data.image_sources import Pictures, decode_pictures
from patcher.data.preprocess import Preprocess
from patcher.errors import InputError

TABLE = "metadata.csv"
FILE, LABEL = "file_name", "label"


def read_metadata_csv(folder: Path, num_classes: int, preprocess: Preprocess, class_names: Names) -> Pictures:
    """Read the pictures that the table names, in its order.

    Raises:
        InputError: The table is damaged, or a picture is missing or outside of the folder.
    """
    table = folder / TABLE
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            if FILE not in columns:
                raise InputError(f"{table}: columns {FILE} and {LABEL} expected, found {', '.join(columns) or 'none'}")
            rows = [(row[FILE], row.get(LABEL)) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: cannot be read as a table ({error})") from error
    if not rows:
        raise InputError(f"{table}: pictures expected, found none")
    paths = [_inside(folder, name, table) for name, _ in rows]
    labels = to_labels([label or None for _, label in rows], table, num_classes, class_names)
    pixels, contents = decode_pictures(paths, preprocess)
    digest = hashlib.sha256()
    for index, ((name, _), content) in enumerate(zip(rows, contents, strict=True)):
        label = -1 if labels.indices is None else int(labels.indices[index])
        digest.update(f"{name}\0{label}\0".encode() + content)
    files = tuple(name for name, _ in rows)
    return Pictures(pixels, labels.indices, labels.class_names, digest.hexdigest(), files, labels.class_order)


def _inside(folder: Path, name: str | None, table: Path) -> Path:
    try:
        path = (folder / (name or "")).resolve()
        if path.is_relative_to(folder.resolve()) and path.is_file():
            return path
    except (OSError, ValueError):  # a null byte, a name too long
        pass
    raise InputError(f"{table}: a picture below the folder expected, found {name!r}")
