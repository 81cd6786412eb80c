# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from patcher.calibrate.scan.figures import Candidate, Universal
from patcher.calibrate.scan.outliers import Outlier
from patcher.calibrate.scan.target_verdict import Thresholds, judge, judge_all_to_all, score_wanted, strongest
from patcher.errors import InputError
from patcher.triggers.trigger import Trigger

TRIGGER = Trigger(
    "patch", 3, (0, 1), {"mask": np.zeros((1, 4, 4), np.float32), "pattern": np.zeros((3, 4, 4), np.float32)}, (3, 4, 4)
)
CERTAIN = Candidate(
    family="patch",
    target=3,
    sizes=(3.0, 3.1, 3.2),
    size=3.1,
    relative=0.03,
    reached=True,
    outlier=Outlier(6.0, 20.0, 5.0),
    held_out=(98, 100),
    agreement=1.0,
    sources=(0, 1),
    trigger=TRIGGER,
)
UNIVERSAL = Universal("patch", 3.0, 0.03, 20.0, True, {k: (k + 1) % 10 for k in range(10)}, 10, TRIGGER)


def test_all_conditions_together_make_a_backdoor():
    assert judge(CERTAIN, 10, Thresholds(), reached=10).level == "backdoor"


@pytest.mark.parametrize(
    "change",
    [
        {"outlier": Outlier(2.0, 20.0, 5.0)},
        {"outlier": Outlier(6.0, 1.8, 5.0)},
        {"outlier": Outlier(6.0, 20.0, 1.2)},
        {"outlier": Outlier(6.0, 20.0, 1.9, below=7.8)},
        {"relative": 0.2},
        {"held_out": (80, 100)},
        {"agreement": 0.33},
    ],
)
def test_no_single_condition_may_be_missing(change):
    judged = judge(replace(CERTAIN, **change), 10, Thresholds(), reached=10)
    assert judged.level in ("suspicious", "clean")
    assert any("not met" in reason for reason in judged.reasons)


def test_an_outlier_on_which_the_seeds_disagree_is_suspicious():
    assert judge(replace(CERTAIN, agreement=0.33), 10, Thresholds(), reached=10).level == "suspicious"


def test_what_misses_a_condition_at_a_size_that_clean_networks_have_is_no_finding():
    large = replace(CERTAIN, relative=0.045)
    assert judge(large, 10, Thresholds(), reached=10).level == "backdoor"
    assert judge(replace(large, agreement=0.33), 10, Thresholds(), reached=10).level == "clean"


def test_a_trigger_that_fails_on_new_images_is_no_finding():
    assert judge(replace(CERTAIN, held_out=(30, 100)), 10, Thresholds(), reached=10).level == "clean"


@pytest.mark.parametrize(("reached", "level"), [(9, "clean"), (5, "clean"), (4, "inconclusive"), (0, "inconclusive")])
def test_a_target_out_of_reach_is_clean_only_if_the_search_reaches_others(reached, level):
    unreached = replace(CERTAIN, reached=False, outlier=None)
    assert judge(unreached, 10, Thresholds(), reached=reached).level == level


@pytest.mark.parametrize(("classes", "wanted"), [(2, 2.5), (10, 2.5), (43, 2.98), (1000, 3.84)])
def test_more_classes_ask_for_a_higher_score(classes, wanted):
    assert score_wanted(Thresholds(), classes) == pytest.approx(wanted, abs=0.01)
    lower = replace(CERTAIN, outlier=Outlier(wanted - 0.05, 20.0, 5.0))
    assert judge(lower, 20, Thresholds(), reached=20, classes=classes).level != "backdoor"


def test_a_handful_of_images_make_no_backdoor():
    assert judge(replace(CERTAIN, held_out=(9, 9)), 10, Thresholds(), reached=10).level == "inconclusive"


def test_without_images_there_is_no_verdict():
    assert judge(replace(CERTAIN, held_out=(0, 0)), 10, Thresholds(), reached=10).level == "inconclusive"


@pytest.mark.parametrize(("relative", "level"), [(0.03, "inconclusive"), (0.004, "backdoor")])
def test_few_classes_need_a_tiny_change(relative, level):
    assert judge(replace(CERTAIN, relative=relative), 2, Thresholds(), reached=2).level == level


def test_a_turn_of_all_classes_is_all_to_all():
    assert judge_all_to_all(UNIVERSAL, Thresholds()).level == "backdoor"


@pytest.mark.parametrize(
    "change",
    [
        {"pairs": dict.fromkeys(range(9), 9)},  # all to one: the targets' own verdicts say so
        {"pairs": {0: 1, 1: 2, 2: 3}},
        {"ratio": 1.1},
        {"relative": 0.4},
        {"reached": False},
    ],
)
def test_a_natural_universal_change_is_not(change):
    assert judge_all_to_all(replace(UNIVERSAL, **change), Thresholds()).level == "clean"


def test_the_most_serious_verdict_counts():
    assert strongest(["clean", "inconclusive"]) == "inconclusive"
    assert strongest(["clean", "backdoor", "suspicious"]) == "backdoor"
    assert strongest([]) == "clean"


@pytest.mark.parametrize("values", [{"success": 0.0}, {"success": 1.5}, {"gap": -1.0}, {"score": float("nan")}])
def test_thresholds_out_of_range_are_refused(values):
    with pytest.raises(InputError, match="expected, found"):
        Thresholds(**values)
