# SPDX-License-Identifier: Apache-2.0
"""What `harden` would do: read everything, check everything, fit nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from patcher.calibrate.stack import AUTO, stacks_of
from patcher.data.preprocess import resolve_preprocess
from patcher.files import Source
from patcher.model.model import read_model
from patcher.steps.auto import EPSILON
from patcher.steps.fit import read_options, refuse_hardened, relevant, sites_for, sites_of_kind
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
    read = read_model(model, scores=options.get("scores"))
    stacks = stacks_of(method)
    asked = [
        read_options(stack, relevant(stack, {"epsilon": EPSILON, **options}) if method == AUTO else options)
        for stack in stacks
    ]
    settings = asked[0][0]
    refuse_hardened(read, settings)
    methods = [item for stack in stacks for item in stack.methods]
    own = [part for _, parts in asked for part in parts]
    # What cannot be applied is no fault of a choice.
    sites = [sites_of_kind(read, item) if method == AUTO else sites_for(read, item) for item in methods]
    resolved = resolve_preprocess(read, **(preprocess or {}))
    data = read_data(read, stacks[0], clean_dir, own, resolved, settings)
    prepared, clean_set = data.prepared, data.prepared.clean_set
    return [
        ("model", f"{read.path.name if read.path else 'model'}, opset {read.opset}, {read.num_classes} classes"),
        ("preprocessing", str(prepared.preprocess.as_json())),
        ("clean images", f"{len(clean_set.fit)} to fit, {len(clean_set.held_out)} held out"),
        ("accuracy now", f"{prepared.accuracy.value:.1%}"),
        *([("method", "what a scan justifies of those below")] if method == AUTO else []),
        *((f"method {item.name}", str(part)) for item, part in zip(methods, own, strict=True)),
        *(
            (f"sites of {item.name}", f"{len(found)}: {', '.join(site.tensor for site in found)}")
            for item, found in zip(methods, sites, strict=True)
        ),
    ]
