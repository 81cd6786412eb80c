# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from patcher.data.arrays import Arrays, read_range, resolve_arrays
from patcher.data.clean_set import choose_task, read_clean_set
from patcher.data.preprocess import resolve_preprocess
from patcher.errors import InputError
from patcher.model.model import read_model
from patcher.tasks import MULTI_LABEL, SINGLE_LABEL
from tests.model.test_inputs import text_model
from tests.tiny_models import build, node

IDS = np.arange(40).reshape(8, 5) % 11
MASK = np.ones((8, 5), np.int64)
LABELS = np.arange(8) % 3


def table_model():
    """Four numbers to four scores."""
    return read_model(build([node("Flatten", ["image"], ["logits"])], image=("N", 4), outputs=(("logits", ("N", 4)),)))


def saved(path: Path, **arrays: object) -> str:
    np.savez(path / "clean.npz", **arrays)
    return str(path / "clean.npz")


def test_arrays_are_read_by_the_names_of_the_inputs(tmp_path: Path) -> None:
    model = read_model(text_model())
    found = read_clean_set(saved(tmp_path, ids=IDS, mask=MASK, labels=LABELS), model, Arrays(model.input_names))
    assert found.shape == (2, 5)
    assert len(found.fit) + len(found.held_out) == 8
    np.testing.assert_array_equal(model.feed(found.images())["ids"], IDS)
    np.testing.assert_array_equal(found.labels, LABELS)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ids": IDS, "labels": LABELS}, "missing 'mask'"),
        ({"first": IDS, "second": MASK, "labels": LABELS}, "arrays named as the model's inputs"),
        ({"ids": IDS, "mask": MASK[:7], "labels": LABELS}, "as many rows in all"),
        ({"ids": IDS[:, :4], "mask": MASK, "labels": LABELS}, r"shape \(N, 5\) expected"),
        ({"ids": IDS / 2, "mask": MASK, "labels": LABELS}, "int64 values expected, found float64"),
        ({"ids": IDS - 1, "mask": MASK, "labels": LABELS}, "ids from 0 to"),
        ({"ids": IDS, "mask": MASK, "labels": LABELS[:7]}, r"labels of shape \(8,\)"),
        ({"ids": IDS, "mask": MASK, "labels": np.eye(8, 3, dtype=int)}, "give --task multi-label"),
        ({"ids": IDS, "mask": MASK}, "no labels found"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, arrays: dict[str, object], message: str) -> None:
    model = read_model(text_model())
    with pytest.raises(InputError, match=message) as caught:
        read_clean_set(saved(tmp_path, **arrays), model, Arrays(model.input_names))
    assert "\n" not in str(caught.value)


def test_a_length_that_the_graph_leaves_open_may_be_any(tmp_path: Path) -> None:
    proto = text_model()
    for value in proto.graph.input:
        value.type.tensor_type.shape.dim[1].dim_param = "length"
    model = read_model(proto)
    found = read_clean_set(saved(tmp_path, ids=IDS, mask=MASK, labels=LABELS), model, Arrays(model.input_names))
    np.testing.assert_array_equal(model.feed(found.images())["ids"], IDS)
    with pytest.raises(InputError, match="'mask': rows of shape"):
        read_clean_set(saved(tmp_path, ids=IDS, mask=MASK[:, :4], labels=LABELS), model, Arrays(model.input_names))


def test_ragged_rows_are_refused(tmp_path: Path) -> None:
    ragged = np.empty(2, object)
    ragged[:] = [np.arange(3), np.arange(5)]
    model = read_model(text_model())
    with pytest.raises(InputError, match="ragged"):
        read_clean_set(saved(tmp_path, ids=ragged, mask=ragged), model, Arrays(model.input_names))
    np.save(tmp_path / "rows.npy", ragged)
    single = table_model()
    with pytest.raises(InputError, match="ragged"):
        read_clean_set(tmp_path / "rows.npy", single, Arrays(single.input_names))


def test_a_single_array_needs_a_single_input(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).random((9, 4), np.float32))
    model = table_model()
    found = read_clean_set(
        tmp_path / "rows.npy", model, Arrays(("image",)), labeller=lambda rows, task: np.arange(len(rows)) % 4
    )
    assert (len(found), found.pseudo_labels) == (9, True)
    several = read_model(text_model())
    with pytest.raises(InputError, match=r"an \.npz with arrays 'ids', 'mask' expected"):
        read_clean_set(tmp_path / "rows.npy", several, Arrays(several.input_names))
    with pytest.raises(InputError, match="takes no pictures"):
        read_clean_set(tmp_path, model, Arrays(("image",)))


class Reader:
    """Two feeds of a CalibrationDataReader, of different lengths where asked."""

    def __init__(self, lengths: tuple[int, ...] = (5, 5)) -> None:
        self._feeds = iter([{"ids": IDS[:, :n], "mask": MASK[:, :n]} for n in lengths])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def reader() -> Reader:
    return Reader()


def ragged_reader() -> Reader:
    return Reader((5, 4))


def test_a_calibration_reader_gives_every_input() -> None:
    model = read_model(text_model())
    found = read_clean_set(
        f"{__name__}:reader", model, Arrays(model.input_names), labeller=lambda rows, task: np.arange(len(rows)) % 3
    )
    assert found.pixels.shape == (16, 2, 5)
    with pytest.raises(InputError, match="rows of one shape expected"):
        read_clean_set(f"{__name__}:ragged_reader", model, Arrays(model.input_names))


def test_a_range_makes_rows_travel_between_0_and_1(tmp_path: Path) -> None:
    model = table_model()
    encoding = resolve_arrays(model, {"range": "-2:6"})
    rows = np.random.default_rng(0).uniform(-2, 6, (9, 4)).astype(np.float32)
    found = read_clean_set(saved(tmp_path, image=rows, labels=np.arange(9) % 4), model, encoding)
    assert found.pixels.min() >= 0
    assert found.pixels.max() <= 1
    np.testing.assert_allclose(encoding.to_input(found.images()), rows, atol=1e-6)
    with pytest.raises(InputError, match="values within it expected"):
        read_clean_set(
            saved(tmp_path, image=rows, labels=np.arange(9) % 4), model, resolve_arrays(model, {"range": "0-1"})
        )


@pytest.mark.parametrize("text", ["1", "a:b", "1:0", "0:inf"])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--range"):
        Arrays(("x",), *read_range(text), ranged=True)


def test_flags_of_pictures_are_refused_for_arrays() -> None:
    model = table_model()
    with pytest.raises(InputError, match="--mean: for pictures"):
        resolve_preprocess(model, mean=(0.5,))
    with pytest.raises(InputError, match="--range: one input of floats"):
        resolve_preprocess(read_model(text_model()), range="0:5")


def test_the_task_follows_labels_and_head() -> None:
    model = read_model(text_model())
    assert choose_task("auto", model, LABELS, "x") is SINGLE_LABEL
    assert choose_task("multi-label", model, np.eye(3, dtype=np.int64), "x") is MULTI_LABEL
    with pytest.raises(InputError, match="one class a row expected of scores that are logits"):
        choose_task("auto", model, np.eye(3, dtype=np.int64), "x")
