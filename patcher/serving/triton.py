# SPDX-License-Identifier: Apache-2.0
"""A model repository of Triton Inference Server (ONNX Runtime backend).

    DIR/NAME/config.pbtxt
    DIR/NAME/1/model.onnx

`config.pbtxt` names every input and output with type and shape, the flag among them. A scalar an image is
``dims: [ 1 ]`` with a reshape to ``[ ]``: Triton knows no other way to write a tensor whose one axis is the batch.
"""

from __future__ import annotations

from google.protobuf.text_encoding import CEscape  # type: ignore[import-untyped, unused-ignore]

from patcher.serving.interface import Interface, Tensor
from patcher.text import printable
from patcher.two_files import FLAG_OUTPUT

# How long a request may wait for others to share a batch with: more of it trades latency for throughput.
_QUEUE_MICROSECONDS = 1000


def config_text(interface: Interface, name: str, *, max_batch: int) -> str:
    """``config.pbtxt`` of a model.

    Args:
        interface: Of the model.
        name: Of the model in the repository.
        max_batch: Images a run at most, where the model can be batched.
    """
    # Metadata is a stranger's text: on one line it stays a comment.
    version, method = (
        " ".join(printable(interface.metadata.get(f"patcher.{key}", "")).split()) for key in ("version", "method")
    )
    lines = [f"# {name}: hardened by patcher {version}, --method {method}."]
    if any(output.name == FLAG_OUTPUT for output in interface.outputs):
        lines.append(f"# {FLAG_OUTPUT} is true where a trigger was detected; clients should ask for it.")
    lines += [
        f"name: {_quoted(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {max_batch if interface.batched else 0}",
        *_tensors("input", interface.inputs),
        *_tensors("output", interface.outputs),
    ]
    if interface.batched:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {_QUEUE_MICROSECONDS} }}")
    return "\n".join(lines) + "\n"


def _tensors(kind: str, tensors: tuple[Tensor, ...]) -> list[str]:
    entries = [f"  {{ {_entry(tensor)} }}" for tensor in tensors]
    return [f"{kind} [", ",\n".join(entries), "]"]


def _entry(tensor: Tensor) -> str:
    dims = ", ".join(map(str, tensor.shape or (1,)))
    reshape = "" if tensor.shape else " reshape { shape: [ ] }"
    return f"name: {_quoted(tensor.name)} data_type: TYPE_{tensor.datatype} dims: [ {dims} ]{reshape}"


def _quoted(text: str) -> str:
    return f'"{CEscape(text, as_utf8=True)}"'
