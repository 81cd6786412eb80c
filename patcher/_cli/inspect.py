# SPDX-License-Identifier: Apache-2.0
"""``patcher inspect``."""

from __future__ import annotations

import json
from typing import Any

import click

from patcher._cli.output import print_table
from patcher.calibrate import METHODS
from patcher.graph.site import Site
from patcher.graph.sites import find_sites
from patcher.model.model import Model, read_model
from patcher.model.provenance import read_provenance


@click.command()
@click.argument("model", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def inspect(model: str, as_json: bool) -> int:
    """Show MODEL's input, outputs, sites, and which methods apply and why not."""
    read = read_model(model)
    sites = find_sites(read)
    about = _about(read)
    methods = {method.name: _applies(method.site_kind, sites) for method in METHODS.values()}
    if as_json:
        document = {**about, "methods": methods, "sites": [vars(site) for site in sites]}
        click.echo(json.dumps(document, indent=2))
        return 0
    print_table(about["name"], ("", ""), [(key, value) for key, value in about.items() if key != "name"])
    print_table("methods", ("method", "applies"), list(methods.items()))
    header = ("tensor", "kind", "operator", "shape", "channel axis", "channels", "weight")
    print_table("sites", header, [_row(site) for site in sites])
    return 0


def _about(model: Model) -> dict[str, str]:
    from onnx import TensorProto

    provenance = read_provenance(model.proto)
    about: dict[str, Any] = {
        "name": model.path.name if model.path else "model",
        "sha256": model.sha256,
        "opset": str(model.opset),
        "IR version": str(model.proto.ir_version),
        "producer": f"{model.proto.producer_name} {model.proto.producer_version}".strip(),
        "nodes": str(len(model.proto.graph.node)),
        "input": f"{model.input.name}: {TensorProto.DataType.Name(model.input.elem_type).lower()} "
        f"{_shape(model.input.shape)} {model.layout}",
        "outputs": "; ".join(f"{output.name} {_shape(output.shape)}" for output in model.outputs),
        "class scores": f"{model.logits} ({model.head}), {model.num_classes} classes",
        "hardened": f"by patcher {provenance.version}, method {provenance.method}" if provenance else "no",
    }
    return about


def _applies(kind: str, sites: tuple[Site, ...]) -> str:
    count = sum(site.kind == kind for site in sites)
    return f"yes, {count} {kind} sites" if count else f"no: no {kind} sites"


def _row(site: Site) -> tuple[str, ...]:
    shape = _shape(site.shape)
    return (site.tensor, site.kind, site.operator, shape, str(site.channel_axis), str(site.channels), site.weight or "")


def _shape(shape: tuple[int | str | None, ...]) -> str:
    return "(" + ", ".join("?" if length is None else str(length) for length in shape) + ")"
