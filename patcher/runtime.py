# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime sessions that do what was asked or say why not, and the session that services use.

onnxruntime only warns when a provider is missing and then runs on the CPU; here that is an error.
`GuardedSession` answers batches with classes, scores and flags, whatever form the model was hardened in.
Needs onnxruntime and numpy alone, so a service can use it without torch or onnx.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from patcher.errors import InputError
from patcher.served import input_limits, read_once
from patcher.two_files import (
    FLAG_KEY,
    FLAG_OUTPUT,
    GUARD_HASH_KEY,
    GUARD_SUFFIX,
    SCORE_OUTPUT,
    SCORES_KEY,
    TARGETS_KEY,
    TwoFileSession,
    classes_of,
)

CPU_PROVIDER = "CPUExecutionProvider"
OptimizationLevel = Literal["disabled", "basic", "extended", "all"]
_NAMES = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
_LEVELS: dict[str, str] = dict(zip(get_args(OptimizationLevel), _NAMES, strict=True))
# Severity 4 logs fatal errors only: every other one is raised and reported by the caller.
_FATAL_ONLY = 4


class _Threads:
    """Threads within an operator, where a process has a share of the cores only."""

    count: int | None = None


def limit_threads(count: int) -> None:
    """From here on, sessions that name no number of threads get this one; for a process among several."""
    _Threads.count = count


def create_session(
    model: bytes | str | os.PathLike[str],
    *,
    providers: Sequence[str] = (CPU_PROVIDER,),
    optimization: OptimizationLevel = "all",
    threads: int | None = None,
) -> Any:
    """Create an onnxruntime ``InferenceSession`` strictly.

    Args:
        model: Serialised model, or the path of a model file.
        providers: Execution providers in order of preference; each of them must be there.
        optimization: Graph optimisation level.
        threads: Threads within an operator; ``None`` for `limit_threads`, or lets onnxruntime choose.

    Returns:
        The session, with fallback to other providers disabled.

    Raises:
        InputError: onnxruntime is missing, a provider is not available, or the model does not load.
    """
    onnxruntime = import_onnxruntime()
    _require_providers(providers, onnxruntime.get_available_providers(), "this onnxruntime offers")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[optimization])
    options.log_severity_level = _FATAL_ONLY
    # ONNX Runtime would take bytes with another format's mark in them for that format, whatever else they are.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if threads is not None or _Threads.count is not None:
        options.intra_op_num_threads = threads or _Threads.count
    source = model if isinstance(model, bytes) else str(Path(model))
    try:
        session = onnxruntime.InferenceSession(source, options, providers=list(providers))
    except runtime_errors() as error:
        raise InputError(f"ONNX Runtime cannot load the model: {one_line(error)}") from error
    _require_providers(providers, session.get_providers(), "the session runs on")
    session.disable_fallback()
    return session


def import_onnxruntime() -> Any:
    """Import onnxruntime, or say how to install it.

    Raises:
        InputError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            "onnxruntime is not installed; run: pip install 'onnx-patcher[cpu]' (or 'onnx-patcher[gpu]')"
        ) from error
    return onnxruntime


def runtime_errors() -> tuple[type[Exception], ...]:
    """Exception types that onnxruntime raises; they share no base class but ``Exception``."""
    state = import_onnxruntime().capi.onnxruntime_pybind11_state
    own = {kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)}
    return (*sorted(own, key=lambda kind: kind.__name__), RuntimeError, ValueError, MemoryError)


def one_line(error: BaseException) -> str:
    """The message of an error of another library, on one line and not longer than 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def fill_batch(rows: NDArray[Any], size: int | None) -> NDArray[Any]:
    """Rows ``(N, ...)`` filled up to a fixed batch with copies of the last; as they are if `size` is ``None``."""
    missing = 0 if size is None else size - len(rows)
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing > 0 else rows


def _require_providers(wanted: Sequence[str], found: Sequence[str], where: str) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise InputError(
            f"execution provider not available: {', '.join(missing)}; {where} {', '.join(found)}; "
            "choose another with --providers or install 'onnx-patcher[gpu]'"
        )


@dataclass(frozen=True)
class Answers:
    """What a model says of a batch.

    Attributes:
        labels: Classes, int64 ``(N,)``.
        scores: Class scores as the model gives them, float32 ``(N, K)``.
        flags: Whether a trigger was detected, bool ``(N,)``.
        trigger_scores: How unusual each image is, float32 ``(N,)``; ``None`` for a model that gives no score.
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    flags: NDArray[np.bool_]
    trigger_scores: NDArray[np.float32] | None = None


class GuardedSession:
    """A hardened model for a service: batches of any size, flags counted. Safe to share between threads.

    Args:
        model: Path of the hardened model.
        guard: Path of its guard model; found beside it (``NAME.guard.onnx``) where the model needs one.
        sha256: Expected hash of the model file; a model that is not the one reviewed is refused. The hash of its
            guard stands in it. For a model in one file: weights beside it are not found where a hash is given.
        providers: Execution providers.
        threads: Threads within an operator.
        max_batch: Images run at a time.
        on_flags: Called with the number of flagged images of each batch that has any.
        counter: A ``prometheus_client.Counter``, or anything with ``inc(n)``; counts flagged images.

    Raises:
        InputError: A file is missing, was not hardened by this project, or has another hash.

    It never fails open: inputs that no picture gives, and scores that are no numbers, are errors.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        guard: str | os.PathLike[str] | None = None,
        sha256: str | None = None,
        providers: Sequence[str] = (CPU_PROVIDER,),
        threads: int | None = None,
        max_batch: int = 64,
        on_flags: Callable[[int], None] | None = None,
        counter: Any = None,
    ) -> None:
        path = Path(model)
        # Where a hash is given, what has it is loaded: the file could be another one a moment later. Weights in
        # a file of their own have no part in such a hash, and are not found from bytes.
        source = path if sha256 is None and path.is_file() else read_once(path, sha256)
        self._session = create_session(source, providers=providers, threads=threads)
        self.metadata: Mapping[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        if "patcher.method" not in self.metadata:
            raise InputError(f"{path}: a model hardened by patcher expected, found no metadata key patcher.method")
        # Whether a second file is needed is seen in the graph: what the metadata says of the form is not asked.
        own = [item.name for item in self._session.get_outputs()]
        if {TARGETS_KEY, FLAG_KEY} & set(self.metadata) and FLAG_OUTPUT not in own:
            beside = Path(guard) if guard is not None else path.with_name(path.stem + GUARD_SUFFIX)
            pinned = self.metadata.get(GUARD_HASH_KEY)
            second_source = beside if pinned is None else read_once(beside, pinned)
            second = create_session(second_source, providers=providers, threads=threads)
            key = "patcher.patch_sha256"
            if second.get_modelmeta().custom_metadata_map.get(key) != self.metadata.get(key):
                raise InputError(f"{beside}: the guard of another model; both files come from one 'patcher harden'")
            self._session = TwoFileSession(self._session, second)
        self.input = self._session.get_inputs()[0]
        outputs = [item.name for item in self._session.get_outputs()]
        self._scores = self.metadata.get(SCORES_KEY, outputs[0])
        self._scored = FLAG_KEY in self.metadata
        self._flagged = self._scored or TARGETS_KEY in self.metadata
        self._batch = self.input.shape[0] if isinstance(self.input.shape[0], int) else None
        self._max_batch = self._batch or max_batch
        self._limits = input_limits(self.metadata)
        self._on_flags, self._counter = on_flags, counter
        self._lock = threading.Lock()
        self._counts = {"images": 0, "flagged": 0}

    @property
    def counts(self) -> Mapping[str, int]:
        """Images answered and images flagged so far."""
        with self._lock:
            return dict(self._counts)

    def classify(self, inputs: NDArray[Any] | Mapping[str, NDArray[Any]]) -> Answers:
        """Answer a batch.

        Args:
            inputs: ``(N, ...)`` as the model takes them: its layout, element type and preprocessing; of several inputs
                each by its name.

        Raises:
            InputError: ONNX Runtime refuses the shape or type, a value is none that a picture gives, or a score is
                no number.
        """
        feed = dict(inputs) if isinstance(inputs, Mapping) else {self.input.name: inputs}
        low, high = self._limits
        for rows in feed.values():
            # Not (a < b): NaN is on neither side.
            if rows.size and not (rows.min() >= low and rows.max() <= high):
                raise InputError(
                    f"values from {low:g} to {high:g} expected, as preprocessed pictures have; found others"
                )
        count = max(map(len, feed.values()), default=0)
        cuts = [slice(start, start + self._max_batch) for start in range(0, count, self._max_batch)]
        parts = [self._run({name: rows[cut] for name, rows in feed.items()}) for cut in cuts]
        if not parts:
            raise InputError("at least one image expected, found none")
        scores, flags, unusual = (np.concatenate(part) for part in zip(*parts, strict=True))
        self._count(len(flags), int(flags.sum()))
        return Answers(classes_of(scores), scores, flags, unusual if self._scored else None)

    def _run(
        self, feed: Mapping[str, NDArray[Any]]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
        """Scores, flags and trigger scores of one batch; the last two are zero where the model has none."""
        count = len(next(iter(feed.values())))
        size = self._batch or count
        filled = {name: np.ascontiguousarray(fill_batch(rows, size)) for name, rows in feed.items()}
        wanted = [self._scores, *([FLAG_OUTPUT] if self._flagged else []), *([SCORE_OUTPUT] if self._scored else [])]
        try:
            values = dict(zip(wanted, self._session.run(wanted, filled), strict=True))
        except runtime_errors() as error:
            raise InputError(f"the model does not take this batch: {one_line(error)}") from error
        flat = values[self._scores].reshape(size, -1)[:count].astype(np.float32)
        if not np.isfinite(flat).all():
            raise InputError("the model gives scores that are no finite numbers for this batch")
        flags = values.get(FLAG_OUTPUT, np.zeros(size, bool))[:count]
        return flat, flags, values.get(SCORE_OUTPUT, np.zeros(size, np.float32))[:count]

    def _count(self, images: int, flagged: int) -> None:
        with self._lock:
            self._counts["images"] += images
            self._counts["flagged"] += flagged
        if flagged and self._on_flags is not None:
            self._on_flags(flagged)
        if flagged and self._counter is not None:
            self._counter.inc(flagged)
