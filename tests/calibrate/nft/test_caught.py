# SPDX-License-Identifier: Apache-2.0
"""Images that a service flagged: their labels, what the masks learn of them, what the report says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import patcher
from patcher.calibrate.nft.caught import Caught
from patcher.calibrate.run import Run
from patcher.data.flagged import Flagged
from patcher.errors import InputError
from patcher.triggers.file import write_triggers
from patcher.triggers.trigger import Trigger
from tests.calibrate.nft.test_nft import FOLDED, NORMALIZED, OPTIONS, classifier, clean_set, run

IMAGES = np.random.default_rng(4).random((7, 3, 8, 8), np.float32)


def caught(batch_size: int = 128) -> Caught:
    return Caught(Run(classifier(FOLDED), 0, batch_size), Flagged(IMAGES, "0" * 64), clean_set(FOLDED))


def test_the_first_labels_are_never_the_plain_answer() -> None:
    found = caught()
    plain = classifier(FOLDED).logits(torch.from_numpy(IMAGES)).argmax(dim=1)
    assert not found.settled
    assert (found.labels != plain).all()
    assert torch.equal(caught(2).labels, found.labels)


def test_settled_labels_are_the_answers_under_the_masks() -> None:
    found = caught()
    found.settle({})
    assert found.settled
    assert torch.equal(found.labels, classifier(FOLDED).logits(torch.from_numpy(IMAGES)).argmax(dim=1))


def test_each_image_is_drawn_as_often_as_the_rest() -> None:
    found = caught()
    images, labels = found.draw(14, np.random.default_rng(0))
    rows = [int(np.flatnonzero([(row == image).all() for row in found.images])[0]) for image in images]
    assert sorted(rows) == sorted([*range(7)] * 2)
    assert torch.equal(labels, found.labels[rows])
    assert len(found.draw(3, np.random.default_rng(0))[0]) == 3


@pytest.mark.parametrize("model", [FOLDED, NORMALIZED], ids=["folded", "normalized"])
@pytest.mark.parametrize("steps", [0, 3, 12])
def test_it_runs_whatever_the_number_of_steps(model, steps: int, tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", images=IMAGES)
    options = dataclasses.replace(OPTIONS, steps=steps, flagged=str(tmp_path / "f.npz"))
    found = run(model, options).summary
    assert found["flagged"]["images"] == 7
    assert sum(found["flagged"]["answered"].values()) == 7
    assert found["cost"] == "loss on flagged images"
    assert len({step["step"] for step in run(model, options).curve}) >= 1


def test_the_batch_size_changes_nothing(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", images=IMAGES)
    options = dataclasses.replace(OPTIONS, flagged=str(tmp_path / "f.npz"))
    first, second = (run(FOLDED, options, batch_size=size).corrections for size in (128, 5))
    for one, other in zip(first, second, strict=True):
        for name in ("mask", "shift"):
            if hasattr(one, name):
                np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-4)


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", images=IMAGES[:, :, :4])
    with pytest.raises(InputError, match="--flagged"):
        run(FOLDED, dataclasses.replace(OPTIONS, flagged=str(tmp_path / "f.npz")))


def test_the_sample_unlearns_its_trigger_from_what_was_caught(samples: Path, tmp_path: Path) -> None:
    """No trigger file, no label: 60 triggered images and 6 clean ones."""
    with np.load(samples / "triggered.npz") as triggered, np.load(samples / "test.npz") as test:
        others = np.flatnonzero(triggered["labels"] != 7)
        images = np.concatenate([triggered["images"][others[:60]], test["images"][:6]])
        np.savez(
            tmp_path / "rest.npz", images=triggered["images"][others[60:]], labels=triggered["labels"][others[60:]]
        )
    np.savez(tmp_path / "flagged.npz", images=images)
    result = patcher.harden(
        samples / "digits.onnx",
        clean_dir=samples / "clean",
        method="nft",
        flagged=str(tmp_path / "flagged.npz"),
        triggered=tmp_path / "rest.npz",
        target=7,
    )
    assert result.verdict == "pass"
    assert result.attack is not None
    assert result.attack.asr.before.value > 0.9
    assert result.attack.asr.after.value < 0.05
    assert result.calibration.summary["flagged"]["keep_their_class"] <= 10


def test_a_folder_of_false_alarms_alone_costs_no_accuracy_unnoticed(samples: Path, tmp_path: Path) -> None:
    with np.load(samples / "test.npz") as test:
        np.savez(tmp_path / "flagged.npz", images=test["images"][:60])
    result = patcher.harden(
        samples / "digits.onnx", clean_dir=samples / "clean", method="nft", flagged=str(tmp_path / "flagged.npz")
    )
    assert (result.accuracy.after.value >= result.accuracy.before.value - 0.02) == (result.verdict == "pass")
    assert any("flagged images keep their class" in note for note in result.report.sections["notes"])


@pytest.mark.parametrize(("target", "said"), [(7, False), (3, True)])
def test_candidates_that_are_not_what_was_flagged_are_named(
    target: int, said: bool, samples: Path, tmp_path: Path
) -> None:
    mask, pattern = np.zeros((1, 8, 8), np.float32), np.zeros((1, 8, 8), np.float32)
    mask[0, 6:, 6:] = pattern[0, 6, 6] = 1
    sources = tuple(sorted({*range(10)} - {target}))
    write_triggers(
        [Trigger("patch", target, sources, {"mask": mask, "pattern": pattern}, (1, 8, 8))], tmp_path / "t.npz"
    )
    with np.load(samples / "triggered.npz") as triggered:
        np.savez(tmp_path / "flagged.npz", images=triggered["images"][triggered["labels"] != 7][:40])
    result = patcher.harden(
        samples / "digits.onnx",
        clean_dir=samples / "clean",
        method="nft",
        flagged=str(tmp_path / "flagged.npz"),
        triggers=str(tmp_path / "t.npz"),
        steps=20,
        epsilon=0.9,
    )
    notes = result.report.sections["notes"]
    assert any("not all that was flagged" in note for note in notes) is said
    assert result.calibration.summary["cost"] == "loss on stamped held-out and flagged images"
