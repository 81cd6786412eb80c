# SPDX-License-Identifier: Apache-2.0
"""The commands of the sample workflows do what the workflows need of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent.parent
CI = ROOT / "samples" / "ci"
SETTINGS = {"MODEL": "samples/digits.onnx", "CLEAN": "samples/clean", "OUT": "release"}


def commands(name: str) -> list[str]:
    """What the job's shell runs, without the installation; continued lines joined."""
    text = (CI / name).read_text().replace("\\\n", " ")
    lines = [re.sub(r"^\s*(- )?(run: )?", "", line) for line in text.splitlines()]
    found = [" ".join(line.split()) for line in lines if re.match(r"(test -f|mkdir -p|patcher) ", line)]
    assert len(found) == 4, found
    return found


def shell(script: list[str], folder: Path, **environment: str) -> int:
    """Run a job's commands as its runner does: stop at the first that fails."""
    (folder / "samples").symlink_to(ROOT / "samples") if not (folder / "samples").exists() else None
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    finished = subprocess.run(
        ["bash", "-e", "-c", "\n".join(script)],
        cwd=folder,
        env=os.environ | SETTINGS | {"PATH": path, "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    return finished.returncode


def test_both_workflows_run_the_same_commands() -> None:
    assert commands("github.yml") == commands("gitlab.yml")


@pytest.mark.parametrize("name", ["github.yml", "gitlab.yml"])
def test_settings_are_those_of_the_test(name: str) -> None:
    text = (CI / name).read_text()
    for key, value in SETTINGS.items():
        assert re.search(rf"^\s*{key}: {value}$", text, re.MULTILINE)


def test_the_jobs_commands_release_the_hardened_sample_and_stop_the_original(tmp_path: Path) -> None:
    script = commands("github.yml")
    policy = tmp_path / "patcher.toml"
    # Other jobs on the same machine must not decide this test.
    policy.write_text("[thresholds]\nlatency_ratio = 100\n")
    summary = tmp_path / "summary.md"
    summary.write_text("# before\n")
    assert shell(script, tmp_path, GITHUB_STEP_SUMMARY=str(summary)) == 0
    release = tmp_path / "release"
    assert summary.read_text().startswith("# before\n# patcher verify: PASS")
    assert {path.name for path in (release / "gate").iterdir()} == {
        "report.json", "report.md", "report.html", "junit.xml", "results.sarif",
    }  # fmt: skip
    assert ElementTree.parse(release / "gate" / "junit.xml").getroot().get("failures") == "0"
    (release / "model.onnx").write_bytes((ROOT / "samples" / "digits.onnx").read_bytes())
    assert shell(script[-1:], tmp_path) == 1
