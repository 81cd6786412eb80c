# SPDX-License-Identifier: Apache-2.0
"""Whatever the product makes passes the gate: every method with every option that changes its corrections."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import patcher
from patcher.commands.verify import GateResult, verify
from patcher.gate import cost
from patcher.gate.methods import Changes, changes_of, declare, known_methods
from patcher.gate.policy import Policy, Probes, Thresholds
from patcher.triggers.file import write_triggers
from patcher.triggers.trigger import Trigger
from tests.tiny_models import RESIDUAL_SHAPES, build, head, images, node, residual_model, weights_of

pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.*")
# A few steps on random weights keep no accuracy: what is asked here is where a file comes from.
LENIENT = Policy(
    thresholds=Thresholds(
        min_images=8,
        accuracy_drop=1.0,
        agreement=0.0,
        probe_success=1.0,
        trigger_success=1.0,
        false_alarms=1.0,
        detections=0.0,
        latency_ratio=1e9,
        latency_allowance_ms=1e9,
        memory_ratio=1e9,
    ),
    probes=Probes(screened=2, measured=2, patches=1),
)
FAST = {"steps": 1, "minibatch": 8, "check_every": 1, "epsilon": 0.9, "device": "cpu"}


def product(**options: list[Any]) -> list[dict[str, Any]]:
    """Every combination."""
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


CASES = [
    *[("unit", case) for case in product(granularity=["channel", "element"], bake=["nodes", "folded", "auto"])],
    *[("unit", case) for case in product(flag=[True], branch=["if", "where", "two-files"])],
    *[("unit", case) for case in product(means=[True], bake=["nodes", "folded"])],
    *[(pair, {"means": True}) for pair in ("nft+unit", "unit+nft", "unit+bna")],
    *[("unit", case) for case in product(tie_residual=[True], bake=["nodes", "folded", "auto"])],
    *[
        ("nft", case)
        for case in product(mask=["plain", "centred"], bn_stats=["keep", "reestimate"], mask_form=["mask", "weights"])
    ],
    *[
        ("bna", case)
        for case in product(branch=["if", "where", "two-files"], keep_original_output=[False, True], targets=[1, 2])
    ],
    *[("bna", case) for case in product(branch=["if", "where"], learn=["none", "omega"])],
    *[(pair, case) for pair in ("nft+unit", "unit+nft") for case in product(bake=["nodes", "folded"])],
    *[("nft+unit", case) for case in product(mask=["plain"], bn_stats=["reestimate"], mask_form=["weights"])],
    *[("nft+unit", case) for case in product(flag=[True], branch=["if", "where", "two-files"])],
    *[
        (pair, case)
        for pair in ("unit+bna", "nft+bna", "nft+unit+bna")
        for case in product(branch=["if", "where", "two-files"], bake=["nodes", "folded"], targets=[1, 2])
    ],
    *[("unit+bna", case) for case in product(keep_original_output=[True])],
]


def normalized_model(**options: Any) -> onnx.ModelProto:
    """A residual classifier with BatchNormalization behind its convolutions, one of them with a bias."""
    weights = weights_of(RESIDUAL_SHAPES)
    inputs: dict[str, list[str]] = {}
    for index in (1, 2):
        names = [f"{part}{index}" for part in ("gamma", "beta", "mean", "var")]
        values = weights_of(dict.fromkeys(names, (6,)), seed=index)
        weights |= values | {names[3]: np.abs(values[names[3]]) + np.float32(0.5)}
        inputs[f"n{index}"] = [f"c{index}", *names]
    nodes = [
        node("Conv", ["image", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", inputs["n1"], ["n1"]),
        node("Relu", ["n1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", inputs["n2"], ["n2"]),
        node("Add", ["n2", "r1"], ["sum"]),
        node("Relu", ["sum"], ["r2"]),
        *head("r2"),
    ]
    return build(nodes, weights, **options)


MODELS = {
    "normalized": normalized_model,
    "plain": residual_model,
    "fixed-batch": lambda: normalized_model(image=(4, 3, 8, 8), outputs=(("logits", (4, 4)),)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models, clean images, and triggers of one and of two targets."""
    folder = tmp_path_factory.mktemp("methods")
    for name, build_model in MODELS.items():
        onnx.save(build_model(), folder / f"{name}.onnx")
    pixels = (images(64).transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    np.savez(folder / "clean.npz", images=pixels, labels=np.arange(64) % 4)
    mask, pattern = np.zeros((1, 8, 8), np.float32), np.ones((3, 8, 8), np.float32)
    mask[:, :3, :3] = 1
    for count in (1, 2):
        values = {"mask": mask, "pattern": pattern}
        found = [
            Trigger("patch", target, tuple({0, 1, 2, 3} - {target}), values, pattern.shape) for target in range(count)
        ]
        write_triggers(found, folder / f"triggers{count}.npz")
    return folder


def gate(original: Path, hardened: Path, clean: Path, **options: Any) -> GateResult:
    """The gate as a user runs it."""
    return verify(original, hardened, clean_dir=clean, accuracy_floor=0.0, **{"policy": LENIENT, **options})


# Every case on the richest model, every third on the others.
@pytest.mark.parametrize(
    ("method", "options", "name"),
    [(*case, name) for index, case in enumerate(CASES) for name in (MODELS if index % 3 == 0 else ["normalized"])],
    ids=str,
)
def test_what_the_product_makes_passes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, method: str, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(cost, "peak_memory", lambda *_: 1)
    given = {**FAST, **options}
    if method.endswith("bna"):
        given["triggers"] = str(folder / f"triggers{given.pop('targets', 1)}.npz")
    original, hardened, clean = folder / f"{name}.onnx", tmp_path / "hardened.onnx", folder / "clean.npz"
    result = patcher.harden(
        original, clean_dir=clean, method=method, accuracy_floor=0.0, report_dir=tmp_path / "report", **given
    )
    assert result.patch.corrections
    result.save(hardened)
    patch = tmp_path / "report" / "patch.safetensors"
    for given_patch in ({"patch": patch}, {}):
        found = gate(original, hardened, clean, **given_patch).checks
        assert [(check.name, check.message) for check in found if check.failed] == []
        proof = next(check for check in found if check.name == "reconstruction")
        assert proof.details["verdict"] == "identical"


@pytest.mark.parametrize("suspects", ["relabel", "drop"])
def test_none_passes_with_its_patch_alone(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suspects: str
) -> None:
    monkeypatch.setattr(cost, "peak_memory", lambda *_: 1)
    original, clean = samples / "digits.onnx", samples / "clean"
    given = {"train_dir": str(samples / "train.npz"), "rounds": 1, "epochs": 1, "device": "cpu", "suspects": suspects}
    result = patcher.harden(original, clean_dir=clean, method="none", report_dir=tmp_path / "report", **given)
    assert result.patch.corrections
    result.save(tmp_path / "hardened.onnx")
    patch = tmp_path / "report" / "patch.safetensors"
    for given_patch, failed in (({"patch": patch}, set()), ({}, {"reconstruction"})):
        found = gate(original, tmp_path / "hardened.onnx", clean, **given_patch).checks
        assert {check.name for check in found if check.failed} == failed


def test_methods_from_outside_and_stacks() -> None:
    assert set(known_methods()) >= {"unit", "nft", "bna", "none"}
    both = changes_of("unit+bna")
    assert both is not None
    assert {"UpperBound", "Branch"} <= both.corrections
    assert both.second_pass
    assert both.always_adds
    assert not both.weights
    assert changes_of("unit+toy") is None
    for taken in ("unit", "a+b", ""):
        with pytest.raises(ValueError, match="new name"):
            declare(taken, Changes())
