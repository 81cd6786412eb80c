# SPDX-License-Identifier: Apache-2.0
"""Class names in the model's order: ``--classes``, one a line, or a ``config.json`` with ``id2label``."""

from __future__ import annotations

import json
import os
from pathlib import Path

from patcher.errors import InputError


def read_class_names(classes_file: str | os.PathLike[str] | None, num_classes: int) -> tuple[str, ...] | None:
    """Names in the model's class order; ``None`` where no file is given.

    Raises:
        InputError: The file cannot be read, or holds another number of names.
    """
    if classes_file is None:
        return None
    path = Path(classes_file)
    try:
        text = path.read_text(encoding="utf-8")
        entries = _id2label(text, path) if path.suffix == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"--classes {classes_file}: cannot be read as text ({error})") from error
    names = tuple(line.strip() for line in entries if line.strip())
    if len(names) != num_classes or len(set(names)) != len(names):
        raise InputError(f"--classes {classes_file}: {num_classes} different names expected, found {len(set(names))}")
    return names


def _id2label(text: str, path: Path) -> list[str]:
    """Class names of a Hugging Face ``config.json`` in the order of their ids."""
    document = json.loads(text)
    table = document.get("id2label", document) if isinstance(document, dict) else None
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise InputError(f"--classes {path}: a JSON object with id2label expected, from class index to name")
    try:
        ids = {int(key): name for key, name in table.items()}
    except ValueError as error:
        raise InputError(f"--classes {path}: id2label: class indices expected as keys, found {error}") from error
    if sorted(ids) != list(range(len(ids))):
        raise InputError(f"--classes {path}: id2label: indices 0 to {len(ids) - 1} expected, found {sorted(ids)[-1]}")
    return [ids[index] for index in range(len(ids))]
