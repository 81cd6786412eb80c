# SPDX-License-Identifier: Apache-2.0
"""Run-time trigger detection: a second pass for images that get a detected target class (BNA, Li et al.).

    class = argmax f(x)                      class not a target: the answer is f(x)
    other = argmax g(x | statistics of class)    other = class: the answer is f(x), bit for bit
                                                 other != class: the answer is g(x), the image is flagged

Outputs: the model's own, under their own names and first, corrected; with ``keep_original_output`` the class
scores before correction; last ``trigger_detected``, bool ``(N,)``. Every row is decided by itself.

- ``if``: rows whose class is a target are gathered, run, and put back inside one ``If``, which is skipped when
  there is none. Weights are shared with the main graph. A model with a fixed batch runs all rows in there.
- ``where``: the second pass runs on every row, and ``Where`` picks. For CUDA graphs and TensorRT, which do not
  take an ``If`` with a condition computed on the device.
- ``two-files``: the model stays as it is; `guard_model` makes the second file, and
  ``patcher.runtime.GuardedSession`` joins them.

The graph is put together on the closed model and not through onnx-graphsurgeon, which writes a copy of every
shared weight into the subgraph.
"""

from __future__ import annotations

import json

import numpy as np
import onnx

from patcher.errors import UnsupportedGraphError
from patcher.export.branch.block import Block
from patcher.export.branch.second_pass import gathered_inputs, second_pass, whole_inputs
from patcher.export.surgery.names import Names
from patcher.model.model import Model
from patcher.model.subgraphs import reads, rename
from patcher.patch import Branch
from patcher.two_files import CLASS_INPUT, FLAG_OUTPUT, RUN_TIME_OUTPUTS, SCORES_KEY, TARGETS_KEY

_HALF = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def add_branch(hardened: onnx.ModelProto, model: Model, branch: Branch) -> None:
    """Add the second pass and its outputs to a copy of a model, in place.

    Args:
        hardened: Copy of the model, perhaps with other corrections.
        model: What is known of it.
        branch: The second pass; ``two-files`` leaves the graph as it is.

    Raises:
        InputError: A correction does not fit.
        UnsupportedGraphError: The graph cannot take a second pass.
    """
    if branch.form == "two-files":
        return
    outputs = _check(model, branch)
    names = Names(hardened)
    plain = {name: names.new(f"{name}_original") for name in outputs}
    for node in hardened.graph.node:
        rename(node, plain)
    main = Block(names)
    scores = plain[model.logits]
    classes = _classes(main, model, scores)
    suspicious = main.node("Gather", [main.constant("is_target", _table(model, branch) >= 0), classes], "suspicious")
    build = _if_form if branch.form == "if" else _where_form
    flag = names.new(FLAG_OUTPUT)
    build(main, model, branch, plain, classes, suspicious, flag)
    hardened.graph.node.extend(main.nodes)
    hardened.graph.initializer.extend(main.initializers)
    if branch.keep_original_output:
        kept = next(item for item in hardened.graph.output if item.name == model.logits)
        hardened.graph.output.add().CopyFrom(kept)
        hardened.graph.output[-1].name = scores
    hardened.graph.output.append(row_output(hardened, model, flag, onnx.TensorProto.BOOL))


def guard_model(model: Model, branch: Branch) -> onnx.ModelProto:
    """The second file of the ``two-files`` form: g alone.

    Its inputs are the model's and, with several targets, ``predicted_class`` int64 ``(N,)``, what the first
    file answered; rows whose class is no target get the statistics of the first one. Outputs are the model's.

    Raises:
        UnsupportedGraphError: As `add_branch`.
    """
    outputs = _check(model, branch)
    guard = onnx.ModelProto()
    guard.CopyFrom(model.proto)
    block = Block(Names(guard))
    row = None
    if len(branch.targets) > 1:
        rows = block.constant("target_row", np.maximum(_table(model, branch), 0))
        row = block.node("Gather", [rows, CLASS_INPUT], "row")
        axis = guard.graph.input[0].type.tensor_type.shape.dim[0]
        guard.graph.input.append(onnx.helper.make_tensor_value_info(CLASS_INPUT, onnx.TensorProto.INT64, ["N"]))
        guard.graph.input[-1].type.tensor_type.shape.dim[0].CopyFrom(axis)
    renamed = second_pass(block, model, branch, whole_inputs(model), row, localize=False)
    kept = [node for node in guard.graph.node if not any(name in renamed for name in node.output)]
    block.nodes += [onnx.helper.make_node("Identity", [renamed[name]], [name]) for name in outputs]
    del guard.graph.node[:]
    guard.graph.node.extend([*kept, *block.nodes])
    guard.graph.initializer.extend(block.initializers)
    drop_unused(guard.graph)
    return guard


def write_targets(proto: onnx.ModelProto, model: Model, branch: Branch) -> None:
    """Name the targets and the class scores in the metadata, for services."""
    proto.metadata_props.add(key=TARGETS_KEY, value=json.dumps(list(branch.targets)))
    proto.metadata_props.add(key=SCORES_KEY, value=model.logits)


def check_rows(model: Model) -> list[str]:
    """Outputs that depend on the image, if a model can take a second pass.

    Raises:
        UnsupportedGraphError: It cannot.
    """
    if onnx.TensorProto.BFLOAT16 in model.elem_types.values():
        raise UnsupportedGraphError("a second pass needs float32 or float16, found bfloat16; use another --method")
    taken = [item.name for item in model.proto.graph.output if item.name in RUN_TIME_OUTPUTS]
    if taken:
        raise UnsupportedGraphError(f"the model already has an output {taken[0]!r}; it was hardened before")
    changed = set(model.input_names)
    for node in model.proto.graph.node:
        if changed.intersection(reads(node)):
            changed.update(node.output)
    outputs = [item.name for item in model.proto.graph.output if item.name in changed]
    for name in outputs:
        shape = model.shapes.get(name)
        if not shape or (shape[0] is not None and shape[0] != model.batch):
            raise UnsupportedGraphError(f"output {name!r}: one row an image expected, found shape {shape}")
    return outputs


def _check(model: Model, branch: Branch) -> list[str]:
    """`check_rows`, and the targets are classes of the model."""
    outside = [target for target in branch.targets if not 0 <= target < model.num_classes]
    if outside:
        raise UnsupportedGraphError(f"target class 0 to {model.num_classes - 1} expected, found {outside[0]}")
    return check_rows(model)


def _table(model: Model, branch: Branch) -> np.ndarray:
    """Row of the statistics by class, int64 ``(K,)``; -1 for what is no target."""
    table = np.full(model.num_classes, -1, np.int64)
    table[list(branch.targets)] = np.arange(len(branch.targets))
    return table


def flat_scores(block: Block, model: Model, scores: str) -> str:
    """Class scores as float32 ``(N, K)``."""
    if model.elem_types.get(model.logits) in _HALF:
        scores = block.node("Cast", [scores], "scores_float", to=int(onnx.TensorProto.FLOAT))
    if len(model.shapes.get(model.logits, ())) != 2:
        scores = block.node("Flatten", [scores], "scores_flat", axis=1)
    return scores


def _classes(block: Block, model: Model, scores: str) -> str:
    """Predicted class of each row, int64 ``(N,)``."""
    return block.node("ArgMax", [flat_scores(block, model, scores)], "classes", axis=1, keepdims=0)


def _row(block: Block, model: Model, branch: Branch, classes: str) -> str | None:
    if len(branch.targets) == 1:
        return None
    # A row that is no target takes the first statistics; its answer is thrown away.
    rows = block.constant("target_row", np.maximum(_table(model, branch), 0))
    return block.node("Gather", [rows, classes], "row")


def _disagree(block: Block, model: Model, scores: str, classes: str) -> str:
    other = _classes(block, model, scores)
    return block.node("Not", [block.node("Equal", [other, classes], "agree")], "disagree")


def _where_form(
    block: Block, model: Model, branch: Branch, plain: dict[str, str], classes: str, suspicious: str, flag: str
) -> None:
    row = _row(block, model, branch, classes)
    second = second_pass(block, model, branch, whole_inputs(model), row, localize=False)
    disagree = _disagree(block, model, second[model.logits], classes)
    block.nodes.append(onnx.helper.make_node("And", [suspicious, disagree], [flag]))
    for name, original in plain.items():
        choose(block, model, flag, second[name], original, name)


def _if_form(
    main: Block, model: Model, branch: Branch, plain: dict[str, str], classes: str, suspicious: str, flag: str
) -> None:
    count = main.node("Cast", [suspicious], "suspicious_number", to=int(onnx.TensorProto.INT64))
    # A sum and not a maximum: an empty batch has none.
    total = main.node("ReduceSum", [count], "suspicious_rows", keepdims=0)
    condition = main.node("Cast", [total], "any_suspicious", to=int(onnx.TensorProto.BOOL))
    then, otherwise = Block(main.names), Block(main.names)
    build = _gathered if model.batch is None else _whole
    chosen = build(then, model, branch, plain, classes, suspicious)
    same = [otherwise.node("Identity", [tensor], f"{tensor}_same") for tensor in (*plain.values(), suspicious)]
    types = [elem_type_of(model, name) for name in plain] + [onnx.TensorProto.BOOL]
    main.nodes.append(
        onnx.helper.make_node(
            "If",
            [condition],
            [*plain, flag],
            name=main.names.new("second_pass_If"),
            then_branch=subgraph("suspicious", then, chosen, types),
            else_branch=subgraph("none_suspicious", otherwise, same, types),
        )
    )


def _gathered(
    then: Block, model: Model, branch: Branch, plain: dict[str, str], classes: str, suspicious: str
) -> list[str]:
    """Run the suspicious rows alone and put them back."""
    places = then.node("Transpose", [then.node("NonZero", [suspicious], "places")], "rows", perm=[1, 0])
    own = then.node("GatherND", [classes, places], "row_classes")
    images = gathered_inputs(then, model, places)
    second = second_pass(then, model, branch, images, _row(then, model, branch, own), localize=True)
    disagree = _disagree(then, model, second[model.logits], own)
    flags = then.node("ScatterND", [suspicious, places, disagree], "flags")
    chosen = []
    for name, original in plain.items():
        scattered = then.node("ScatterND", [original, places, second[name]], f"{name}_scattered")
        chosen.append(choose(then, model, flags, scattered, original, name, inner=True))
    return [*chosen, flags]


def _whole(
    then: Block, model: Model, branch: Branch, plain: dict[str, str], classes: str, suspicious: str
) -> list[str]:
    """Run the whole batch: a fixed batch size may be written into the graph."""
    second = second_pass(then, model, branch, whole_inputs(model), _row(then, model, branch, classes), localize=True)
    flags = then.node("And", [suspicious, _disagree(then, model, second[model.logits], classes)], "flags")
    return [
        *(choose(then, model, flags, second[name], original, name, inner=True) for name, original in plain.items()),
        flags,
    ]


def choose(
    block: Block, model: Model, flags: str, flagged: str, original: str, name: str, *, inner: bool = False
) -> str:
    """``flagged`` where the row is flagged, else ``original``, as the output `name`."""
    shape = np.array([-1] + [1] * (len(model.shapes[name]) - 1), np.int64)
    column = block.node("Reshape", [flags, block.constant("flag_shape", shape)], "flag_column")
    output = block.names.new(f"{name}_chosen") if inner else name
    block.nodes.append(onnx.helper.make_node("Where", [column, flagged, original], [output]))
    return output


def subgraph(name: str, block: Block, outputs: list[str], types: list[int]) -> onnx.GraphProto:
    """A block as the body of an ``If``, with the element types of its outputs."""
    values = [onnx.helper.make_tensor_value_info(item, kind, None) for item, kind in zip(outputs, types, strict=True)]
    return onnx.helper.make_graph(block.nodes, name, [], values, block.initializers)


def elem_type_of(model: Model, output: str) -> int:
    """Element type of an output of the model."""
    return next(item.elem_type for item in model.outputs if item.name == output)


def row_output(hardened: onnx.ModelProto, model: Model, name: str, elem_type: int) -> onnx.ValueInfoProto:
    """An output with one value a row, ``(N,)``, its axis named as that of the class scores."""
    value = onnx.helper.make_tensor_value_info(name, elem_type, ["N"])
    shape = next(item for item in hardened.graph.output if item.name == model.logits).type.tensor_type.shape
    if shape.dim:
        value.type.tensor_type.shape.dim[0].CopyFrom(shape.dim[0])
    return value


def drop_unused(graph: onnx.GraphProto) -> None:
    """Drop initializers that nothing reads."""
    used = {name for node in graph.node for name in reads(node)} | {item.name for item in graph.output}
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
