# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patcher.data import image_sources
from patcher.data.clean_set import read_clean_set, split
from patcher.data.preprocess import Preprocess
from patcher.errors import InputError
from patcher.model.model import read_model
from tests.tiny_models import residual_model

MODEL = read_model(residual_model())  # 4 classes, 3 x 8 x 8


def write_folder(root: Path, counts: dict[str, int], side: int = 8) -> Path:
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(root / name / f"{index:03}.png")
    return root


FULL = {"ant": 10, "bee": 10, "cat": 10, "dog": 5}


def read(source: object, **options: object):
    return read_clean_set(str(source), MODEL, Preprocess(**options.pop("preprocess", {})), **options)  # type: ignore[arg-type]


def test_folders_in_sorted_order_are_the_classes(tmp_path: Path) -> None:
    found = read(write_folder(tmp_path / "d", FULL))
    assert found.class_names == ("ant", "bee", "cat", "dog")
    assert np.bincount(found.labels).tolist() == [10, 10, 10, 5]
    assert found.images().dtype == np.float32
    assert 0 <= found.images().min() <= found.images().max() <= 1


def test_the_split_is_balanced_seeded_and_disjoint(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "d", FULL)
    first, again, other = read(folder), read(folder), read(folder, seed=1)
    assert np.bincount(first.labels[first.held_out]).tolist() == [2, 2, 2, 1]
    assert sorted([*first.fit, *first.held_out]) == list(range(35))
    np.testing.assert_array_equal(first.fit, again.fit)
    assert not np.array_equal(first.held_out, other.held_out)


def test_a_class_with_one_image_holds_nothing_out() -> None:
    fit, held_out = split(np.array([0, 1, 1]), np.random.default_rng(0))
    assert 0 in fit
    assert len(held_out) == 1


def test_a_limit_per_class(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "d", FULL)
    found = read(folder, limit_per_class=3)
    assert np.bincount(found.labels).tolist() == [3, 3, 3, 3]
    assert found.sha256 != read(folder).sha256


def test_an_empty_class_folder_keeps_its_place(tmp_path: Path) -> None:
    found = read(write_folder(tmp_path / "d", {"ant": 4, "bee": 0, "cat": 4, "dog": 4}))
    assert np.unique(found.labels).tolist() == [0, 2, 3]


def test_numeric_folders_keep_their_number_when_some_are_absent(tmp_path: Path) -> None:
    assert np.unique(read(write_folder(tmp_path / "d", {"1": 2, "3": 2})).labels).tolist() == [1, 3]


def test_a_classes_file_gives_the_order(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "d", {"ant": 2, "dog": 3})
    (tmp_path / "classes.txt").write_text("dog\ncat\nbee\nant\n")
    found = read(folder, classes_file=tmp_path / "classes.txt")
    assert np.bincount(found.labels).tolist() == [3, 0, 0, 2]
    with pytest.raises(InputError, match="--classes"):
        read(folder)


def test_npz_gives_the_same_pixels_as_pictures(tmp_path: Path) -> None:
    pictures = read(write_folder(tmp_path / "d", FULL))
    np.savez(tmp_path / "d.npz", images=pictures.pixels.transpose(0, 2, 3, 1), labels=pictures.labels)
    arrays = read(tmp_path / "d.npz")
    np.testing.assert_array_equal(arrays.pixels, pictures.pixels)
    np.testing.assert_array_equal(arrays.labels, pictures.labels)


def test_many_pictures_lie_in_a_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "d", FULL)
    in_memory = read(folder)
    monkeypatch.setattr(image_sources, "_IN_MEMORY", 100)
    mapped = read(folder)
    assert isinstance(mapped.pixels, np.memmap)
    np.testing.assert_array_equal(mapped.images(mapped.held_out), in_memory.images(in_memory.held_out))
    assert mapped.sha256 == in_memory.sha256


def test_no_room_for_many_pictures_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(image_sources, "_IN_MEMORY", 100)
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(InputError, match=r"No space left.*TMPDIR"):
        read(write_folder(tmp_path / "d", FULL))


def test_a_flat_folder_takes_the_labeller(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"flat": 6}) / "flat"
    with pytest.raises(InputError, match="--pseudo-labels"):
        read(folder)
    found = read(folder, labeller=lambda pixels, task: np.arange(len(pixels)) % 2)
    assert found.pseudo_labels
    assert found.labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_a_calibration_data_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_reader.py").write_text(
        "import numpy as np\n"
        "class Reader:\n"
        "    left = 3\n"
        "    def get_next(self):\n"
        "        self.left -= 1\n"
        "        return {'image': np.full((2, 3, 8, 8), self.left, np.float32)} if self.left >= 0 else None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    normalised = {"mean": (0.5,), "std": (4.0,)}
    found = read("my_reader:Reader", preprocess=normalised, labeller=lambda pixels, task: np.arange(len(pixels)) % 4)
    assert len(found) == 6
    assert found.images()[0].max() == pytest.approx(2 * 4.0 + 0.5), "the preprocessing is undone"


@pytest.mark.parametrize(
    ("counts", "side", "message"),
    [
        ({}, 8, "pictures expected"),
        ({"ant": 3}, 8, "at least 2 classes"),
        ({"ant": 1, "bee": 1, "cat": 1, "dog": 1, "eel": 1}, 8, "4 classes expected"),
        ({"ant": 1, "bee": 1, "cat": 1, "dog": 1}, 9, "--size 8x8"),
    ],
    ids=["empty", "one class", "too many classes", "wrong size"],
)
def test_folders_that_do_not_fit_are_refused(tmp_path: Path, counts: dict[str, int], side: int, message: str) -> None:
    (tmp_path / "d").mkdir()
    write_folder(tmp_path / "d", counts, side)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "d")


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "d", FULL)
    (folder / "bee" / "000.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"bee/000\.png: not a picture"):
        read(folder)
    (folder / "bee" / "000.png").unlink()
    (folder / "bee" / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"notes\.txt"):
        read(folder)


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=np.array([{}], dtype=object), labels=np.zeros(1, np.int64))
    with pytest.raises(InputError, match="plain arrays"):
        read(tmp_path / "d.npz")


def test_an_archive_that_unpacks_to_too_much_is_refused_unread(tmp_path: Path) -> None:
    header = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", header)
    content = bytearray((tmp_path / "d.npz").read_bytes())
    # The uncompressed size in the central directory claims 4 GiB - 2; five members would pass the limit.
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = (0xFFFFFFFE).to_bytes(4, "little")
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(InputError, match="unpacks to 4095 MiB"):
        read(tmp_path / "d.npz")


@pytest.mark.parametrize(
    "labels", [np.zeros(3, np.int64), np.zeros(4), np.array([0, 1, 2, 9]), np.array([0, -1, 1, 2])]
)
def test_labels_must_fit_images_and_model(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "d.npz", images=np.zeros((4, 8, 8, 3), np.uint8), labels=labels)
    with pytest.raises(InputError, match="label"):
        read(tmp_path / "d.npz")
