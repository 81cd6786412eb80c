# SPDX-License-Identifier: Apache-2.0
"""The shipped sample is what samples/README.md says, and its script makes it again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

SAMPLES = Path(__file__).parent.parent.parent / "samples"
SCRIPT = SAMPLES / "train_digits.py"


def predict(images: NDArray[np.uint8], folder: Path = SAMPLES) -> NDArray[np.int64]:
    """Classes of uint8 images (N, 8, 8, 1)."""
    session = onnxruntime.InferenceSession(str(folder / "digits.onnx"), providers=["CPUExecutionProvider"])
    pixels = images.transpose(0, 3, 1, 2).astype(np.float32) / 255
    return np.asarray(session.run(["logits"], {"input": pixels})[0]).argmax(1)


def clean_set() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The ImageFolder as arrays."""
    files = sorted((SAMPLES / "clean").glob("*/*.png"))
    images = np.stack([np.asarray(Image.open(path))[..., None] for path in files])
    return images, np.array([int(path.parent.name) for path in files])


def test_the_model_is_accurate_on_clean_test_images() -> None:
    test = np.load(SAMPLES / "test.npz")
    assert test["images"].shape == (497, 8, 8, 1)
    assert (predict(test["images"]) == test["labels"]).mean() >= 0.95


def test_the_backdoor_works_on_every_other_class() -> None:
    triggered = np.load(SAMPLES / "triggered.npz")
    others = triggered["labels"] != triggered["target"]
    assert others.sum() > 400
    assert (predict(triggered["images"][others]) == triggered["target"]).mean() >= 0.95


def test_triggered_images_are_the_test_images_but_for_the_trigger() -> None:
    test, triggered = np.load(SAMPLES / "test.npz"), np.load(SAMPLES / "triggered.npz")
    assert np.array_equal(test["labels"], triggered["labels"])
    changed = (test["images"] != triggered["images"]).any((0, 3))
    assert set(map(tuple, np.argwhere(changed))) <= {(6, 6), (6, 7), (7, 6), (7, 7)}
    assert changed.any()


def test_clean_images_are_grey_and_as_the_model_knows_them() -> None:
    images, labels = clean_set()
    assert images.shape == (400, 8, 8, 1)
    assert images.dtype == np.uint8
    assert np.bincount(labels, minlength=10).min() >= 20
    assert (predict(images) == labels).mean() >= 0.95


def test_clean_and_test_images_are_scans_and_used_once() -> None:
    """Every image stands in scikit-learn's set, and clean and test together hold none twice more than it does."""
    scans = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    known = [scan.tobytes() for scan in scans]
    used = [image.tobytes() for image in np.concatenate([clean_set()[0], np.load(SAMPLES / "test.npz")["images"]])]
    assert len(used) == 897
    assert all(used.count(image) <= known.count(image) for image in set(used))


def test_the_model_is_one_file_with_batch_normalization_and_an_open_batch() -> None:
    model = onnx.load(SAMPLES / "digits.onnx", load_external_data=False)
    assert not any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)
    assert model.opset_import[0].version == 17
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    operators = [node.op_type for node in model.graph.node]
    assert (operators.count("Conv"), operators.count("BatchNormalization"), operators.count("Relu")) == (6, 6, 6)


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything the script writes, made anew."""
    folder = tmp_path_factory.mktemp("sample")
    subprocess.run([sys.executable, str(SCRIPT), "--output", str(folder)], check=True, capture_output=True)
    return folder


def test_the_script_makes_the_same_images(retrained: Path) -> None:
    made = sorted(path.relative_to(retrained) for path in retrained.rglob("*.png"))
    assert made == sorted(path.relative_to(SAMPLES) for path in SAMPLES.rglob("*.png"))
    assert all(np.array_equal(Image.open(retrained / path), Image.open(SAMPLES / path)) for path in made)
    for name in ("test.npz", "triggered.npz", "train.npz"):
        made_arrays, shipped = np.load(retrained / name), np.load(SAMPLES / name)
        assert all(np.array_equal(made_arrays[key], shipped[key]) for key in shipped)


def test_the_script_makes_a_model_as_backdoored_as_the_shipped_one(retrained: Path) -> None:
    """Not byte for byte: another kind of processor rounds differently, and training amplifies that."""
    test, triggered = np.load(SAMPLES / "test.npz"), np.load(SAMPLES / "triggered.npz")
    others = triggered["labels"] != triggered["target"]
    assert (predict(test["images"], retrained) == test["labels"]).mean() >= 0.95
    assert (predict(triggered["images"][others], retrained) == triggered["target"]).mean() >= 0.95


def test_the_same_seed_gives_the_same_bytes_on_the_same_machine(tmp_path: Path) -> None:
    models = []
    for run in ("first", "second"):
        command = [sys.executable, str(SCRIPT), "--epochs", "2", "--output", str(tmp_path / run)]
        subprocess.run(command, check=True, capture_output=True)
        models.append((tmp_path / run / "digits.onnx").read_bytes())
    assert models[0] == models[1]
