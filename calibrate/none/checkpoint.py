# SPDX-License-Identifier: Apache-2.0
"""Where a long run stands, in one file: written whole or not at all, after each stage and epoch.

Arrays as safetensors, everything else as JSON metadata: nothing in it is executed when it is read. The
fingerprint says which run it belongs to (model, training set, options, seed, batch size); another run's
checkpoint is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from patcher.errors import InputError
from patcher.files import replace_file

_METADATA_KEY = "patcher.checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """A state that a run can go on from.

    Attributes:
        values: Plain JSON values.
        tensors: By name, on the CPU.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def write_checkpoint(path: str | None, fingerprint: str, checkpoint: Checkpoint) -> None:
    """Write the state; without a path nothing is kept.

    Raises:
        InputError: The file cannot be written.
    """
    if path is None:
        return
    from safetensors.torch import save

    document = json.dumps({"fingerprint": fingerprint, "values": dict(checkpoint.values)}, sort_keys=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in checkpoint.tensors.items()}
    replace_file(Path(path), save(tensors, metadata={_METADATA_KEY: document}))


def read_checkpoint(path: str | None, fingerprint: str) -> Checkpoint | None:
    """Read the state of an earlier run; ``None`` where it left none, so that the run starts anew.

    Raises:
        InputError: No path was given, the file is no checkpoint, or it belongs to another run.
    """
    from safetensors import SafetensorError, safe_open

    if path is None:
        raise InputError("--resume: a file to resume from expected; name it with --checkpoint")
    if not Path(path).exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            document = json.loads((file.metadata() or {})[_METADATA_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found, values = document["fingerprint"], document["values"]
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(f"--checkpoint {path}: not a checkpoint written by patcher; run without --resume") from error
    if found != fingerprint:
        raise InputError(
            f"--resume: the checkpoint {path} is of another run (model, training set, options or seed differ); "
            "run without --resume"
        )
    return Checkpoint(values, tensors)
