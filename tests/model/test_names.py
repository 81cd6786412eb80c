# SPDX-License-Identifier: Apache-2.0
"""protobuf hands texts that are none on as bytes: a file with one is refused when it is read."""

from __future__ import annotations

import pytest

from patcher.errors import InputError
from patcher.model.model import read_model
from tests.tiny_models import residual_model


@pytest.mark.parametrize("place", ["key", "value", "node", "input", "output", "attribute", "initializer", "domain"])
def test_a_name_that_is_no_text(place: str) -> None:
    model = residual_model()
    entry = model.metadata_props.add(key="key", value="value")
    first = next(item for item in model.graph.node if item.attribute)
    holder, field = {
        "key": (entry, "key"),
        "value": (entry, "value"),
        "node": (first, "name"),
        "input": (model.graph.input[0], "name"),
        "output": (model.graph.output[0], "name"),
        "attribute": (first.attribute[0], "name"),
        "initializer": (model.graph.initializer[0], "name"),
        "domain": (first, "domain"),
    }[place]
    setattr(holder, field, "marked-text")
    content = model.SerializeToString().replace(b"marked-text", b"marked-\xff\xff\xff\xff")
    with pytest.raises(InputError, match="no UTF-8 text"):
        read_model(content)
