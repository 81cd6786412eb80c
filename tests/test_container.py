# SPDX-License-Identifier: Apache-2.0
"""The images: linted, pinned, without root; built and run where a builder and its base image are."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import patcher
from tests.installation import ROOT

CONTAINERFILE = ROOT / "Containerfile"
TEXT = CONTAINERFILE.read_text()
TARGETS = ("cpu", "gpu", "service")


def stage(name: str) -> str:
    """The lines of one stage."""
    found = re.search(rf"^FROM \S+ AS {name}$(.*?)(?=^FROM |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("no hadolint for this platform")
    done = subprocess.run([hadolint, "--no-color", CONTAINERFILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_everything_comes_from_one_base_that_a_digest_names() -> None:
    bases = re.findall(r"^FROM (\S+) AS (\w[\w-]*)$", TEXT, re.MULTILINE)
    assert len(bases) == len(re.findall(r"^FROM ", TEXT, re.MULTILINE))
    names = {name for _, name in bases}
    assert {base for base, _ in bases if base not in names} == {"${PYTHON}"}
    assert re.search(r"^ARG PYTHON=\S+@sha256:[0-9a-f]{64}$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("name", TARGETS)
def test_an_image_runs_without_root_and_says_how_its_health_is_asked(name: str) -> None:
    assert re.findall(r"^USER (.+)$", stage(name), re.MULTILINE) == ["10001:10001"]
    assert ("/healthz" in stage(name)) == (name == "service")
    assert "HEALTHCHECK" in stage(name)
    assert "RUN " not in stage(name)


@pytest.mark.parametrize("name", [*TARGETS, "build"])
def test_requirements_are_the_pins_with_their_hashes(name: str) -> None:
    def pins(text: str) -> dict[str, str]:
        found = re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
        return {re.sub(r"[-_.]+", "-", key).lower(): version for key, version in found}

    known = pins((ROOT / "constraints.txt").read_text())
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    wanted = pins(text)
    assert all("--hash=sha256:" in part for part in re.split(r"\n(?=[A-Za-z])", text))
    # CUDA, which no other installation of this project has, is pinned in the file of the GPU image alone.
    assert {key: known.get(key, version if name == "gpu" else "") for key, version in wanted.items()} == wanted
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    needed = {"cpu": ["commands", "cpu"], "gpu": ["commands", "gpu"], "service": ["runtime", "service"], "build": []}
    names = {re.split(r"[\[>=]", item)[0] for extra in needed[name] for item in extras[extra]} - {"onnx-patcher"}
    if name == "cpu":
        names.remove("torch")
        assert f"torch=={known['torch']}" in stage("built-cpu")
    assert names <= set(wanted)
    assert bool({"torch", "onnx", "matplotlib"} & set(wanted)) == (name in ("cpu", "gpu"))


@pytest.fixture(scope="module")
def builder() -> str:
    """A builder that works and has, or can get, the base image."""
    base = re.search(r"^ARG PYTHON=(\S+)$", TEXT, re.MULTILINE)
    assert base is not None
    for name in ("podman", "docker"):
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True).returncode == 0:
            if subprocess.run([name, "pull", base[1]], capture_output=True).returncode:
                pytest.skip(f"{name} cannot get the base image")
            return name
    pytest.skip("no builder on this machine")


@pytest.fixture(scope="module")
def container(builder: str, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service's image with the hardened sample, running."""
    model = tmp_path_factory.mktemp("container") / "model.onnx"
    patcher.harden(samples / "digits.onnx", clean_dir=samples / "clean", steps=5, output=model)
    build = [builder, "build", "-f", str(CONTAINERFILE), "--target", "service", "-t", "patcher-service:test", str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    run = [builder, "run", "-d", "--rm", "-p", "127.0.0.1::8000", "-v", f"{model}:/model.onnx:ro"]
    name = subprocess.check_output([*run, "patcher-service:test"], text=True).strip()
    yield name
    subprocess.run([builder, "stop", name], check=True, capture_output=True)


def test_the_services_image_serves(builder: str, container: str) -> None:
    assert subprocess.check_output([builder, "exec", container, "id", "-u"], text=True).strip() == "10001"
    port = subprocess.check_output([builder, "port", container, "8000"], text=True).split(":")[-1].strip()
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
                assert answer.status == 200
                return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.5)
