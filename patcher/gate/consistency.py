# SPDX-License-Identifier: Apache-2.0
"""Does an image's answer depend on the image alone?

A graph can look at the length of its batch, at the other rows, or at a random number, and behave where it is
measured as it never will in production. So some images are answered alone, in batches of several lengths, in another
order and beside other rows, with and without ONNX Runtime's optimisations, and twice: the first four must agree
up to rounding, the last bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patcher.errors import InputError
from patcher.gate.check import Check, decided
from patcher.gate.subject import FLAG, Subject
from patcher.model.file import loadable
from patcher.runtime import CPU_PROVIDER, create_session, one_line, runtime_errors

_IMAGES = 28
_LENGTHS = (1, 2, 3, 7)
_TOLERANCE = 1e-3  # of the largest score; float16 sums in another order differ by less than thirty times that
_HALF = 30.0
_STRAY = 1  # rows that may sit on the edge between two classes, where rounding decides

Values = list[NDArray[Any]]


@dataclass(frozen=True)
class _Runner:
    """The hardened model on chosen images."""

    subject: Subject
    names: list[str]
    inputs: NDArray[Any]

    def run(self, session: Any, rows: NDArray[np.int64]) -> Values:
        """All outputs for rows as one batch."""
        feed = np.ascontiguousarray(self.inputs[rows])
        return [np.asarray(value) for value in session.run(self.names, self.subject.prepared.model.feed(feed))]


def consistency_check(subject: Subject) -> Check:
    """The check ``consistency``."""
    session = subject.hardened.session
    if session is None or subject.predicted is None:
        return Check("consistency", "not_run", subject.failure or subject.hardened.failure)
    failures: tuple[type[Exception], ...] = (InputError, *runtime_errors())
    try:
        count, faults = _faults(subject, session)
    except failures as error:
        return Check("consistency", "not_run", f"not in every arrangement of its images: {one_line(error)}")
    message = "; ".join(faults) or "the same alone, in batches, in any order, beside others, and twice"
    return decided("consistency", not faults, message, count=count, details={"differs": faults})


def _faults(subject: Subject, session: Any) -> tuple[int, list[str]]:
    runner, batch = _runner(subject), subject.prepared.model.batch
    count = len(runner.inputs)
    everything = np.arange(count)
    first, again = runner.run(session, everything[: batch or count]), runner.run(session, everything[: batch or count])
    faults = []
    on_cpu = tuple(subject.settings.providers) == (CPU_PROVIDER,)
    if on_cpu and any(one.tobytes() != other.tobytes() for one, other in zip(first, again, strict=True)):
        faults.append("two runs of one input differ")
    rng = np.random.default_rng(subject.policy.probes.seed)
    reference = first if batch is None else _collected(runner, session, np.split(everything, count // batch))
    for name, parts in _arrangements(count, batch, rng):
        found = _collected(runner, session, parts)
        order = np.concatenate(parts)
        differing = _differing([value[order] for value in reference], found)
        if len(set(order[differing].tolist())) > _STRAY:
            faults.append(f"{len(set(order[differing].tolist()))} of {count} images get another answer {name}")
    with loadable(subject.hardened.proto) as source:
        plain = create_session(source, providers=subject.settings.providers, optimization="disabled")
    if subject.hardened.guard is None:
        found = _collected(runner, plain, [everything] if batch is None else np.split(everything, count // batch))
        if (differing := _differing(reference, found)).sum() > _STRAY:
            faults.append(f"{int(differing.sum())} of {count} images get another answer without optimisations")
    return count, faults


def _runner(subject: Subject) -> _Runner:
    clean_set, batch = subject.prepared.clean_set, subject.prepared.model.batch
    count = _IMAGES if batch is None else max(2, -(-_IMAGES // batch)) * batch
    spread = np.linspace(0, len(clean_set) - 1, min(count, len(clean_set))).astype(np.int64)
    rows = spread[np.arange(count if batch is not None else len(spread)) % len(spread)]
    names = [value.name for value in subject.prepared.model.outputs]
    names += [FLAG] if FLAG in subject.hardened.outputs else []
    return _Runner(subject, names, subject.feed(clean_set.images(rows)))


def _arrangements(
    count: int, batch: int | None, rng: np.random.Generator
) -> Iterator[tuple[str, list[NDArray[np.int64]]]]:
    """Ways to answer all images, as rows of batches."""
    everything = np.arange(count)
    if batch is None:
        for length in _LENGTHS:
            yield f"in batches of {length}", [everything[i : i + length] for i in range(0, count, length)]
        yield "in a longer batch", [np.concatenate([everything, everything, everything[:3]])]
        yield "in another order", [everything[::-1]]
        return
    yield "in another order", np.split(everything[::-1], count // batch)
    yield "beside other images", np.split(rng.permutation(count), count // batch)


def _collected(runner: _Runner, session: Any, parts: list[NDArray[np.int64]]) -> Values:
    found = [runner.run(session, part) for part in parts]
    return [np.concatenate(values) for values in zip(*found, strict=True)]


def _differing(wanted: Values, found: Values) -> NDArray[np.bool_]:
    """Rows whose values differ by more than rounding."""
    rows = np.zeros(len(wanted[0]), bool)
    for one, other in zip(wanted, found, strict=True):
        left, right = (value.reshape(len(value), -1).astype(np.float64) for value in (one, other))
        finite = np.abs(left[np.isfinite(left)])
        factor = _HALF if one.dtype.itemsize == 2 else 1.0
        limit = factor * _TOLERANCE * max(float(finite.max(initial=0.0)), 1e-3) if one.dtype != bool else 0.0
        with np.errstate(invalid="ignore"):
            rows |= ~((np.abs(left - right) <= limit) | (left == right)).all(axis=1)
    return rows
