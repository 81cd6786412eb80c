# SPDX-License-Identifier: Apache-2.0
"""``--method a+b`` on the command line: what is refused, and that the patch alone makes the file again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import patcher
from patcher.errors import InputError
from tests.cli.conftest import Run

WRONG = {
    "unti+bna": "several joined by \\+, expected, found 'unti' in 'unti\\+bna'",
    "unit+": "found '' in 'unit\\+'",
    "unit+nft+unit": "found unit twice",
    "bna+unit": "bna adds a second pass and must come last",
    "none+unit": "none by itself expected",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_stack_that_cannot_be_is_refused_in_one_line(name: str, samples: Path, run: Run) -> None:
    with pytest.raises(InputError, match=WRONG[name]):
        patcher.harden(samples / "digits.onnx", clean_dir=samples / "clean", method=name)
    outcome = run("harden", samples / "digits.onnx", "--clean-dir", samples / "clean", "--method", name)
    assert outcome.code == 2
    assert "--method" in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1


def test_one_patch_makes_the_file_again(samples: Path, tmp_path: Path, run: Run) -> None:
    images = ("--clean-dir", samples / "clean")
    hardened, again = tmp_path / "hardened.onnx", tmp_path / "again.onnx"
    made = run(
        "harden", samples / "digits.onnx", *images, "--method", "nft+unit", "--steps", 20, "--minibatch", 32,
        "--epsilon", 0.2, "-o", hardened,
    )  # fmt: skip
    assert made.code == 0, made.err
    patch = tmp_path / "hardened.report" / "patch.safetensors"
    assert run("apply", samples / "digits.onnx", patch, "-o", again).code == 0
    assert again.read_bytes() == hardened.read_bytes()
    assert "nft+unit" in run("show", patch).out
    document = json.loads((tmp_path / "hardened.report" / "report.json").read_text())
    assert {"unit.minibatch", "nft.minibatch"}.isdisjoint(document["method"]["options"])
    assert document["method"]["options"]["epsilon"] == 0.2
    assert {"start_z", "mean_mask"} <= set(document["method"])
