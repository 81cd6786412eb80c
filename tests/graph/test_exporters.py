# SPDX-License-Identifier: Apache-2.0
"""Networks of the usual blocks, as both exporters write them, against torch and ONNX Runtime."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmarks.architectures import export
from patcher.graph.interpreter import Graph
from tests.graph.oracle import assert_near, run_onnxruntime

COMBINATIONS = [("torchscript", 11), ("torchscript", 13), ("torchscript", 17), ("dynamo", 18), ("dynamo", 23)]


class PreActivation(nn.Module):
    """Normalisation and ReLU before the convolution: nothing to fold."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x):
        return x + self.conv(functional.relu(self.norm(x)))


class SqueezeExcite(nn.Module):
    """Inverted residual with ReLU6, squeeze and excitation, HardSwish."""

    def __init__(self, width):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.BatchNorm2d(width)
        self.down, self.up = nn.Conv2d(width, 2, 1), nn.Conv2d(2, width, 1)

    def forward(self, x):
        y = functional.relu6(self.norm(self.depthwise(x)))
        gate = functional.hardsigmoid(self.up(functional.silu(self.down(functional.adaptive_avg_pool2d(y, 1)))))
        return x + functional.hardswish(y * gate)


class ChannelShuffle(nn.Module):
    """Chunk, shuffle, concatenate; a padded ceil-mode pool."""

    def forward(self, x):
        left, right = x.chunk(2, 1)
        y = torch.cat([functional.leaky_relu(left), functional.elu(right)], 1)
        batch, channels, height, width = y.shape
        y = y.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        return functional.max_pool2d(y, 3, 2, padding=1, ceil_mode=True) + functional.avg_pool2d(
            y, 3, 2, padding=1, ceil_mode=True
        )


class NextBlock(nn.Module):
    """ConvNeXt: large kernel, layer norm on the last axis, GELU, layer scale."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm, self.wide, self.narrow = (
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
        )
        self.scale = nn.Parameter(torch.full((width, 1, 1), 0.5))

    def forward(self, x):
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        return x + self.scale * self.narrow(functional.gelu(self.wide(y))).permute(0, 3, 1, 2)


class UpAndDown(nn.Module):
    """Transposed convolution, bilinear resizing, group and instance norm, a depthwise pad."""

    def __init__(self, width):
        super().__init__()
        self.up = nn.ConvTranspose2d(width, width, 3, stride=2, padding=1, output_padding=1)
        self.group, self.instance = nn.GroupNorm(2, width), nn.InstanceNorm2d(width, affine=True)

    def forward(self, x):
        y = self.group(self.up(functional.pad(x, [1, 0, 0, 1], mode="reflect")))
        return self.instance(functional.interpolate(y, size=(4, 4), mode="bilinear", align_corners=False))


class Tokens(nn.Module):
    """A class token, positions, one attention layer, a head on the normalised class token."""

    def __init__(self, width):
        super().__init__()
        self.token, self.position = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 17, width))
        self.norm, self.project, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.head = nn.Linear(width, 5)
        self.fused = True

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1) + self.position
        batch, length, width = tokens.shape
        parts = self.project(self.norm(tokens)).reshape(batch, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        mixed = self.attend(parts[0], parts[1], parts[2]).transpose(1, 2).reshape(batch, length, width)
        return self.head(functional.normalize((tokens + self.out(mixed))[:, 0], dim=-1))

    def attend(self, query, key, value):
        if self.fused:
            return functional.scaled_dot_product_attention(query, key, value)
        return (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1) @ value


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    width = 8
    blocks = [PreActivation(width), SqueezeExcite(width), ChannelShuffle(), NextBlock(width), UpAndDown(width)]
    module = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), *blocks, Tokens(width))
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    with torch.no_grad():
        module.train()(torch.randn(16, 3, 12, 12))  # running statistics that are not the identity
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize(("exporter", "opset"), COMBINATIONS)
def test_outputs_and_gradients(network, exporter, opset):
    pictures = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    network[-1].fused = opset >= 14  # the TorchScript exporter has no form for it before
    proto = export(network, pictures, exporter, opset)
    graph = Graph(proto)
    for batch in (2, 3):
        feed = pictures.repeat(2, 1, 1, 1)[:batch]
        found = graph.run({"input": feed})["logits"]
        assert_near(found, network(feed).numpy(), 1e-4)
        assert_near(found, run_onnxruntime(proto, {"input": feed.numpy()}, ["logits"])["logits"], 1e-4)
    double = pictures.double().requires_grad_()
    ours = torch.autograd.grad(
        Graph(proto, dtype=torch.float64).run({"input": double})["logits"].square().sum(), double
    )
    theirs = torch.autograd.grad(network.double()(double).square().sum(), double)
    network.float()
    assert_near(ours[0], theirs[0].numpy(), 1e-5)
