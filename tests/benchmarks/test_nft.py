# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import nft
from benchmarks.zoo import Row, Scores


def test_a_table_with_triggers_has_both_losses() -> None:
    without = nft.settings(nft.parse(["settings"]))
    given = nft.settings(nft.parse(["settings", "--triggers", "found"]))
    assert set(without) < set(given)
    assert all("--triggers" not in flags for flags in without.values())
    assert given["Eq. 3"] == ("--triggers", "{triggers}")
    assert len(nft.settings(nft.parse(["ablation"]))) == 4


def test_a_run_gets_its_own_triggers_and_what_follows_the_dashes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    monkeypatch.setattr(nft, "measure", lambda entry, form, options: seen.update(flags=options.flags))
    options = nft.parse(["settings", "--triggers", "found", "--images-per-class", "7", "--", "--epsilon", "0.1"])
    nft.run({"name": "m"}, "bn", ("--triggers", "{triggers}"), options)
    own = ["--epsilon", "0.2", "--triggers", str(Path("found/m.npz"))]
    assert seen["flags"] == ["--limit-per-class", "7", *own, "--epsilon", "0.1"]
    nft.run({"name": "m"}, "bn", ("--limit-per-class", "1"), options)
    assert seen["flags"] == ["--epsilon", "0.2", "--limit-per-class", "1", "--epsilon", "0.1"]


def test_a_line_of_the_table() -> None:
    row = Row("m", "bn", Scores(0.845, 1.0, 0.0), Scores(0.825, 0.005, 0.8), 0, 12.3, 500.0, "")
    assert nft.cells("Eq. 3", row) == ("Eq. 3", "m", "bn", "84.5 → 82.5", "100.0 → 0.5", "0.0 → 80.0", "12 s", "0")
    failed = Row("m", "bn", Scores(0.845, None, None), None, 1, 12.3, 500.0, "no")
    assert nft.cells("x", failed)[3:6] == ("84.5 → -", "- → -", "- → -")
