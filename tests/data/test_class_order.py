# SPDX-License-Identifier: Apache-2.0
"""Which folder is which class, and how many classes must be there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patcher.data.clean_set import CleanSet, read_clean_set
from patcher.data.preprocess import resolve_preprocess
from patcher.errors import InputError
from patcher.model.model import Model, read_model
from tests.tiny_models import RESIDUAL_SHAPES, build, residual_nodes, weights_of


def model_of(classes: int) -> Model:
    weights = weights_of(RESIDUAL_SHAPES | {"fc": (classes, 6), "fc_bias": (classes,)})
    return read_model(build(residual_nodes(), weights, outputs=(("logits", ("N", classes)),)))


def folders(where: Path, names: list[str]) -> Path:
    for place, name in enumerate(names):
        (where / name).mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), place, np.uint8)).save(where / name / "picture.png")
    return where


def label_by_folder(found: CleanSet) -> dict[str, int]:
    return {file.split("/")[0]: int(label) for file, label in zip(found.files, found.labels, strict=True)}


def read(where: Path, model: Model, **options: object) -> CleanSet:
    return read_clean_set(where, model, resolve_preprocess(model), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", [[], ["3"], ["0", "11"]])
def test_numeric_folders_are_class_indices(missing: list[str], tmp_path: Path) -> None:
    """As text, 10 and 11 come before 2."""
    names = [str(index) for index in range(12) if str(index) not in missing]
    found = read(folders(tmp_path, names), model_of(12))
    assert label_by_folder(found) == {name: int(name) for name in names}
    assert found.class_names[10] == "10"
    assert found.class_order == "folder names are class indices"


def test_padded_numbers_keep_their_names(tmp_path: Path) -> None:
    found = read(folders(tmp_path, ["00", "01", "02", "03"]), model_of(4))
    assert found.class_names == ("00", "01", "02", "03")


def test_numbers_that_are_no_indices_and_sort_otherwise_as_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name the class order with --classes"):
        read(folders(tmp_path, [str(index) for index in range(1, 13)]), model_of(12))


def test_named_folders_are_sorted(tmp_path: Path) -> None:
    found = read(folders(tmp_path, ["cat", "ant", "dog", "bee"]), model_of(4))
    assert label_by_folder(found) == {"ant": 0, "bee": 1, "cat": 2, "dog": 3}
    assert found.class_order == "folder names in sorted order"


def test_the_order_of_a_config_json(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"id2label": {"1": "ant", "0": "dog", "3": "cat", "2": "bee"}, "model_type": "vit"}))
    found = read(folders(tmp_path / "data", ["ant", "bee", "cat"]), model_of(4), classes_file=config)
    assert label_by_folder(found) == {"ant": 1, "bee": 2, "cat": 3}
    assert found.class_names == ("dog", "ant", "bee", "cat")


@pytest.mark.parametrize("text", ['{"id2label": {"a": "x"}}', '{"id2label": {"0": "x", "5": "y"}}', "[1]", "{"])
def test_a_config_json_without_an_order_is_refused(text: str, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(text)
    with pytest.raises(InputError, match="--classes"):
        read(folders(tmp_path / "data", ["ant", "bee"]), model_of(2), classes_file=config)


def test_one_class_is_enough_where_no_labels_are_needed(tmp_path: Path) -> None:
    pictures = np.zeros((6, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "flat.npz", images=pictures)
    model = model_of(4)

    def always_two(pixels: np.ndarray, task: object) -> np.ndarray:
        return np.full(len(pixels), 2, np.int64)

    found = read(tmp_path / "flat.npz", model, labeller=always_two, least_classes=1)
    assert set(found.labels) == {2}


def test_advice_on_one_class_fits_what_was_given(tmp_path: Path) -> None:
    """Labels by folder, labels by ``--pseudo-labels``, and neither."""
    model, pictures = model_of(4), np.zeros((6, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "flat.npz", images=pictures)
    np.savez(tmp_path / "labelled.npz", images=pictures, labels=np.full(6, 2))

    def always_two(pixels: np.ndarray, task: object) -> np.ndarray:
        return np.full(len(pixels), 2, np.int64)

    def said(source: str, **options: object) -> str:
        with pytest.raises(InputError) as error:
            read(tmp_path / source, model, **options)
        return str(error.value)

    assert "or --pseudo-labels" in said("flat.npz")
    own = said("flat.npz", labeller=always_two)
    assert "--pseudo-labels gives class 2 to all 6 images; add images that the model answers otherwise" in own
    assert "harden --method unit alone takes one class" in own
    given = said("labelled.npz", labeller=always_two)
    assert "found 1; give one folder a class; harden --method unit alone takes one class" in given
    assert "--pseudo-labels" not in given
