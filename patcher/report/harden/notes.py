# SPDX-License-Identifier: Apache-2.0
"""What a reader of a ``harden`` report should know beside the figures: one line each."""

from __future__ import annotations

import math
from collections.abc import Iterator

from patcher.export.bake import Baked
from patcher.steps.before_after import Measured
from patcher.steps.fit import Fitted


def notes(fitted: Fitted, measured: Measured, baked: Baked) -> list[str]:
    """Everything worth saying about how the result came about."""
    return [*_task(fitted), *_model(fitted, baked), *_images(fitted, measured), *_start(fitted), *_flagged(fitted)]


def _task(fitted: Fitted) -> Iterator[str]:
    prepared = fitted.prepared
    if prepared.task.right_means:
        yield f"task {prepared.task.name}: accuracy is the share of rows with {prepared.task.right_means}"
    if prepared.model.kind != "picture":
        yield (
            f"the model takes {prepared.model.kind} inputs ({', '.join(prepared.model.input_names)}): no pictures of "
            "triggers, no built-in probes, and of triggers only those that can be put into such inputs"
        )


def _model(fitted: Fitted, baked: Baked) -> Iterator[str]:
    for change in fitted.prepared.model.changes:
        yield f"the model was brought to standard form in memory: {change}"
    if baked.why:
        yield f"bounds baked as {'folded weights' if baked.folded else 'nodes'}: {baked.why}"


def _images(fitted: Fitted, measured: Measured) -> Iterator[str]:
    clean_set = fitted.prepared.clean_set
    if clean_set.class_order:
        yield f"class order: {clean_set.class_order}"
    if coarse := too_few_to_tell(fitted):
        yield coarse
    for line in fitted.prepared.task.mistaken(clean_set.labels, fitted.prepared.predicted):
        yield f"{line}: check the class order (--classes)"
    for line in fitted.prepared.task.mistaken(fitted.prepared.predicted, measured.predicted):
        yield f"hardened against original: {line}"


def too_few_to_tell(fitted: Fitted) -> str:
    """That one image is more than ``--epsilon``, and how many images it takes; empty where that is not so."""
    clean_set, epsilon = fitted.prepared.clean_set, fitted.patch.options.get("epsilon")
    count = len(clean_set.deciding)
    if not isinstance(epsilon, float) or epsilon <= 0 or count * epsilon >= 1:
        return ""
    return (
        f"{count} {clean_set.deciding_split} images cannot resolve --epsilon {epsilon:.1%}: one of them is "
        f"{1 / count:.1%}; {math.ceil(1 / epsilon)} are needed"
    )


def _start(fitted: Fitted) -> Iterator[str]:
    """Where the search had to begin with wider bounds than asked for."""
    for stage in fitted.stages:
        for name, what in (("z", "bounds"), ("mean_z", "bounds on means")):
            start, wanted = stage.calibration.summary.get(f"start_{name}"), getattr(stage.options, name, None)
            if start is not None and wanted is not None and start > wanted:
                yield (
                    f"{what} at {wanted:g} standard deviations already cost more than --epsilon: the search began at "
                    f"up to {start:g}"
                )


def _flagged(fitted: Fitted) -> Iterator[str]:
    """What the images of ``--flagged`` were, as far as they say."""
    found = fitted.calibration.summary.get("flagged")
    if found is None:
        return
    images, kept = found["images"], found["keep_their_class"]
    yield f"{kept} of {images} flagged images keep their class under the masks: false alarms, or triggers still at work"
    if 2 * kept > images:
        yield "most flagged images keep their class: review them before you rely on what was learned from them"
    candidates = found["candidates"]
    explained = sum(candidates.values())
    if candidates and 2 * explained < images:
        yield (
            f"the given triggers are not all that was flagged: {explained} of {images} flagged images get one of their "
            f"classes ({', '.join(candidates)})"
        )
