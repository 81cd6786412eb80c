# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from tests.installation import PIP, build_wheel, run

# The same examples in every run: a failure is a change's, not the day's. `--hypothesis-profile=default`
# draws new ones.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def samples() -> Path:
    """The digits sample shipped with the project."""
    return ROOT / "samples"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images and backdoored models beside the checkout; tests that need them skip without."""
    folder = ROOT.parent / "shared"
    if not (folder / "zoo").is_dir():
        pytest.skip("no ../shared beside the checkout")
    return folder


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the checkout."""
    return build_wheel(tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed into it, and nothing else."""
    target = tmp_path_factory.mktemp("target")
    run(*PIP, "install", "-q", "--no-deps", "--no-index", "--target", target, wheel, cwd=target)
    return target
