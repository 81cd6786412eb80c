# SPDX-License-Identifier: Apache-2.0
"""Where token ids become vectors: the one place of a text classifier that has a gradient."""

from __future__ import annotations

from dataclasses import dataclass

from patcher.graph.flow import DataFlow, is_standard
from patcher.model.model import Model

_HANDED_ON = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Embedding:
    """A lookup of token ids in a table.

    Attributes:
        tensor: What is looked up, ``(N, L, D)``.
        table: Initializer with one row a word, ``(V, D)``.
        words: V.
    """

    tensor: str
    table: str
    words: int


def find_embedding(model: Model) -> Embedding | None:
    """The lookup of the first input's ids, or ``None`` where they are not looked up in a constant table."""
    flow = DataFlow(model.proto.graph, model.input_names)
    ids = {model.input.name}
    for node in flow.nodes:
        if is_standard(node, *_HANDED_ON) and node.input[0] in ids:
            ids.update(node.output)
        elif is_standard(node, "Gather") and node.input[1] in ids and (table := flow.weight(node.input[0])):
            shape = model.shapes.get(node.input[0], ())
            if len(shape) == 2 and shape[0] is not None:
                return Embedding(node.output[0], table, shape[0])
    return None
