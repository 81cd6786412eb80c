# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from patcher.report.audit.files import contact_sheet
from tests.report.page.reading import report_page


def rows(folder):
    with (folder / "suspects.csv").open() as file:
        return list(csv.DictReader(file))


def test_poisoned_training_images_are_listed_by_index_and_shown(run, samples, tmp_path):
    folder = tmp_path / "audit"
    outcome = run("audit-data", samples / "digits.onnx", "--train-dir", samples / "train.npz", "--report-dir", folder)
    assert outcome.code == 1
    assert "poisoned" in outcome.out
    poisoned = set(np.flatnonzero(np.load(samples / "train.npz")["poisoned"]).tolist())
    found = {int(row["image"]) for row in rows(folder)}
    assert len(found & poisoned) >= 0.95 * max(len(found), len(poisoned))
    assert {row["class"] for row in rows(folder)} == {"7"}
    scores = [float(row["score"]) for row in rows(folder)]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) >= 3
    with Image.open(folder / "suspects.png") as sheet:
        assert sheet.width > 500
    document = json.loads((folder / "audit.json").read_text())
    assert document["verdict"] == "suspicious"
    assert document["suspects"] == len(found)
    assert "suspects.png" in report_page(folder / "audit.html").attributes["alt"]
    assert outcome.out.endswith(f"verdict: suspicious\nreport: {folder / 'audit.html'}\n")


def test_the_flags_of_the_training_set_are_not_read(run, samples, tmp_path):
    with np.load(samples / "train.npz") as file:
        np.savez(tmp_path / "bare.npz", images=file["images"], labels=file["labels"])
    for name, source in (("bare", tmp_path / "bare.npz"), ("flags", samples / "train.npz")):
        run("audit-data", samples / "digits.onnx", "--train-dir", source, "--report-dir", tmp_path / name, "-q")
    assert rows(tmp_path / "bare") == rows(tmp_path / "flags")


def test_a_folder_is_listed_by_path(run, samples, tmp_path):
    with np.load(samples / "train.npz") as file:
        for number, (image, label) in enumerate(zip(file["images"], file["labels"], strict=True)):
            path = tmp_path / "data" / str(label) / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(path)
    folder = tmp_path / "audit"
    command = ("audit-data", samples / "digits.onnx", "--train-dir", tmp_path / "data", "--report-dir", folder, "-q")
    assert run(*command).code == 1
    assert rows(folder)
    assert all((tmp_path / "data" / row["image"]).is_file() for row in rows(folder))
    assert all(row["image"].startswith("7/") for row in rows(folder))


def test_clean_images_pass(run, samples, tmp_path):
    folder = tmp_path / "audit"
    outcome = run("audit-data", samples / "digits.onnx", "--train-dir", samples / "clean", "--report-dir", folder)
    assert outcome.code == 0
    assert rows(folder) == []
    assert not (folder / "suspects.png").exists()


@pytest.mark.parametrize("flag", [("--z", "0"), ("--theta", "2"), ("--neurons", "0"), ("--criterion", "guess")])
def test_thresholds_out_of_range_are_refused(run, samples, tmp_path, flag):
    outcome = run("audit-data", samples / "digits.onnx", "--train-dir", samples / "train.npz", *flag)
    assert outcome.code == 2
    assert flag[0] in outcome.err


def test_a_sheet_of_many_labels_is_cut():
    from patcher.calibrate.findings import Findings, Suspect
    from patcher.data.clean_set import CleanSet

    count = 50
    everything = np.arange(count)
    training_set = CleanSet(
        np.zeros((count, 3, 4, 4), np.uint8), everything, tuple(map(str, everything)), everything, everything[:0], ""
    )
    suspects = tuple(Suspect(index, index, 4.0, 0, ("t[0]",)) for index in range(count))
    assert contact_sheet(Findings(suspects), training_set).height < 20 * 100
