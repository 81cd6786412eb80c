# SPDX-License-Identifier: Apache-2.0
"""Inputs and outputs of a model as servers name them.

Servers batch along the first axis. A model can be batched if that axis is open and the same in its inputs and outputs;
one that cannot is served with its whole shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patcher.errors import InputError
from patcher.runtime import create_session
from patcher.two_files import FLAG_KEY, FLAG_OUTPUT, TARGETS_KEY

# Name of an element type in onnxruntime to that in the Open Inference Protocol; Triton's has TYPE_ before it.
DATATYPES: Mapping[str, str] = {
    "tensor(float)": "FP32",
    "tensor(float16)": "FP16",
    "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16",
    "tensor(uint8)": "UINT8",
    "tensor(int8)": "INT8",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(bool)": "BOOL",
}


@dataclass(frozen=True)
class Tensor:
    """An input or output.

    Attributes:
        name: As in the graph.
        datatype: As in the Open Inference Protocol, ``FP32``.
        shape: With -1 for open axes; without the batch axis where the model can be batched.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Interface:
    """What a server has to know of a model.

    Attributes:
        inputs: In graph order.
        outputs: In graph order; ``trigger_detected`` among them where the model flags.
        batched: Whether the first axis is the batch.
        metadata: The model's own.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    batched: bool
    metadata: Mapping[str, str]


def read_interface(model: Path) -> Interface:
    """Read the interface of a hardened model by loading it in ONNX Runtime.

    Args:
        model: The file.

    Raises:
        InputError: It does not load, was not hardened, needs its guard file, or has a type that no server names.
    """
    session = create_session(model)
    metadata = dict(session.get_modelmeta().custom_metadata_map)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if "patcher.method" not in metadata:
        raise InputError(f"{model}: a model hardened by patcher expected, found no metadata key patcher.method")
    if {TARGETS_KEY, FLAG_KEY} & set(metadata) and FLAG_OUTPUT not in [item.name for item in outputs]:
        raise InputError(
            f"{model}: one file expected, found a model that needs its guard: a server has no way to choose between "
            "the two; harden with --branch if or where"
        )
    batched = _batched([item.shape for item in (*inputs, *outputs)])
    return Interface(
        tuple(_tensor(item, batched, model) for item in inputs),
        tuple(_tensor(item, batched, model) for item in outputs),
        batched,
        metadata,
    )


def _batched(shapes: Sequence[Sequence[Any]]) -> bool:
    """Whether every first axis is open; exporters may give the same one several names."""
    return all(shape and not isinstance(shape[0], int) for shape in shapes)


def _tensor(item: Any, batched: bool, model: Path) -> Tensor:
    if item.type not in DATATYPES:
        raise InputError(f"{model}: {item.name!r}: type {', '.join(DATATYPES)} expected, found {item.type}")
    sides = tuple(side if isinstance(side, int) else -1 for side in item.shape)
    return Tensor(item.name, DATATYPES[item.type], sides[1:] if batched else sides)
