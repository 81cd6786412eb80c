# SPDX-License-Identifier: Apache-2.0
"""The wheel holds `patcher/` and nothing generic, and what it installs runs on its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from patcher import __version__

ROOT = Path(__file__).parent.parent
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run `command` away from the checkout, so that nothing is imported from it by accident."""
    finished = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built over links to the checkout: setuptools leaves its build folder among them."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "cli.py", "patcher", "calibrate", "export", "tests"):
        (source / name).symlink_to(ROOT / name)
    run(*PIP, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", output, source, cwd=output)
    (built,) = output.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed into it, and nothing else."""
    target = tmp_path_factory.mktemp("target")
    run(*PIP, "install", "-q", "--no-deps", "--no-index", "--target", target, wheel, cwd=target)
    return target


def test_the_wheel_is_named_as_the_distribution(wheel: Path) -> None:
    assert wheel.name == f"onnx_patcher-{__version__}-py3-none-any.whl"


def test_the_wheel_holds_only_the_package_and_its_metadata(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"patcher", f"onnx_patcher-{__version__}.dist-info"}
    assert "patcher/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_wheel_holds_every_module_of_the_checkout(wheel: Path) -> None:
    """A sub-package missing from pyproject's explicit list would vanish without a word."""
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "patcher").rglob("*.py")}
    for room in ("calibrate", "export"):
        expected |= {f"patcher/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / room).rglob("*.py")}
    assert {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")} == expected


def test_the_installed_wheel_is_used_and_not_the_checkout(installed: Path) -> None:
    program = (
        "import patcher, patcher.calibrate as c, patcher.export as e; print(patcher.__file__, c.__file__, e.__file__)"
    )
    for place in run(sys.executable, "-c", program, cwd=installed, PYTHONPATH=str(installed)).split():
        assert Path(place).is_relative_to(installed)


def test_the_installed_command_says_its_version(installed: Path) -> None:
    (script,) = installed.glob("bin/patcher*")
    assert __version__ in run(script, "--version", cwd=installed, PYTHONPATH=str(installed))


@pytest.mark.parametrize("launcher", [("-m", "patcher"), (str(ROOT / "cli.py"),)])
def test_the_other_launchers_are_the_same_command(launcher: tuple[str, ...], tmp_path: Path) -> None:
    assert __version__ in run(sys.executable, *launcher, "--version", cwd=tmp_path)


def test_constraints_pin_every_dependency() -> None:
    def plain(requirement: str) -> str:
        return requirement.split("[")[0].split(">")[0].split("=")[0].strip().lower().replace("_", "-")

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in pin for pin in pins)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {plain(item) for item in project["dependencies"] + extras["cpu"] + extras["dev"] + extras["docs"]}
    assert wanted <= {plain(pin) for pin in pins}
    assert "torch==2.13.0" in pins


def test_every_pin_has_its_hashes() -> None:
    def pins(name: str) -> dict[str, str]:
        lines = [line.split()[0] for line in (ROOT / name).read_text().splitlines() if re.match(r"[A-Za-z]", line)]
        return {re.sub(r"[-_.]+", "-", key).lower(): value for key, value in (line.split("==") for line in lines)}

    wanted = pins("constraints.txt")
    assert wanted.pop("torch")
    assert pins("constraints.hashes.txt") == wanted
    text = (ROOT / "constraints.hashes.txt").read_text()
    assert all("--hash=sha256:" in part for part in re.split(r"\n(?=[A-Za-z])", text)[1:])
