# SPDX-License-Identifier: Apache-2.0
"""Run an ONNX graph in PyTorch, tensor by tensor under ONNX's own names.

Any tensor can be fetched or rewritten in flight, and everything is differentiable with respect to
the inputs and to whatever the rewrite functions bring along. Weights are frozen.

Two lanes: values that depend on shapes only stay on the host; the rest are torch tensors. The first
run at an input shape records which kernels were called with which fixed arguments; later runs replay
the record. Constant subgraphs are computed once. float16 and bfloat16 are computed in float32.

What the interpreter does not know raises `UnsupportedGraphError` naming node, operator and opset,
mostly when the `Graph` is made; it never guesses.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import onnx
import torch

from patcher.errors import InputError
from patcher.graph.execution import Target, Value, bind, evaluate
from patcher.graph.fusion import fused_activations
from patcher.graph.host_values import to_tensor, torch_type
from patcher.graph.plan import Plan, constant_names, make_plan
from patcher.graph.preparation import prepare
from patcher.graph.replay import Record, Recorder, Rewrite, apply_rewrite, replay

if TYPE_CHECKING:
    from patcher.model.model import Model

# Records kept per graph: calibration uses few combinations of shape, fetch and rewrite.
_RECORDS_KEPT = 32


class Graph:
    """An ONNX graph as a differentiable PyTorch computation.

    Args:
        model: A model read by `patcher.model.model.read_model`, or an ONNX model with its weights inline.
        device: Where to compute.
        channels_last: Keep images and convolution weights in channels-last memory order, which is
            faster for convolutions. Shapes and values are the same.
        dtype: Type of float computation: ``torch.float32``, or ``torch.float64`` to check gradients.
        compile_backend: Backend of ``torch.compile`` (``"inductor"``) for the runs after the first at a
            shape. Compiling takes a minute or more: it pays for long runs on a GPU, hardly on a CPU.

    Attributes:
        inputs: Names of the inputs that have to be given.
        outputs: Names of the graph's outputs.
        initializers: Constants by name, on the device, in their computed type, without gradient.

    Raises:
        UnsupportedGraphError: The graph holds something that the interpreter does not know.
    """

    def __init__(
        self,
        model: Model | onnx.ModelProto,
        *,
        device: str | torch.device = "cpu",
        channels_last: bool = False,
        dtype: torch.dtype = torch.float32,
        compile_backend: str | None = None,
    ) -> None:
        proto = model if isinstance(model, onnx.ModelProto) else model.proto
        block = prepare(proto, dtype)
        self._target = Target(torch.device(device), dtype)
        self._channels_last = channels_last
        self._replay = replay
        if compile_backend is not None:
            self._replay = torch.compile(replay, fullgraph=True, dynamic=False, backend=compile_backend)
        self._steps = block.steps
        self._fused = fused_activations(proto.graph, block.inputs, block.steps, block.initializers)
        self._overridable = block.overridable
        self._carried = block.carried
        self._declared = {value.name: value.type.tensor_type for value in proto.graph.input}
        self.inputs = block.inputs
        self.outputs = block.outputs
        self.initializers = {name: self._place(value) for name, value in block.initializers.items()}
        self._producers = {name: step for step in block.steps for name in step.outputs if name}
        self._constants = constant_names(block.steps, self.initializers)
        self._folded: dict[str, Value] = dict(self.initializers)
        self._plans: dict[tuple[object, ...], Plan] = {}
        self._records: dict[tuple[object, ...], Record] = {}

    def run(
        self,
        inputs: Mapping[str, torch.Tensor],
        *,
        fetch: Sequence[str] | None = None,
        rewrite: Mapping[str, Rewrite] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Compute tensors of the graph.

        Args:
            inputs: Value of every graph input by name, batch axis first as the model declares it. An
                integer image may be given as floats that hold integers, so that gradients reach it.
            fetch: Names of the tensors to return; the graph's outputs if left out. Only what they
                need is computed.
            rewrite: By tensor name, a function applied to the value the moment it exists; every
                consumer, and ``fetch``, sees what it returns. It must keep the shape. Works on node
                outputs, graph inputs and initializers.

        A graph whose batch axis is fixed takes any multiple of that length: it runs once for each part,
        rewrite functions see one part at a time, and the results are joined along their first axis.

        Returns:
            The fetched tensors by name, on the graph's device.

        Raises:
            InputError: An input is missing or has the wrong shape, or a name is not in the graph.
            UnsupportedGraphError: A node cannot be computed on these inputs.
        """
        wanted = tuple(self.outputs if fetch is None else fetch)
        rewrite = rewrite or {}
        self._check_names(wanted, "fetch")
        self._check_names(rewrite, "rewrite")
        parts = [self._run(part, wanted, rewrite) for part in self._batches(inputs)]
        if len(parts) == 1:
            return parts[0]
        return {name: _joined(name, [part[name] for part in parts], name in self._constants) for name in wanted}

    def _run(
        self, inputs: Mapping[str, torch.Tensor], wanted: tuple[str, ...], rewrite: Mapping[str, Rewrite]
    ) -> dict[str, torch.Tensor]:
        environment: dict[str, Value] = {name: self._accept(name, value) for name, value in inputs.items()}
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise InputError(f"input {missing[0]!r} is missing; the graph needs {', '.join(self.inputs)}")
        shapes = tuple((name, tuple(value.shape), value.dtype) for name, value in environment.items())
        given, rewritten = frozenset(inputs), frozenset(rewrite)
        plan = self._plan(wanted, rewritten, given)
        for name in rewritten:
            if name in environment or name in self.initializers:
                value = environment[name] if name in environment else self.initializers[name]
                environment[name] = apply_rewrite(rewrite[name], name, value, self._target)
        key = (wanted, rewritten, shapes)
        record = self._records.get(key)
        if record is None:
            record = self._record(plan, environment, rewrite)
            if record.replayable:
                self._keep(key, record)
        else:
            self._replay(record, environment, rewrite, self._target)
        return {name: self._result(name, environment, record) for name in wanted}

    def _record(self, plan: Plan, environment: dict[str, Value], rewrite: Mapping[str, Rewrite]) -> Record:
        """Run a plan node by node and write down what was called."""
        self._fold(plan)
        values: dict[str, Value] = ChainMap(environment, self._folded)  # type: ignore[assignment]
        recorder = Recorder(plan)
        for step, dying in plan.steps:
            with torch.inference_mode(False):
                call = bind(step, values, plan.fixed, self._target)
            results = evaluate(call, values)
            rewritten = tuple(name for name in results if name in rewrite)
            recorder.add(call, results, rewritten, dying)
            environment.update(results)
            for name in rewritten:
                environment[name] = apply_rewrite(rewrite[name], name, environment[name], self._target)
            for name in dying:
                environment.pop(name, None)
        return recorder.finish()

    def _keep(self, key: tuple[object, ...], record: Record) -> None:
        if len(self._records) >= _RECORDS_KEPT:
            self._records.pop(next(iter(self._records)))
        self._records[key] = record

    def _fold(self, plan: Plan) -> None:
        """Compute the constant subgraphs that a plan needs, each once in the life of the graph."""
        for step in plan.constant_steps:
            if any(name and name not in self._folded for name in step.outputs):
                # Not in inference mode even if the caller is: autograd may save these later.
                with torch.inference_mode(False), torch.no_grad():
                    call = bind(step, self._folded, plan.fixed, self._target)
                    self._folded.update(evaluate(call, self._folded))

    def _plan(self, wanted: tuple[str, ...], rewritten: frozenset[str], given: frozenset[str]) -> Plan:
        key = (wanted, rewritten, given)
        if key not in self._plans:
            self._plans[key] = make_plan(
                self._steps, self._constants, wanted=wanted, changed=rewritten | given, fused=self._fused
            )
        return self._plans[key]

    def _check_names(self, names: Sequence[str] | Mapping[str, Rewrite], argument: str) -> None:
        for name in names:
            if name not in self._producers and name not in self.initializers and name not in self._declared:
                raise InputError(f"{argument}: the graph has no tensor named {name!r}")

    def _batches(self, inputs: Mapping[str, torch.Tensor]) -> list[Mapping[str, torch.Tensor]]:
        """The inputs cut into the batch length that the graph fixes, where it does."""
        if not inputs:
            return [inputs]
        name, value = next(iter(inputs.items()))
        sides = list(self._declared[name].shape.dim) if name in self._declared else []
        length = sides[0].dim_value if sides and sides[0].HasField("dim_value") else 0
        if length < 1 or value.dim() == 0 or value.shape[0] <= length or value.shape[0] % length:
            return [inputs]
        parts = zip(*(item.split(length) for item in inputs.values()), strict=True)
        return [dict(zip(inputs, part, strict=True)) for part in parts]

    def _accept(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """Check an input against its declaration and move it to the device in its computed type."""
        if name not in self.inputs and name not in self._overridable:
            raise InputError(f"the graph has no input named {name!r}; its inputs are {', '.join(self.inputs)}")
        declared = self._declared[name]
        if declared.HasField("shape"):
            expected = [side.dim_value if side.HasField("dim_value") else None for side in declared.shape.dim]
            agree = len(expected) == value.dim() and all(
                side is None or side == found for side, found in zip(expected, value.shape, strict=True)
            )
            if not agree:
                raise InputError(f"input {name!r}: shape {expected} expected (None: any), found {list(value.shape)}")
        kind = torch_type(declared.elem_type, self._target.dtype)
        if value.is_floating_point() and name in self._carried and not kind.is_floating_point:
            kind = self._target.dtype
        if value.dtype != kind and value.is_floating_point() != kind.is_floating_point:
            raise InputError(f"input {name!r}: type {kind} expected, found {value.dtype}")
        return self._place(value.to(kind))

    def _place(self, value: torch.Tensor) -> torch.Tensor:
        value = value.to(self._target.device)
        if self._channels_last and value.dim() == 4 and value.is_floating_point():
            return value.contiguous(memory_format=torch.channels_last)
        return value

    def _result(self, name: str, environment: Mapping[str, Value], record: Record) -> torch.Tensor:
        value = environment.get(name)
        if value is None:
            value = record.host_values[name] if name in record.host_values else self._folded[name]
        if isinstance(value, torch.Tensor):
            return value
        return to_tensor(value, self._target.device, self._target.dtype)


def _joined(name: str, parts: Sequence[torch.Tensor], constant: bool) -> torch.Tensor:
    if constant:
        return parts[0]
    if parts[0].dim() == 0:
        raise InputError(f"fetch: {name!r} has no batch axis, and the graph's batch is fixed; run one batch at a time")
    return torch.cat(list(parts))
