# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patcher.data.annotations import is_annotated, read_annotated
from patcher.data.preprocess import Preprocess
from patcher.errors import InputError

WANTED = {"a.png": ["cat", "dog"], "b.png": [], "c.png": ["bird"]}
NAMES = ("cat", "dog", "bird")
GREY = Preprocess(channels=1)


def pictures(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(WANTED):
        Image.fromarray(np.full((4, 4), 20 * number, np.uint8)).save(folder / name)


def table(folder: Path) -> Path:
    rows = [",".join([file, *(str(int(name in own)) for name in NAMES)]) for file, own in WANTED.items()]
    lines = ["file,cat,dog,bird", *rows]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


def listed(folder: Path) -> Path:
    (folder / "labels.json").write_text(json.dumps({"classes": NAMES, "images": WANTED}))
    return folder / "labels.json"


def coco(folder: Path) -> Path:
    document = {
        "categories": [{"id": 7 - number, "name": name} for number, name in enumerate(reversed(NAMES))],
        "images": [{"id": number, "file_name": name} for number, name in enumerate(WANTED)],
        "annotations": [
            {"image_id": number, "category_id": 5 + NAMES.index(name), "bbox": [0, 0, 1, 1]}
            for number, labels in enumerate(WANTED.values())
            for name in [*labels, *labels[:1]]
        ],
    }
    (folder / "instances.json").write_text(json.dumps(document))
    return folder / "instances.json"


@pytest.mark.parametrize("make", [table, listed, coco], ids=lambda make: make.__name__)
@pytest.mark.parametrize("place", [".", "images"])
def test_a_file_of_labels(tmp_path: Path, make, place: str) -> None:
    pictures(tmp_path / place)
    path = make(tmp_path)
    assert is_annotated(path)
    found = read_annotated(path, 3, GREY)
    assert found.class_names == NAMES
    assert found.files == ("a.png", "b.png", "c.png")
    assert found.labels is not None
    assert found.labels.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert found.pixels[:, 0, 0, 0].tolist() == [0, 20, 40]
    other = read_annotated(path, 3, GREY, ("bird", "cat", "dog"))
    assert other.labels is not None
    assert other.labels[0].tolist() == [0, 1, 1]
    assert other.sha256 != found.sha256


def test_pascal_voc(tmp_path: Path) -> None:
    pictures(tmp_path / "JPEGImages")
    (tmp_path / "Annotations").mkdir()
    for file, labels in WANTED.items():
        objects = "".join(f"<object><name>{name}</name></object>" for name in labels)
        (tmp_path / "Annotations" / file.replace("png", "xml")).write_text(f"<annotation>{objects}</annotation>")
    assert is_annotated(tmp_path)
    found = read_annotated(tmp_path, 3, GREY)
    assert found.class_names == ("bird", "cat", "dog")
    assert found.labels is not None
    assert found.labels.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
    bomb = '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'
    (tmp_path / "Annotations" / "a.xml").write_text(bomb)
    with pytest.raises(InputError, match="plain XML without declarations"):
        read_annotated(tmp_path, 3, GREY)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "file,cat,dog,bird\na.png,1,0\n", "line 2: a file and 3 values of 0 or 1"),
        ("x.csv", "file,cat,dog,bird\na.png,1,0,2\n", "line 2"),
        ("x.csv", "file,cat,dog,bird\n", "found none"),
        ("x.csv", "file,cat,dog\na.png,1,0\n", "3 different labels expected"),
        ("x.csv", "file,cat,dog,bird\nz.png,1,0,0\n", "a picture 'z.png' expected"),
        ("x.json", "[1]", "an object with 'classes' and 'images'"),
        ("x.json", "{", "cannot be read"),
        ("x.json", '{"classes": ["cat"], "images": {"a.png": "cat"}}', "'classes' as a list"),
        ("x.json", '{"images": [{}], "annotations": [], "categories": []}', "COCO with ids"),
    ],
)
def test_damaged_files_are_refused_on_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    pictures(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_annotated(tmp_path / name, 3, GREY)
    assert "\n" not in str(caught.value)


def test_labels_outside_of_the_classes_file_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path)
    with pytest.raises(InputError, match="labels of --classes expected, found 'bird'"):
        read_annotated(table(tmp_path), 3, GREY, ("cat", "dog", "fish"))
