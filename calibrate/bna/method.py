# SPDX-License-Identifier: Apache-2.0
"""BNA: align the distribution of triggered images with the clean one.

Li et al., "Backdoor Mitigation by Correcting the Distribution of Neural Activations".

For each target t that a scan found, a second pass g(. | Theta_t) over the same weights with other
normalisation, ``h(z) = max(min((z - mu) / sigma, omega), nu)`` per channel at every normalisation site
(Sec. 4). At run time: f(x) is the answer, unless f(x) = t is a detected target and g(x) disagrees: then
g(x) is, and the image is flagged as triggered.

    start      mu, sigma: moments over triggered clean images; omega, nu: clean extremes
    minimise   alignment * mean over sites and channels of D(clean histogram under f, triggered one under g)
             + answer * mean of KL(f(x) || g(x + trigger)) over source images, KL(f(x) || g(x)) over target images
    keep       of the states measured, start included, the one whose answers on held-out images are nearest to f's

What differs from the paper, and why (figures in docs/bna.md):

- The paper has the first term alone, and the authors' code trains omega only. Histograms per channel do not
  see which image a value belongs to; ``answer`` ties each triggered image to the answer for its own clean
  original, and keeps images of the target class where they are, which is what false alarms are made of.
- The start is taken site by site, each with the earlier ones corrected, over all images at once: it does not
  depend on the batch size, as statistics of a BatchNormalization in training mode would.
- Bins are 0.1 clean standard deviations wide, since channels of a folded graph have no common scale.

When it does not hold: the second pass undoes what the estimated trigger does. Without one there is nothing to
align: nothing found, nothing changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from patcher.calibrate import Calibration
from patcher.calibrate.best_state import holds
from patcher.calibrate.bna.fit import Aligned, align
from patcher.calibrate.bna.options import Options
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.patched import refuse_several, refuse_single_score, run_branch
from patcher.calibrate.rows import row_tensors
from patcher.calibrate.run import Run
from patcher.calibrate.scan import scan_triggers
from patcher.calibrate.triggered import TriggerSet, estimated_triggers
from patcher.data.clean_set import CleanSet, Indices
from patcher.errors import NotApplicableError
from patcher.graph.site import Site
from patcher.patch import Branch, Realignment
from patcher.triggers.trigger import Trigger

_REFERENCE_IMAGES = 8


def calibrate(run: Run, sites: Sequence[Site], clean_set: CleanSet, options: Options) -> Calibration:
    """Fit a second pass for each target that was found.

    Args:
        run: The model, and the seed of the scan and of the order of the images.
        sites: Channel sites.
        clean_set: Clean images; fitted on *fit*, decided on *held-out* (on *fit* where nothing is held out).
        options: Options of BNA.

    Returns:
        One `Branch` for all targets; no correction where nothing was found.

    Raises:
        InputError: The trigger file cannot be used.
        CalibrationError: The clean set has no image of a trigger's source classes.
        NotApplicableError: The model gives one score of two classes.
    """
    refuse_single_score(run.classifier, "method bna")
    refuse_several(run.classifier.task, "method bna")
    classifier, deciding = run.classifier, clean_set.deciding
    before = float(classifier.hits(clean_set, deciding, batch_size=run.batch_size).float().mean())
    given = estimated_triggers(options.triggers, options.scan, classifier.model, clean_set)
    triggers, level = given or scan_triggers(run, clean_set)
    if not triggers:
        verdict = f"no trigger found (scan: {level}); the model is returned unchanged"
        summary = {"verdict": verdict, "scan": level, "targets": []}
        return Calibration((), True, before, before, summary=summary)
    chosen = normalization_sites(classifier, sites, clean_set)
    groups = [[item for item in triggers if item.target == target] for target in sorted({t.target for t in triggers})]
    fitted = [align(run, chosen, clean_set, options, group) for group in groups]
    branch = _branch(chosen, fitted, options)
    after = float(_branch_hits(run, branch, clean_set, deciding).float().mean())
    return Calibration(
        corrections=(branch,),
        satisfied=holds(before - after, options.epsilon),
        held_out_before=before,
        held_out_after=after,
        curve=tuple(point for item in fitted for point in item.curve),
        summary={
            "verdict": f"trigger found for {len(fitted)} of {classifier.model.num_classes} classes",
            "scan": level,
            "targets": [item.summary() for item in fitted],
            "decided_on": clean_set.deciding_split,
        },
        reference_images=_triggered_images(classifier, groups, clean_set),
    )


def normalization_sites(classifier: Classifier, sites: Sequence[Site], clean_set: CleanSet) -> tuple[Site, ...]:
    """Where h acts: behind each BatchNormalization, or behind the linear layer where there is none (any more).

    The classifier's own layer is left out: its channels are the classes. So are tensors without a row for each image.

    Raises:
        NotApplicableError: There is none.
    """
    last = sites[-1]
    inner = sites[:-1] if last.channels == classifier.model.num_classes and len(sites) > 1 else sites
    moved = [replace(site, tensor=site.normalization or site.tensor) for site in inner]
    rows = row_tensors(classifier, clean_set, [site.tensor for site in moved])
    if not rows:
        raise NotApplicableError("method bna: a layer with one row an image expected, found none; use --method nft")
    return tuple(site for site in moved if site.tensor in rows)


def _triggered_images(
    classifier: Classifier, groups: Sequence[Sequence[Trigger]], clean_set: CleanSet
) -> NDArray[np.float32]:
    """A few triggered images of each target, so that parity is proven on the second pass too."""
    images = []
    for group in groups:
        triggers = TriggerSet(group, classifier.model.num_classes)
        chosen = np.flatnonzero(np.isin(clean_set.labels, triggers.sources))[:_REFERENCE_IMAGES]
        for pixels, labels in classifier.batches(clean_set, chosen, _REFERENCE_IMAGES):
            images.append(triggers.put(pixels, labels).cpu().numpy())
    return np.concatenate(images)


def _branch(sites: Sequence[Site], fitted: Sequence[Aligned], options: Options) -> Branch:
    corrections = []
    for site in sites:
        parts = zip(*(item.parts[site.tensor] for item in fitted), strict=True)
        scale, shift, upper, lower = (np.concatenate(part) for part in parts)
        corrections.append(Realignment(site.tensor, scale, shift, upper, lower))
    targets = tuple(item.target for item in fitted)
    return Branch(targets, tuple(corrections), options.branch, options.keep_original_output)


def _branch_hits(run: Run, branch: Branch, clean_set: CleanSet, indices: Indices) -> torch.Tensor:
    batches = run.classifier.batches(clean_set, indices, run.batch_size)
    return torch.cat(
        [run_branch(run.classifier, branch, images)[0].flatten(1).argmax(1) == labels for images, labels in batches]
    )
