# SPDX-License-Identifier: Apache-2.0
"""The GitHub action and the GitLab component: their scripts on the sample, their form by the platforms' schemas."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

yaml = pytest.importorskip("yaml")
jsonschema = pytest.importorskip("jsonschema")
builtin = pytest.importorskip("check_jsonschema.builtin_schemas")

ROOT = Path(__file__).parent.parent.parent
ACTION = ROOT / "action.yml"
COMPONENT = ROOT / "templates" / "harden-and-verify.yml"
SAMPLES = ROOT / "samples" / "ci"
WORKFLOWS = [SAMPLES / "github.yml", *sorted((ROOT / ".github" / "workflows").glob("*.yml"))]
INPUTS = {"model": "samples/digits.onnx", "clean-dir": "samples/clean", "package": ".[cpu]"}
# Other jobs on the same machine must not decide these tests.
POLICY = "[thresholds]\nlatency_ratio = 100\n"
Script = list[tuple[str, dict[str, str]]]


def documents(path: Path) -> list[dict[Any, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def defaults(declared: dict[str, dict[str, Any]], given: dict[str, str]) -> dict[str, str]:
    assert set(given) <= set(declared)
    return {name: given.get(name, entry.get("default")) for name, entry in declared.items()}


def filled(text: str, inputs: dict[str, str], pattern: str) -> str:
    return re.sub(pattern, lambda found: inputs[found[1]], text)


def github(given: dict[str, str]) -> Script:
    """What the action's shell runs, step by step, and with which settings; without the installation."""
    (action,) = documents(ACTION)
    inputs = defaults(action["inputs"], {name: value for name, value in given.items() if name != "package"})
    steps = [step for step in action["runs"]["steps"] if step.get("name") in ("harden", "verify")]
    pattern = r"\$\{\{ inputs\.([\w-]+) \}\}"
    return [
        (step["run"], {name: filled(text, inputs, pattern) for name, text in step["env"].items()}) for step in steps
    ]


def gitlab(given: dict[str, str]) -> Script:
    """What the component's job runs."""
    head, body = documents(COMPONENT)
    inputs = defaults(head["spec"]["inputs"], given)
    ((_, job),) = body.items()
    settings = {name: filled(text, inputs, r"\$\[\[ inputs\.([\w-]+) \]\]") for name, text in job["variables"].items()}
    return [("\n".join(job["script"]), settings)]


def shell(script: Script, folder: Path) -> int:
    """Run steps as a runner does: each in bash, none after one that fails."""
    if not (folder / "samples").exists():
        (folder / "samples").symlink_to(ROOT / "samples")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for text, settings in script:
        files = {"GITHUB_STEP_SUMMARY": str(folder / "summary.md"), "GITHUB_OUTPUT": str(folder / "output")}
        finished = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text],
            cwd=folder,
            env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"} | files | settings,
            capture_output=True,
            text=True,
            timeout=500,
        )
        if finished.returncode:
            return finished.returncode
    return 0


def outputs(folder: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (folder / "output").read_text().splitlines())


@pytest.mark.parametrize("platform", [github, gitlab])
def test_the_sample_passes_and_everything_is_there(platform: Any, tmp_path: Path) -> None:
    (tmp_path / "patcher.toml").write_text(POLICY)
    script = platform(INPUTS | {"policy": "patcher.toml", "harden-arguments": "--seed 0"})
    assert shell(script, tmp_path) == 0
    report = tmp_path / "patcher-report"
    assert {path.name for path in (report / "verify").iterdir()} == {
        "report.json", "report.md", "report.html", "junit.xml", "results.sarif",
    }  # fmt: skip
    assert ElementTree.parse(report / "verify" / "junit.xml").getroot().get("failures") == "0"
    assert (report / "harden" / "patch.safetensors").is_file()
    assert "# patcher verify: PASS" in (tmp_path / "summary.md").read_text()
    if platform is github:
        assert (tmp_path / "summary.md").read_text().startswith("# ")
        assert outputs(tmp_path) == {"verdict": "pass", "stem": "hardened"}
        assert (tmp_path / "hardened.onnx").is_file()
    else:
        assert (tmp_path / "hardened" / "model.onnx").is_file()


@pytest.mark.parametrize("platform", [github, gitlab])
def test_a_model_that_the_gate_refuses_leaves_its_reports(platform: Any, tmp_path: Path) -> None:
    (tmp_path / "patcher.toml").write_text('require = ["scanned_triggers"]\n' + POLICY)
    script = platform(INPUTS | {"policy": "patcher.toml", "harden-arguments": "--steps 0"})
    assert shell(script, tmp_path) == 1
    report = tmp_path / "patcher-report"
    assert (report / "verify" / "results.sarif").is_file()
    assert (report / "harden" / "report.md").is_file()
    assert "# patcher verify: FAIL" in (tmp_path / "summary.md").read_text()
    if platform is github:
        assert outputs(tmp_path)["verdict"] == "fail"
    else:
        assert not (tmp_path / "hardened").exists()


@pytest.mark.parametrize("platform", [github, gitlab])
def test_a_model_that_cannot_be_hardened_leaves_its_report(platform: Any, tmp_path: Path) -> None:
    script = platform(INPUTS | {"harden-arguments": "--z 0.1 --epsilon 0.9 --steps 0 --min-agreement 0.99"})
    assert shell(script, tmp_path) == 1
    assert (tmp_path / "patcher-report" / "harden" / "report.md").is_file()
    if platform is github:
        assert outputs(tmp_path) == {"verdict": "fail"}
        assert "FAIL" in (tmp_path / "summary.md").read_text()


def test_nothing_to_decide_on_is_an_error(tmp_path: Path) -> None:
    assert shell(github(INPUTS | {"model": "samples/missing.onnx"}), tmp_path) == 2
    assert outputs(tmp_path) == {"verdict": "error"}


def test_values_are_no_program(tmp_path: Path) -> None:
    """Inputs reach the shell as variables: what a pull request writes into one is not run."""
    texts = [step.get("run", "") for step in documents(ACTION)[0]["runs"]["steps"]]
    texts += [
        "\n".join(job.get("script", []) + job.get("before_script", [])) for job in documents(COMPONENT)[1].values()
    ]
    assert not [text for text in texts if "${{" in text or "$[[" in text]
    assert shell(github(INPUTS | {"model": "$(touch made); touch made"}), tmp_path) == 2
    assert not (tmp_path / "made").exists()


def test_the_platforms_schemas_take_them() -> None:
    def check(document: Any, name: str) -> None:
        schema = builtin.get_builtin_schema(f"vendor.{name}")
        jsonschema.validators.validator_for(schema)(schema).validate(document)

    check(documents(ACTION)[0], "github-actions")
    for path in WORKFLOWS:
        # YAML 1.1 reads the key `on` as true.
        check({"on" if key is True else key: value for key, value in documents(path)[0].items()}, "github-workflows")
    head, body = documents(COMPONENT)
    check(head, "gitlab-ci")
    check(body, "gitlab-ci")
    check(documents(SAMPLES / "gitlab.yml")[0], "gitlab-ci")


def test_actions_are_pinned_by_commit() -> None:
    for path in [ACTION, *WORKFLOWS]:
        used = re.findall(r"uses: (\S+)(.*)", path.read_text())
        assert used
        for name, comment in used:
            assert name == "./" or re.fullmatch(r"[\w.-]+(/[\w.-]+)+@[0-9a-f]{40}", name), name
            assert name == "./" or re.fullmatch(r" # v\d+\.\d+\.\d+", comment), (name, comment)


def test_the_samples_name_inputs_that_there_are() -> None:
    (workflow,) = documents(SAMPLES / "github.yml")
    step = workflow["jobs"]["harden"]["steps"][1]
    assert defaults(documents(ACTION)[0]["inputs"], step["with"])["model"] == INPUTS["model"]
    (pipeline,) = documents(SAMPLES / "gitlab.yml")
    assert defaults(documents(COMPONENT)[0]["spec"]["inputs"], pipeline["include"][0]["inputs"])["method"] == "unit"


def test_the_shell_of_the_installation_is_sound() -> None:
    """bash reads every script, installations included."""
    bash = shutil.which("bash")
    assert bash is not None
    scripts = [step["run"] for step in documents(ACTION)[0]["runs"]["steps"] if "run" in step]
    for text in scripts:
        subprocess.run([bash, "-n", "-c", text], check=True)
