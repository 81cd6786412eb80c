# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from benchmarks.record import machine_record, markdown_table, run_child, summarize_pairs, time_pairs, write_result


def test_the_ratio_is_that_of_the_medians_and_lies_in_its_interval() -> None:
    generator = np.random.default_rng(1)
    elapsed = np.stack([generator.normal(0.010, 0.001, 200), generator.normal(0.012, 0.001, 200)], axis=1)
    timing = summarize_pairs(elapsed)
    medians = np.median(elapsed, axis=0)
    assert timing.ratio == pytest.approx(medians[1] / medians[0])
    assert timing.base_ms == pytest.approx(medians[0] * 1000)
    assert 1.15 < timing.low < timing.ratio < timing.high < 1.25


def test_identical_runs_have_ratio_one_and_no_width() -> None:
    timing = summarize_pairs(np.full((7, 2), 0.5))
    assert (timing.ratio, timing.low, timing.high, timing.pairs) == (1.0, 1.0, 1.0, 7)


def test_functions_take_turns_and_the_order_alternates() -> None:
    calls: list[str] = []
    time_pairs(lambda: calls.append("base"), lambda: calls.append("other"), pairs=2, warmup=0)
    assert calls == ["other", "base", "base", "other"]


def test_the_slower_function_is_seen() -> None:
    timing = time_pairs(lambda: time.sleep(0.001), lambda: time.sleep(0.004), pairs=5, warmup=1)
    assert timing.ratio > 1.5


def test_a_child_is_measured_with_its_code_output_and_memory() -> None:
    program = "import sys; block = bytearray(300 * 2**20); print('out'); print('err', file=sys.stderr); sys.exit(3)"
    run = run_child([sys.executable, "-c", program])
    assert (run.code, run.stdout, run.stderr) == (3, "out\n", "err\n")
    assert run.peak_mib > 300
    assert run.seconds > 0


def test_results_hold_figures_command_and_machine(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Row:
        model: str
        ratio: float

    data, page = write_result(
        "probe", command="python -m probe", rows=[Row("m", 1.5)], tables=markdown_table(["a"], [["b"]]), folder=tmp_path
    )
    content = json.loads(data.read_text())
    assert content["rows"] == [{"model": "m", "ratio": 1.5}]
    assert content["command"] == "python -m probe"
    assert content["machine"]["packages"]["numpy"] == np.__version__
    assert "| a |\n| --- |\n| b |" in page.read_text()
    assert "cores" in page.read_text()


def test_the_machine_is_described_by_plain_values() -> None:
    record = machine_record()
    assert json.loads(json.dumps(record)) == record
    assert record["cores"] >= 1
