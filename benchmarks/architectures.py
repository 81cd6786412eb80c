# SPDX-License-Identifier: Apache-2.0
"""Torchvision's classifiers with random weights, and their export to ONNX. Nothing is downloaded.

Install torchvision for this alone: ``pip install --no-deps torchvision``. Its wheel from PyPI does
not import beside a CPU-only torch, because its C++ operators are missing; they are declared here
first, with empty implementations, since no classifier uses them.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import onnx
import torch
from torch import nn

Exporter = Literal["dynamo", "torchscript"]

# Image side and extra arguments where the defaults do not fit a small picture.
_SIDE = 64
_SPECIAL: dict[str, tuple[int, dict[str, Any]]] = {
    "googlenet": (_SIDE, {"init_weights": False, "aux_logits": False}),
    "inception_v3": (96, {"init_weights": False, "aux_logits": False}),
    # The builder of maxvit_t fixes windows of 7, which only fit 224 pixels; these are its other sizes.
    "maxvit_t": (
        _SIDE,
        {
            "input_size": (_SIDE, _SIDE),
            "stem_channels": 64,
            "partition_size": 2,
            "block_channels": [64, 128, 256, 512],
            "block_layers": [2, 2, 5, 2],
            "head_dim": 32,
            "stochastic_depth_prob": 0.2,
        },
    ),
    "vgg11_bn": (224, {}),
    "vit_b_16": (_SIDE, {"image_size": _SIDE}),
}

ARCHITECTURES = (
    "resnet18",
    "vgg11_bn",
    "densenet121",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "googlenet",
    "inception_v3",
    "convnext_tiny",
    "vit_b_16",
    "swin_t",
    "regnet_x_400mf",
    "mnasnet0_5",
    "maxvit_t",
)

_MISSING_OPERATORS = (
    "nms",
    "qnms",
    "roi_align",
    "_roi_align_backward",
    "ps_roi_align",
    "_ps_roi_align_backward",
    "roi_pool",
    "_roi_pool_backward",
    "ps_roi_pool",
    "_ps_roi_pool_backward",
    "qroi_align",
    "deform_conv2d",
    "_deform_conv2d_backward",
)


def import_torchvision_models() -> Any:
    """Torchvision's model collection; its C++ operators are declared first where they are missing."""
    for name in _MISSING_OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", "(Tensor input) -> Tensor")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("torchvision.models")


def build(name: str, *, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """An architecture in evaluation mode with random weights, see `settle`, and two random pictures for it."""
    side, options = _SPECIAL.get(name, (_SIDE, {}))
    torch.manual_seed(seed)
    models = import_torchvision_models()
    module: nn.Module
    module = models.MaxVit(**options) if name == "maxvit_t" else models.get_model(name, weights=None, **options)
    settle(module, torch.randn(8, 3, side, side))
    return module, torch.randn(2, 3, side, side)


def settle(module: nn.Module, pictures: torch.Tensor) -> None:
    """Make random weights usable, and switch to evaluation mode.

    The running statistics of batch normalisation are set by one pass over pictures ``(N, 3, H, W)``: with
    their initial values the activations of deep networks grow or fade beyond any use.
    """
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    _wake(module)
    with torch.no_grad():
        module.train()(pictures)
    module.eval()


def _wake(module: nn.Module) -> None:
    """Give weight to what starts at nothing, the head of ViT and the residual branches of ConvNeXt.

    Otherwise whatever stands before would have no part in the output, and nothing would be compared.
    """
    for name, parameter in module.named_parameters():
        if name.endswith("layer_scale"):
            nn.init.constant_(parameter, 0.5)
        elif parameter.dim() > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.05)


def export(module: nn.Module, pictures: torch.Tensor, exporter: Exporter, opset: int) -> onnx.ModelProto:
    """Export with a dynamic batch axis.

    Raises:
        Exception: Whatever the exporter raises where it cannot.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), _plain_attention():
        warnings.simplefilter("ignore")
        if exporter == "torchscript":
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                torch.onnx.export(
                    module,
                    (pictures,),
                    path,
                    dynamo=False,
                    opset_version=opset,
                    input_names=["input"],
                    output_names=["logits"],
                    dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
                )
                return onnx.load(path)
        program = torch.onnx.export(
            module,
            (pictures,),
            dynamo=True,
            opset_version=opset,
            input_names=["input"],
            output_names=["logits"],
            dynamic_shapes={next(iter(_parameters(module))): {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    if program is None:
        raise RuntimeError("the exporter returned nothing")
    return program.model_proto


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Switch off the fused kernel of multi-head attention, which the TorchScript exporter does not know."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _parameters(module: nn.Module) -> tuple[str, ...]:
    return tuple(inspect.signature(module.forward).parameters)
