# SPDX-License-Identifier: Apache-2.0
"""The MLflow recipe against a store in a folder."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

READ = """
import json, sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
client = mlflow.MlflowClient()
runs = client.search_runs([client.get_experiment_by_name("patcher").experiment_id], order_by=["attributes.start_time"])
versions = client.search_model_versions("name = 'digits'")
aliases = {v.version: v.tags for v in versions if "champion" in client.get_model_version(v.name, v.version).aliases}
print(json.dumps({
    "runs": [{"metrics": r.data.metrics, "verdict": r.data.tags["patcher.verdict"], "files": sorted(
        f.path for folder in ("model", "harden", "verify") for f in client.list_artifacts(r.info.run_id, folder)
    )} for r in runs],
    "versions": len(versions), "champion": aliases,
}))
"""


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow-skinny is not installed")
def test_what_passes_is_promoted_and_what_fails_is_kept_in_its_run(samples: Path, tmp_path: Path) -> None:
    uri = f"file:{tmp_path / 'store'}"
    environment = os.environ | {"MLFLOW_ALLOW_FILE_STORE": "true", "OMP_NUM_THREADS": "1"}
    policy = tmp_path / "patcher.toml"
    # Other jobs on the same machine must not decide this test.
    policy.write_text("[thresholds]\nlatency_ratio = 100\n")
    strict = tmp_path / "strict.toml"
    strict.write_text('require = ["scanned_triggers"]\n' + policy.read_text())

    def promote(*arguments: str) -> int:
        script = str(samples / "mlflow" / "promote.py")
        given = [str(samples / "digits.onnx"), "--clean-dir", str(samples / "clean"), "--name", "digits"]
        command = [sys.executable, script, *given, "--tracking-uri", uri, *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True).returncode

    def stored() -> dict[str, Any]:
        command = [sys.executable, "-c", READ, uri]
        found: dict[str, Any] = json.loads(subprocess.check_output(command, env=environment, cwd=tmp_path))
        return found

    triggered = ("--triggered", str(samples / "triggered.npz"))
    assert promote("--policy", str(policy), "--", "--seed", "0", *triggered) == 0
    first = stored()
    (run,) = first["runs"]
    assert run["verdict"] == "pass"
    assert run["metrics"]["asr_before"] > 0.9 > 0.1 > run["metrics"]["asr_after"]
    assert {"accuracy_before", "accuracy_after", "sia_after"} <= set(run["metrics"])
    assert {"model/model.onnx", "harden/patch.safetensors", "verify/report.html"} <= set(run["files"])
    assert first["versions"] == 1
    assert promote("--policy", str(strict), "--", "--steps", "0") == 1
    second = stored()
    assert [item["verdict"] for item in second["runs"]] == ["pass", "fail"]
    assert "verify/report.html" in second["runs"][1]["files"]
    assert (second["versions"], second["champion"]) == (1, first["champion"])
    (tags,) = first["champion"].values()
    assert len(tags["patcher.sha256"]) == 64
