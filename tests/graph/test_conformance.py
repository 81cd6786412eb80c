# SPDX-License-Identifier: Apache-2.0
"""The standard's node tests; `docs/operators.md` holds the count by operator."""

from __future__ import annotations

from collections import Counter

import onnx
import pytest

from benchmarks.conformance import judge_all, node_tests
from benchmarks.operators import PAGE, page


@pytest.fixture(scope="module")
def verdicts():
    return list(judge_all())


def test_every_node_test_is_judged(verdicts):
    assert len(verdicts) == len(node_tests()) > 1000


def test_no_answer_is_wrong_and_nothing_crashes(verdicts):
    bad = [f"{item.outcome}: {item.test}: {item.reason}" for item in verdicts if item.outcome in ("wrong", "crashed")]
    assert not bad


def test_three_quarters_of_the_float_tensor_tests_are_claimed(verdicts):
    outcomes = Counter(item.outcome for item in verdicts if item.float_tensor)
    assert outcomes["passed"] / outcomes.total() >= 0.75


def test_refusals_say_what_and_where(verdicts):
    for item in verdicts:
        if item.outcome == "refused" and item.reason.startswith("node "):
            assert "operator " in item.reason
            assert "opset " in item.reason


def test_the_page_is_up_to_date(verdicts):
    text = PAGE.read_text()
    if f"with onnx {onnx.__version__};" not in text:
        pytest.skip("docs/operators.md was made with another version of onnx, which has other tests")
    assert text == page(verdicts), "run: python -m benchmarks.operators --write"
