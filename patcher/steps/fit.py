# SPDX-License-Identifier: Apache-2.0
"""From a model and clean images to a patch: what `harden` and `calibrate` share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patcher.calibrate import METHODS, Calibration, Method
from patcher.data.clean_set import CleanSet
from patcher.data.preprocess import Preprocess
from patcher.errors import InputError, NotApplicableError
from patcher.files import Source
from patcher.graph.site import Site
from patcher.graph.sites import find_sites
from patcher.model.model import Model
from patcher.model.provenance import read_provenance
from patcher.patch import Branch, Flag, Patch, UpperBound
from patcher.progress import Progress, no_progress
from patcher.settings import Settings, refuse_unknown, split_options
from patcher.steps.batches import fitting_batch, fitting_options
from patcher.steps.prepare import Prepared
from patcher.steps.training_data import read_data, without_suspects
from patcher.two_files import FLAG_OUTPUT, SCORE_OUTPUT

if TYPE_CHECKING:
    from patcher.calibrate.classifier import Classifier

_PARITY_IMAGES = 32
_HISTOGRAM_IMAGES = 256


@dataclass(frozen=True)
class Fitted:
    """A patch and everything it came from.

    Attributes:
        prepared: The model and the clean images.
        sites: Where the method acted.
        settings: Shared settings.
        patch: The corrections.
        calibration: The method's own findings.
        reference_images: float32 ``(n, C, H, W)`` pixels.
        reference: What the hardened model must answer to them, computed in PyTorch: class scores float32
            ``(n, K)``, and the flags bool ``(n,)`` of a second pass, by output name.
        training_set: The training set, where the method takes one.
        histograms: Clean activations relative to their bounds, by tensor; see `bound_histograms`.
    """

    prepared: Prepared
    sites: tuple[Site, ...]
    settings: Settings
    patch: Patch
    calibration: Calibration
    reference_images: NDArray[np.float32]
    reference: Mapping[str, NDArray[Any]]
    histograms: Mapping[str, NDArray[np.float64]]
    training_set: CleanSet | None = None


def choose_method(name: str) -> Method:
    """Look a method up.

    Raises:
        InputError: There is no such method.
    """
    if name not in METHODS:
        raise InputError(f"--method: one of {', '.join(METHODS)} expected, found {name!r}")
    return METHODS[name]


def read_options(method: Method, options: Mapping[str, Any]) -> tuple[Settings, Any]:
    """Split keyword arguments into shared settings and the method's own ``Options``.

    Raises:
        InputError: An option is unknown or out of its range.
    """
    settings, own = split_options(options)
    refuse_unknown(f"method {method.name}", own, (part.name for part in fields(method.options())))
    return settings, method.options()(**own)


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


def sites_for(model: Model, method: Method) -> tuple[Site, ...]:
    """The sites on which a method acts.

    Raises:
        NotApplicableError: The model has none.
    """
    sites = tuple(site for site in find_sites(model) if site.kind == method.site_kind)
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
    preprocess: Preprocess,
    progress: Progress | None,
    options: Mapping[str, Any],
) -> Fitted:
    """Read everything, calibrate, and compute what the patched model must answer.

    Args:
        model: The classifier.
        clean_dir: Clean images; may be left out where the method takes a training set.
        method_name: Name of a method.
        preprocess: How pictures become the model's input.
        progress: Told of each step.
        options: Fields of `Settings` and of the method's ``Options``.

    Raises:
        PatcherError: As `patcher.harden`.
    """
    method = choose_method(method_name)
    settings, method_options = read_options(method, options)
    refuse_hardened(model, settings)
    sites = sites_for(model, method)
    data = read_data(model, method, clean_dir, method_options, preprocess, settings)
    prepared = data.prepared
    settings = replace(settings, batch_size=fitting_batch(model, prepared.clean_set.pixels, settings.batch_size))
    method_options = fitting_options(method_options, options, settings.batch_size)

    from patcher.calibrate.classifier import Classifier, choose_device
    from patcher.calibrate.run import Run

    classifier = Classifier(model, preprocess, device=choose_device(settings.device))
    run = Run(classifier, settings.seed, settings.batch_size, progress or no_progress)
    calibration = method.load().calibrate(run, sites, data.clean_set, method_options, **data.further)
    prepared = without_suspects(data, calibration)
    patch = Patch(
        method=method.name,
        source_sha256=model.sha256,
        corrections=calibration.corrections,
        options={**recorded_options(method_options), "seed": settings.seed},
        clean_data_sha256=prepared.clean_set.sha256,
        preprocess=preprocess.as_json(),
    )
    images = prepared.clean_set.images(slice(0, _PARITY_IMAGES))
    if calibration.reference_images is not None:
        images = np.concatenate([images, calibration.reference_images])
    images = _decided(classifier, patch, images)
    return Fitted(
        prepared,
        sites,
        settings,
        patch,
        calibration,
        images,
        _reference(classifier, patch, images),
        _histograms(classifier, patch, prepared.clean_set, settings.batch_size),
        data.further.get("training_set"),
    )


def _histograms(
    classifier: Classifier, patch: Patch, clean_set: CleanSet, batch_size: int
) -> dict[str, NDArray[np.float64]]:
    """Clean activations relative to the patch's bounds, by tensor."""
    from patcher.calibrate.statistics import bound_histograms

    bounds = [item for item in patch.corrections if isinstance(item, UpperBound)]
    batches = classifier.batches(clean_set, clean_set.fit[:_HISTOGRAM_IMAGES], batch_size)
    return bound_histograms(classifier, bounds, batches)


def _decided(classifier: Classifier, patch: Patch, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The images whose flag does not hang on rounding: parity asks for the same flags in another runtime."""
    flag = next((item for item in patch.corrections if isinstance(item, Flag)), None)
    if flag is None:
        return images
    from patcher.calibrate.patched import hangs_on_rounding

    undecided: NDArray[np.bool_] = hangs_on_rounding(classifier, flag, classifier.tensor(images)).cpu().numpy()
    return images[~undecided]


def _reference(classifier: Classifier, patch: Patch, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """What the patched model answers, in PyTorch, by output name."""
    import torch

    from patcher.calibrate.patched import patch_rewrite, run_branch, run_flag

    pixels, name = classifier.tensor(images), classifier.model.logits
    second = next((item for item in patch.corrections if isinstance(item, Branch | Flag)), None)
    rewrite = patch_rewrite(classifier, [item for item in patch.corrections if item is not second])
    if isinstance(second, Branch):
        scores, flags, _ = run_branch(classifier, second, pixels, rewrite=rewrite)
        return {name: scores.float().cpu().numpy(), FLAG_OUTPUT: flags.cpu().numpy()}
    if isinstance(second, Flag):
        scores, unusual, flags = run_flag(classifier, second, pixels, rewrite=rewrite)
        values = {name: scores.float(), SCORE_OUTPUT: unusual, FLAG_OUTPUT: flags}
        return {key: value.cpu().numpy() for key, value in values.items()}
    with torch.no_grad():
        return {name: classifier.run(pixels, rewrite=rewrite)[name].float().cpu().numpy()}
