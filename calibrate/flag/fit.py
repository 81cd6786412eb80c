# SPDX-License-Identifier: Apache-2.0
"""Fit a run-time flag on clean images alone: one class, no trigger, no label.

Two signals complement each other: how far the largest activation lies above what is usual, from the first view
alone, and how much the answer changes once activations are cut to the clean range. Each becomes a surprise, minus
the logarithm of its tail probability under an exponential tail through the 90 % and the 99 % quantile of the fit
images; surprises add up as for independent signals. The threshold is the quantile of the deciding images that leaves
the false alarms asked for. Figures are in docs/flag.md.

When it does not hold: a trigger whose activations are usual at every site and whose answer does not hang on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from patcher.calibrate.patched import bound_rewrite, excess_of, largest_score, log_divergence, run_flag
from patcher.calibrate.rows import row_tensors
from patcher.calibrate.run import Run
from patcher.calibrate.statistics import Moments
from patcher.data.clean_set import CleanSet, Indices
from patcher.errors import NotApplicableError
from patcher.patch import BranchForm, Flag, UpperBound, Watch

_GATE = 0.9  # quantile of the excess above which the second view is asked; docs/flag.md
_TAIL = (0.9, 0.99)
_SMALLEST_SHARE = 0.01  # of a site's mean deviation: a channel that is always the same has none
_SMALLEST_SPREAD = 1e-6
_SMALLEST_TAIL = 0.5  # a steeper tail would make rounding visible in the score


def fit_flag(
    run: Run,
    clean_set: CleanSet,
    moments: Mapping[str, Moments],
    bounds: Sequence[UpperBound],
    *,
    false_alarms: float,
    form: BranchForm,
) -> tuple[Flag, dict[str, Any]]:
    """Fit what is usual, and the threshold.

    Args:
        run: The model, and images in memory at a time.
        clean_set: Clean images; tails come from *fit*, the threshold from the deciding ones.
        moments: Mean and deviation at each site over the fit images.
        bounds: Of the second view, one an activation site, in graph order; those of sites without rows are left out.
        false_alarms: Share of clean images that may be flagged, 0 to 1.
        form: How the flag is baked.

    Returns:
        The flag, and figures for the report.

    Raises:
        NotApplicableError: No activation has a row for each image.
    """
    limits = {item.tensor: item.bound for item in bounds}
    rows = row_tensors(run.classifier, clean_set, list(limits))
    if not rows:
        raise NotApplicableError("--flag: an activation with one row an image expected, found none")
    watched = tuple(_watch(name, moments[name], limits[name]) for name in limits if name in rows)
    tops = _site_scores(run, clean_set, watched)
    levels = np.stack([tops.mean(axis=0), np.maximum(tops.std(axis=0), _SMALLEST_SPREAD)], axis=1).astype(np.float32)
    flag = Flag(watched, levels, np.zeros((2, 2), np.float32), 0.0, math.inf, form)
    excess, divergence = _signals(run, clean_set, flag)
    tails = np.array([_tail(excess), _tail(divergence)], np.float32)
    flag = Flag(watched, levels, tails, quantile_between(excess, 1 - _GATE), math.inf, form)
    # Too few to leave a single one above: then all images decide, whose statistics the flag has seen.
    resolved = false_alarms * len(clean_set.deciding) >= 1
    split, indices = (clean_set.deciding_split, clean_set.deciding) if resolved else ("all", clean_set.everything)
    scores = _scores(run, clean_set, indices, flag)
    # Rows below the gate have no second answer, so none of them may be flagged.
    threshold = max(quantile_between(scores, false_alarms), float(tails[0, 0] * flag.gate + tails[0, 1]))
    flagged = int((scores > threshold).sum())
    summary = {
        "threshold": threshold,
        "false_alarms_wanted": false_alarms,
        "false_alarms": {"flagged": flagged, "images": len(scores), "split": split},
        "images_needed": math.ceil(1 / false_alarms),
        "second_view_share": float((excess > flag.gate).mean()),
    }
    return Flag(watched, levels, tails, flag.gate, threshold, form), summary


def quantile_between(scores: NDArray[np.float32], share: float) -> float:
    """A threshold that at most `share` of the scores ``(N,)`` exceed, half way between two of them.

    Half way, so that rounding in another runtime moves no image of the set across. With too few scores to leave
    any above, a little above the largest.
    """
    ordered = np.sort(scores.astype(np.float64))
    allowed = int(share * len(ordered) + 1e-9)
    if allowed == 0:
        return float(ordered[-1] + max(1e-3, 1e-3 * abs(ordered[-1])))
    return float((ordered[-allowed - 1] + ordered[-allowed]) / 2) if allowed < len(ordered) else float(ordered[0])


def _watch(tensor: str, moments: Moments, bound: NDArray[np.float32]) -> Watch:
    mean, std = moments.mean.float().cpu().numpy(), moments.std.float().cpu().numpy()
    smallest = max(float(std.mean()) * _SMALLEST_SHARE, _SMALLEST_SPREAD)
    return Watch(tensor, mean, np.maximum(std, np.float32(smallest)), bound)


@torch.no_grad()
def _site_scores(run: Run, clean_set: CleanSet, watched: Sequence[Watch]) -> NDArray[np.float32]:
    """Largest standard score of each fit image at each site, float32 ``(n, S)``."""
    rows = []
    for images, _ in run.classifier.batches(clean_set, clean_set.fit, run.batch_size):
        values = run.classifier.run(images, fetch=[site.tensor for site in watched], scores=False)
        rows.append(torch.stack([largest_score(values[site.tensor], site) for site in watched], dim=1).cpu().numpy())
    return np.concatenate(rows)


@torch.no_grad()
def _signals(run: Run, clean_set: CleanSet, flag: Flag) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Excess and log divergence of every fit image, float32 ``(n,)`` each."""
    classifier, names = run.classifier, [site.tensor for site in flag.sites]
    bounds = {site.tensor: torch.from_numpy(site.bound).to(classifier.device) for site in flag.sites}
    excess, divergence = [], []
    for images, _ in classifier.batches(clean_set, clean_set.fit, run.batch_size):
        first = classifier.run(images, fetch=names)
        second = classifier.logits(images, rewrite=bound_rewrite(bounds))
        excess.append(excess_of(first, flag).cpu().numpy())
        divergence.append(log_divergence(second, classifier.as_logits(first[classifier.model.logits])).cpu().numpy())
    return np.concatenate(excess), np.concatenate(divergence)


def _scores(run: Run, clean_set: CleanSet, indices: Indices, flag: Flag) -> NDArray[np.float32]:
    batches = run.classifier.batches(clean_set, indices, run.batch_size)
    return np.concatenate([run_flag(run.classifier, flag, images)[1].cpu().numpy() for images, _ in batches])


def _tail(values: NDArray[np.float32]) -> tuple[float, float]:
    """Slope and intercept of minus log of the tail probability, through two quantiles."""
    (low, high), (first, second) = np.quantile(values, _TAIL), (-math.log(1 - share) for share in _TAIL)
    slope = (second - first) / max(float(high - low), _SMALLEST_TAIL)
    return slope, first - slope * float(low)
