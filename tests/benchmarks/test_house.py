# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("grimp")

from benchmarks.house import circles, module_arrows, room_arrows, too_large


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package with a circle that hangs on an import for type checkers."""
    root = tmp_path / "roomy"
    files = {
        "__init__": "",
        "ground": "",
        "left/__init__": "",
        "left/a": "from roomy.right import b\nimport roomy.ground\n",
        "right/__init__": "",
        "right/b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from roomy.left import c\n",
        "left/c": "",
    }
    for name, text in files.items():
        path = root / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "roomy"
    sys.modules.pop("roomy", None)


def test_rooms_may_stand_in_a_circle_where_their_modules_do_not(package: str) -> None:
    arrows = module_arrows(package)
    between = room_arrows(arrows)
    assert between == {("left", "right"): 1, ("left", "ground"): 1, ("right", "left"): 1}
    assert circles(arrows) == []
    rooms = {start: {end for other, end in between if other == start} for start, _ in between}
    assert circles(rooms) == [["left", "right"]]


def test_circles_are_found_apart_and_in_order() -> None:
    arrows = {"d": ["c"], "c": ["d"], "b": ["a", "c"], "a": ["b"], "alone": ["a"], "self": ["self"]}
    assert circles(arrows) == [["a", "b"], ["c", "d"], ["self"]]


def test_a_long_function_and_a_long_file_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "fits.py").write_text("def fits():\n" + "    x = 1\n" * 59 + "\n" * 240)
    assert list(too_large(tmp_path, ["code"])) == []
    (folder / "long.py").write_text("\ndef long():\n" + "    x = 1\n" * 60 + "\n" * 239)
    assert list(too_large(tmp_path, ["code"])) == [
        "code/long.py: 301 lines, at most 300",
        "code/long.py:2: long has 61 lines, at most 60",
    ]
