# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import onnx
import pytest

from patcher.errors import InputError, ParityError
from patcher.export import apply_patch, check_parity, neutral_patch
from patcher.export.parity.parity import run_model
from patcher.graph.sites import find_sites
from patcher.model.model import read_model
from patcher.patch import Patch, UpperBound
from tests.tiny_models import images, node, residual_model, zoo, zoo_files


def _hardened(model, bound=0.3):
    sites = [site for site in find_sites(model) if site.kind == "activation"]
    shape = {site.tensor: [1, site.channels] + [1] * (len(site.shape) - 2) for site in sites}
    corrections = tuple(UpperBound(key, np.full(value, bound, np.float32)) for key, value in shape.items())
    patch = Patch("unit", model.sha256, corrections)
    return apply_patch(model, patch), apply_patch(model, neutral_patch(model, patch))


def _check(model, hardened, neutral, **options):
    return check_parity(model, hardened, neutral, [images(5), images(2, seed=1)], threads=1, **options)


@pytest.fixture(scope="module")
def case():
    model = read_model(residual_model())
    hardened, neutral = _hardened(model)
    reference = run_model(hardened, model, [images(5), images(2, seed=1)], optimization="disabled", threads=1)
    return model, hardened, neutral, reference


def test_both_comparisons_at_both_levels(case):
    model, hardened, neutral, reference = case
    report = _check(model, hardened, neutral, expected=reference)
    assert [(check.comparison, check.level) for check in report.checks] == [
        ("neutral", "disabled"),
        ("patched", "disabled"),
        ("neutral", "all"),
        ("patched", "all"),
    ]
    assert report.images == 7
    assert report.largest < 1e-5


def test_without_expected_outputs_only_the_surgery_is_checked(case):
    model, hardened, neutral, _ = case
    assert {check.comparison for check in _check(model, hardened, neutral).checks} == {"neutral"}


def test_a_wrong_bound_is_found(case):
    model, _, neutral, reference = case
    other, _ = _hardened(model, bound=0.31)
    with pytest.raises(ParityError, match=r"output 'logits' differs from the calibrated torch graph by .* scale of"):
        _check(model, other, neutral, expected=reference)


def test_unfaithful_surgery_is_found(case):
    model, hardened, _, _ = case
    with pytest.raises(ParityError, match="original with neutral corrections"):
        _check(model, hardened, hardened)


def test_nan_is_a_difference(case):
    model, hardened, neutral, reference = case
    with pytest.raises(ParityError, match="nan"):
        _check(model, hardened, neutral, expected={"logits": np.full_like(reference["logits"], np.nan)})


def test_a_missing_output_and_another_shape_are_found(case):
    model, hardened, neutral, reference = case
    with pytest.raises(ParityError, match="'other' is missing"):
        _check(model, hardened, neutral, expected={"other": reference["logits"]})
    with pytest.raises(ParityError, match="shape"):
        _check(model, hardened, neutral, expected={"logits": reference["logits"][:3]})


def _renamed(proto):
    proto.graph.output[0].name = "scores"
    proto.graph.node[-1].output[0] = "scores"


def _newer(proto):
    proto.opset_import[0].version = 18


def _reordered(proto):
    proto.graph.output.insert(0, onnx.ValueInfoProto.FromString(proto.graph.output[0].SerializeToString()))
    proto.graph.output[0].name = "r1"


@pytest.mark.parametrize("change", [_renamed, _newer, _reordered])
def test_a_changed_interface_is_found(case, change):
    model, hardened, neutral, _ = case
    changed = onnx.ModelProto.FromString(hardened.SerializeToString())
    change(changed)
    with pytest.raises(ParityError, match=r"differ|opset"):
        _check(model, changed, neutral)


def test_new_outputs_may_come_last(case):
    model, hardened, neutral, reference = case
    longer = onnx.ModelProto.FromString(hardened.SerializeToString())
    longer.graph.output.append(onnx.helper.make_tensor_value_info("r1", 1, ["N", 6, 8, 8]))
    assert _check(model, longer, neutral, expected=reference).largest < 1e-5


def test_a_model_that_does_not_run_is_a_mismatch(case):
    model, hardened, neutral, _ = case
    broken = onnx.ModelProto.FromString(hardened.SerializeToString())
    position = next(i for i, item in enumerate(broken.graph.node) if item.op_type == "Min")
    item = broken.graph.node[position]
    broken.graph.node[position].CopyFrom(node("Clip", [item.input[0], "", item.input[1]], list(item.output)))
    onnx.checker.check_model(broken, full_check=True)
    with pytest.raises(ParityError, match="does not run"):
        _check(model, broken, neutral)


def test_a_fixed_batch_is_kept():
    model = read_model(residual_model(image=(4, 3, 8, 8), outputs=(("logits", (4, 4)),)))
    hardened, neutral = _hardened(model)
    assert hardened.graph.input == model.proto.graph.input
    free = read_model(residual_model())
    expected = run_model(_hardened(free)[0], free, [images(5), images(2, seed=1)], threads=1)
    assert expected["logits"].shape == (7, 4)
    assert _check(model, hardened, neutral, expected=expected).largest < 1e-5


def test_half_precision_has_its_own_tolerance():
    model = read_model(residual_model(dtype=np.float16))
    hardened, neutral = _hardened(model)
    report = check_parity(model, hardened, neutral, [images(3, dtype=np.float16)])
    assert {check.tolerance for check in report.checks} == {1e-2}


def test_no_images_and_no_such_provider(case):
    model, hardened, neutral, _ = case
    with pytest.raises(InputError, match="at least one image"):
        check_parity(model, hardened, neutral, [])
    with pytest.raises(InputError, match="execution provider not available: MIGraphXExecutionProvider"):
        check_parity(model, hardened, neutral, [images()], providers=["MIGraphXExecutionProvider"])


def test_what_the_optimiser_alone_changes_is_named():
    """onnxruntime 1.31.1 fuses a zero Pad into MaxPool, which pads with minus infinity."""
    proto = residual_model()
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads"))
    proto.graph.node.insert(1, node("Pad", ["c1", "pads"], ["padded"]))
    proto.graph.node.insert(2, node("MaxPool", ["padded"], ["pooled_c1"], kernel_shape=[3, 3]))
    proto.graph.node[3].input[0] = "pooled_c1"
    # Without the Relu behind it, negative maxima at the border show the difference.
    proto.graph.node[3].op_type = "LeakyRelu"
    model = read_model(proto)
    hardened, neutral = _hardened(model)
    feed = [images(5)]
    plain, optimized = (
        run_model(model.proto, model, feed, optimization=level)["logits"] for level in ("disabled", "all")
    )
    if np.allclose(plain, optimized, atol=1e-4):
        pytest.skip("this onnxruntime does not fuse the Pad wrongly")
    expected = run_model(hardened, model, feed, optimization="disabled")
    with pytest.raises(ParityError, match="zero Pad before MaxPool"):
        check_parity(model, hardened, neutral, feed, expected=expected)


@zoo
@pytest.mark.parametrize("path", [path for path in zoo_files() if path.name.startswith("badnets_r18")], ids=str)
def test_zoo(path):
    model = read_model(path)
    hardened, neutral = _hardened(model)
    report = check_parity(model, hardened, neutral, [images(8, (3, 32, 32))], threads=1)
    assert len(report.checks) == 2
    assert len(hardened.graph.node) == len(model.proto.graph.node) + 17
