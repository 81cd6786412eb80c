# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from patcher.calibrate.run import Run
from patcher.calibrate.scan.effect import predicted_classes
from patcher.calibrate.scan.inversion import Inverted
from patcher.calibrate.scan.model_verdict import decide
from patcher.calibrate.scan.options import Options
from patcher.calibrate.scan.single_sources import single_sources
from patcher.calibrate.scan.stages import search
from patcher.calibrate.scan.target_verdict import Thresholds


def sizes_from(near):
    """A search that finds every source at size 0.04, one of them at `near`."""

    def search(family, goals, number):
        return [
            Inverted(goal, family, {"difference": np.zeros((1, 12, 12), np.float32)}, size, 1.0, True, 80)
            for goal in goals
            for size in [near if goal.source == 3 else 0.04 + 0.001 * goal.source]
        ]

    return search


@pytest.mark.parametrize(("near", "found"), [(0.004, [3]), (0.03, [])])
def test_a_source_far_nearer_than_the_others_is_named(make_clean_set, near, found):
    clean_set = make_clean_set()
    named = single_sources(sizes_from(near), clean_set, clean_set.labels, ("additive",), [7], Thresholds())
    assert [item.source for item in named] == found
    assert all((item.target, item.trigger.sources) == (7, (3,)) for item in named)


def test_a_clean_model_has_no_single_source(make_classifier, make_clean_set):
    clean_set, classifier = make_clean_set(), make_classifier()
    predicted = predicted_classes(classifier, clean_set, batch_size=256)
    options = Options(family=("patch",), steps=20, seeds=1, sources=1)
    findings = search(Run(classifier, 0, 512), clean_set, predicted, options, Thresholds())
    assert findings.single_sources == ()
    assert decide(findings, Thresholds(), clean_set.class_names).level == "clean"
