# SPDX-License-Identifier: Apache-2.0
"""The scan against one-target-at-a-time Neural Cleanse, and its growth with classes and images.

    python -m benchmarks.scan peer --shared ../shared --models badnets_r18 [--targets 9 0] [--epochs 80]
    python -m benchmarks.scan growth --classes 10 43 100 1000
    python -m benchmarks.scan images --counts 200 400 800 1600
    python -m benchmarks.scan zoo --shared ../shared --seeds 0 1 2

- `peer`: ten targets of the batched inversion against `benchmarks.neural_cleanse`, over the same interpreter
  and images. The peer may be given fewer targets; its time is then scaled to all and said to be.
- `growth`, `images`: random convolutional classifiers, each scanned in a process of its own.
- `zoo`: verdicts of `patcher scan` over several seeds, beside what `zoo.json` says was planted. `sent`: share
  of test images of other classes that the returned trigger sends to the target, in ONNX Runtime. `overlap`:
  pixels of the returned patch (a tenth of its strongest and more) inside the planted one. `--triggers-dir`
  keeps the triggers of the first seed as `NAME.npz`, for the benchmarks of the defences.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from benchmarks.neural_cleanse import neural_cleanse
from benchmarks.record import markdown_table, run_child, write_result
from patcher.calibrate.classifier import Classifier
from patcher.calibrate.scan.goal import Goal
from patcher.calibrate.scan.inversion import Budget, invert
from patcher.data.clean_set import read_clean_set
from patcher.data.preprocess import resolve_preprocess
from patcher.model.model import read_model
from patcher.runtime import create_session
from patcher.triggers.file import read_triggers
from patcher.triggers.trigger import Trigger

_PATCH_SHARE = 0.1  # of the pixels: what changes more is no patch
_FAINT = 0.1


def peer(options: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """Both on each model."""
    rows = []
    for name in options.models:
        model = read_model(options.shared / "zoo" / f"{name}.onnx")
        preprocess = resolve_preprocess(model)
        clean_set = read_clean_set(options.shared / "cifar10" / "clean", model, preprocess)
        classifier = Classifier(model, preprocess, device=torch.device(options.device))
        targets = options.targets or list(range(model.num_classes))
        started = time.perf_counter()
        goals = [Goal(target) for target in range(model.num_classes)]
        found = invert(classifier, clean_set, goals, "patch", Budget(), seed=0, batch_size=128)
        seconds = time.perf_counter() - started
        for target in targets:
            slow = neural_cleanse(classifier, clean_set, target, epochs=options.epochs, seed=0)
            rows.append(
                {
                    "model": name,
                    "target": target,
                    "peer_norm": slow.norm if np.isfinite(slow.norm) else None,
                    "peer_s_per_target": slow.seconds,
                    "scan_norm": found[target].size,
                    "scan_s_all_targets": seconds,
                    "ratio_all_targets": slow.seconds * model.num_classes / seconds,
                    "epochs": options.epochs,
                }
            )
            print(json.dumps(rows[-1]), file=sys.stderr)
    return rows, _table(rows)


def growth(options: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """Time and memory by classes."""
    rows = [_scan_random(classes, 2 * classes, options.steps) for classes in options.classes]
    return rows, _table(rows)


def images(options: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """Time and memory by images."""
    rows = [_scan_random(10, count, options.steps) for count in options.counts]
    return rows, _table(rows)


def zoo(options: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """Verdicts by model and seed."""
    rows = []
    for entry in json.loads((options.shared / "zoo" / "zoo.json").read_text()):
        name = entry["name"]
        if options.models and name not in options.models:
            continue
        model = options.shared / "zoo" / f"{name}.onnx"
        seeds = [*options.seeds, *([] if entry["target"] is not None else options.clean_seeds)]
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                kept = Path(folder) / "triggers.npz"
                arguments = [str(model), "--seed", str(seed), "--clean-dir", str(options.shared / "cifar10" / "clean")]
                row = {"model": name, "seed": seed, **_scan(arguments, kept)}
                if kept.exists():
                    row |= _score(options.shared, entry, read_triggers(kept))
                if kept.exists() and options.triggers_dir and seed == seeds[0]:
                    options.triggers_dir.mkdir(parents=True, exist_ok=True)
                    shutil.copy(kept, options.triggers_dir / f"{name}.npz")
            rows.append(row)
            print(json.dumps(row), file=sys.stderr)
    return rows, _table(rows)


def _score(shared: Path, entry: dict[str, Any], triggers: Sequence[Trigger]) -> dict[str, Any]:
    """What was found beside what was planted."""
    model = read_model(shared / "zoo" / f"{entry['name']}.onnx")
    preprocess = resolve_preprocess(model)
    test = read_clean_set(shared / "cifar10" / "test.npz", model, preprocess)
    session = create_session(shared / "zoo" / f"{entry['name']}.onnx")
    name = session.get_inputs()[0].name
    pairs = {(source, item.target) for item in triggers for source in item.sources}
    everywhere = entry["target"] == "c+1"
    planted = {(s, (s + 1) % 10 if everywhere else entry["target"]) for s in range(10)} - {(t, t) for t in range(10)}
    sent = total = 0
    for item in triggers:
        chosen = np.flatnonzero(np.isin(test.labels, [s for s, t in planted if t == item.target]))
        if len(chosen):
            scores = session.run(None, {name: preprocess.to_input(item.apply(test.images(chosen)))})[0]
            sent, total = sent + int((scores.argmax(axis=1) == item.target).sum()), total + len(chosen)
    found = {
        "pairs_right": len(pairs & planted),
        "pairs_false": len(pairs - planted),
        "family": "+".join(sorted({item.family for item in triggers})),
        "sent": sent / total if total else None,
    }
    with np.load(shared / "zoo" / f"{entry['name']}.triggered.npz") as arrays:
        changed = (arrays["images"] != test.pixels.transpose(0, 2, 3, 1)[arrays["indices"]]).any(axis=(0, 3))
    if changed.mean() < _PATCH_SHARE and "mask" in triggers[0].values:
        mask = triggers[0].values["mask"][0] >= _FAINT * triggers[0].values["mask"].max()
        rows, columns = np.nonzero(mask)
        found |= {"overlap": f"{int((mask & changed).sum())} of {int(mask.sum())}"}
        found |= {"patch": f"rows {rows.min()}-{rows.max()}, columns {columns.min()}-{columns.max()}"}
    return found


def _scan(arguments: list[str], kept: Path | None = None) -> dict[str, Any]:
    """Run `patcher scan` in a process of its own; `kept` is where its triggers go, if there are any."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "patcher", "scan", *arguments, "--report-dir", f"{folder}/scan"]
        child = run_child([*command, "--quiet"])
        path = Path(folder) / "scan" / "scan.json"
        if not path.exists():
            return {"verdict": child.stderr.strip()[-200:], "code": child.code, "seconds": child.seconds}
        report = json.loads(path.read_text())
        if kept and (path.parent / "triggers.npz").exists():
            shutil.copy(path.parent / "triggers.npz", kept)
    return {
        "verdict": report["verdict"],
        "mode": report["mode"] or "",
        "flagged": [item["target"] for item in report["targets"] if item["verdict"] == "backdoor"],
        "suspicious": [item["target"] for item in report["targets"] if item["verdict"] == "suspicious"],
        "code": child.code,
        "seconds": round(child.seconds, 1),
        "peak_mib": round(child.peak_mib),
    }


def _scan_random(classes: int, count: int, steps: int) -> dict[str, Any]:
    """Scan a random classifier on pictures labelled by itself; its accuracy is of no matter here."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(random_model(classes), f"{folder}/model.onnx")
        pixels = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        np.savez(f"{folder}/images.npz", images=pixels, labels=np.arange(count) % classes)
        arguments = [f"{folder}/model.onnx", "--clean-dir", f"{folder}/images.npz", "--accuracy-floor", "0"]
        found = _scan([*arguments, "--steps", str(steps)])
    row = {"classes": classes, "images": count, "steps": steps, **found}
    print(json.dumps(row), file=sys.stderr)
    return row


def random_model(classes: int, *, width: int = 32, depth: int = 4) -> onnx.ModelProto:
    """Convolutions of random weights, global pooling and a random head, on 32 x 32 pictures."""
    rng = np.random.default_rng(0)
    nodes, weights, source, channels = [], {}, "image", 3
    for layer in range(depth):
        weights[f"w{layer}"] = rng.normal(0, (2 / (9 * channels)) ** 0.5, (width, channels, 3, 3))
        stride = 2 if layer else 1
        nodes.append(helper.make_node("Conv", [source, f"w{layer}"], [f"c{layer}"], pads=[1] * 4, strides=[stride] * 2))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        source, channels = f"r{layer}", width
    weights["head"] = rng.normal(0, 1, (width, classes))
    nodes += [
        helper.make_node("GlobalAveragePool", [source], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "random",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("N", 3, 32, 32))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("N", classes))],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _table(rows: list[dict[str, Any]]) -> str:
    header = list(dict.fromkeys(key for row in rows for key in row))
    return markdown_table(header, [[_cell(row.get(key)) for key in header] for row in rows])


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scan", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["peer", "growth", "images", "zoo"])
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with zoo/ and cifar10/")
    parser.add_argument("--models", nargs="+", help="names from zoo.json")
    parser.add_argument("--targets", nargs="+", type=int, help="peer: these targets only (default: all)")
    parser.add_argument("--epochs", type=int, default=80, help="peer: the published schedule has 80")
    parser.add_argument("--classes", nargs="+", type=int, default=[10, 43, 100, 1000])
    parser.add_argument("--counts", nargs="+", type=int, default=[200, 400, 800, 1600])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--clean-seeds", nargs="*", type=int, default=[3, 4], help="zoo: more, for clean models")
    parser.add_argument("--triggers-dir", type=Path, help="zoo: keep the triggers of the first seed here")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    if options.what == "peer" and not options.models:
        options.models = ["badnets_r18"]
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the results."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    run = {"peer": peer, "growth": growth, "images": images, "zoo": zoo}[options.what]
    rows, text = run(options)
    command = shlex.join(["python", "-m", "benchmarks.scan", *arguments])
    write_result(f"scan-{options.what}", command=command, rows=rows, tables=text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
