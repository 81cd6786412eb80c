# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import weakref

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from patcher.errors import InputError, UnsupportedGraphError
from patcher.graph.interpreter import Graph
from patcher.model.model import read_model
from tests.graph.oracle import assert_agrees, one_node, run_onnxruntime
from tests.tiny_models import RESIDUAL_SHAPES, build, head, node, residual_nodes, weights_of, zoo, zoo_files


def residual(**options):
    return build(residual_nodes(), weights_of(RESIDUAL_SHAPES), **options)


def images(batch=3, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("opset", [11, 13, 17, 20, 23, 26])
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_tensor_is_onnxruntimes(opset, channels_last):
    assert_agrees(residual(opset=opset, ir_version=10), {"image": images()}, channels_last=channels_last)


@zoo
@pytest.mark.parametrize("path", zoo_files()[:3], ids=lambda path: path.name)
def test_zoo_models_agree(path):
    feed = np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)
    assert_agrees(onnx.load(path), {"input": feed})


def test_a_model_that_was_read_runs():
    model = read_model(residual())
    found = Graph(model).run({"image": torch.from_numpy(images())})
    assert set(found) == {"logits"}


def test_rewrite_reaches_every_consumer_and_the_fetch():
    proto = residual()
    x = images()
    bound = 0.2
    found = Graph(proto).run(
        {"image": torch.from_numpy(x)}, fetch=["r1", "sum"], rewrite={"r1": lambda value: value.clamp(max=bound)}
    )
    plain = run_onnxruntime(proto, {"image": x}, ["r1", "sum"])
    assert plain["r1"].max() > bound
    assert float(found["r1"].max()) == pytest.approx(bound)
    weights = weights_of(RESIDUAL_SHAPES)
    clamped = torch.from_numpy(plain["r1"]).clamp(max=bound)
    expected = torch.nn.functional.conv2d(clamped, torch.from_numpy(weights["w2"]), padding=1) + clamped
    torch.testing.assert_close(found["sum"], expected)


def test_rewrite_of_an_input_and_of_an_initializer():
    proto, x = residual(), torch.from_numpy(images())
    graph = Graph(proto)
    doubled = graph.run({"image": x}, fetch=["c2"], rewrite={"w2": lambda weight: weight * 2})["c2"]
    torch.testing.assert_close(doubled, graph.run({"image": x}, fetch=["c2"])["c2"] * 2)
    shifted = graph.run({"image": x}, rewrite={"image": lambda value: value + 1})["logits"]
    torch.testing.assert_close(shifted, graph.run({"image": x + 1})["logits"])


def test_rewrite_of_a_folded_initializer_is_seen_behind_the_folding():
    nodes = [
        node("Identity", ["w"], ["alias"]),
        node("Conv", ["image", "alias"], ["c"], pads=[1, 1, 1, 1]),
        node("Conv", ["image", "w"], ["d"], pads=[1, 1, 1, 1]),
        node("Add", ["c", "d"], ["sum"]),
        *head("sum"),
    ]
    proto = build(nodes, weights_of({"w": (6, 3, 3, 3), "fc": (4, 6), "fc_bias": (4,)}))
    graph, x = Graph(proto), torch.from_numpy(images())
    before = graph.run({"image": x}, fetch=["sum"])["sum"]
    zeroed = graph.run({"image": x}, fetch=["sum"], rewrite={"w": torch.zeros_like})["sum"]
    assert float(before.abs().max()) > 0
    assert float(zeroed.abs().max()) == 0
    torch.testing.assert_close(graph.run({"image": x}, fetch=["sum"])["sum"], before)


def test_rewrite_must_keep_the_shape():
    with pytest.raises(InputError, match="rewrite of 'r1': shape"):
        Graph(residual()).run({"image": torch.from_numpy(images())}, rewrite={"r1": lambda value: value[:1]})


def test_only_what_the_fetch_needs_is_computed():
    def fail(value):
        raise AssertionError("computed")

    graph = Graph(residual())
    graph.run({"image": torch.from_numpy(images())}, fetch=["r1"], rewrite={"sum": fail})
    with pytest.raises(AssertionError):
        graph.run({"image": torch.from_numpy(images())}, rewrite={"sum": fail})


@pytest.mark.parametrize("run", ["recorded", "replayed"])
def test_values_are_freed_after_their_last_use(run):
    references = {}

    def watch(value):
        references["c1"] = weakref.ref(value)
        return value

    def look(value):
        references["alive"] = references["c1"]() is not None
        return value

    graph, x = Graph(residual()), {"image": torch.from_numpy(images())}
    with torch.no_grad():
        for _ in range(1 if run == "recorded" else 2):
            graph.run(x, rewrite={"c1": watch, "c2": look})
    assert references["alive"] is False


def test_gradients_reach_inputs_and_rewrites_but_not_weights():
    graph = Graph(residual(), dtype=torch.float64)
    x = torch.from_numpy(images()).double().requires_grad_()
    mask = torch.rand(6, 1, 1, 1, dtype=torch.float64, requires_grad=True)

    def logits(x, mask):
        return graph.run({"image": x}, rewrite={"w2": lambda weight: weight * mask})["logits"]

    assert torch.autograd.gradcheck(logits, (x, mask))
    assert not any(value.requires_grad for value in graph.initializers.values())


def test_inference_mode_first_and_gradients_afterwards():
    graph = Graph(residual())
    x = torch.from_numpy(images())
    with torch.inference_mode():
        graph.run({"image": x})
    x.requires_grad_()
    graph.run({"image": x})["logits"].sum().backward()
    assert float(x.grad.abs().max()) > 0


def test_channels_last_reaches_the_convolutions():
    found = Graph(residual(), channels_last=True).run({"image": torch.from_numpy(images())}, fetch=["c2", "r2"])
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in found.values())


def test_half_precision_is_computed_in_single():
    weights = weights_of(RESIDUAL_SHAPES, dtype=np.float16)
    proto = build(residual_nodes(), weights, elem_type=TensorProto.FLOAT16)
    graph = Graph(proto)
    found = graph.run({"image": torch.from_numpy(images()).half()})["logits"]
    assert found.dtype == torch.float32
    assert graph.initializers["w1"].dtype == torch.float32
    single = build(residual_nodes(), {key: value.astype(np.float32) for key, value in weights.items()})
    expected = run_onnxruntime(single, {"image": images().astype(np.float16).astype(np.float32)}, ["logits"])
    np.testing.assert_allclose(found.numpy(), expected["logits"], atol=1e-5)


def test_nodes_in_any_order():
    proto = residual()
    nodes = list(proto.graph.node)[::-1]
    expected = run_onnxruntime(proto, {"image": images()}, ["logits"])["logits"]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    found = Graph(proto).run({"image": torch.from_numpy(images())})["logits"]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_a_cycle_is_refused():
    nodes = [node("Add", ["image", "b"], ["a"]), node("Relu", ["a"], ["b"])]
    with pytest.raises(UnsupportedGraphError, match="cycle"):
        Graph(build(nodes, outputs=(("b", ("N", 3, 8, 8)),)))


def test_initializers_listed_as_inputs_are_defaults():
    proto = residual(listed_as_inputs=True)
    graph, x = Graph(proto), torch.from_numpy(images())
    assert graph.inputs == ("image",)
    given = torch.ones(4, 6)
    found = graph.run({"image": x, "fc": given})["logits"]
    expected = graph.run({"image": x}, rewrite={"fc": torch.ones_like})["logits"]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({}, "input 'image' is missing"),
        ({"image": torch.zeros(1, 3, 8, 9)}, "shape"),
        ({"image": torch.zeros(1, 3, 8)}, "shape"),
        ({"image": torch.zeros(1, 3, 8, 8, dtype=torch.int64)}, "type"),
        ({"image": torch.zeros(1, 3, 8, 8), "other": torch.zeros(1)}, "no input named 'other'"),
    ],
)
def test_inputs_that_do_not_fit(feed, message):
    with pytest.raises(InputError, match=message):
        Graph(residual()).run(feed)


def test_unknown_names():
    graph, x = Graph(residual()), {"image": torch.zeros(1, 3, 8, 8)}
    with pytest.raises(InputError, match="fetch: the graph has no tensor named 'nowhere'"):
        graph.run(x, fetch=["nowhere"])
    with pytest.raises(InputError, match="rewrite: the graph has no tensor named 'nowhere'"):
        graph.run(x, rewrite={"nowhere": torch.relu})


@pytest.mark.parametrize(
    ("operator", "opset", "attributes", "message"),
    [
        ("NonMaxSuppression", 17, {}, r"node 'only' \(operator NonMaxSuppression, opset 17\).*does not know"),
        ("Relu", 17, {"alpha": 1.0}, r"operator Relu, opset 17\): attribute alpha is not supported"),
        ("Relu", 10, {}, "opset 11 to 26 expected"),
        ("Mod", 28, {"fmod": 1}, "revisions up to opset 26"),
        ("Softmax", 17, {"axis": 9}, r"node 'only' \(operator Softmax, opset 17\): cannot be computed"),
    ],
)
def test_refusals_name_node_operator_and_opset(operator, opset, attributes, message):
    arrays = [np.ones((2, 2), np.float32)] * (2 if operator in ("Mod", "NonMaxSuppression") else 1)
    proto, feed = one_node(operator, arrays, opset=opset, **attributes)
    with pytest.raises(UnsupportedGraphError, match=message):
        Graph(proto).run({name: torch.from_numpy(value) for name, value in feed.items()})


def test_an_unknown_domain_is_refused():
    proto = residual()
    proto.graph.node[1].domain = "com.example"
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(UnsupportedGraphError, match=r"com\.example\.Relu, opset 1"):
        Graph(proto)


def test_shapes_are_computed_anew_for_every_input_shape():
    nodes = [
        node("Shape", ["image"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Unsqueeze", ["batch", "axis"], ["batch1"]),
        node("Concat", ["batch1", "rest"], ["target"], axis=0),
        node("Reshape", ["image", "target"], ["flat"]),
    ]
    constants = {"zero": np.array(0), "axis": np.array([0]), "rest": np.array([-1])}
    proto = build(nodes, constants, outputs=(("flat", ("N", 192)), ("target", (2,))))
    proto.graph.output[1].type.tensor_type.elem_type = TensorProto.INT64
    graph = Graph(proto)
    for batch in (1, 4, 1, 4):
        found = graph.run({"image": torch.zeros(batch, 3, 8, 8)})
        assert found["flat"].shape == (batch, 192)
        assert found["target"].tolist() == [batch, -1]


def test_values_that_decide_shapes_are_read_anew_every_time():
    nodes = [
        node("ReduceMax", ["image"], ["peak"], keepdims=0),
        node("Cast", ["peak"], ["count"], to=TensorProto.INT64),
        node("Reshape", ["count", "one"], ["counts"]),
        node("Expand", ["value", "counts"], ["result"]),
    ]
    constants = {"one": np.array([1]), "value": np.array([2.5], np.float32)}
    graph = Graph(build(nodes, constants, outputs=(("result", ("M",)),)))
    for count in (2, 5, 3):
        found = graph.run({"image": torch.full((1, 3, 8, 8), float(count))})
        assert found["result"].tolist() == [2.5] * count


def test_a_fixed_batch_is_run_part_by_part():
    proto = residual(image=(2, 3, 8, 8), outputs=(("logits", (2, 4)),))
    graph, x = Graph(proto), torch.from_numpy(images(6)).requires_grad_()
    found = graph.run({"image": x}, fetch=["logits", "r1", "fc"])
    expected = Graph(residual()).run({"image": x}, fetch=["logits", "r1", "fc"])
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    found["logits"].sum().backward()
    assert bool((x.grad.abs().amax((1, 2, 3)) > 0).all())
    with pytest.raises(InputError, match="shape"):
        graph.run({"image": x[:3]})


def test_the_model_is_not_modified():
    proto = residual()
    before = proto.SerializeToString(deterministic=True)
    Graph(proto).run({"image": torch.from_numpy(images())}, rewrite={"w1": lambda weight: weight * 0})
    assert proto.SerializeToString(deterministic=True) == before


def test_a_replay_can_be_compiled_whole():
    graph = Graph(residual(), compile_backend="eager")  # traced, not translated: no compiler needed
    plain = Graph(residual())
    x = torch.from_numpy(images())
    for bound in (0.2, 0.4, 0.6):
        limit = torch.full((1, 6, 1, 1), bound, requires_grad=True)
        rewrite = {"r1": lambda value, limit=limit: value.minimum(limit)}
        found = graph.run({"image": x}, rewrite=rewrite)["logits"]
        expected = plain.run({"image": x}, rewrite=rewrite)["logits"]
        torch.testing.assert_close(found, expected)
        (ours,), (theirs,) = (torch.autograd.grad(value.sum(), limit) for value in (found, expected))
        torch.testing.assert_close(ours, theirs)


def test_bfloat16_is_computed_in_single():
    single = residual()
    proto = onnx.ModelProto()
    proto.CopyFrom(single)
    rounded = {}
    for tensor in proto.graph.initializer:
        values = torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy()).bfloat16()
        rounded[tensor.name] = values.float()
        tensor.CopyFrom(
            helper.make_tensor(
                tensor.name, TensorProto.BFLOAT16, tensor.dims, values.view(torch.int16).numpy().tobytes(), raw=True
            )
        )
    for value in [*proto.graph.input, *proto.graph.output]:
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    graph, x = Graph(proto), torch.from_numpy(images())
    for name, value in rounded.items():
        torch.testing.assert_close(graph.initializers[name], value, rtol=0, atol=0)
    found = graph.run({"image": x.bfloat16()})["logits"]
    rewrite = {name: (lambda _, value=value: value) for name, value in rounded.items()}
    expected = Graph(single).run({"image": x.bfloat16().float()}, rewrite=rewrite)["logits"]
    torch.testing.assert_close(found, expected)


def test_external_data_must_have_been_read():
    proto = residual()
    proto.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(UnsupportedGraphError, match="found external data; read it with read_model"):
        Graph(proto)
