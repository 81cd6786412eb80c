# SPDX-License-Identifier: Apache-2.0
"""Bad input: one clear line, the right exit code, and no file left behind."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from patcher.calibrate.run import Run as CalibrationRun
from patcher.calibrate.unit import method as unit
from tests.cli.conftest import Run
from tests.tiny_models import build


@pytest.fixture
def work(tmp_path: Path, samples: Path) -> Path:
    """A folder with the sample's model and a few of its images."""
    shutil.copy(samples / "digits.onnx", tmp_path / "digits.onnx")
    for folder in sorted((samples / "clean").iterdir()):
        (tmp_path / "clean" / folder.name).mkdir(parents=True)
        for picture in sorted(folder.iterdir())[:8]:
            shutil.copy(picture, tmp_path / "clean" / folder.name)
    return tmp_path


def refused(work: Path, run: Run, *arguments: object, code: int = 2) -> str:
    """Run `harden` in `work`, and return its one line of error; nothing may have been written."""
    before = sorted(work.rglob("*"))
    outcome = run("harden", *arguments)
    assert outcome.code == code, outcome.err
    # An interrupt starts a new line behind the terminal's ^C.
    line = outcome.err.strip()
    assert line.startswith("patcher: error: ")
    assert "\n" not in line
    assert sorted(work.rglob("*")) == before
    return outcome.err


def base(work: Path) -> list[object]:
    return [work / "digits.onnx", "--clean-dir", work / "clean", "-o", work / "out.onnx", "--steps", 2]


def test_a_missing_model(work: Path, run: Run) -> None:
    assert "absent.onnx" in refused(work, run, work / "absent.onnx", "--clean-dir", work / "clean")


def test_missing_and_empty_image_folders(work: Path, run: Run) -> None:
    assert "--clean-dir" in refused(work, run, work / "digits.onnx", "--clean-dir", work / "absent")
    (work / "empty").mkdir()
    assert "pictures expected" in refused(work, run, work / "digits.onnx", "--clean-dir", work / "empty")


def test_a_folder_with_one_class(work: Path, run: Run) -> None:
    for index in range(1, 10):
        shutil.rmtree(work / "clean" / str(index))
    few = base(work)[:-2]
    assert "at least 2 classes" in refused(work, run, *few, "--method", "nft", "--min-held-out", 1)


def test_too_few_images_to_decide_on_are_refused_before_anything_is_fitted(work: Path, run: Run) -> None:
    error = refused(work, run, *base(work), "--min-held-out", 1000)
    assert "give about 5000 images, or lower --min-held-out" in error


def test_a_hardened_model_is_not_hardened_again_unawares(work: Path, run: Run) -> None:
    assert run("harden", *base(work), "--steps", 0).code == 0
    (work / "out.onnx").rename(work / "digits.onnx")
    error = run("harden", *base(work), "--steps", 0)
    assert (error.code, "was hardened by patcher" in error.err, "--again" in error.err) == (2, True, True)
    assert run("harden", *base(work), "--steps", 0, "--again").code == 0


def test_a_model_that_keeps_too_few_answers_is_not_written(work: Path, run: Run) -> None:
    found = run("harden", *base(work), "--z", 0.1, "--epsilon", 0.9, "--steps", 0, "--min-agreement", 0.99)
    assert found.code == 1
    assert "lower --min-agreement" in found.err
    assert not (work / "out.onnx").exists()


def test_a_picture_that_is_no_picture(work: Path, run: Run) -> None:
    (work / "clean" / "3" / "broken.png").write_bytes(b"\x89PNG but not really")
    assert "broken.png" in refused(work, run, *base(work))


def test_labels_beyond_the_classes(work: Path, run: Run) -> None:
    shutil.copytree(work / "clean" / "9", work / "clean" / "a")
    assert "10 classes expected" in refused(work, run, *base(work))


def test_a_wrong_size_without_the_flag(work: Path, run: Run) -> None:
    for picture in (work / "clean").rglob("*.png"):
        Image.open(picture).resize((16, 16)).save(picture)
    assert "--size 8x8" in refused(work, run, *base(work))
    assert "--size 8x8" not in run("harden", *base(work), "--size", 8, "-q").err


def test_accuracy_near_chance_names_the_flags_to_check(work: Path, run: Run) -> None:
    line = refused(work, run, *base(work), "--range", "0-255", "--mean", "9")
    assert "--mean" in line
    assert "--range" in line


def test_an_output_in_a_missing_folder(work: Path, run: Run) -> None:
    assert "output folder not found" in refused(work, run, *base(work), "-o", work / "absent" / "out.onnx")


def test_the_input_is_never_overwritten(work: Path, run: Run) -> None:
    assert "input itself" in refused(work, run, *base(work), "-o", work / "digits.onnx")


def test_a_full_disk(work: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    outcome = run("harden", *base(work), "-q")
    assert outcome.code == 2
    assert "No space left on device" in outcome.err
    assert not (work / "out.onnx").exists()
    assert not [path for path in work.rglob("*") if path.suffix in (".part", ".onnx") and path.name != "digits.onnx"]


def test_an_interrupt_during_calibration(work: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = unit.fit

    def interrupted(given: CalibrationRun, *args: object, **kwargs: object) -> object:
        def stop(what: str, done: int, total: int) -> None:
            raise KeyboardInterrupt

        return real(replace(given, progress=stop), *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(unit, "fit", interrupted)
    assert "interrupted" in refused(work, run, *base(work), code=2)


def test_a_model_without_activations_exits_3_and_says_what_was_looked_for(work: Path, run: Run) -> None:
    nodes = [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    model = build(
        nodes, {"w": np.eye(64, 10, dtype=np.float32)}, image=("N", 1, 8, 8), outputs=(("logits", ("N", 10)),)
    )
    onnx.save(model, work / "linear.onnx")
    line = refused(work, run, work / "linear.onnx", "--clean-dir", work / "clean", code=3)
    assert "activation sites" in line
    assert "MatMul" in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epsilon", "2"],
        ["--steps", "many"],
        ["--method", "magic"],
        ["--seed", "-1"],
        ["--batch-size", "0"],
        ["--device", "tpu"],
        ["--providers", "AbacusExecutionProvider"],
        ["--no-such-flag"],
        ["--limit-per-class", "0"],
    ],
)
def test_bad_flags(work: Path, run: Run, arguments: list[str]) -> None:
    refused(work, run, *base(work), *arguments)


def test_not_onnx_and_truncated(work: Path, run: Run) -> None:
    (work / "text.onnx").write_text("hello")
    refused(work, run, work / "text.onnx", "--clean-dir", work / "clean")
    content = (work / "digits.onnx").read_bytes()
    (work / "half.onnx").write_bytes(content[: len(content) // 2])
    refused(work, run, work / "half.onnx", "--clean-dir", work / "clean")


def test_swapped_classes_are_named(work: Path, run: Run) -> None:
    clean = work / "clean"
    for old, new in (("1", "swap"), ("3", "1"), ("swap", "3")):
        (clean / old).rename(clean / new)
    expected = "class 1 is answered as 3 in 100 % of its images, and 3 as 1 in 100 %"
    assert expected in run("evaluate", work / "digits.onnx", "--data", clean).out
    assert expected in refused(work, run, *base(work), "--accuracy-floor", 0.99)
    document = json.loads(run("evaluate", work / "digits.onnx", "--data", clean, "--json").out)
    assert [item["accuracy"] for item in document["per_class"] if item["class"] in (1, 3)] == [0.0, 0.0]
