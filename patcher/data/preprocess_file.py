# SPDX-License-Identifier: Apache-2.0
"""Preprocessing as other projects write it down: `--preprocess FILE`, or a name.

| source | told by | what is read |
|---|---|---|
| timm ``pretrained_cfg`` | (default) | input_size, mean, std, interpolation, crop_pct, crop_mode |
| Hugging Face ``preprocessor_config.json`` | ``image_mean``, ``do_resize`` and the like | all below |
| torchvision ``weights.transforms()`` | ``resize_size`` | crop_size, resize_size, mean, std, interpolation |
| Keras ``preprocess_input`` | ``{"mode": ...}``, or the name ``keras:tf``, ``keras:caffe``, ``keras:torch`` | mode |

A key that is not known is an error: what it says of the pictures would be lost silently. Everything is brought
to ``(p - mean) / std`` with pixels p in [0, 1]. For ``x = 255 p`` a file that says ``(factor x - offset - m) / s``
means ``mean = (offset + m) / k`` and ``std = s / k`` with ``k = 255 factor``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from patcher.errors import InputError


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_KERAS: dict[str, dict[str, Any]] = {
    "tf": {"mean": (0.5,), "std": (0.5,)},
    "torch": dict(_IMAGENET),
    # The mean of ImageNet in BGR and in units of 255, subtracted and not divided.
    "caffe": {"mean": (103.939 / 255, 116.779 / 255, 123.68 / 255), "color": "BGR", "range": "0-255"},
}
_TIMM = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
_TIMM_UNUSED = _words(
    "url file hf_hub_id hf_hub_filename source state_dict architecture tag custom_load num_classes label_offset "
    "label_names label_descriptions pool_size first_conv classifier num_features fixed_input_size test_input_size "
    "test_crop_pct min_input_size license origin_url paper_name paper_ids notes description global_pool"
)
_HUGGING_FACE = _words(
    "do_resize size do_center_crop crop_size do_rescale rescale_factor rescale_offset do_normalize image_mean "
    "image_std resample crop_pct do_flip_channel_order"
)
_HUGGING_FACE_UNUSED = _words(
    "image_processor_type feature_extractor_type processor_class do_convert_rgb data_format input_data_format "
    "return_tensors include_top use_square_size default_to_square disable_grouping device"
)
_TORCHVISION = ("crop_size", "resize_size", "mean", "std", "interpolation")
_TORCHVISION_UNUSED = ("antialias",)
_CONVNEXT_SQUASHES_FROM = 384  # pixels
_PILLOW_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def read_preprocess(source: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what a file, or the name of a convention, says.

    Args:
        source: Path of a JSON file, or ``keras:tf``, ``keras:caffe``, ``keras:torch``.

    Returns:
        Fields of `patcher.data.preprocess.Preprocess`.

    Raises:
        InputError: The file cannot be read, or holds a key or value that is not understood.
    """
    if str(source).startswith("keras:"):
        return _keras({"mode": str(source).removeprefix("keras:")})
    path = Path(source)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--preprocess {path}: cannot be read as JSON ({_first_line(error)})") from error
    document = document.get("pretrained_cfg", document) if isinstance(document, Mapping) else None
    if not isinstance(document, Mapping):
        raise InputError(f"--preprocess {path}: a JSON object expected: timm, Hugging Face, torchvision or Keras keys")
    try:
        return _read(document)
    except InputError as error:
        raise InputError(f"--preprocess {path}: {error}") from error
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise InputError(f"--preprocess {path}: {_first_line(error)}") from error


def _read(document: Mapping[str, Any]) -> dict[str, Any]:
    if "mode" in document:
        _known(document, ("mode",), ())
        return _keras(document)
    if "resize_size" in document:
        _known(document, _TORCHVISION, _TORCHVISION_UNUSED)
        return _torchvision(document)
    if any(key in document for key in _HUGGING_FACE if key != "crop_pct"):
        _known(document, _HUGGING_FACE, _HUGGING_FACE_UNUSED)
        return _hugging_face(document)
    _known(document, _TIMM, _TIMM_UNUSED)
    return _timm(document)


def _known(document: Mapping[str, Any], read: tuple[str, ...], unused: tuple[str, ...]) -> None:
    unknown = [key for key in document if key not in read and key not in unused and not key.startswith("_")]
    if unknown:
        raise InputError(f"keys {', '.join(read)} expected, found {', '.join(sorted(unknown))}")


def _keras(document: Mapping[str, Any]) -> dict[str, Any]:
    mode = document["mode"]
    if mode not in _KERAS:
        raise InputError(f"Keras mode {', '.join(_KERAS)} expected, found {mode!r}")
    return dict(_KERAS[mode])


def _timm(document: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if "input_size" in document:
        values["size"] = tuple(int(length) for length in document["input_size"][-2:])
    values |= {key: _numbers(document[key]) for key in ("mean", "std") if key in document}
    for key, kind in (("interpolation", str), ("crop_pct", float)):
        if document.get(key) is not None:
            values[key] = kind(document[key])
    mode = document.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise InputError(f"crop_mode center or squash expected, found {mode!r}")
    return values | ({"crop": "squash"} if mode == "squash" else {})


def _torchvision(document: Mapping[str, Any]) -> dict[str, Any]:
    size, shorter = _pair(document.get("crop_size", document["resize_size"])), _pair(document["resize_size"])
    values: dict[str, Any] = {"size": size, "crop_pct": min(1.0, min(size) / min(shorter))}
    values |= {key: _numbers(document[key]) for key in ("mean", "std") if key in document}
    if document.get("interpolation") is not None:
        values["interpolation"] = str(document["interpolation"]).rpartition(".")[2].lower()
    return values


def _hugging_face(document: Mapping[str, Any]) -> dict[str, Any]:
    values = _hugging_face_size(document)
    scale = 255 * float(document.get("rescale_factor", 1 / 255)) if document.get("do_rescale", True) else 255.0
    offset = 1.0 if document.get("rescale_offset") and document.get("do_rescale", True) else 0.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    if document.get("do_normalize", "image_mean" in document):
        mean, std = _numbers(document["image_mean"]), _numbers(document["image_std"])
    values["mean"] = tuple((offset + value) / scale for value in mean)
    values["std"] = tuple(value / scale for value in std)
    if document.get("resample") is not None:
        values["interpolation"] = _PILLOW_FILTERS[int(document["resample"])]
    if document.get("do_flip_channel_order"):
        values["color"] = "BGR"
    return values


def _hugging_face_size(document: Mapping[str, Any]) -> dict[str, Any]:
    size = document.get("size")
    if not document.get("do_resize", size is not None) or size is None:
        return {"size": _pair(document["crop_size"])} if document.get("do_center_crop") else {}
    edge = size.get("shortest_edge") if isinstance(size, Mapping) else None
    if document.get("do_center_crop"):
        crop = _pair(document.get("crop_size", size))
        shorter = int(edge) if edge is not None else min(_pair(size))
        return {"size": crop, "crop_pct": min(1.0, min(crop) / shorter)}
    if edge is not None and ("crop_pct" not in document or int(edge) < _CONVNEXT_SQUASHES_FROM):
        # ConvNeXt: the shorter side becomes edge / crop_pct, then the centre is cut out.
        return {"size": _pair(edge), "crop_pct": float(document.get("crop_pct") or 1.0)}
    return {"size": _pair(size if edge is None else edge), "crop": "squash"}


def _pair(value: Any) -> tuple[int, int]:
    """``224``, ``[224]``, ``[224, 224]`` or ``{"height": 224, "width": 224}`` as (height, width)."""
    if isinstance(value, Mapping):
        return int(value["height"]), int(value["width"])
    lengths = [int(length) for length in value] if isinstance(value, list | tuple) else [int(value)]
    return lengths[0], lengths[-1]


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in (values if isinstance(values, list | tuple) else [values]))


def _first_line(error: BaseException) -> str:
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{text} is missing" if isinstance(error, KeyError) else text
