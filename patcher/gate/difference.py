# SPDX-License-Identifier: Apache-2.0
"""What one graph has that another has not, by data flow.

The original's tensors get value numbers (`patcher.gate.numbering`). The hardened graph is walked in its
order: a node whose number the original knows is the original's. Of the others, a node that alters one known
tensor with constants is an *addition* and its output stands for that tensor from there on; a node that
differs from one of the original in constants only has *changed weights*; whatever remains is *unexpected*.

A known tensor that is read directly although an addition alters it is unexpected too: the correction
would act on one of its consumers only.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import onnx

from patcher.gate.numbering import Key, Numbers, constant_value

# Operators that alter a tensor value by value; any other makes something new of it.
_ELEMENTWISE = frozenset(
    {"Add", "BatchNormalization", "Cast", "Clip", "Div", "HardSigmoid", "Max", "Min", "Mul", "Sub"}
)


@dataclass(frozen=True)
class Addition:
    """A node that was put behind a tensor of the original.

    Attributes:
        operator: Its operator.
        tensor: The original's name of the tensor that it alters.
        on_constant: Whether that tensor is a constant.
        node: The node.
        operand: The other constant; ``None`` where there is not exactly one.
    """

    operator: str
    tensor: str
    on_constant: bool
    node: onnx.NodeProto
    operand: onnx.TensorProto | None = None


@dataclass(frozen=True)
class ChangedWeight:
    """A constant that differs from the original's.

    Attributes:
        name: The original's name of it.
        operator: Operator that reads it.
        position: Which input of that operator.
    """

    name: str
    operator: str
    position: int


@dataclass
class Difference:
    """All differences, in graph order.

    Attributes:
        additions: Nodes that alter a tensor of the original.
        changed: Constants with other values.
        unexpected: Nodes of any other kind, as ``operator (tensor)``.
        bypassed: Tensors of the hardened graph that are read past their correction.
        outputs: Outputs of the original that are computed in another way.
        lost: Those of them that are no longer computed at all, under any name.
    """

    additions: list[Addition] = field(default_factory=list)
    changed: list[ChangedWeight] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    bypassed: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def compare_graphs(original: onnx.ModelProto, hardened: onnx.ModelProto) -> Difference:
    """Compare a hardened graph with its original; names of tensors and nodes do not matter."""
    return _Comparison(original).run(hardened)


class _Comparison:
    """The original's numbers, and the walk over the hardened graph."""

    def __init__(self, original: onnx.ModelProto) -> None:
        self._original = original
        self._numbers = Numbers()
        self._names = self._numbers.initial(original)
        self._similar: dict[Key, list[onnx.NodeProto]] = defaultdict(list)
        for node in original.graph.node:
            if constant_value(node) is None:
                self._similar[self._loose_key(node, self._names)].append(node)
            self._names.update(self._numbers.number_node(node, self._names))
        self._known = {number: name for name, number in reversed(self._names.items())}
        self._result = Difference()
        self._altered: dict[str, set[int]] = defaultdict(set)

    def run(self, hardened: onnx.ModelProto) -> Difference:
        """Walk the hardened graph in its order."""
        names = self._numbers.initial(hardened)
        self._values = {tensor.name: tensor for tensor in hardened.graph.initializer}
        self._values |= {node.output[0]: value for node in hardened.graph.node if (value := constant_value(node))}
        if [item.SerializeToString() for item in hardened.functions] != [
            item.SerializeToString() for item in self._original.functions
        ]:
            self._result.unexpected.append("local functions that differ")
        additions: set[str] = set()
        for index, node in enumerate(hardened.graph.node):
            before = len(self._result.additions)
            names.update(self._outputs(node, names, index))
            if len(self._result.additions) > before:
                additions.update(node.output)
        self._find_bypassed(hardened)
        self._find_repeated(hardened, names, additions)
        computed = set(names.values())
        for value in self._original.graph.output:
            if names.get(value.name) != self._names[value.name]:
                self._result.outputs.append(value.name)
                if self._names[value.name] not in computed:
                    self._result.lost.append(value.name)
        return self._result

    def _find_repeated(self, hardened: onnx.ModelProto, names: dict[str, int], additions: set[str]) -> None:
        """Tensors computed more often than in the original: readers of the second one would miss its correction."""
        left = Counter(self._names[name] for node in self._original.graph.node for name in node.output if name)
        for node in hardened.graph.node:
            for name in node.output:
                if not name or name in additions or names[name] in self._numbers.constants:
                    continue
                left[names[name]] -= 1
                if names[name] in self._known and left[names[name]] < 0:
                    self._result.unexpected.append(f"{node.op_type} once more ({name})")

    def _outputs(self, node: onnx.NodeProto, names: dict[str, int], index: int) -> dict[str, int]:
        numbered = self._numbers.number_node(node, names)
        if constant_value(node) is not None or all(number in self._known for number in numbered.values()):
            return numbered
        if (twin := self._twin(node, names)) is not None:
            return {name: self._names[old] for name, old in zip(node.output, twin.output, strict=True) if name}
        if (source := self._altered_input(node, names)) is not None:
            self._altered[node.input[source]].add(index)
            number = names[node.input[source]]
            on_constant = number in self._numbers.constants
            others = [name for index, name in enumerate(node.input) if name and index != source]
            operand = self._values.get(others[0]) if len(others) == 1 else None
            self._result.additions.append(Addition(node.op_type, self._known[number], on_constant, node, operand))
            return numbered | {node.output[0]: number}
        if not self._numbers.is_constant(node, self._numbers.inputs(node, names)):
            self._result.unexpected.append(f"{node.op_type} ({next((name for name in node.output if name), '')})")
        return numbered

    def _altered_input(self, node: onnx.NodeProto, names: dict[str, int]) -> int | None:
        """Which input a node alters with constants, where it does nothing else."""
        if len(node.output) != 1 or node.op_type not in _ELEMENTWISE:
            return None
        read = [(index, names.get(name, -1)) for index, name in enumerate(node.input) if name]
        # What only follows from constants, by nodes, may be anything: values must stand in the file.
        given = sum(number in self._numbers.types for _, number in read)
        if given < len(read) - 1:
            return None
        live = [(index, number) for index, number in read if number not in self._numbers.constants]
        if live:
            return live[0][0] if len(live) == 1 and live[0][1] in self._known else None
        known = [index for index, number in read if number in self._known]
        return known[0] if len(known) == 1 and len(read) > 1 else None

    def _twin(self, node: onnx.NodeProto, names: dict[str, int]) -> onnx.NodeProto | None:
        """The original's node that differs from this one in the values of constants only."""
        candidates = self._similar.get(self._loose_key(node, names), [])
        candidates = [item for item in candidates if len(item.output) == len(node.output)]
        if not candidates:
            return None
        # Two branches may read one tensor with weights of one shape: take the one with more equal weights.
        best = min(candidates, key=lambda item: len(self._changes(item, node, names)))
        self._result.changed += self._changes(best, node, names)
        return best

    def _changes(self, old: onnx.NodeProto, new: onnx.NodeProto, names: dict[str, int]) -> list[ChangedWeight]:
        pairs = enumerate(zip(old.input, new.input, strict=True))
        return [
            ChangedWeight(before, old.op_type, position)
            for position, (before, after) in pairs
            if before and self._names[before] != names.get(after)
        ]

    def _loose_key(self, node: onnx.NodeProto, names: dict[str, int]) -> Key:
        """A node's key with constants of the file reduced to their type and shape."""
        numbers = self._numbers.inputs(node, names)
        loose = [("type", *self._numbers.types[item]) if item in self._numbers.types else item for item in numbers]
        return self._numbers.node_key(node, names, loose)

    def _find_bypassed(self, hardened: onnx.ModelProto) -> None:
        for index, node in enumerate(hardened.graph.node):
            for name in node.input:
                if name in self._altered and index not in self._altered[name]:
                    self._result.bypassed.append(name)
        self._result.bypassed += [value.name for value in hardened.graph.output if value.name in self._altered]
