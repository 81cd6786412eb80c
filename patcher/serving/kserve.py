# SPDX-License-Identifier: Apache-2.0
"""What KServe needs to serve a model over the Open Inference Protocol (version 2).

    DIR/models/NAME/...          the model repository, to be copied to the storage
    DIR/inferenceservice.json    for `kubectl apply -f`
    DIR/request.json             a request for POST /v2/models/NAME/infer

KServe serves ONNX by Triton, from a model repository; the storage's URI names the folder `models`.
"""

from __future__ import annotations

import json
import math
from typing import Any

from patcher.serving.interface import Interface, Tensor

_OPEN_SIDE = 224


def service_text(name: str, storage_uri: str) -> str:
    """``inferenceservice.json``.

    Args:
        name: Of the service and of the model.
        storage_uri: Where the folder ``models`` will lie, as KServe names storage: ``s3://...``, ``pvc://...``.
    """
    document = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {
            "predictor": {
                "model": {
                    "modelFormat": {"name": "onnx"},
                    "runtime": "kserve-tritonserver",
                    "protocolVersion": "v2",
                    "storageUri": storage_uri,
                }
            }
        },
    }
    return json.dumps(document, indent=2) + "\n"


def request_text(interface: Interface) -> str:
    """A request of one black image, which asks for every output."""
    return json.dumps(
        {
            "inputs": [_input(tensor, interface.batched) for tensor in interface.inputs],
            "outputs": [{"name": tensor.name} for tensor in interface.outputs],
        }
    )


def _input(tensor: Tensor, batched: bool) -> dict[str, Any]:
    sides = [_OPEN_SIDE if side < 0 else side for side in tensor.shape]
    shape = [1, *sides] if batched else sides
    return {"name": tensor.name, "shape": shape, "datatype": tensor.datatype, "data": [0] * math.prod(shape)}
