# SPDX-License-Identifier: Apache-2.0
"""Bake a patch into a model: `patcher apply`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patcher.data.preprocess import resolve_preprocess
from patcher.export import apply_guard, apply_patch, check_guard_parity, check_parity, neutral_patch
from patcher.export.bake import Bake, bake_patch, node_outputs
from patcher.files import Source, check_output
from patcher.gate.methods import check_method
from patcher.measure.scores import as_feed
from patcher.model.file import write_unchanged
from patcher.model.inputs import blank, pack
from patcher.model.model import Model, read_model, write_model
from patcher.patch import Patch, read_patch
from patcher.two_files import GUARD_SUFFIX

if TYPE_CHECKING:
    import onnx

_RANDOM_IMAGES = 8
_OPEN_SIDE = 224  # where the graph leaves the size open


def apply(
    model: Source | bytes | onnx.ModelProto,
    patch: Source | Patch,
    *,
    output: Source | None = None,
    bake: Bake = "auto",
    scores: str | None = None,
) -> onnx.ModelProto:
    """Bake a patch into a model.

    The surgery is proven on random pixels with neutral corrections; what the patch does to accuracy was
    measured when it was calibrated and can be measured again with `evaluate`.

    Args:
        model: The model that the patch was calibrated on.
        patch: The patch or its file.
        output: Where to write the hardened model.
        bake: ``nodes``, ``folded`` or ``auto``; see `patcher.export.bake`.
        scores: The output that holds the class scores, where the patch was calibrated with another than is found.

    Returns:
        The hardened model.

    Raises:
        InputError: The patch is for another model or of an unknown method, or a file cannot be used.
        ParityError: The surgery changed more than the patch says; nothing was written.
    """
    check_output(output, model)
    read = read_model(model, scores=scores)
    found = patch if isinstance(patch, Patch) else read_patch(patch)
    check_method(found)
    baked, feed = bake_patch(read, found, bake), _random_feed(read)
    hardened = baked.model
    neutral, guard = neutral_patch(read, found), apply_guard(read, found)
    if guard is None:
        expected = node_outputs(baked, read, [feed])
        check_parity(read, hardened, apply_patch(read, neutral), [feed], expected=expected)
    else:
        check_guard_parity(read, hardened, guard, apply_guard(read, neutral) or guard, feed, {})
    if output is not None:
        save_hardened(read, found, hardened, guard, output)
    return hardened


def save_hardened(
    source: Model | None, patch: Patch, hardened: onnx.ModelProto, guard: onnx.ModelProto | None, path: Source
) -> None:
    """Write what a patch made: the model, its guard beside it, or the original as it came."""
    if guard is not None:
        write_model(guard, Path(path).with_name(Path(path).stem + GUARD_SUFFIX))
    if patch.corrections or source is None:
        write_model(hardened, path)
    else:
        write_unchanged(source.proto, source.sha256, source.path, path)


def _random_feed(model: Model) -> NDArray[Any]:
    """Random values as the model takes them; ids and masks are ones, which every vocabulary has."""
    rng = np.random.default_rng(0)
    if not model.is_picture:
        feed = blank(model.inputs, [(model.batch or _RANDOM_IMAGES, *shape) for shape in model.row_shapes])
        found = [value if value.dtype.kind in "iub" else rng.random(value.shape, np.float32) for value in feed.values()]
        return as_feed(model, resolve_preprocess(model), pack(found))
    height, width = model.sized(_OPEN_SIDE)
    pixels = rng.random((_RANDOM_IMAGES, model.channels, height, width), np.float32)
    return as_feed(model, resolve_preprocess(model), pixels)
