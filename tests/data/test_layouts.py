# SPDX-License-Identifier: Apache-2.0
"""Layouts of other projects give the same pictures and labels as class folders do."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patcher.data.image_sources import Pictures
from patcher.data.layouts import layout_of
from patcher.data.preprocess import Preprocess
from patcher.errors import InputError

GREY = Preprocess(channels=1)
NAMES = ("cat", "dog", "owl")
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8), np.uint8)
LABELS = [2, 0, 1, 1, 0, 2]
Make = Callable[[Path, bool], Path]


def png(index: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS[index]).save(stream, "PNG")
    return stream.getvalue()


def table(*, names: bool, features: bool = False, column: str = "image"):
    arrow = pytest.importorskip("pyarrow")
    labels = [NAMES[label] for label in LABELS] if names else LABELS
    content = {
        column: [{"bytes": png(index), "path": f"{index}.png"} for index in range(6)],
        "label": labels,
        "id": labels,
    }
    made = arrow.table(content)
    if features:
        info = {"info": {"features": {"label": {"names": list(NAMES), "_type": "ClassLabel"}}}}
        made = made.replace_schema_metadata({"huggingface": json.dumps(info)})
    return made


def parquet(folder: Path, names: bool) -> Path:
    table_of = table(names=names)
    pytest.importorskip("pyarrow.parquet").write_table(table_of, folder / "test.parquet")
    return folder / "test.parquet"


def parquet_folder(folder: Path, names: bool) -> Path:
    both = table(names=names)
    for part in (0, 1):
        path = folder / f"test-0000{part}-of-00002.parquet"
        pytest.importorskip("pyarrow.parquet").write_table(both.slice(3 * part, 3), path)
    return folder


def saved(folder: Path, names: bool) -> Path:
    arrow = pytest.importorskip("pyarrow")
    made = table(names=names, column="img")
    with (
        arrow.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink,
        arrow.ipc.new_stream(sink, made.schema) as w,
    ):
        w.write_table(made)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def metadata_csv(folder: Path, names: bool) -> Path:
    (folder / "pictures").mkdir()
    lines = ["file_name,text,label"]
    for index, label in enumerate(LABELS):
        (folder / "pictures" / f"{index}.png").write_bytes(png(index))
        lines.append(f'pictures/{index}.png,"a, b",{NAMES[label] if names else label}')
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def webdataset(folder: Path, names: bool) -> Path:
    with tarfile.open(folder / "shard.tar", "w") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for index, label in enumerate(LABELS):
            for name, content in (
                (f"a/{index:04d}.cls", (NAMES[label] if names else str(label)).encode()),
                (f"a/{index:04d}.json", b"{}"),
                (f"a/{index:04d}.png", png(index)),
            ):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return folder / "shard.tar"


LAYOUTS = [parquet, parquet_folder, saved, metadata_csv, webdataset]


def read(path: Path, class_names: tuple[str, ...] | None = None, num_classes: int = 3) -> Pictures:
    reader = layout_of(path)
    assert reader is not None
    return reader(num_classes, GREY, class_names)


@pytest.mark.parametrize("make", LAYOUTS)
@pytest.mark.parametrize("names", [False, True])
def test_every_layout_gives_its_pictures_and_labels(make: Make, names: bool, tmp_path: Path) -> None:
    found = read(make(tmp_path, names))
    np.testing.assert_array_equal(found.pixels, PIXELS[:, None])
    assert found.labels is not None
    assert found.labels.dtype == np.int64
    assert found.labels.tolist() == LABELS
    assert found.class_names == (NAMES if names else None)
    assert len(set(found.files)) == 6


@pytest.mark.parametrize("make", LAYOUTS)
def test_the_order_of_classes_decides_labels_and_hash(make: Make, tmp_path: Path) -> None:
    path = make(tmp_path, True)
    other = read(path, ("owl", "cat", "dog"))
    assert other.labels is not None
    assert other.labels.tolist() == [(label + 1) % 3 for label in LABELS]
    assert other.class_order == "as in --classes"
    assert other.sha256 != read(path).sha256
    assert read(path).sha256 == read(path).sha256
    with pytest.raises(InputError, match="named in --classes expected, found 'owl'"):
        read(path, ("cat", "dog", "cow"))
    with pytest.raises(InputError, match="4 classes expected from the model's outputs, found 3 names"):
        read(path, num_classes=4)


def test_class_names_of_the_schema_are_taken(tmp_path: Path) -> None:
    made = table(names=False, features=True)
    pytest.importorskip("pyarrow.parquet").write_table(made, tmp_path / "train.parquet")
    found = read(tmp_path / "train.parquet")
    assert found.class_names == NAMES
    assert found.labels is not None
    assert found.labels.tolist() == LABELS
    other = read(tmp_path / "train.parquet", ("owl", "cat", "dog"))
    assert other.labels is not None
    assert other.labels.tolist() == [(label + 1) % 3 for label in LABELS]


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + b"".join(side.to_bytes(4, "big") for side in array.shape) + array.tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_with_the_labels_beside_them(packed: bool, tmp_path: Path) -> None:
    ending, write = (".gz", gzip.compress) if packed else ("", bytes)
    images = tmp_path / f"t10k-images-idx3-ubyte{ending}"
    labels = tmp_path / f"t10k-labels-idx1-ubyte{ending}"
    images.write_bytes(write(idx(PIXELS)))
    with pytest.raises(InputError, match="labels expected in t10k-labels-idx1-ubyte"):
        read(images)
    labels.write_bytes(write(idx(np.array(LABELS, np.uint8))))
    for path in (tmp_path, images):
        found = read(path)
        np.testing.assert_array_equal(found.pixels, PIXELS[:, None])
        assert found.labels is not None
        assert found.labels.tolist() == LABELS
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(PIXELS))
    with pytest.raises(InputError, match="one split expected, found t10k-images"):
        read(tmp_path)
    for content in (idx(PIXELS)[:-1], idx(PIXELS) + b"x", idx(PIXELS)[:9], b"", b"\0\0\x0d\x03" + idx(PIXELS)[4:]):
        images.write_bytes(write(content))
        with pytest.raises(InputError, match="expected"):
            read(images)


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize("name", ["cifar-10-batches-py/data_batch_1", "data_batch_1", "test_batch"])
def test_pickles_of_cifar_are_refused_and_never_loaded(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(Bomb()))
    for given in {tmp_path, path.parent, path}:
        with pytest.raises(InputError, match="pickles, which are never loaded; save images and labels"):
            read(given)


def test_other_folders_are_left_to_other_readers(tmp_path: Path, samples: Path) -> None:
    assert layout_of(samples / "clean") is None
    assert layout_of(samples / "test.npz") is None
    assert layout_of(tmp_path / "missing") is None
    assert layout_of(Path("module:function")) is None
    (tmp_path / "cat").mkdir()
    (tmp_path / "index.parquet").touch()
    assert layout_of(tmp_path) is None


@pytest.mark.parametrize("name", ["test.parquet", "shard.tar"])
@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 2000])
def test_damaged_files_are_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"^[^\n]*expected|^[^\n]*cannot be read"):
        read(tmp_path / name)


@pytest.mark.parametrize("line", ["../outside.png,1", "/etc/passwd,1", "missing.png,1", "\0,1", ",1", "0.png"])
def test_tables_name_pictures_below_their_folder(line: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "outside.png").write_bytes(png(0))
    (folder / "0.png").write_bytes(png(0))
    (folder / "metadata.csv").write_text(f"file_name,label\n0.png,0\n{line}\n")
    with pytest.raises(InputError, match=r"expected|cannot be read"):
        read(folder)


def test_several_splits_are_never_mixed(tmp_path: Path) -> None:
    parquet_folder(tmp_path, False)
    (tmp_path / "train-00000-of-00001.parquet").write_bytes((tmp_path / "test-00000-of-00002.parquet").read_bytes())
    with pytest.raises(InputError, match="one split expected, found test, train"):
        read(tmp_path)
    (tmp_path / "dataset_dict.json").write_text("{}")
    with pytest.raises(InputError, match="one split expected, found a folder of several"):
        read(tmp_path)


def test_sizes_must_agree_or_be_made_to(tmp_path: Path) -> None:
    arrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    stream = io.BytesIO()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(stream, "PNG")
    made = arrow.table({"image": [png(0), stream.getvalue()], "label": [0, 1]})
    writer.write_table(made, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="row 1: 8x8 pixels expected as in row 0, found 9x9; resize with --size"):
        read(tmp_path / "a.parquet")
    reader = layout_of(tmp_path / "a.parquet")
    assert reader is not None
    assert reader(3, Preprocess(channels=1, size=(8, 8)), None).pixels.shape == (2, 1, 8, 8)
