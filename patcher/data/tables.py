# SPDX-License-Identifier: Apache-2.0
"""Hugging Face tables: parquet files, and datasets saved to disk. Needs pyarrow, the extra `parquet`.

Read are the columns ``image`` (or ``img``), encoded pictures as bytes, and ``label``, class indices or names. Class
names stand in the schema where the dataset was made with them. Nothing is loaded but bytes, text and numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from patcher.data.encoded import MOST_BYTES, Encoded, Names, to_pictures
from patcher.data.image_sources import Pictures
from patcher.data.preprocess import Preprocess
from patcher.errors import InputError

STATE, DICTIONARY = "state.json", "dataset_dict.json"
_IMAGES, _LABEL = ("image", "img"), "label"
_ROWS = 256


def read_tables(
    files: Sequence[Path], source: Path, num_classes: int, preprocess: Preprocess, class_names: Names
) -> Pictures:
    """Read parquet files of one split.

    Args:
        files: In order.
        source: For messages: the file or folder that was given.
        num_classes: Of the model.
        preprocess: How pictures are resized.
        class_names: Of ``--classes``.

    Raises:
        InputError: pyarrow is missing, there are several splits, or a file is damaged or has other columns.
    """
    # The hub names files SPLIT-00000-of-00002.parquet.
    splits = sorted({file.name.partition("-")[0] for file in files})
    if len(files) > 1 and len(splits) > 1:
        raise InputError(f"{source}: one split expected, found {', '.join(splits)}; give a file, or a folder of one")
    parquet = _pyarrow("pyarrow.parquet")
    items: list[Encoded] = []
    own: Names = None
    for file in files:
        with _reading(parquet.ParquetFile, file) as table:
            rows = [table.metadata.row_group(index) for index in range(table.metadata.num_row_groups)]
            if sum(row.total_byte_size for row in rows) > MOST_BYTES:
                raise InputError(f"{file}: pictures of at most {MOST_BYTES >> 30} GiB expected; give fewer")
            columns = _columns(table.schema_arrow, file)
            own = _names(table.schema_arrow) or own
            items += _items(table.iter_batches(_ROWS, columns=columns), columns, file, len(items))
    return to_pictures(items, source, preprocess, num_classes, class_names, own)


def read_saved(folder: Path, num_classes: int, preprocess: Preprocess, class_names: Names) -> Pictures:
    """Read a dataset that was written with ``save_to_disk``.

    Raises:
        InputError: pyarrow is missing, or a file is missing, damaged or has other columns.
    """
    arrow = _pyarrow("pyarrow")
    try:
        names = [str(entry["filename"]) for entry in json.loads((folder / STATE).read_text())["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / STATE}: the data files of a saved dataset expected, found none") from error
    files = [folder / Path(name).name for name in names]
    if sum(file.stat().st_size for file in files if file.is_file()) > MOST_BYTES:
        raise InputError(f"{folder}: pictures of at most {MOST_BYTES >> 30} GiB expected; give fewer")
    items: list[Encoded] = []
    own: Names = None
    for file in files:
        with _reading(arrow.memory_map, str(file)) as stream, _reading(arrow.ipc.open_stream, stream, file) as table:
            columns = _columns(table.schema, file)
            own = _names(table.schema) or own
            items += _items((batch.select(columns) for batch in table), columns, file, len(items))
    return to_pictures(items, folder, preprocess, num_classes, class_names, own)


def _pyarrow(name: str) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError("pyarrow is not installed; run: pip install 'onnx-patcher[parquet]'") from error
    return pyarrow.parquet if name == "pyarrow.parquet" else pyarrow


def _reading(open_it: Any, what: Any, file: object = None) -> Any:
    """Open a file, or say in one line why not."""
    try:
        return open_it(what)
    except (OSError, ValueError) as error:
        raise InputError(f"{file or what}: cannot be read ({' '.join(str(error).split())[:200]})") from error


def _columns(schema: Any, file: Path) -> list[str]:
    images = [name for name in _IMAGES if name in schema.names]
    if len(images) != 1:
        raise InputError(f"{file}: columns image and label expected, found {', '.join(schema.names)}")
    return [images[0], *([_LABEL] if _LABEL in schema.names else [])]


def _names(schema: Any) -> Names:
    """Class names that the Hugging Face library wrote into the schema."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = features[_LABEL]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None


def _items(batches: Iterable[Any], columns: Sequence[str], file: Path, start: int) -> Iterator[Encoded]:
    number = start
    try:
        for batch in batches:
            for row in batch.to_pylist():
                yield Encoded(f"row {number}", _content(row[columns[0]], file, number), _label(row, file, number))
                number += 1
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({' '.join(str(error).split())[:200]})") from error


def _content(value: Any, file: Path, number: int) -> bytes:
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(content, bytes):
        raise InputError(f"{file}: row {number}: the bytes of a picture expected, found none; embed the pictures")
    return content


def _label(row: Mapping[str, Any], file: Path, number: int) -> int | str | None:
    label = row.get(_LABEL)
    if label is not None and not isinstance(label, int | str):
        raise InputError(f"{file}: row {number}: a class index or name as label expected, found {label!r}"[:300])
    return label
