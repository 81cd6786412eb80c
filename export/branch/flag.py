# SPDX-License-Identifier: Apache-2.0
"""Run-time detection without a trigger: a score and a flag for each row, baked in; see `patcher.patch.Flag`.

    every site     largest standard score of the row, standardised     largest over the sites: the excess
    excess > gate  the row goes through a second view under bounds     log KL(its answer || first answer)
    score          tail of the excess + tail of the divergence         > threshold: flagged, the second answer is given

Outputs: the model's own, under their own names and first; then ``trigger_score`` float32 ``(N,)`` and
``trigger_detected`` bool ``(N,)``. Every row is decided by itself.

- ``if``: only rows above the gate go through the second view, inside one ``If`` that shares the weights.
- ``where``: every row does, and ``Where`` picks.
- ``two-files``: the first file is the model with ``trigger_excess`` as its last output; `flag_guard` makes the
  second one, and ``patcher.runtime`` joins them.
"""

from __future__ import annotations

import json

import numpy as np
import onnx

from patcher.export.branch.block import Block
from patcher.export.branch.branch import (
    check_rows,
    choose,
    drop_unused,
    elem_type_of,
    flat_scores,
    row_output,
    subgraph,
)
from patcher.export.branch.second_pass import gathered_inputs, second_pass, whole_inputs
from patcher.export.surgery.names import Names
from patcher.model.model import Model
from patcher.model.subgraphs import rename
from patcher.patch import Branch, Flag, Realignment, Watch
from patcher.two_files import EXCESS_OUTPUT, FLAG_KEY, FLAG_OUTPUT, PLAIN_INPUT, SCORE_OUTPUT, SCORES_KEY

_FLOAT, _BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL
_AXES_AS_INPUT = {"ReduceSum": 13, "ReduceMax": 18}
_SMALLEST_PROBABILITY = 1e-12  # as patcher.calibrate.classifier undoes a Softmax head
_SMALLEST_DISTANCE = 1e-7  # as it undoes a Sigmoid head
_SMALLEST_DIVERGENCE = 1e-3  # as patcher.calibrate.patched


def add_flag(hardened: onnx.ModelProto, model: Model, flag: Flag) -> None:
    """Add the score and the flag to a copy of a model, in place.

    Args:
        hardened: Copy of the model.
        model: What is known of it.
        flag: What is usual, the second view, the threshold.

    Raises:
        InputError: A site's values do not fit.
        UnsupportedGraphError: The graph cannot take a second view.
    """
    outputs = check_rows(model)
    names = Names(hardened)
    main = Block(names)
    if flag.form == "two-files":
        excess = _excess(main, model, flag)
        main.nodes.append(onnx.helper.make_node("Identity", [excess], [EXCESS_OUTPUT]))
        hardened.graph.node.extend(main.nodes)
        hardened.graph.initializer.extend(main.initializers)
        hardened.graph.output.append(row_output(hardened, model, EXCESS_OUTPUT, _FLOAT))
        return
    plain = {name: names.new(f"{name}_original") for name in outputs}
    for node in hardened.graph.node:
        rename(node, plain)
    excess = _excess(main, model, flag, plain)
    unusual = main.node("Greater", [excess, _scalar(main, "gate", flag.gate)], "unusual")
    build = _if_form if flag.form == "if" else _where_form
    divergence, bounded = build(main, model, flag, plain, unusual)
    main.nodes.append(
        onnx.helper.make_node("Add", [_tail(main, flag, 0, excess), divergence], [SCORE_OUTPUT], name=SCORE_OUTPUT)
    )
    threshold = _scalar(main, "threshold", flag.threshold)
    main.nodes.append(onnx.helper.make_node("Greater", [SCORE_OUTPUT, threshold], [FLAG_OUTPUT], name=FLAG_OUTPUT))
    for name, original in plain.items():
        choose(main, model, FLAG_OUTPUT, bounded[name], original, name)
    hardened.graph.node.extend(main.nodes)
    hardened.graph.initializer.extend(main.initializers)
    hardened.graph.output.append(row_output(hardened, model, SCORE_OUTPUT, _FLOAT))
    hardened.graph.output.append(row_output(hardened, model, FLAG_OUTPUT, _BOOL))


def flag_guard(model: Model, flag: Flag) -> onnx.ModelProto:
    """The second file of the ``two-files`` form: the second view alone.

    Its inputs are the model's and ``plain_scores``, the first file's class scores; its outputs are the model's
    and ``trigger_score``: the divergence's part of the score, float32 ``(N,)``.
    """
    outputs = check_rows(model)
    guard = onnx.ModelProto()
    guard.CopyFrom(model.proto)
    block = Block(Names(guard))
    renamed = second_pass(block, model, _view(flag), whole_inputs(model), None, localize=False, bounds_only=True)
    kept = [node for node in guard.graph.node if not any(name in renamed for name in node.output)]
    divergence = _divergence(block, model, flag, renamed[model.logits], PLAIN_INPUT)
    block.nodes += [onnx.helper.make_node("Identity", [renamed[name]], [name]) for name in outputs]
    block.nodes.append(onnx.helper.make_node("Identity", [divergence], [SCORE_OUTPUT]))
    scores = next(item for item in model.proto.graph.output if item.name == model.logits)
    guard.graph.input.add().CopyFrom(scores)
    guard.graph.input[-1].name = PLAIN_INPUT
    del guard.graph.node[:]
    guard.graph.node.extend([*kept, *block.nodes])
    guard.graph.initializer.extend(block.initializers)
    guard.graph.output.append(row_output(guard, model, SCORE_OUTPUT, _FLOAT))
    drop_unused(guard.graph)
    return guard


def write_flag(proto: onnx.ModelProto, model: Model, flag: Flag) -> None:
    """Put the form's numbers and the class scores' name into the metadata, for services."""
    numbers = {"form": flag.form, "gate": flag.gate, "threshold": flag.threshold, "tail": flag.tails[0].tolist()}
    proto.metadata_props.add(key=FLAG_KEY, value=json.dumps(numbers))
    proto.metadata_props.add(key=SCORES_KEY, value=model.logits)


def _view(flag: Flag) -> Branch:
    """The second view as a branch of one target: bounds alone, nothing scaled or shifted."""

    def bounded(site: Watch) -> Realignment:
        one = np.ones_like(site.bound)
        return Realignment(site.tensor, one, np.zeros_like(one), site.bound, np.full_like(one, -np.inf))

    return Branch((0,), tuple(bounded(site) for site in flag.sites))


def _excess(block: Block, model: Model, flag: Flag, renamed: dict[str, str] | None = None) -> str:
    """Largest standardised standard score at any site, float32 ``(N,)``."""
    tops = [_top(block, model, site, (renamed or {}).get(site.tensor, site.tensor)) for site in flag.sites]
    joined = block.node("Concat", tops, "site_scores", axis=1)
    for operator, wanted, values in (
        ("Sub", "site_level", flag.levels[:, 0]),
        ("Div", "site_spread", flag.levels[:, 1]),
    ):
        constant = block.constant(wanted, values.astype(np.float32)[None])
        joined = block.node(operator, [joined, constant], f"{wanted}_scores")
    return _reduce(block, model, "ReduceMax", joined, [1], "excess", keepdims=0)


def _top(block: Block, model: Model, site: Watch, value: str) -> str:
    """Largest standard score of each row at one site, float32 ``(N, 1)``."""
    shape, rank = site.mean.shape, site.mean.ndim
    # Of positions that share mean and deviation the largest value has the largest score.
    shared = [axis for axis in range(1, rank) if shape[axis] == 1]
    if rank == 4 and shared == [2, 3]:
        value = block.node("GlobalMaxPool", [value], f"{site.tensor}_largest")
    elif shared and len(shared) < rank - 1:
        value = _reduce(block, model, "ReduceMax", value, shared, f"{site.tensor}_largest", keepdims=1)
    if model.elem_types.get(site.tensor) != _FLOAT:
        value = block.node("Cast", [value], f"{site.tensor}_float", to=int(_FLOAT))
    for operator, part in (("Sub", site.mean), ("Div", site.std)):
        constant = block.constant(f"{site.tensor}_usual", part.astype(np.float32))
        value = block.node(operator, [value, constant], f"{site.tensor}_standard")
    flat = block.node("Flatten", [value], f"{site.tensor}_row", axis=1)
    return _reduce(block, model, "ReduceMax", flat, [1], f"{site.tensor}_top", keepdims=1)


def _divergence(block: Block, model: Model, flag: Flag, second: str, first: str) -> str:
    """The tail of log(KL(second || first) + 1e-3) of raw class scores, float32 ``(N,)``."""
    after, before = (_log_probabilities(block, model, scores) for scores in (second, first))
    difference = block.node("Sub", [after, before], "log_ratio")
    terms = block.node("Mul", [block.node("Exp", [after], "probabilities"), difference], "divergence_terms")
    total = _reduce(block, model, "ReduceSum", terms, [1], "divergence", keepdims=0)
    # Rounding may leave a sum below zero.
    lifted = block.node(
        "Add",
        [block.node("Relu", [total], "divergence_positive"), _scalar(block, "smallest", _SMALLEST_DIVERGENCE)],
        "divergence_lifted",
    )
    return _tail(block, flag, 1, block.node("Log", [lifted], "log_divergence"))


def _log_probabilities(block: Block, model: Model, scores: str) -> str:
    flat = flat_scores(block, model, scores)
    if model.head == "softmax":
        smallest = _scalar(block, "smallest_probability", _SMALLEST_PROBABILITY)
        flat = block.node("Log", [block.node("Max", [flat, smallest], "probability")], "log_score")
    if model.head == "sigmoid":
        least, most = (_scalar(block, "limit", value) for value in (_SMALLEST_DISTANCE, 1 - _SMALLEST_DISTANCE))
        inside = block.node("Min", [block.node("Max", [flat, least], "probability_floor"), most], "probability")
        other = block.node("Sub", [_scalar(block, "one", 1.0), inside], "other_probability")
        logs = [block.node("Log", [value], "log_probability_part") for value in (inside, other)]
        flat = block.node("Sub", logs, "log_odds")
    return block.node("LogSoftmax", [flat], "log_probability", axis=1)


def _tail(block: Block, flag: Flag, row: int, value: str) -> str:
    slope, intercept = (_scalar(block, "tail", float(number)) for number in flag.tails[row])
    scaled = block.node("Mul", [value, slope], "tail_scaled")
    return block.node("Relu", [block.node("Add", [scaled, intercept], "tail_shifted")], "surprise")


def _where_form(
    block: Block, model: Model, flag: Flag, plain: dict[str, str], unusual: str
) -> tuple[str, dict[str, str]]:
    second = second_pass(block, model, _view(flag), whole_inputs(model), None, localize=False, bounds_only=True)
    divergence = _divergence(block, model, flag, second[model.logits], plain[model.logits])
    none = _scalar(block, "none", 0.0)
    return block.node("Where", [unusual, divergence, none], "divergence_score"), {name: second[name] for name in plain}


def _if_form(main: Block, model: Model, flag: Flag, plain: dict[str, str], unusual: str) -> tuple[str, dict[str, str]]:
    number = main.node("Cast", [unusual], "unusual_number", to=int(onnx.TensorProto.INT64))
    total = main.node("ReduceSum", [number], "unusual_rows", keepdims=0)
    condition = main.node("Cast", [total], "any_unusual", to=int(_BOOL))
    zeros = main.node("Cast", [main.node("And", [unusual, _false(main, unusual)], "nothing")], "zeros", to=int(_FLOAT))
    then, otherwise = Block(main.names), Block(main.names)
    found = (_gathered if model.batch is None else _whole)(then, model, flag, plain, unusual, zeros)
    same = [otherwise.node("Identity", [tensor], f"{tensor}_same") for tensor in (zeros, *plain.values())]
    divergence = main.names.new("divergence_score")
    bounded = {name: main.names.new(f"{name}_bounded") for name in plain}
    types = [_FLOAT, *(elem_type_of(model, name) for name in plain)]
    main.nodes.append(
        onnx.helper.make_node(
            "If",
            [condition],
            [divergence, *bounded.values()],
            name=main.names.new("second_view_If"),
            then_branch=subgraph("unusual", then, found, types),
            else_branch=subgraph("usual", otherwise, same, types),
        )
    )
    return divergence, bounded


def _gathered(then: Block, model: Model, flag: Flag, plain: dict[str, str], unusual: str, zeros: str) -> list[str]:
    """Run the unusual rows alone and put them back."""
    places = then.node("Transpose", [then.node("NonZero", [unusual], "places")], "rows", perm=[1, 0])
    images = gathered_inputs(then, model, places)
    second = second_pass(then, model, _view(flag), images, None, localize=True, bounds_only=True)
    first = then.node("GatherND", [plain[model.logits], places], "plain_rows")
    divergence = _divergence(then, model, flag, second[model.logits], first)
    scattered = [then.node("ScatterND", [zeros, places, divergence], "divergence_rows")]
    for name, original in plain.items():
        scattered.append(then.node("ScatterND", [original, places, second[name]], f"{name}_scattered"))
    return scattered


def _whole(then: Block, model: Model, flag: Flag, plain: dict[str, str], unusual: str, zeros: str) -> list[str]:
    """Run the whole batch: a fixed batch size may be written into the graph."""
    second = second_pass(then, model, _view(flag), whole_inputs(model), None, localize=True, bounds_only=True)
    divergence = _divergence(then, model, flag, second[model.logits], plain[model.logits])
    return [then.node("Where", [unusual, divergence, zeros], "divergence_rows"), *(second[name] for name in plain)]


def _false(block: Block, like: str) -> str:
    return block.node("Not", [like], f"{like}_not")


def _scalar(block: Block, wanted: str, value: float) -> str:
    return block.constant(wanted, np.array(value, np.float32))


def _reduce(
    block: Block, model: Model, operator: str, value: str, axes: list[int], wanted: str, *, keepdims: int
) -> str:
    """A reduction over `axes`, an attribute or an input by the model's opset."""
    if model.opset >= _AXES_AS_INPUT[operator]:
        constant = block.constant("axes", np.array(axes, np.int64))
        return block.node(operator, [value, constant], wanted, keepdims=keepdims)
    return block.node(operator, [value], wanted, axes=axes, keepdims=keepdims)
