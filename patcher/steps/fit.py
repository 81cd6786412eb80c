# SPDX-License-Identifier: Apache-2.0
"""From a model and clean images to a patch: what `harden` and `calibrate` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patcher.calibrate import Calibration, Method
from patcher.calibrate.stack import Stack, joined, read_stack, within_budget
from patcher.data.arrays import Arrays
from patcher.data.clean_set import CleanSet
from patcher.data.preprocess import Preprocess
from patcher.errors import InputError, NotApplicableError
from patcher.files import Source
from patcher.graph.site import Site
from patcher.graph.sites import find_sites
from patcher.model.model import Model
from patcher.model.provenance import read_provenance
from patcher.patch import Patch
from patcher.progress import Progress, no_progress
from patcher.settings import Settings, split_options
from patcher.steps.batches import fitting_batch, fitting_options
from patcher.steps.choice import Choice
from patcher.steps.prepare import Prepared
from patcher.steps.reference import clean_histograms, reference_answers
from patcher.steps.training_data import Data, read_data, without_suspects

if TYPE_CHECKING:
    from patcher.calibrate.run import Run

UNCHANGED = "nothing justifies a correction; the model is returned unchanged"
_PARITY_IMAGES = 32


@dataclass(frozen=True)
class Stage:
    """One method of a stack, calibrated.

    Attributes:
        method: Name of the method.
        options: Its ``Options``, as they were asked for.
        epsilon: Accuracy that it was allowed to lose, 0 to 1; ``None`` for a method without such a condition.
        sites: Where it acted.
        calibration: Its own findings.
        histograms: Clean activations relative to its bounds, by tensor; see `bound_histograms`.
    """

    method: str
    options: Any
    epsilon: float | None
    sites: tuple[Site, ...]
    calibration: Calibration
    histograms: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Fitted:
    """A patch and everything it came from.

    Attributes:
        prepared: The model and the clean images.
        settings: Shared settings.
        stages: One a method.
        patch: The corrections.
        calibration: The findings of all stages together.
        reference_images: float32 ``(n, C, H, W)`` pixels.
        reference: What the hardened model must answer to them, computed in PyTorch: class scores float32
            ``(n, K)``, and the flags bool ``(n,)`` of a second pass, by output name.
        training_set: The training set, where the method takes one.
        choice: Why these methods, where nobody named them.
    """

    prepared: Prepared
    settings: Settings
    stages: tuple[Stage, ...]
    patch: Patch
    calibration: Calibration
    reference_images: NDArray[np.float32]
    reference: Mapping[str, NDArray[Any]]
    training_set: CleanSet | None = None
    choice: Choice | None = None


@dataclass(frozen=True)
class Ground:
    """What patches are fitted on: read once, whatever is fitted.

    Attributes:
        data: The model, measured, and its images.
        run: The model in PyTorch.
        settings: Shared settings, with a batch size that fits.
        fits: Images whose activations fit the memory, whatever batch size was asked for.
    """

    data: Data
    run: Run
    settings: Settings
    fits: int


def read_options(stack: Stack, options: Mapping[str, Any]) -> tuple[Settings, tuple[Any, ...]]:
    """Split keyword arguments into shared settings and the ``Options`` of each method.

    Raises:
        InputError: An option is unknown or out of its range.
    """
    settings, own = split_options(options)
    return settings, stack.options(own)


def relevant(stack: Stack, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that `read_options` takes for a stack."""
    known = stack.known | {part.name for part in fields(Settings)}
    return {name: value for name, value in options.items() if name in known}


def recorded_options(method_options: Any) -> dict[str, Any]:
    """Options as they stand in the patch: without paths and what else does not change the result.

    A field whose metadata say ``"recorded": "if set"`` stands there where it differs from its default, so that an
    option that is new leaves the bytes of files made without it alone.
    """
    found = {}
    for part in fields(method_options):
        value, recorded = getattr(method_options, part.name), part.metadata.get("recorded", True)
        if recorded is True or (recorded == "if set" and value != part.default):
            found[part.name] = value
    return found


def refuse_hardened(model: Model, settings: Settings) -> None:
    """Refuse to correct a model a second time unawares.

    Raises:
        InputError: The model was hardened before, and that was not asked for.
    """
    made = read_provenance(model.proto)
    if made is not None and not settings.again:
        raise InputError(
            f"{model.path or 'the model'} was hardened by patcher {made.version}, method {made.method}; harden the "
            "original instead, or give --again"
        )


def sites_of_kind(model: Model, method: Method) -> tuple[Site, ...]:
    """The sites on which a method acts; perhaps none."""
    return tuple(site for site in find_sites(model) if site.kind == method.site_kind)


def sites_for(model: Model, method: Method) -> tuple[Site, ...]:
    """The sites on which a method acts.

    Raises:
        NotApplicableError: The model has none.
    """
    sites = sites_of_kind(model, method)
    if not sites:
        operators = sorted({node.op_type for node in model.proto.graph.node})
        raise NotApplicableError(
            f"method {method.name} needs {method.site_kind} sites, found none among the operators "
            f"{', '.join(operators)}; see 'patcher inspect', or choose another --method"
        )
    return sites


def fit_patch(
    model: Model,
    clean_dir: Source | None,
    method_name: str,
    preprocess: Preprocess | Arrays,
    progress: Progress | None,
    options: Mapping[str, Any],
) -> Fitted:
    """Read everything, calibrate, and compute what the patched model must answer.

    Args:
        model: The classifier.
        clean_dir: Clean images; may be left out where the method takes a training set.
        method_name: Name of a method, or several joined by ``+``.
        preprocess: How pictures become the model's input.
        progress: Told of each step.
        options: Fields of `Settings` and of the methods' ``Options``.

    Raises:
        PatcherError: As `patcher.harden`.
    """
    stack = read_stack(method_name)
    settings, own = read_options(stack, options)
    refuse_hardened(model, settings)
    for method in stack.methods:
        sites_for(model, method)
    ground = read_ground(model, stack, clean_dir, own, preprocess, settings, progress)
    return fit_stack(ground, stack, [fitting_options(part, options, ground.fits) for part in own])


def read_ground(
    model: Model,
    stack: Stack,
    clean_dir: Source | None,
    options: Sequence[Any],
    preprocess: Preprocess | Arrays,
    settings: Settings,
    progress: Progress | None,
) -> Ground:
    """Read the images that a stack needs, and open the model in PyTorch.

    Raises:
        PatcherError: As `patcher.harden`.
    """
    data = read_data(model, stack, clean_dir, options, preprocess, settings)
    pixels = data.prepared.clean_set.pixels
    size, fits = (fitting_batch(model, pixels, wanted) for wanted in (settings.batch_size, Settings.batch_size))

    from patcher.calibrate.classifier import Classifier, choose_device
    from patcher.calibrate.run import Run

    device, task = choose_device(settings.device), data.prepared.task
    run = Run(Classifier(model, preprocess, device=device, task=task), settings.seed, size, progress or no_progress)
    return Ground(data, run, replace(settings, batch_size=size), fits)


def fit_stack(ground: Ground, stack: Stack, options: Sequence[Any], done: Sequence[Stage] = ()) -> Fitted:
    """Calibrate each method on the graph as those before it left it; one that fails its condition is the last.

    Args:
        ground: What they are fitted on.
        stack: The methods.
        options: Their ``Options``.
        done: The first of them, calibrated before.
    """
    stages = list(done)
    for method, own in list(zip(stack.methods, options, strict=True))[len(stages) :]:
        stages.append(_stage(ground, method, own, stages, len(stack.methods)))
        if not stages[-1].calibration.satisfied:
            break
    return _fitted(ground, stack, stages)


def fit_nothing(ground: Ground, stack: Stack) -> Fitted:
    """A patch that changes nothing, named after the methods that it spares the model."""
    prepared, deciding = ground.data.prepared, ground.data.prepared.clean_set.deciding
    accuracy = float(prepared.task.right(prepared.predicted, prepared.clean_set.labels)[deciding].mean())
    nothing = Calibration((), True, accuracy, accuracy, summary={"verdict": UNCHANGED})
    return _fitted(ground, stack, [Stage(stack.name, stack.options({})[0], None, (), nothing, {})])


def _stage(ground: Ground, method: Method, options: Any, before: Sequence[Stage], count: int) -> Stage:
    from patcher.calibrate.patched import corrected

    data, found = ground.data, [item.calibration for item in before]
    classifier = corrected(ground.run.classifier, chain.from_iterable(item.corrections for item in found))
    run = replace(ground.run, classifier=classifier)
    sites = sites_for(classifier.model, method)
    lost = found[0].held_out_before - found[-1].held_out_after if found else 0.0
    own = within_budget(options, lost, count - len(found))
    calibration = method.load().calibrate(run, sites, data.clean_set, own, **data.further)
    histograms = clean_histograms(run, calibration, data.prepared.clean_set)
    return Stage(method.name, options, getattr(own, "epsilon", None), sites, calibration, histograms)


def _fitted(ground: Ground, stack: Stack, stages: Sequence[Stage]) -> Fitted:
    classifier, names = ground.run.classifier, [item.method for item in stages]
    calibration = _together(stages)
    prepared = without_suspects(ground.data, calibration)
    patch = Patch(
        method=stack.name,
        source_sha256=classifier.model.sha256,
        corrections=calibration.corrections,
        options={**joined(names, [recorded_options(item.options) for item in stages]), "seed": ground.settings.seed},
        clean_data_sha256=prepared.clean_set.sha256,
        preprocess=classifier.preprocess.as_json(),
    )
    images = prepared.clean_set.images(slice(0, _PARITY_IMAGES))
    if calibration.reference_images is not None:
        images = np.concatenate([images, calibration.reference_images])
    images, reference = reference_answers(classifier, patch, images)
    training_set = ground.data.further.get("training_set")
    return Fitted(prepared, ground.settings, tuple(stages), patch, calibration, images, reference, training_set)


def _together(stages: Sequence[Stage]) -> Calibration:
    """The findings of all stages as those of one method."""
    found = [item.calibration for item in stages]
    images = [item.reference_images for item in found if item.reference_images is not None]
    return Calibration(
        corrections=tuple(chain.from_iterable(item.corrections for item in found)),
        satisfied=all(item.satisfied for item in found),
        held_out_before=found[0].held_out_before,
        held_out_after=found[-1].held_out_after,
        curve=tuple(chain.from_iterable(item.curve for item in found)),
        summary=joined([item.method for item in stages], [item.summary for item in found]),
        reference_images=np.concatenate(images) if images else None,
        findings=next((item.findings for item in found if item.findings is not None), None),
    )
