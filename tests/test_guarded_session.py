# SPDX-License-Identifier: Apache-2.0
"""The session for services, in every form of the branch."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import patcher
from patcher.commands.calibrate import calibrate
from patcher.errors import InputError
from patcher.runtime import GuardedSession
from patcher.triggers.file import write_triggers
from patcher.triggers.trigger import Trigger

FORMS = ("if", "where", "two-files")


def checkerboard() -> Trigger:
    mask, pattern = np.zeros((1, 8, 8), np.float32), np.zeros((1, 8, 8), np.float32)
    mask[0, 6:, 6:] = 1
    pattern[0, 6, 6] = pattern[0, 7, 7] = 1
    return Trigger("patch", 7, (0, 1, 2, 3, 4, 5, 6, 8, 9), {"mask": mask, "pattern": pattern}, pattern.shape)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Path:
    """A folder with the sample hardened in each form."""
    folder = tmp_path_factory.mktemp("guarded")
    write_triggers([checkerboard()], folder / "triggers.npz")
    for form in FORMS:
        result = patcher.harden(
            samples / "digits.onnx",
            clean_dir=samples / "clean",
            method="bna",
            triggers=str(folder / "triggers.npz"),
            triggered=samples / "triggered.npz",
            branch=form,
            steps=20,
            output=folder / f"{form}.onnx",
        )
        assert result.report.verdict == "pass"
        detection = result.report.as_json()["after"]["detection"]
        assert detection["TPR"]["value"] > 0.9
        assert detection["FPR"]["value"] <= detection["FPR_target"]["value"] < 0.3
    return folder


def pixels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as file:
        return file["images"].transpose(0, 3, 1, 2).astype(np.float32) / 255, file["labels"]


def test_all_forms_answer_alike(guarded: Path, samples: Path) -> None:
    clean, triggered = pixels(samples / "test.npz")[0][:50], pixels(samples / "triggered.npz")[0][:50]
    mixed = np.stack([clean, triggered], axis=1).reshape(-1, 1, 8, 8)
    answers = [GuardedSession(guarded / f"{form}.onnx", max_batch=7).classify(mixed) for form in FORMS]
    for other in answers[1:]:
        np.testing.assert_array_equal(other.labels, answers[0].labels)
        np.testing.assert_array_equal(other.flags, answers[0].flags)
        np.testing.assert_allclose(other.scores, answers[0].scores, rtol=1e-3, atol=1e-3)


def test_triggered_images_get_their_class_and_are_counted(guarded: Path, samples: Path) -> None:
    images, labels = pixels(samples / "triggered.npz")
    seen: list[int] = []

    class Counter:
        total = 0

        def inc(self, amount: int) -> None:
            self.total += amount

    counter = Counter()
    session = GuardedSession(guarded / "if.onnx", on_flags=seen.append, counter=counter)
    answers = session.classify(images[labels != 7])
    assert (answers.labels == labels[labels != 7]).mean() > 0.8
    assert session.counts["images"] == len(answers.flags)
    assert sum(seen) == counter.total == session.counts["flagged"] == answers.flags.sum() > 0


def test_a_guard_of_another_run_is_refused(guarded: Path, samples: Path, tmp_path: Path) -> None:
    plain = tmp_path / "two-files.onnx"
    plain.write_bytes((guarded / "two-files.onnx").read_bytes())
    with pytest.raises(InputError, match="not found"):
        GuardedSession(plain)
    with pytest.raises(InputError, match="not the model that was reviewed"):
        GuardedSession(plain, guard=guarded / "if.onnx")
    GuardedSession(plain, guard=guarded / "two-files.guard.onnx")


def test_only_the_reviewed_file_is_served(guarded: Path, samples: Path) -> None:
    path = guarded / "if.onnx"
    GuardedSession(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(InputError, match="not the model that was reviewed"):
        GuardedSession(path, sha256="0" * 64)
    with pytest.raises(InputError, match="hardened by patcher expected"):
        GuardedSession(samples / "digits.onnx")
    with pytest.raises(InputError, match="not found"):
        GuardedSession(guarded / "missing.onnx")


def test_a_wrong_shape_is_the_callers_error(guarded: Path) -> None:
    session = GuardedSession(guarded / "if.onnx")
    with pytest.raises(InputError, match="does not take this batch"):
        session.classify(np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(InputError, match="at least one image"):
        session.classify(np.zeros((0, 1, 8, 8), np.float32))


def test_torch_and_onnx_are_not_imported(guarded: Path) -> None:
    code = (
        "import sys, numpy as np; from patcher.runtime import GuardedSession; "
        f"GuardedSession({str(guarded / 'two-files.onnx')!r}).classify(np.zeros((2, 1, 8, 8), np.float32)); "
        "print(sorted({'torch', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_patch_file_makes_the_same_model(guarded: Path, samples: Path, tmp_path: Path) -> None:
    calibrate(
        samples / "digits.onnx",
        clean_dir=samples / "clean",
        method="bna",
        triggers=str(guarded / "triggers.npz"),
        branch="two-files",
        steps=20,
        output=tmp_path / "patch.safetensors",
    )
    patcher.apply(samples / "digits.onnx", tmp_path / "patch.safetensors", output=tmp_path / "two-files.onnx")
    for name in ("two-files.onnx", "two-files.guard.onnx"):
        assert (tmp_path / name).read_bytes() == (guarded / name).read_bytes()


def test_evaluate_tells_the_rates_of_the_flag(guarded: Path, samples: Path) -> None:
    document = patcher.evaluate(
        guarded / "where.onnx", data=samples / "clean", triggered=samples / "triggered.npz"
    ).as_json()
    assert document["TPR"]["value"] > 0.9
    assert document["FPR"]["count"] == 400
    assert 20 < document["FPR_target"]["count"] < 80


def test_nothing_found_nothing_changed(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from patcher.calibrate.bna import method as bna

    monkeypatch.setattr(bna, "scan_triggers", lambda *args, **kwargs: ((), "clean"))
    result = patcher.harden(
        samples / "digits.onnx", clean_dir=samples / "clean", method="bna", output=tmp_path / "same.onnx"
    )
    assert result.report.verdict == "pass"
    assert "returned unchanged" in result.calibration.summary["verdict"]
    assert (tmp_path / "same.onnx").read_bytes() == (samples / "digits.onnx").read_bytes()
