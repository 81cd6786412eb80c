# SPDX-License-Identifier: Apache-2.0
"""What a model is and what can be done with it: `patcher inspect`. Needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from patcher.calibrate import METHODS
from patcher.errors import UnsupportedGraphError
from patcher.files import Source
from patcher.graph.common_operators import COMMON_OPERATORS
from patcher.graph.flow import STANDARD_DOMAINS
from patcher.graph.site import Site
from patcher.graph.sites import find_sites
from patcher.model.check import all_nodes
from patcher.model.model import Model, read_model
from patcher.model.provenance import Provenance, read_provenance

if TYPE_CHECKING:
    import onnx

# Positively homogeneous activations, whose bounds may go into the weights.
_FOLDED = ("Relu", "ReLU6")


@dataclass(frozen=True)
class Applicability:
    """Whether a method can act on a model.

    Attributes:
        applies: Whether it has a site for the method.
        reason: How many sites there are, or what is missing.
    """

    applies: bool
    reason: str


@dataclass(frozen=True)
class InspectResult:
    """What `inspect` found.

    Attributes:
        model: The classifier: input, outputs, class scores, opset.
        sites: Where corrections may act, in graph order.
        methods: Whether each method applies.
        provenance: Who hardened it; ``None`` for a model that was not hardened.
    """

    model: Model
    sites: tuple[Site, ...]
    methods: Mapping[str, Applicability]
    provenance: Provenance | None

    def about(self) -> dict[str, str]:
        """The model in words."""
        from onnx import TensorProto

        model, proto = self.model, self.model.proto
        layout = model.layout if model.is_picture else model.kind
        inputs = [
            f"{item.name}: {TensorProto.DataType.Name(item.elem_type).lower()} {shape_text(item.shape)}"
            for item in model.inputs
        ]
        made = self.provenance
        return {
            "name": model.path.name if model.path else "model",
            "sha256": model.sha256,
            "opset": str(model.opset),
            "IR version": str(proto.ir_version),
            "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
            "nodes": str(len(proto.graph.node)),
            "input": f"{'; '.join(inputs)} {layout}",
            "outputs": "; ".join(f"{output.name} {shape_text(output.shape)}" for output in model.outputs),
            "class scores": f"{model.logits} ({model.head}), {model.num_classes} classes",
            **({"changed in memory": "; ".join(model.changes)} if model.changes else {}),
            **({"limits": "; ".join(limits)} if (limits := [*model_limits(model), *site_limits(self.sites)]) else {}),
            "hardened": f"by patcher {made.version}, method {made.method}" if made else "no",
        }

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        methods = {name: ("yes, " if item.applies else "no: ") + item.reason for name, item in self.methods.items()}
        return {**self.about(), "methods": methods, "sites": [asdict(site) for site in self.sites]}


def inspect(model: Source | bytes | onnx.ModelProto, *, scores: str | None = None) -> InspectResult:
    """Read a model, its sites and which methods apply.

    Args:
        model: Path, bytes or ``ModelProto`` of an ONNX image classifier.
        scores: The output that holds the class scores; ``None`` for the one that data flow points to.

    Raises:
        InputError: The file is missing or no ONNX model.
        UnsupportedGraphError: It is no classifier that can be read faithfully.
    """
    read = read_model(model, scores=scores)
    sites, unknown = find_sites(read), _unknown_operators(read)
    methods = {
        method.name: Applicability(False, unknown) if unknown else _applies(method.site_kind, sites)
        for method in METHODS.values()
    }
    return InspectResult(read, sites, methods, read_provenance(read.proto))


def model_limits(model: Model) -> list[str]:
    """What cannot be done with a model, or not as with others: one line each."""
    found = []
    if model.quantized:
        found.append(
            "quantised: corrections stand behind DequantizeLinear or before QuantizeLinear, run in floats there; "
            "parity is proven in quantisation steps and by classes"
        )
    if model.is_picture and model.image_size is None:
        found.append("height and width are open: give --size")
    if not model.is_picture:
        found.append(f"{model.kind} inputs: no method none, no audit-data, no pictures in reports")
    if model.single_score:
        found.append("one score of two classes, the probability of class 1: no second pass (method bna, --flag)")
    if model.other_scores:
        others = ", ".join(model.other_scores)
        found.append(
            f"other outputs could be class scores: {others}; only their agreement is measured, --scores takes another"
        )
    return found


def site_limits(sites: Sequence[Site]) -> list[str]:
    """Bounds that nothing but nodes can hold: see `patcher.export.fold`."""
    kept = Counter(site.operator for site in sites if site.kind == "activation" and site.operator not in _FOLDED)
    named = ", ".join(f"{count} {name}" for name, count in sorted(kept.items()))
    return [f"bounds (method unit) stay nodes behind {named}, slower between convolutions"] if kept else []


def _unknown_operators(model: Model) -> str:
    """What keeps the model from being run in PyTorch, which every method does; empty where nothing does.

    torch is imported for graphs with an operator that is not in most classifiers.
    """
    names = {node.op_type if node.domain in STANDARD_DOMAINS else node.domain for node in all_nodes(model.proto)}
    if names <= COMMON_OPERATORS:
        return ""
    from patcher.graph.interpreter import Graph

    try:
        Graph(model)
    except UnsupportedGraphError as error:
        return str(error)
    return ""


def _applies(kind: str, sites: tuple[Site, ...]) -> Applicability:
    count = sum(site.kind == kind for site in sites)
    return Applicability(count > 0, f"{count} {kind} sites" if count else f"no {kind} sites")


def shape_text(shape: tuple[int | str | None, ...]) -> str:
    """A shape for people: an open axis by its name, or ``?``."""
    return "(" + ", ".join("?" if length is None else str(length) for length in shape) + ")"
