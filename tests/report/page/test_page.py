# SPDX-License-Identifier: Apache-2.0
"""The page that every report is made of: nothing from outside, every text escaped, every table with a header."""

from __future__ import annotations

from pathlib import Path

import pytest

from patcher.report.page.blocks import Cell, Facts, Notes, Picture, Pictures, Section, Table
from patcher.report.page.page import Page, render
from patcher.report.page.parts import class_table, named, run_section
from patcher.report.page.pictures import chart
from patcher.report.text import class_text, shortened, words
from tests.report.page.reading import Reading

HOSTILE = "\x1b[2J<script>alert(1)</script>\"'&\u202e"
ROWS = [
    {"class": 0, "name": "0", "images": 9, "accuracy": 1.0, "most_taken_for": None, "most_taken_for_share": 0.0},
    {"class": 1, "name": "cat", "images": 4, "accuracy": 0.75, "most_taken_for": 0, "most_taken_for_share": 0.25},
]


def page(*blocks: Table | Facts | Notes | Pictures, verdict: str = "clean", script: str = "") -> str:
    return render(Page("scan", HOSTILE, verdict, HOSTILE, [HOSTILE], [Section(HOSTILE, blocks)], script))


def test_every_text_is_escaped_and_free_of_control_characters() -> None:
    picture = Picture("data:image/png;base64,AAAA", HOSTILE, HOSTILE)
    cells = [HOSTILE, Cell(HOSTILE, full=HOSTILE, code=True), Cell(HOSTILE, link=HOSTILE, pictures=[picture])]
    text = page(
        Table([HOSTILE] * 3, [cells], HOSTILE), Facts([(HOSTILE, HOSTILE)]), Notes([HOSTILE]), Pictures([picture])
    )
    assert not set(text) & {"\x1b", "\u202e"}
    read = Reading.of(text)
    assert "script" not in read.tags
    assert read.text.count("alert(1)") == 16
    assert read.attributes["alt"] == {HOSTILE.replace("\x1b", "?").replace("\u202e", "?")}


def test_a_page_loads_nothing_and_runs_its_own_script_alone() -> None:
    assert Reading.of(page()).policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    read = Reading.of(page(script="let a = 1 < 2;"))
    assert read.policy.endswith("script-src 'sha256-Xd/xFl+DmsVqHczJvGQWMh7nLH7H7r5iGmQKRm0JimU='")
    assert "let a = 1 < 2;" in read.text


@pytest.mark.parametrize(("verdict", "tone"), [("clean", "good"), ("backdoor", "bad"), ("suspicious", "mild")])
def test_the_verdict_has_its_colour(verdict: str, tone: str) -> None:
    text = page(verdict=verdict)
    assert f'<header class="verdict {tone}">' in text
    assert f'<span class="word">{verdict.upper()}</span>' in text


def test_where_nothing_is_judged_nothing_is_green() -> None:
    text = render(Page("evaluate", "model.onnx", "pass", "", (), (), word="measured"))
    assert '<header class="verdict quiet">' in text
    assert '<span class="word">MEASURED</span>' in text


def test_a_row_names_its_columns_for_a_narrow_window() -> None:
    text = page(Table(("class", "share"), [("cat", Cell("50 %", "bad", bar=0.5, mark=0.25))], cards=True))
    assert '<table class="cards">' in text
    assert '<td class="short" data-label="class"><div>cat</div></td>' in text
    assert '<i style="width:50.0%"></i><b style="left:25.0%"></b>' in text


def test_classes_side_by_side() -> None:
    after = [ROWS[0], ROWS[1] | {"accuracy": 0.5}]
    table = class_table(ROWS, after)
    assert [row[0] for row in table.rows] == ["0", "1 cat"]
    assert [cell.tone for row in table.rows if isinstance(cell := row[3], Cell)] == ["", "bad"]
    assert table.rows[1][4] == "0 (25 %)"


def test_what_was_run_has_no_python_in_it() -> None:
    document = {
        "patcher_version": "1",
        "versions": {"numpy": "2"},
        "preprocess": {"mean": [0.5, 0.25], "size": None, "color": "RGB"},
    }
    section = run_section(document, [("model sha256", "ab")], {"augment": True, "means": False, "given": ()})
    pairs = dict(section.blocks[0].pairs) if isinstance(section.blocks[0], Facts) else {}
    assert pairs["preprocessing"] == "mean 0.5, 0.25; color RGB"
    assert pairs["options"] == "augment on; means off; given none"


def test_long_names_are_cut_in_the_middle() -> None:
    name = "/features/denseblock4/denselayer16/conv2/Conv_output_0"
    assert shortened(name, 20) == "/features/…_output_0"
    assert len(shortened(name)) == 32
    assert named(name).full == name
    assert named("/relu").full == ""
    assert (class_text(3, "3"), class_text(3, "cat")) == ("3", "3 cat")
    assert words({"limits": {"score": 2.5}}) == "limits (score 2.5)"


def test_every_picture_that_a_report_writes_has_a_caption() -> None:
    source = Path(__file__).parents[3] / "patcher" / "report"
    names = {
        word.partition(".png")[0]
        for file in source.rglob("*.py")
        for word in file.read_text(encoding="utf-8").split('"')
        if word.endswith(".png") and "{" not in word and len(word) > len(".png")
    }
    assert names >= {"activations", "masks", "curve", "roc", "sizes", "suspects"}
    for name in [*names, "trigger-7-waves"]:
        assert chart(f"{name}.png", b"").caption
