# SPDX-License-Identifier: Apache-2.0
"""What the hardened model costs: time, memory, size, each against the original on the same machine.

A small model fails a ratio by a few microseconds or kibibytes that nobody notices, so time and size hold as
well within an absolute allowance.

Time and memory differ between equal runs, so their figures go to the report's ``timings``; the checks
themselves say only whether the limit held.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patcher.child import run_module
from patcher.errors import PatcherError
from patcher.gate.check import Check, decided
from patcher.gate.subject import Subject
from patcher.measure.latency import paired_latency
from patcher.model.file import write_model
from patcher.runtime import one_line, runtime_errors

if TYPE_CHECKING:
    import onnx

_BATCH = 8
_KIB = 1024
_SECONDS_FOR_A_RUN = 120
_ATTEMPTS = 3


def cost_checks(subject: Subject) -> Iterator[Check]:
    """The checks ``latency``, ``memory`` and ``size``."""
    yield _latency(subject)
    yield _memory(subject)
    yield _size(subject)


def _latency(subject: Subject) -> Check:
    limit = subject.policy.thresholds.latency_ratio
    if subject.hardened.session is None or subject.predicted is None:
        return Check("latency", "not_run", subject.failure, threshold=limit)
    feed, allowance = _batch(subject), subject.policy.thresholds.latency_allowance_ms
    # Other work on the machine comes and goes; a file that is too slow is so every time.
    for _ in range(_ATTEMPTS):
        try:
            found = paired_latency(subject.prepared.session, subject.hardened.session, feed)
        except runtime_errors() as error:
            return Check("latency", "not_run", one_line(error), threshold=limit)
        small = found.after_ms - found.before_ms <= allowance
        if small or found.ratio <= limit:
            break
    message = _against(limit, found.ratio)
    if small and found.ratio > limit:
        message = f"at most {allowance:g} ms more than the original"
    return decided("latency", small or found.ratio <= limit, message, threshold=limit, measured=found.as_json())


def _memory(subject: Subject) -> Check:
    limit = subject.policy.thresholds.memory_ratio
    if subject.predicted is None:
        return Check("memory", "not_run", subject.failure, threshold=limit)
    protos = (subject.prepared.model.proto, subject.hardened.proto)
    try:
        before, after = (peak_memory(proto, _batch(subject)) for proto in protos)
    except (OSError, subprocess.SubprocessError, ValueError, PatcherError) as error:
        return Check("memory", "not_run", f"the process did not finish: {one_line(error)}", threshold=limit)
    ratio = after / before
    measured = {"batch": _BATCH, "before_bytes": before, "after_bytes": after, "ratio": ratio}
    return decided("memory", ratio <= limit, _against(limit, ratio), threshold=limit, measured=measured)


def _size(subject: Subject) -> Check:
    limit, allowance = subject.policy.thresholds.size_ratio, subject.policy.thresholds.size_allowance_kib
    before, after = subject.prepared.model.proto.ByteSize(), subject.hardened.proto.ByteSize()
    message = f"{after} bytes, {before} in the original"
    details = {"before_bytes": before, "after_bytes": after, "allowance_kib": allowance}
    held = after <= limit * before or after - before <= allowance * _KIB
    return decided("size", held, message, value=after / before, threshold=limit, details=details)


def peak_memory(proto: onnx.ModelProto, feed: Mapping[str, NDArray[Any]]) -> int:
    """Peak resident memory in bytes of a fresh process that loads a model and runs one batch a few times.

    Raises:
        OSError: The process cannot be started.
        subprocess.SubprocessError: It fails or takes too long.
        ValueError: It does not say what it took.
    """
    with tempfile.TemporaryDirectory(prefix="patcher-") as folder:
        model, arrays = Path(folder) / "model.onnx", Path(folder) / "feed"
        write_model(proto, model)
        arrays.mkdir()
        for place, array in enumerate(feed.values()):
            np.save(arrays / f"{place}.npy", array, allow_pickle=False)
        arguments = str(model), str(arrays), *feed
        printed = run_module("patcher.measure.peak_memory", *arguments, seconds=_SECONDS_FOR_A_RUN)
    return int(json.loads(printed)["peak_bytes"])


def _against(limit: float, ratio: float) -> str:
    """The figure itself differs between equal runs and stands in ``timings``."""
    return f"{'within' if ratio <= limit else 'more than'} {limit:g} times the original's"


def _batch(subject: Subject) -> dict[str, NDArray[Any]]:
    """Clean images as one feed: the model's fixed batch, or eight."""
    count = subject.prepared.model.batch or _BATCH
    clean_set = subject.prepared.clean_set
    return subject.prepared.model.feed(subject.feed(clean_set.images(np.arange(count) % len(clean_set))))
