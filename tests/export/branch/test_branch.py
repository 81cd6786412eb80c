# SPDX-License-Identifier: Apache-2.0
"""The run-time branch: every form equals PyTorch row by row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from patcher.calibrate.classifier import Classifier
from patcher.calibrate.patched import run_branch
from patcher.data.preprocess import resolve_preprocess
from patcher.errors import InputError, UnsupportedGraphError
from patcher.export import apply_guard, apply_patch, check_guard_parity, neutral_patch
from patcher.export.parity.parity import LEVELS, run_model
from patcher.model.model import Model, read_model
from patcher.patch import Branch, Patch, Realignment, patch_bytes, read_patch, write_patch
from patcher.runtime import create_session
from patcher.two_files import FLAG_OUTPUT, TwoFileSession
from tests.tiny_models import RESIDUAL_SHAPES, build, head, images, node, residual_nodes, weights_of

# Of many colours: plain noise would be one class.
PIXELS = images(64, seed=3) * images(64, (3, 1, 1), seed=4) ** 3
STATISTICS = {"gamma": (6,), "beta": (6,), "mean": (6,)}


def normalized_nodes():
    """Conv, BatchNormalization, Relu, Conv without bias, residual Add, Relu, head."""
    return [
        node("Conv", ["image", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c1", "gamma", "beta", "mean", "var"], ["n1"]),
        node("Relu", ["n1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        node("Add", ["c2", "r1"], ["sum"]),
        node("Relu", ["sum"], ["r2"]),
        *head("r2"),
    ]


def tiny(kind: str, **options) -> Model:
    if kind == "folded":
        return read_model(build(residual_nodes(), weights_of(RESIDUAL_SHAPES), **options))
    weights = weights_of(RESIDUAL_SHAPES | STATISTICS) | {"var": np.linspace(0.5, 2, 6, dtype=np.float32)}
    return read_model(build(normalized_nodes(), weights, **options))


def branch(
    tensors: tuple[str, ...], targets: tuple[int, ...], *, form: str = "if", keep: bool = False, bounded: bool = True
) -> Branch:
    rng = np.random.default_rng(len(targets))
    shape = (len(targets), 6, 1, 1)

    def values(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, shape).astype(np.float32)

    corrections = tuple(
        Realignment(
            tensor,
            values(-1.5, 1.5),
            values(-1, 1),
            values(1, 3) if bounded else np.full(shape, np.inf, np.float32),
            values(-3, 0.5) if bounded else np.full(shape, -np.inf, np.float32),
        )
        for tensor in tensors
    )
    return Branch(targets, corrections, form, keep)


def patch_of(model: Model, item: Branch) -> Patch:
    return Patch("bna", model.sha256, (item,))


def in_torch(model: Model, item: Branch, pixels: np.ndarray = PIXELS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, flags, and the first pass's scores."""
    classifier = Classifier(model, resolve_preprocess(model), device=torch.device("cpu"))
    scores, flags, first = run_branch(classifier, item, torch.from_numpy(pixels))
    return scores.numpy(), flags.numpy(), first[model.logits].detach().numpy()


TENSORS = {"folded": ("c1", "c2"), "normalized": ("n1", "c2")}


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("targets", [(2,), (0, 2, 3)])
@pytest.mark.parametrize("form", ["if", "where"])
@pytest.mark.parametrize("kind", ["folded", "normalized"])
def test_every_row_equals_torch_alone_and_in_any_batch(kind, form, targets, bounded) -> None:
    model = tiny(kind)
    item = branch(TENSORS[kind], targets, form=form, bounded=bounded)
    scores, flags, first = in_torch(model, item)
    assert 0 < flags.sum() < len(flags)
    hardened = apply_patch(model, patch_of(model, item))
    onnx.checker.check_model(hardened, full_check=True)
    order = np.random.default_rng(0).permutation(len(PIXELS))
    for level in LEVELS:
        for size in (1, 7, 64):
            shuffled = [PIXELS[order[start : start + size]] for start in range(0, 64, size)]
            found = run_model(hardened, model, shuffled, optimization=level)
            np.testing.assert_array_equal(found[FLAG_OUTPUT], flags[order])
            np.testing.assert_allclose(found["logits"], scores[order], rtol=1e-4, atol=1e-4 * np.abs(scores).max())
            kept = ~flags[order]
            np.testing.assert_allclose(found["logits"][kept], first[order][kept], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("targets", [(2,), (0, 2, 3)])
@pytest.mark.parametrize("kind", ["folded", "normalized"])
def test_two_files_joined_equal_torch(kind, targets) -> None:
    model = tiny(kind)
    item = branch(TENSORS[kind], targets, form="two-files")
    patch = patch_of(model, item)
    scores, flags, _ = in_torch(model, item)
    plain, guard = apply_patch(model, patch), apply_guard(model, patch)
    assert plain.graph == model.proto.graph
    neutral = apply_guard(model, neutral_patch(model, patch))
    report = check_guard_parity(model, plain, guard, neutral, PIXELS, {"logits": scores, FLAG_OUTPUT: flags})
    assert report.largest < 1e-5
    session = TwoFileSession(create_session(plain.SerializeToString()), create_session(guard.SerializeToString()))
    for size in (1, 7, 64):
        parts = [session.run(None, {"image": PIXELS[start : start + size]}) for start in range(0, 64, size)]
        np.testing.assert_array_equal(np.concatenate([part[-1] for part in parts]), flags)
        np.testing.assert_allclose(np.concatenate([part[0] for part in parts]), scores, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("form", ["if", "where"])
def test_neutral_statistics_change_and_flag_nothing(form) -> None:
    model = tiny("folded")
    patch = neutral_patch(model, patch_of(model, branch(("c1", "c2"), (0, 1, 2, 3), form=form)))
    found = run_model(apply_patch(model, patch), model, [PIXELS])
    assert not found[FLAG_OUTPUT].any()
    np.testing.assert_array_equal(found["logits"], run_model(model.proto, model, [PIXELS])["logits"])


def test_outputs_keep_their_names_and_places_and_the_flag_is_last() -> None:
    model = tiny("folded")
    item = branch(("c1",), (1,), keep=True)
    hardened = apply_patch(model, patch_of(model, item))
    assert [output.name for output in hardened.graph.output] == ["logits", "logits_original", FLAG_OUTPUT]
    flag = hardened.graph.output[-1].type.tensor_type
    assert flag.elem_type == TensorProto.BOOL
    assert flag.shape.dim[0].dim_param == "N"
    found = run_model(hardened, model, [PIXELS])
    np.testing.assert_allclose(found["logits_original"], in_torch(model, item)[2], rtol=1e-4, atol=1e-4)


def test_the_second_pass_shares_the_weights() -> None:
    weights = weights_of(RESIDUAL_SHAPES)
    model = read_model(build(residual_nodes(), weights))
    hardened = apply_patch(model, patch_of(model, branch(("c1", "c2"), (1,))))
    inner = next(item for item in hardened.graph.node if item.op_type == "If").attribute
    large = [tensor for entry in inner for tensor in entry.g.initializer if np.prod(tensor.dims) >= weights["w1"].size]
    assert not large
    assert [item.name for item in hardened.graph.initializer if item.name in weights] == list(weights)


def test_an_empty_batch_has_no_answers() -> None:
    model = tiny("folded")
    for form in ("if", "where"):
        hardened = apply_patch(model, patch_of(model, branch(("c1",), (1,), form=form)))
        session = create_session(hardened.SerializeToString())
        scores, flags = session.run(None, {"image": PIXELS[:0]})
        assert scores.shape == (0, 4)
        assert flags.shape == (0,)


@pytest.mark.parametrize("form", ["if", "where"])
def test_a_fixed_batch_with_its_size_in_a_reshape(form) -> None:
    nodes = [
        node("Conv", ["image", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"]),
        node("GlobalAveragePool", ["r1"], ["pooled"]),
        node("Reshape", ["pooled", "shape"], ["flat"]),
        node("Gemm", ["flat", "fc", "fc_bias"], ["logits"], transB=1),
    ]
    weights = weights_of(RESIDUAL_SHAPES) | {"shape": np.array([8, 6], np.int64)}
    del weights["w2"]
    model = read_model(build(nodes, weights, image=(8, 3, 8, 8), outputs=(("logits", (8, 4)),)))
    item = branch(("c1",), (0, 2), form=form)
    scores, flags, _ = in_torch(model, item)
    assert 0 < flags.sum() < len(flags)
    found = run_model(apply_patch(model, patch_of(model, item)), model, [PIXELS])
    np.testing.assert_array_equal(found[FLAG_OUTPUT], flags)
    np.testing.assert_allclose(found["logits"], scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["if", "where"])
def test_every_output_is_corrected(form) -> None:
    nodes = [
        *residual_nodes(),
        node("Softmax", ["logits"], ["probabilities"]),
        node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    ]
    outputs = (("logits", ("N", 4)), ("probabilities", ("N", 4)), ("label", ("N",)))
    proto = build(nodes, weights_of(RESIDUAL_SHAPES), outputs=outputs)
    proto.graph.output[2].type.tensor_type.elem_type = TensorProto.INT64
    model = read_model(proto)
    item = branch(("c1", "c2"), (0, 1), form=form)
    found = run_model(apply_patch(model, patch_of(model, item)), model, [PIXELS])
    assert found[FLAG_OUTPUT].any()
    np.testing.assert_array_equal(found["label"], found["logits"].argmax(1))
    np.testing.assert_array_equal(found["probabilities"].argmax(1), found["label"])


def test_half_precision() -> None:
    weights = {name: (value / 4).astype(np.float16) for name, value in weights_of(RESIDUAL_SHAPES).items()}
    model = read_model(build(residual_nodes(), weights, elem_type=TensorProto.FLOAT16))
    for form in ("if", "where"):
        item = branch(("c1", "c2"), (1,), form=form)
        found = run_model(apply_patch(model, patch_of(model, item)), model, [PIXELS.astype(np.float16)])
        scores, flags, _ = in_torch(model, item)
        assert np.mean(found[FLAG_OUTPUT] == flags) >= 0.95  # ties of half precision
        same = found[FLAG_OUTPUT] == flags
        np.testing.assert_allclose(found["logits"][same], scores[same], atol=2e-2 * np.abs(scores).max())


def test_refusals_say_what_to_do() -> None:
    model = tiny("folded")
    with pytest.raises(UnsupportedGraphError, match="does not lead from the image"):
        apply_patch(model, patch_of(model, branch(("missing",), (1,))))
    with pytest.raises(UnsupportedGraphError, match="target class 0 to 3"):
        apply_patch(model, patch_of(model, branch(("c1",), (7,))))
    wrong = branch(("c1",), (1,))
    wrong = replace(wrong, corrections=(replace(wrong.corrections[0], scale=np.ones((1, 5, 1, 1), np.float32)),))
    with pytest.raises(InputError, match="does not fit"):
        apply_patch(model, patch_of(model, wrong))


def test_a_branch_survives_its_file(tmp_path) -> None:
    model = tiny("folded")
    patch = patch_of(model, branch(("c1", "c2"), (0, 2), form="where", keep=True))
    write_patch(patch, tmp_path / "patch.safetensors")
    again = read_patch(tmp_path / "patch.safetensors")
    assert patch_bytes(again) == patch_bytes(patch)
    assert again.corrections[0].targets == (0, 2)
    assert again.corrections[0].keep_original_output
    assert apply_patch(model, again) == apply_patch(model, patch)


def test_a_graph_with_subgraphs_is_copied_with_what_they_read() -> None:
    value = helper.make_tensor_value_info
    then = helper.make_graph([node("Relu", ["c1"], ["t"])], "then", [], [value("t", TensorProto.FLOAT, None)])
    other = helper.make_graph([node("Neg", ["c1"], ["e"])], "else", [], [value("e", TensorProto.FLOAT, None)])
    nodes = [
        node("Conv", ["image", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        node("If", ["yes"], ["r1"], then_branch=then, else_branch=other),
        *head("r1"),
    ]
    weights = weights_of(RESIDUAL_SHAPES) | {"yes": np.array(True)}
    del weights["w2"]
    model = read_model(build(nodes, weights))
    item = branch(("c1",), (0, 1))
    scores, flags, _ = in_torch(model, item)
    found = run_model(apply_patch(model, patch_of(model, item)), model, [PIXELS])
    np.testing.assert_array_equal(found[FLAG_OUTPUT], flags)
    np.testing.assert_allclose(found["logits"], scores, rtol=1e-4, atol=1e-4)
