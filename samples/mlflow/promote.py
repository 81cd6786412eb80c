# SPDX-License-Identifier: Apache-2.0
"""Harden a model, gate it, and keep everything in MLflow; the alias moves to the new version where the gate passes.

    python promote.py digits.onnx --clean-dir clean/ --name digits --tracking-uri http://127.0.0.1:5000 -- --seed 1

One run holds the hardened model, patch and reports of both commands as artifacts, accuracy before and after (and
attack success, where triggered images are given) as metrics, verdict and hashes as tags. What passes is registered as
a new version of `--name`, with the alias `--alias`; what fails is kept in its run and registered nowhere. Flags behind
`--` go to `patcher harden`. The exit code is that of the command that decided. Needs mlflow-skinny.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow

MODEL = "model"


def patcher(*arguments: str) -> int:
    """Run a command; its exit code."""
    return subprocess.run([sys.executable, "-m", "patcher", *arguments, "--quiet"]).returncode


def harden_and_verify(
    model: Path, clean_dir: str, folder: Path, given: Sequence[str], policy: str | None
) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Run both commands in a folder.

    Returns:
        The exit code, and the reports of `harden` and `verify`, empty where there is none.
    """
    hardened = folder / MODEL / "model.onnx"
    hardened.parent.mkdir()
    common = ("--clean-dir", clean_dir)
    code = patcher("harden", str(model), *common, "-o", str(hardened), "--report-dir", str(folder / "harden"), *given)
    if code == 0:
        gate = ["--policy", policy] if policy else []
        gate += ["--patch", str(folder / "harden" / "patch.safetensors"), "--report-dir", str(folder / "verify")]
        code = patcher("verify", str(model), str(hardened), *common, *gate)
    reports = [folder / name / "report.json" for name in ("harden", "verify")]
    first, second = (json.loads(path.read_text()) if path.is_file() else {} for path in reports)
    return code, first, second


def metrics(report: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Shares before and after, by the names that MLflow shows."""
    for moment in ("before", "after"):
        measured = report.get(moment, {})
        named = {"accuracy": measured.get("held_out"), **(measured.get("attack") or {})}
        for name, share in named.items():
            if isinstance(share, Mapping) and share.get("value") is not None:
                yield f"{name.lower()}_{moment}", float(share["value"])


def main(arguments: list[str] | None = None) -> int:
    """Harden, gate, log, and promote what passes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--clean-dir", required=True)
    parser.add_argument("--name", required=True, help="registered model")
    parser.add_argument("--alias", default="champion", help="alias that moves to what passes")
    parser.add_argument("--policy", help="of the gate")
    parser.add_argument("--tracking-uri", help="[default: MLflow's own, MLFLOW_TRACKING_URI]")
    parser.add_argument("--experiment", default="patcher")
    given = list(sys.argv[1:] if arguments is None else arguments)
    # argparse itself takes what stands behind -- for further models.
    own = given[: given.index("--")] if "--" in given else given
    options, flags = parser.parse_args(own), given[len(own) + 1 :]
    if options.tracking_uri:
        mlflow.set_tracking_uri(options.tracking_uri)
    mlflow.set_experiment(options.experiment)
    with mlflow.start_run() as run, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        code, hardened, verified = harden_and_verify(options.model, options.clean_dir, folder, flags, options.policy)
        mlflow.log_artifacts(str(folder))
        mlflow.log_metrics(dict(metrics(hardened)))
        verdict = verified.get("verdict") or hardened.get("verdict") or "error"
        mlflow.set_tags({"patcher.verdict": verdict, "patcher.model": options.model.name})
        if code == 0:
            promote(options.name, options.alias, run, verified["hardened"]["sha256"])
    return code


def promote(name: str, alias: str, run: Any, sha256: str) -> None:
    """Register the run's model as a new version, and move the alias to it."""
    client = mlflow.MlflowClient()
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    source, tags = f"{run.info.artifact_uri}/{MODEL}", {"patcher.sha256": sha256}
    version = client.create_model_version(name, source, run.info.run_id, tags=tags)
    client.set_registered_model_alias(name, alias, version.version)


if __name__ == "__main__":
    sys.exit(main())
