# SPDX-License-Identifier: Apache-2.0
"""What `harden` would do: read everything, check everything, fit nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from patcher.calibrate.stack import read_stack
from patcher.data.preprocess import resolve_preprocess
from patcher.files import Source
from patcher.model.model import read_model
from patcher.steps.fit import read_options, refuse_hardened, sites_for
from patcher.steps.training_data import read_data

if TYPE_CHECKING:
    import onnx


def plan(
    model: Source | bytes | onnx.ModelProto,
    *,
    clean_dir: Source | None = None,
    method: str = "unit",
    preprocess: Mapping[str, Any] | None = None,
    **options: Any,
) -> list[tuple[str, str]]:
    """What `harden` would do with these arguments, as rows of text; everything is read, nothing is fitted.

    Raises:
        PatcherError: As `harden`, for whatever can be known before calibration.
    """
    stack = read_stack(method)
    settings, own = read_options(stack, options)
    read = read_model(model)
    refuse_hardened(read, settings)
    sites = [(item.name, sites_for(read, item)) for item in stack.methods]
    resolved = resolve_preprocess(read, **(preprocess or {}))
    data = read_data(read, stack, clean_dir, own, resolved, settings)
    prepared, clean_set = data.prepared, data.prepared.clean_set
    return [
        ("model", f"{read.path.name if read.path else 'model'}, opset {read.opset}, {read.num_classes} classes"),
        ("preprocessing", str(prepared.preprocess.as_json())),
        ("clean images", f"{len(clean_set.fit)} to fit, {len(clean_set.held_out)} held out"),
        ("accuracy now", f"{prepared.accuracy.value:.1%}"),
        *((f"method {name}", str(part)) for name, part in zip(stack.names, own, strict=True)),
        *((f"sites of {name}", f"{len(at)}: {', '.join(site.tensor for site in at)}") for name, at in sites),
    ]
