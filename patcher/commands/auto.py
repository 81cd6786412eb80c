# SPDX-License-Identifier: Apache-2.0
"""A patch by the methods that were named, or by those that a scan justifies (``--method auto``)."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patcher.calibrate.stack import AUTO
from patcher.commands.scan import scan
from patcher.data.arrays import Arrays
from patcher.data.preprocess import Preprocess
from patcher.errors import InputError
from patcher.files import Source
from patcher.model.model import Model
from patcher.progress import Progress
from patcher.report.folder import make_folder
from patcher.settings import Settings
from patcher.steps.auto import check_options, fit_auto
from patcher.steps.fit import Fitted, fit_patch

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Request:
    """A model, images, and how pictures become its input.

    Attributes:
        source: The model as it was given.
        model: The same, read.
        clean_dir: Clean images.
        given_preprocess: Keyword arguments of `resolve_preprocess`.
        preprocess: What they resolve to.
    """

    source: Source | bytes | onnx.ModelProto
    model: Model
    clean_dir: Source | None
    given_preprocess: Mapping[str, Any] | None
    preprocess: Preprocess | Arrays


def fit(
    request: Request,
    method: str,
    report_dir: Path | None,
    progress: Progress | None,
    options: Mapping[str, Any],
) -> Fitted:
    """Fit a patch.

    Args:
        request: What it is for.
        method: A method, several joined by ``+``, or ``auto``.
        report_dir: Where ``auto`` leaves its scan, in a folder ``scan``; ``None`` for nowhere.
        progress: Told of each step.
        options: Fields of `Settings` and of the methods' ``Options``.

    Raises:
        PatcherError: As `patcher.harden`.
    """
    if method != AUTO:
        return fit_patch(request.model, request.clean_dir, method, request.preprocess, progress, options)
    if request.clean_dir is None:
        raise InputError(f"method {AUTO} needs clean images; give them with --clean-dir")
    check_options(options)
    if options.get("scan") or options.get("triggers"):
        return fit_auto(request.model, request.clean_dir, request.preprocess, progress, options)
    with tempfile.TemporaryDirectory() as nowhere:
        folder = report_dir / "scan" if report_dir is not None else Path(nowhere)
        make_folder(folder.parent)
        shared = {part.name: options[part.name] for part in fields(Settings) if part.name in options}
        scan(
            request.source,
            clean_dir=request.clean_dir,
            report_dir=folder,
            preprocess=request.given_preprocess,
            progress=progress and (lambda what, done, total: progress(f"scan, {what}", done, total)),
            **shared,
        )
        found = {**options, "scan": str(folder / "scan.json")}
        return fit_auto(request.model, request.clean_dir, request.preprocess, progress, found)
