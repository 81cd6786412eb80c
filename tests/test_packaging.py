# SPDX-License-Identifier: Apache-2.0
"""The wheel holds `patcher/` and nothing generic, and what it installs runs on its own."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from patcher import __version__
from tests.installation import ROOT, run


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


def test_the_runtime_alone_says_what_the_commands_need(installed: Path) -> None:
    # Isolated and without site-packages: what is installed there is the package alone.
    program = f"import sys; sys.path.append({str(installed)!r}); import patcher.__main__ as m; sys.exit(m.main())"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program, "--version"], capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(
        r"patcher: error: click is not installed; .* pip install 'onnx-patcher\[cpu\]' .*\n", done.stderr
    )


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
    wanted = {plain(item) for name in ("commands", "cpu", "dev", "docs", "parquet", "service") for item in extras[name]}
    wanted |= {plain(item) for item in project["dependencies"]}
    assert wanted - {plain(project["name"])} <= {plain(pin) for pin in pins}
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
