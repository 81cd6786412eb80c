# SPDX-License-Identifier: Apache-2.0
"""What every registered family promises, whichever it is."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from patcher.errors import InputError
from patcher.triggers.family import families, family_of
from patcher.triggers.trigger import Trigger

SHAPES = [(3, 16, 12), (1, 9, 9)]
every_family = pytest.mark.parametrize("name", families("picture"))
every_shape = pytest.mark.parametrize("shape", SHAPES)


def values_of(name, shape, count=2, gain=1.5):
    """Values of `count` different triggers, strong enough to be seen, and pictures."""
    rng = np.random.default_rng(0)
    family = family_of(name)
    values = family.values(family.start(count, shape, rng))
    images = rng.random((4, *shape), np.float32)
    return family, family.amplify(values, gain), images


@every_family
@every_shape
def test_arrays_have_the_shapes_of_the_layout(name, shape):
    family, values, _ = values_of(name, shape)
    assert {key: array.shape for key, array in values.items()} == {
        key: (2, *size) for key, size in family.layout(shape).items()
    }
    assert all(array.dtype == np.float32 for array in values.values())


@every_family
@every_shape
def test_one_formula_in_numpy_and_torch_one_trigger_a_picture_or_one_for_all(name, shape):
    family, values, images = values_of(name, shape)
    places = [0, 1, 0, 1]
    one = family.apply(images, {key: array[places] for key, array in values.items()})
    assert (one.shape, one.dtype) == (images.shape, np.float32)
    assert one.min() >= 0
    assert one.max() <= 1
    tensors = {key: torch.from_numpy(array) for key, array in values.items()}
    pixels = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
    other = family.apply(pixels, {key: array[places] for key, array in tensors.items()})
    np.testing.assert_allclose(other.numpy(), one, atol=1e-5)
    np.testing.assert_allclose(family.size(tensors, pixels).numpy(), family.size(values, images), rtol=1e-4)
    alone = family.apply(images, {key: array[:1] for key, array in values.items()})
    np.testing.assert_allclose(alone[[0, 2]], one[[0, 2]], atol=1e-6)


@every_family
def test_stronger_is_larger_and_changes_more(name):
    family, values, images = values_of(name, (3, 16, 12))
    stronger = family.amplify(values, 1.5)
    assert (family.size(stronger, images) > family.size(values, images)).all()
    before, after = (
        np.abs(family.apply(images, {key: array[:1] for key, array in item.items()}) - images).mean()
        for item in (values, stronger)
    )
    assert after > before > 0


@every_family
def test_a_gradient_reaches_every_parameter_unless_candidates_are_tried(name):
    family, shape = family_of(name), (3, 16, 12)
    if candidates := family.candidates(shape):
        sizes = [float(family.size(item, np.zeros((1, *shape), np.float32))[0]) for item in candidates]
        assert sizes == sorted(sizes)
        return
    rng = np.random.default_rng(1)
    raw = {key: torch.from_numpy(array).requires_grad_() for key, array in family.start(2, shape, rng).items()}
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    values = family.values(raw)
    (family.apply(images, values).square().sum() + family.size(values, images).sum()).backward()
    assert all(array.grad is not None and array.grad.abs().sum() > 0 for array in raw.values())


@every_family
@every_shape
def test_a_person_gets_pictures_and_words(name, shape):
    family, values, images = values_of(name, shape)
    one = {key: array[:1] for key, array in values.items()}
    for panel in family.panels(one, shape):
        assert panel.values.ndim == 3
        assert len(panel.values) == (2 if panel.kind == "arrows" else len(panel.values))
        assert np.isfinite(panel.values).all()
    assert any(letter.isdigit() for letter in family.describe(float(family.size(one, images)[0]), shape))


def test_a_warp_moves_a_picture_by_its_displacement():
    images = np.random.default_rng(0).random((1, 3, 10, 10), np.float32)
    controls = np.zeros(family_of("warp").layout((3, 10, 10))["controls"], np.float32)
    controls[0], controls[1] = 1.0, -2.0
    moved = Trigger("warp", 0, (), {"controls": controls}, (3, 10, 10)).apply(images)
    np.testing.assert_allclose(moved[:, :, 1:8, 3:9], images[:, :, 2:9, 1:7], atol=1e-5)


def test_one_plane_wave_has_its_own_rms_as_size():
    waves = family_of("waves")
    for place in ((3, 0), (3, 5), (0, 6), (7, 7)):
        coefficients = np.zeros((1, 1, 8, 8), np.float32)
        coefficients[0, 0, place[0], place[1]] = 0.1
        picture = np.full((1, 1, 8, 8), 0.5, np.float32)
        change = waves.apply(picture, {"coefficients": coefficients}) - picture
        assert np.sqrt((change**2).mean()) == pytest.approx(0.1, rel=1e-3)
        assert waves.size({"coefficients": coefficients}, picture)[0] == pytest.approx(0.1, rel=1e-3)


def test_an_unknown_family_is_named_beside_the_known_ones():
    with pytest.raises(InputError, match=r"'wrap' is unknown; known are .*warp"):
        family_of("wrap")


def test_families_do_not_import_torch():
    code = (
        "import sys, numpy as np\n"
        "from patcher.triggers.family import families, family_of\n"
        "for name in families('picture'):\n"
        "    f = family_of(name); s = (3, 8, 8); x = np.zeros((1, *s), np.float32)\n"
        "    f.apply(x, f.values(f.start(1, s, np.random.default_rng(0))))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
