# SPDX-License-Identifier: Apache-2.0
"""The site builds without a warning, every link leads somewhere, and pages that are made from code are up to date."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from patcher._cli import _COMMANDS
from patcher.calibrate import METHODS
from patcher.report.page.meaning import markdown
from tests.docs.pages import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it; a warning ends the build."""
    folder = tmp_path_factory.mktemp("site")
    finished = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
    return folder


def test_every_page_is_there(site: Path) -> None:
    made = {path.stem for path in site.glob("*.html")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= made
    assert {"index", "changelog", "contributing", "security", "sample"} <= made
    assert (site / "results" / "zoo-unit.html").exists()


def test_the_reference_has_every_command_and_the_options_of_every_method(site: Path) -> None:
    text = (site / "cli.html").read_text(encoding="utf-8")
    for command in _COMMANDS:
        assert f'id="{command}"' in text
    for method in METHODS:
        assert f"Options of <code>--method {method}</code>" in text
    assert "[default: &lt;stem&gt;.scan]" in text


def test_the_api_has_its_parameters(site: Path) -> None:
    text = (site / "api.html").read_text(encoding="utf-8")
    for name in ("scan", "harden", "compare", "verify", "audit_data", "evaluate"):
        assert f'id="patcher.commands.{name}.{name}"' in text
    assert "Where to write reports, pictures and the patch." in text


def test_the_page_of_verdicts_is_the_code_s() -> None:
    page = (ROOT / "docs" / "verdicts.md").read_text(encoding="utf-8")
    assert page.endswith(markdown().rstrip() + "\n"), "python -m patcher.report.page.meaning"


@pytest.mark.parametrize("picture", sorted((ROOT / "docs" / "pictures").glob("*.svg")), ids=lambda path: path.name)
def test_drawings_are_legible_in_light_and_dark_and_load_nothing(picture: Path) -> None:
    text = picture.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    names = [child.tag.rpartition("}")[2] for child in root]
    assert names[:2] == ["title", "desc"]
    assert "prefers-color-scheme: dark" in text
    assert text.count("http") == 1
    assert "<script" not in text
