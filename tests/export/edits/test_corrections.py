# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from patcher.errors import InputError, UnsupportedGraphError
from patcher.export import apply_patch, check_parity, neutral_patch
from patcher.export.parity.parity import run_model
from patcher.model.model import read_model
from patcher.patch import Affine, Normalization, Patch, WeightMask, Weights
from patcher.runtime import create_session
from tests.tiny_models import activation_model, images, node, residual_model

STATISTICS = {key: np.full(6, value, np.float32) for key, value in (("g", 1.5), ("b", 0.1), ("mean", 0.2), ("var", 2))}


def _normalized():
    """Two BatchNormalizations that share their statistics through Identity."""
    nodes = [
        node("Identity", ["mean"], ["mean_again"]),
        node("BatchNormalization", ["c1", "g", "b", "mean", "var"], ["bn1"]),
        node("Relu", ["bn1"], ["r1"]),
        node("BatchNormalization", ["r1", "g", "b", "mean_again", "var"], ["bn2"]),
        node("Relu", ["bn2"], ["act"]),
    ]
    return activation_model(nodes, STATISTICS)


def _patched(model, *corrections):
    patch = Patch("test", model.sha256, corrections)
    hardened = apply_patch(model, patch)
    onnx.checker.check_model(hardened, full_check=True)
    report = check_parity(model, hardened, apply_patch(model, neutral_patch(model, patch)), [images()])
    assert report.largest <= 1e-5
    return hardened


def _with_weight(proto, name, value):
    """The same model with another value for an initializer."""
    changed = onnx.ModelProto.FromString(proto.SerializeToString())
    tensor = next(item for item in changed.graph.initializer if item.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    return changed


def _same_answers(hardened, reference, model):
    for level in ("disabled", "all"):
        found, wanted = (
            run_model(item, model, [images()], optimization=level)["logits"] for item in (hardened, reference)
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def _initializer(proto, name):
    return numpy_helper.to_array(next(item for item in proto.graph.initializer if item.name == name))


MASK = np.linspace(0, 1, 6, dtype=np.float32).reshape(6, 1, 1, 1)


def test_masked_weights():
    model = read_model(residual_model())
    hardened = _patched(model, WeightMask("w2", MASK))
    _same_answers(hardened, _with_weight(model.proto, "w2", _initializer(model.proto, "w2") * MASK), model)
    # The original weight stays bit-exact in the file, and the mask is there to see.
    np.testing.assert_array_equal(_initializer(hardened, "w2"), _initializer(model.proto, "w2"))
    np.testing.assert_array_equal(_initializer(hardened, "w2_mask"), MASK)


def test_a_mask_is_folded_away_at_load(tmp_path):
    import onnxruntime

    model = read_model(residual_model())
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    hardened = _patched(model, WeightMask("w2", MASK))
    onnxruntime.InferenceSession(hardened.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx")
    assert "Mul" not in {item.op_type for item in optimized.graph.node}


def test_a_mask_on_a_weight_from_a_constant_node():
    proto = residual_model()
    tensor = next(item for item in proto.graph.initializer if item.name == "w2")
    constant = node("Constant", [], ["w2"], value=tensor)
    reference = _with_weight(proto, "w2", _initializer(proto, "w2") * MASK)
    proto.graph.initializer.remove(tensor)
    proto.graph.node.insert(0, constant)
    model = read_model(proto)
    _same_answers(_patched(model, WeightMask("w2", MASK)), reference, model)


def test_affine():
    model = read_model(residual_model())
    scale = np.linspace(0.5, 1.5, 6, dtype=np.float32)
    shift = np.linspace(-1, 1, 6, dtype=np.float32)
    hardened = _patched(model, Affine("c1", scale.reshape(1, 6, 1, 1), shift.reshape(1, 6, 1, 1)))
    folded = _with_weight(model.proto, "w1", _initializer(model.proto, "w1") * scale.reshape(6, 1, 1, 1))
    folded = _with_weight(folded, "b1", _initializer(model.proto, "b1") * scale + shift)
    _same_answers(hardened, folded, model)


def test_affine_in_half_precision():
    model = read_model(residual_model(dtype=np.float16))
    scale = np.full((1, 6, 1, 1), 2, np.float32)
    hardened = apply_patch(model, Patch("test", model.sha256, (Affine("c1", scale, scale * 0),)))
    assert {item.data_type for item in hardened.graph.initializer} == {onnx.TensorProto.FLOAT16}
    create_session(hardened.SerializeToString()).run(None, {"image": images(dtype=np.float16)})


def test_normalization_changes_one_and_leaves_the_shared_statistics():
    model = read_model(_normalized())
    mean, var = np.linspace(0, 1, 6, dtype=np.float32), np.linspace(1, 2, 6, dtype=np.float32)
    hardened = _patched(model, Normalization("bn2", mean, var))
    nodes = {item.output[0]: list(item.input) for item in hardened.graph.node}
    assert nodes["bn1"] == ["c1", "g", "b", "mean", "var"]
    assert nodes["bn2"] == ["r1", "g", "b", "bn2_mean", "bn2_var"]
    np.testing.assert_array_equal(_initializer(hardened, "bn2_mean"), mean)
    np.testing.assert_array_equal(_initializer(hardened, "bn2_var"), var)


def test_weights_keep_names_nodes_and_order():
    model = read_model(residual_model())
    value = _initializer(model.proto, "fc") * 2
    hardened = _patched(model, Weights("fc", value))
    assert list(hardened.graph.node) == list(model.proto.graph.node)
    names = [tensor.name for tensor in model.proto.graph.initializer]
    assert [tensor.name for tensor in hardened.graph.initializer] == names
    _same_answers(hardened, _with_weight(model.proto, "fc", value), model)


@pytest.mark.parametrize(
    ("correction", "error", "message"),
    [
        (WeightMask("w2", np.ones((5, 1, 1, 1), np.float32)), InputError, "does not fit"),
        (WeightMask("nothing", np.ones((1,), np.float32)), UnsupportedGraphError, "unknown type"),
        (Affine("c1", np.ones((1, 6, 1, 1), np.float32), np.ones((1, 7, 1, 1), np.float32)), InputError, "the shift"),
        (Normalization("r1", np.ones(6, np.float32), np.ones(6, np.float32)), UnsupportedGraphError, "not the output"),
        (Weights("fc", np.ones((4, 5), np.float32)), InputError, "expected"),
        (Weights("fc", np.full((4, 6), np.inf, np.float32)), InputError, "not finite"),
        (Weights("c1", np.ones(1, np.float32)), UnsupportedGraphError, "no initializer"),
    ],
)
def test_corrections_that_do_not_fit(correction, error, message):
    model = read_model(residual_model())
    with pytest.raises(error, match=message):
        apply_patch(model, Patch("test", model.sha256, (correction,)))


@pytest.mark.parametrize(
    ("mean", "var", "message"),
    [
        (np.ones(5), np.ones(6), "mean"),
        (np.ones(6), -np.ones(6), "negative"),
        (np.full(6, np.nan), np.ones(6), "finite"),
    ],
)
def test_statistics_that_do_not_fit(mean, var, message):
    model = read_model(_normalized())
    patch = Patch("test", model.sha256, (Normalization("bn2", mean.astype(np.float32), var.astype(np.float32)),))
    with pytest.raises(InputError, match=message):
        apply_patch(model, patch)
