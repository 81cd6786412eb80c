# SPDX-License-Identifier: Apache-2.0
"""The two models under comparison and everything that several checks need of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patcher.data.image_sources import Pixels
from patcher.errors import InputError, UnsupportedGraphError
from patcher.gate.policy import Policy
from patcher.measure.scores import as_feed, predict, share
from patcher.model.check import check_structure
from patcher.model.file import load_exactly, loadable
from patcher.model.inference import infer_types
from patcher.model.provenance import Provenance, read_provenance
from patcher.patch import Patch
from patcher.runtime import create_session, fill_batch, one_line, runtime_errors
from patcher.settings import Settings
from patcher.steps.prepare import Prepared
from patcher.triggers.trigger import Trigger
from patcher.triggers.triggered import Triggered
from patcher.two_files import FLAG_KEY, GUARD_HASH_KEY, GUARD_SUFFIX, TARGETS_KEY, TwoFileSession

if TYPE_CHECKING:
    import onnx
    import onnxruntime

FLAG = "trigger_detected"


class NotRunError(Exception):
    """A check could not be run on the hardened model; it counts as failed."""


@dataclass(frozen=True)
class Hardened:
    """The hardened model, about which nothing is believed.

    Attributes:
        path: Where it lies.
        proto: The model, weights inline.
        sha256: Hash of the file and its data files.
        refusal: Why its operators are not of the standard; empty where they are.
        session: The model in ONNX Runtime; ``None`` where it does not load.
        failure: Why it does not load.
        guard: The second file of a ``two-files`` branch; ``None`` where the model needs none, or it is missing.
        canonical: Whether its files hold their models and nothing else.
    """

    path: Path
    proto: onnx.ModelProto
    sha256: str
    refusal: str
    session: onnxruntime.InferenceSession | None
    failure: str = ""
    guard: onnx.ModelProto | None = None
    canonical: bool = True

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it answers with, the flag of a second file included."""
        names = tuple(value.name for value in self.proto.graph.output)
        return names if self.guard is None else (*names, FLAG)

    @property
    def guard_path(self) -> Path:
        """Where a service looks for the second file."""
        return self.path.with_name(self.path.stem + GUARD_SUFFIX)


@dataclass(frozen=True)
class Given:
    """What the user gave beside the two models; read before anything is checked.

    Attributes:
        patch: The patch that made the hardened model.
        triggers: A scan's triggers.
        triggered: Triggered images with their true labels and target.
    """

    patch: Patch | None = None
    triggers: Sequence[Trigger] = ()
    triggered: Triggered | None = None


@dataclass(frozen=True)
class Subject:
    """Everything a check may look at.

    Attributes:
        prepared: The original, its session, the clean images and its answers to them.
        hardened: The hardened model.
        given: Patch, triggers, triggered images.
        policy: Limits.
        settings: Batch size, providers, seed.
        provenance: What the hardened model says of itself; ``None`` where that is missing or damaged.
        provenance_error: Why it is ``None``.
        predicted: The hardened model's classes for all clean images; ``None`` where it does not run.
        failure: Why it does not run.
        scores: Those behind `predicted`, ``(N, K)``.
    """

    prepared: Prepared
    hardened: Hardened
    given: Given
    policy: Policy
    settings: Settings
    provenance: Provenance | None
    provenance_error: str
    predicted: NDArray[np.int64] | None
    failure: str
    scores: NDArray[np.float32] | None = None

    def before(self, pixels: Pixels) -> NDArray[np.int64]:
        """The original's answers ``(N, ...)`` for rows ``(N, ...)``."""
        prepared = self.prepared
        scores = predict(
            prepared.session, prepared.model, prepared.preprocess, pixels, batch_size=self.settings.batch_size
        )
        return prepared.task.answers(scores, prepared.model.head)

    def after(self, pixels: Pixels) -> NDArray[np.int64]:
        """The hardened model's answers ``(N, ...)`` for rows ``(N, ...)``.

        Raises:
            NotRunError: It does not run on the original's input, or does not answer as the original.
        """
        found = _scores(self.hardened, self.prepared, self.settings, pixels)
        return self.prepared.task.answers(found, self.prepared.model.head)

    def flags(self, pixels: Pixels) -> NDArray[np.bool_]:
        """The hardened model's ``trigger_detected`` ``(N,)`` for pixels.

        Raises:
            NotRunError: It does not run, or the output is no flag an image.
        """
        model, session = self.prepared.model, self.hardened.session
        if session is None:
            raise NotRunError(self.hardened.failure)
        size = model.batch or self.settings.batch_size
        found = []
        for start in range(0, len(pixels), size):
            piece = pixels[start : start + size]
            filled = fill_batch(piece, model.batch)
            feed = self.feed(filled)
            try:
                value = np.asarray(session.run([FLAG], model.feed(feed))[0])
            except runtime_errors() as error:
                raise NotRunError(one_line(error)) from error
            if value.shape != (len(filled),):
                raise NotRunError(f"output {FLAG} has shape {value.shape}, one flag an image expected")
            found.append(value[: len(piece)].astype(bool))
        return np.concatenate(found)

    def feed(self, pixels: Pixels) -> NDArray[Any]:
        """Pixels as the models take them."""
        from patcher.data.image_sources import as_float

        return as_feed(self.prepared.model, self.prepared.preprocess, as_float(pixels))


def read_hardened(path: Path, settings: Settings) -> Hardened:
    """Read the hardened model without believing or requiring more than that it is ONNX.

    Raises:
        InputError: The file is no valid ONNX model.
        UnsupportedGraphError: A tensor in it claims more memory than any classifier needs.
    """
    found = load_exactly(path)
    try:
        checked = _checked(path, found.proto, found.sha256, settings)
        return replace(checked, canonical=checked.canonical and found.canonical)
    except UnicodeDecodeError as error:
        # protobuf checks text when it is read, not when the file is parsed.
        raise InputError(f"{path}: not a valid ONNX model: a name in it is no UTF-8 text") from error


def _checked(path: Path, proto: onnx.ModelProto, sha256: str, settings: Settings) -> Hardened:
    refusal = ""
    with loadable(proto) as source:
        try:
            check_structure(proto, source, str(path))
        except UnsupportedGraphError as error:
            refusal = str(error)
        infer_types(proto, str(path))
        try:
            session = create_session(source, providers=settings.providers)
        except InputError as error:
            return Hardened(path, proto, sha256, refusal, None, str(error))
    plain = Hardened(path, proto, sha256, refusal, session)
    return _with_guard(plain, settings) if _needs_guard(proto) else plain


def _needs_guard(proto: onnx.ModelProto) -> bool:
    """Whether a service would put a second file behind this one (`patcher.runtime.GuardedSession`)."""
    second = any(entry.key in (TARGETS_KEY, FLAG_KEY) for entry in proto.metadata_props)
    return second and all(value.name != FLAG for value in proto.graph.output)


def _with_guard(plain: Hardened, settings: Settings) -> Hardened:
    """Measure what a service would run: both files."""
    try:
        found = load_exactly(plain.guard_path)
        guard = found.proto
        wanted = next((item.value for item in plain.proto.metadata_props if item.key == GUARD_HASH_KEY), found.sha256)
        if found.sha256 != wanted:
            raise InputError(f"sha256 {wanted[:64]} expected, found {found.sha256}")
        with loadable(guard) as source:
            check_structure(guard, source, str(plain.guard_path))
            second = create_session(source, providers=settings.providers)
        session = TwoFileSession(plain.session, second)
        return replace(plain, guard=guard, session=session, canonical=found.canonical)
    except (InputError, UnsupportedGraphError, UnicodeDecodeError, ValueError) as error:
        return replace(plain, session=None, failure=f"its second file cannot be used: {one_line(error)}")


def examine(prepared: Prepared, hardened: Hardened, given: Given, policy: Policy, settings: Settings) -> Subject:
    """Run the hardened model on the clean images, and read what it says of itself."""
    provenance: Provenance | None = None
    error = "the model has no patcher.* metadata"
    try:
        provenance = read_provenance(hardened.proto)
    except InputError as damaged:
        error = str(damaged)
    predicted: NDArray[np.int64] | None = None
    scores: NDArray[np.float32] | None = None
    failure = ""
    try:
        scores = _scores(hardened, prepared, settings, prepared.clean_set.pixels)
        predicted = prepared.task.answers(scores, prepared.model.head)
    except NotRunError as broken:
        failure = str(broken)
    return Subject(prepared, hardened, given, policy, settings, provenance, error, predicted, failure, scores)


def accuracy_of(subject: Subject) -> float | None:
    """The hardened model's accuracy over all clean images."""
    if subject.predicted is None:
        return None
    return share(subject.prepared.task.right(subject.predicted, subject.prepared.clean_set.labels)).value


def _scores(hardened: Hardened, prepared: Prepared, settings: Settings, pixels: Pixels) -> NDArray[np.float32]:
    if hardened.session is None:
        raise NotRunError(hardened.failure)
    model = prepared.model
    try:
        scores = predict(hardened.session, model, prepared.preprocess, pixels, batch_size=settings.batch_size)
    except runtime_errors() as error:
        raise NotRunError(f"the hardened model does not run as the original: {one_line(error)}") from error
    if not np.isfinite(scores).all():
        raise NotRunError("the hardened model's class scores are not finite on clean images")
    return scores
