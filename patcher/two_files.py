# SPDX-License-Identifier: Apache-2.0
"""A plain model and its guard as one session, and the names that hardened files use.

Needs numpy alone; see `patcher.runtime` for what services use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patcher.errors import InputError

FLAG_OUTPUT = "trigger_detected"
SCORE_OUTPUT = "trigger_score"
SCORE_TOLERANCE = 0.05  # between runtimes, in nats of surprise; thresholds lie above 4
EXCESS_OUTPUT = "trigger_excess"
RUN_TIME_OUTPUTS = (FLAG_OUTPUT, SCORE_OUTPUT, EXCESS_OUTPUT)
CLASS_INPUT = "predicted_class"
PLAIN_INPUT = "plain_scores"
TARGETS_KEY = "patcher.targets"
FLAG_KEY = "patcher.flag"
SCORES_KEY = "patcher.scores"
GUARD_SUFFIX = ".guard.onnx"
GUARD_HASH_KEY = "patcher.guard_sha256"  # in the first file: who signs or pins that one has the second as well


class TwoFileSession:
    """A plain model and its guard model as one session, with the outputs of the one-file forms.

    Rows whose class is a target go through the guard; where it gives another class, its answer is taken and
    the row is flagged.

    Args:
        plain: Session of the model itself.
        guard: Session of the guard model (``NAME.guard.onnx``), with its targets in its metadata.
    """

    def __init__(self, plain: Any, guard: Any) -> None:
        self._plain, self._guard = plain, guard
        metadata = guard.get_modelmeta().custom_metadata_map
        if SCORES_KEY not in metadata or not {TARGETS_KEY, FLAG_KEY} & set(metadata):
            raise InputError(
                f"the guard model has no metadata key {TARGETS_KEY} or {FLAG_KEY}; harden with --branch two-files"
            )
        self._targets: list[int] = json.loads(metadata.get(TARGETS_KEY, "[]"))
        self._flag: dict[str, Any] | None = json.loads(metadata[FLAG_KEY]) if FLAG_KEY in metadata else None
        self._scores: str = metadata[SCORES_KEY]
        self._names = [item.name for item in plain.get_outputs()]
        self._guarded = [item.name for item in guard.get_outputs()]
        self._by_class = any(item.name == CLASS_INPUT for item in guard.get_inputs())
        shape = plain.get_inputs()[0].shape
        self._batch = shape[0] if shape and isinstance(shape[0], int) else None

    def run(self, names: Sequence[str] | None, feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run a batch as ``InferenceSession.run`` does; more outputs: ``trigger_detected``, perhaps a score."""
        values = dict(zip(self._names, self._plain.run(self._names, dict(feed)), strict=True))
        flags = np.zeros(len(values[self._scores]), bool)
        rows = self._suspicious(values)
        if len(rows):
            # A fixed batch takes all rows or none.
            chosen = rows if self._batch is None else np.arange(len(flags))
            asked = self._asked(feed, values, chosen)
            found = dict(zip(self._guarded, self._guard.run(self._guarded, asked), strict=True))
            raised = self._raised(values, found, chosen, rows)
            flags[chosen[raised]] = True
            for name in self._guarded:
                if name != SCORE_OUTPUT:
                    values[name] = values[name].copy()
                    values[name][chosen[raised]] = found[name][raised]
        values[FLAG_OUTPUT] = flags
        return [values[name] for name in (names or self.output_names)]

    @property
    def output_names(self) -> list[str]:
        """Outputs of both files together, as the one-file forms have them."""
        own = [name for name in self._names if name != EXCESS_OUTPUT]
        return [*own, *([SCORE_OUTPUT] if self._flag else []), FLAG_OUTPUT]

    def _suspicious(self, values: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        """Rows that the guard is asked about; with a score its first part is put into `values`."""
        if self._flag is None:
            return np.flatnonzero(np.isin(classes_of(values[self._scores]), self._targets))
        slope, intercept = (np.float32(number) for number in self._flag["tail"])
        excess = values[EXCESS_OUTPUT]
        values[SCORE_OUTPUT] = np.maximum(slope * excess + intercept, np.float32(0))
        return np.flatnonzero(excess > np.float32(self._flag["gate"]))

    def _asked(
        self, feed: Mapping[str, NDArray[Any]], values: dict[str, NDArray[Any]], chosen: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        """The guard's feed for the chosen rows."""
        asked = {name: rows[chosen] for name, rows in feed.items()}
        if self._flag is not None:
            asked[PLAIN_INPUT] = values[self._scores][chosen]
        elif self._by_class:
            asked[CLASS_INPUT] = classes_of(values[self._scores])[chosen]
        return asked

    def _raised(
        self,
        values: dict[str, NDArray[Any]],
        found: Mapping[str, NDArray[Any]],
        chosen: NDArray[np.int64],
        rows: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Which of the chosen rows are flagged, bool ``(len(chosen),)``."""
        own = np.isin(chosen, rows)
        if self._flag is None:
            first = classes_of(values[self._scores])[chosen]
            return np.asarray((classes_of(found[self._scores]) != first) & own, bool)
        values[SCORE_OUTPUT][chosen[own]] += found[SCORE_OUTPUT][own]
        return np.asarray(values[SCORE_OUTPUT][chosen] > np.float32(self._flag["threshold"]), bool) & own

    def get_inputs(self) -> Any:
        """Inputs of the plain model."""
        return self._plain.get_inputs()

    def get_outputs(self) -> Any:
        """Outputs of the plain model; `run` has ``trigger_detected`` too."""
        return self._plain.get_outputs()

    def get_modelmeta(self) -> Any:
        """Metadata of the guard model."""
        return self._guard.get_modelmeta()


def classes_of(scores: NDArray[Any]) -> NDArray[np.int64]:
    """Classes int64 ``(N,)`` of class scores ``(N, ...)``; one score is the probability of class 1 of two."""
    flat = scores.reshape(len(scores), -1)
    classes: NDArray[np.int64] = (flat[:, 0] > 0.5).astype(np.int64) if flat.shape[1] == 1 else flat.argmax(axis=1)
    return classes
