# SPDX-License-Identifier: Apache-2.0
"""The whole scan on models whose backdoor is known because it is written down; real ones are in benchmarks."""

from __future__ import annotations

import pytest

from patcher.calibrate.run import Run
from patcher.calibrate.scan import scan_triggers
from patcher.calibrate.scan.effect import predicted_classes
from patcher.calibrate.scan.model_verdict import decide
from patcher.calibrate.scan.options import Options
from patcher.calibrate.scan.stages import search
from patcher.calibrate.scan.target_verdict import Thresholds
from patcher.errors import InputError

QUICK = Options(family=("patch",), steps=40, seeds=2, repeat=2)


def scan(classifier, clean_set, options=QUICK, seed=0):
    predicted = predicted_classes(classifier, clean_set, batch_size=256)
    findings = search(Run(classifier, seed, 512), clean_set, predicted, options, Thresholds())
    return findings, decide(findings, Thresholds(), clean_set.class_names)


@pytest.mark.parametrize("family", ["patch", "additive"])
def test_the_planted_target_is_found(make_classifier, make_clean_set, family):
    options = Options(family=(family,), steps=80, seeds=2, repeat=2)
    _, decision = scan(make_classifier(target=7), make_clean_set(), options)
    assert decision.level == "backdoor"
    assert decision.mode == "all-to-one"
    assert [item.target for item in decision.targets if item.level == "backdoor"] == [7]
    assert len(decision.triggers) == 2, "one a seed"
    for trigger in decision.triggers:
        assert (trigger.family, trigger.target) == (family, 7)
        assert set(trigger.sources) == set(range(10)) - {7}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_clean_model_is_not_flagged(make_classifier, make_clean_set, seed):
    _, decision = scan(make_classifier(), make_clean_set(), seed=seed)
    assert decision.level == "clean"
    assert decision.triggers == ()


def test_all_to_all_is_recognised(make_classifier, make_clean_set):
    _, decision = scan(make_classifier(all_to_all=True), make_clean_set())
    assert (decision.level, decision.mode) == ("backdoor", "all-to-all")
    assert decision.pairs == {label: (label + 1) % 10 for label in range(10)}
    assert {(item.sources, item.target) for item in decision.triggers} == {((k,), (k + 1) % 10) for k in range(10)}


def test_two_clean_classes_are_inconclusive(make_classifier, make_clean_set):
    _, decision = scan(make_classifier(2), make_clean_set(classes=2))
    assert decision.level == "inconclusive"
    assert "8 needed" in decision.reasons[0]


def test_few_and_uneven_images_and_a_class_without_any(make_classifier, make_clean_set):
    clean_set = make_clean_set([12, 2, 1, 6, 12, 12, 2, 6, 6, 0])
    options = Options(family=("patch",))
    findings, decision = scan(make_classifier(target=3), clean_set, options)
    assert findings.inverted == tuple(range(10))
    assert [item.target for item in decision.targets if item.level == "backdoor"] == [3]


def test_above_43_classes_only_the_first_by_rank_are_inverted(make_classifier, make_clean_set, monkeypatch):
    monkeypatch.setattr("patcher.calibrate.scan.stages._INVERT_ALL", 9)
    options = Options(family=("patch",), steps=2, seeds=1, top=4)
    findings, _ = scan(make_classifier(target=7), make_clean_set(5), options)
    assert len(findings.inverted) == 4
    assert 7 in findings.inverted
    assert findings.ranked


@pytest.mark.parametrize("values", [{"steps": 0}, {"seeds": 0}, {"top": -1}, {"family": ("wrap",)}])
def test_options_out_of_range_are_refused(values):
    with pytest.raises(InputError, match="expected, found"):
        Options(**values)


def test_a_defence_gets_the_triggers_of_a_scan_by_one_call(make_classifier, make_clean_set):
    found, level = scan_triggers(Run(make_classifier(target=4), 0, 512), make_clean_set())
    assert ({item.target for item in found}, level) == ({4}, "backdoor")
    assert len(found) >= 3, "of every seed"
