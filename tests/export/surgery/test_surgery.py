# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from patcher.errors import UnsupportedGraphError
from patcher.export.surgery.surgery import close_graph, open_graph, replace_consumers, split_tensor
from tests.tiny_models import images, node, residual_model, zoo, zoo_files


def _bytes(proto):
    return proto.SerializeToString(deterministic=True)


def _decorated():
    """A residual classifier with everything that onnx-graphsurgeon's export loses."""
    proto = residual_model(listed_as_inputs=True)
    proto.doc_string, proto.domain, proto.model_version = "a model", "org.example", 7
    proto.producer_name, proto.producer_version = "maker", "1.2"
    proto.metadata_props.add(key="licence", value="none")
    proto.graph.doc_string = "a graph"
    proto.graph.metadata_props.add(key="graph", value="1")
    for item in proto.graph.node:
        item.doc_string = f"makes {item.output[0]}"
        item.metadata_props.add(key="namespace", value="net." + item.op_type)
    value = helper.make_tensor_value_info("r1", TensorProto.FLOAT, ["N", 6, 8, 8])
    value.doc_string = "an activation"
    value.metadata_props.add(key="value", value="1")
    proto.graph.value_info.append(value)
    proto.graph.input[0].type.denotation = "IMAGE"
    proto.graph.output[0].doc_string = "scores"
    annotation = proto.graph.quantization_annotation.add(tensor_name="r1")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="b1")
    proto.graph.initializer.append(numpy_helper.from_array(np.arange(600, dtype=np.float32), "unused"))
    for overload in ("", "second"):
        body = [node("Relu", ["x"], ["y"])]
        function = helper.make_function("org.example", "Act", ["x"], ["y"], body, [helper.make_opsetid("", 17)])
        function.overload = overload
        function.metadata_props.add(key="function", value=overload)
        proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("org.example", 1))
    return proto


def _with_branch():
    """The first activation is read inside an If branch, and is a graph output."""
    proto = residual_model()
    value = helper.make_tensor_value_info("branch", TensorProto.FLOAT, None)
    branches = {}
    for side, operator in (("then_branch", "Relu"), ("else_branch", "Neg")):
        inner = helper.make_graph([node(operator, ["r1"], ["branch"])], side, [], [value])
        inner.metadata_props.add(key="side", value=side)
        branches[side] = inner
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))
    proto.graph.node.insert(2, node("If", ["condition"], ["chosen"], **branches))
    proto.graph.node[3].input[0] = "chosen"
    proto.graph.output.append(helper.make_tensor_value_info("r1", TensorProto.FLOAT, ["N", 6, 8, 8]))
    return proto


@pytest.mark.parametrize("make", [residual_model, _decorated, _with_branch])
def test_open_and_close_changes_no_byte(make):
    proto = make()
    before = _bytes(proto)
    assert _bytes(close_graph(open_graph(proto))) == before
    assert _bytes(proto) == before


@zoo
@pytest.mark.parametrize("path", zoo_files(), ids=lambda path: path.name)
def test_open_and_close_changes_no_byte_of_the_zoo(path):
    proto = onnx.load(path)
    assert _bytes(close_graph(open_graph(proto))) == _bytes(proto)


@pytest.fixture(scope="module")
def node_models():
    """The standard's own node tests, shipped inside the onnx package."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        # The package's expected results overflow and divide by zero on purpose.
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    return [case.model if case.model is not None else onnx.load(f"{case.model_dir}/model.onnx") for case in cases]


def test_open_and_close_changes_no_byte_of_the_standards_node_models(node_models):
    assert len(node_models) > 1500
    changed = [proto.graph.name for proto in node_models if _bytes(close_graph(open_graph(proto))) != _bytes(proto)]
    assert changed == []


def test_an_edit_changes_nothing_else_in_the_standards_node_models(node_models):
    edited = 0
    for proto in node_models:
        name = next((name for name in proto.graph.node[0].output if name), None)
        if name is None:
            continue
        opened = open_graph(proto)
        before, behind, position = split_tensor(opened, name, "before")
        opened.graph.nodes.insert(position, opened.node("Identity", "identity", [before], [behind]))
        result = close_graph(opened)
        del result.graph.node[position]
        index = list(result.graph.node[position - 1].output).index(before.name)
        result.graph.node[position - 1].output[index] = name
        kept = [value for value in result.graph.value_info if value.name != before.name]
        del result.graph.value_info[:]
        result.graph.value_info.extend(kept)
        assert _bytes(result) == _bytes(proto), proto.graph.name
        edited += 1
    assert edited > 1500


def test_a_split_tensor_keeps_its_name_for_every_consumer():
    proto = _with_branch()
    before = _bytes(proto)
    opened = open_graph(proto)
    inner, behind, position = split_tensor(opened, "r1", "before")
    half = opened.constant("half", np.array(0.5, np.float32))
    opened.graph.nodes.insert(position, opened.node("Mul", "halve", [inner, half], [behind]))
    result = close_graph(opened)
    onnx.checker.check_model(result, full_check=True)
    assert _bytes(proto) == before
    assert [item.op_type for item in result.graph.node[:4]] == ["Conv", "Relu", "Mul", "If"]
    assert result.graph.node[1].output[0] == "r1_before"
    # The graph output, the branch and the residual sum all see the halved value.
    feed = {"image": images()}
    old, new = (
        onnxruntime.InferenceSession(_bytes(model), providers=["CPUExecutionProvider"]).run(["r1"], feed)[0]
        for model in (proto, result)
    )
    np.testing.assert_allclose(new, old / 2)
    assert [value.name for value in result.graph.output] == ["logits", "r1"]
    assert {entry.g.metadata_props[0].value for entry in result.graph.node[3].attribute} == {
        "then_branch",
        "else_branch",
    }


def test_replacing_consumers_reaches_into_subgraphs():
    opened = open_graph(_with_branch())
    replacement = opened.variable("other")
    position = replace_consumers(opened, opened.tensor("r1"), replacement)
    opened.graph.nodes.insert(position, opened.node("Neg", "negate", [opened.tensor("c1")], [replacement]))
    result = close_graph(opened)
    onnx.checker.check_model(result)
    branches = [attribute.g.node[0].input[0] for attribute in result.graph.node[3].attribute]
    assert branches == ["other", "other"]
    assert next(item for item in result.graph.node if item.op_type == "Add").input[1] == "other"


def test_changed_attributes_and_values_are_taken_over():
    opened = open_graph(_decorated())
    gemm = next(item for item in opened.graph.nodes if item.op == "Gemm")
    gemm.attrs["alpha"] = 2.0
    opened.tensor("fc_bias").values = np.zeros(4, np.float32)
    result = close_graph(opened)
    restored = next(item for item in result.graph.node if item.op_type == "Gemm")
    assert {entry.name: helper.get_attribute_value(entry) for entry in restored.attribute} == {"transB": 1, "alpha": 2}
    assert restored.metadata_props[0].value == "net.Gemm"
    names = [tensor.name for tensor in result.graph.initializer]
    assert names == [tensor.name for tensor in _decorated().graph.initializer]
    np.testing.assert_array_equal(numpy_helper.to_array(result.graph.initializer[names.index("fc_bias")]), np.zeros(4))


def test_a_weight_nobody_reads_any_more_is_dropped_and_an_unused_one_stays():
    opened = open_graph(_decorated())
    conv = opened.graph.nodes[0]
    conv.inputs[1] = opened.constant("new", np.zeros((6, 3, 3, 3), np.float32))
    names = [tensor.name for tensor in close_graph(opened).graph.initializer]
    assert "w1" not in names
    assert names[-2:] == ["unused", "new"]


def test_new_names_are_unique():
    opened = open_graph(_with_branch())
    assert opened.names.new("branch") == "branch_1"
    assert opened.names.new("branch") == "branch_2"
    assert opened.names.new("free") == "free"


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        ("branch", "inside a subgraph"),
        ("image", "input or initializer"),
        ("w1", "input or initializer"),
        ("x", "not in"),
    ],
)
def test_tensors_that_cannot_be_split(tensor, reason):
    with pytest.raises(UnsupportedGraphError, match=reason):
        split_tensor(open_graph(_with_branch()), tensor, "before")
