# SPDX-License-Identifier: Apache-2.0
"""Fit a patch without applying it: `patcher calibrate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from patcher.calibrate import Calibration
from patcher.calibrate.stack import stacks_of
from patcher.commands.auto import Request, fit
from patcher.data.preprocess import resolve_preprocess
from patcher.files import Source, check_output
from patcher.measure.change import Change
from patcher.model.model import read_model
from patcher.patch import Patch, write_patch
from patcher.progress import Progress
from patcher.steps.training_data import remove_checkpoint, with_checkpoint

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class CalibrateResult:
    """What `calibrate` fitted.

    Attributes:
        patch: The corrections.
        calibration: The method's own findings.
        output: Where the patch was written; ``None`` when none was asked for or accuracy fell too far.
    """

    patch: Patch
    calibration: Calibration
    output: Path | None = None

    @property
    def passed(self) -> bool:
        """Whether the accuracy condition was met."""
        return self.calibration.satisfied

    @property
    def verdict(self) -> Literal["pass", "fail"]:
        """``pass`` or ``fail``."""
        return "pass" if self.passed else "fail"

    @property
    def accuracy(self) -> Change[float]:
        """On the images that decided, 0 to 1, measured in PyTorch."""
        return Change(self.calibration.held_out_before, self.calibration.held_out_after)


def calibrate(
    model: Source | bytes | onnx.ModelProto,
    *,
    clean_dir: Source | None = None,
    method: str = "unit",
    output: Source | None = None,
    preprocess: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> CalibrateResult:
    """Fit a patch without applying it; arguments and errors as `harden`.

    Args:
        model: Path, bytes or ``ModelProto``.
        clean_dir: Clean images; may be left out where a training set is given.
        method: A method, several joined by ``+``, or ``auto``.
        output: Where to write the patch, ``.safetensors``.
        preprocess: Keyword arguments of `resolve_preprocess`.
        progress: Told of each step.
        options: Fields of `Settings` and of the method's ``Options``.

    Returns:
        The patch and the method's findings; ``result.passed`` says whether accuracy held.
    """
    check_output(output, model)
    read = read_model(model, scores=options.get("scores"))
    resolved = resolve_preprocess(read, **(preprocess or {}))
    options = with_checkpoint(stacks_of(method), output, options)
    fitted = fit(Request(model, read, clean_dir, preprocess, resolved), method, None, progress, options)
    written = Path(output) if output is not None and fitted.calibration.satisfied else None
    if written is not None:
        write_patch(fitted.patch, written)
    remove_checkpoint(options)
    return CalibrateResult(fitted.patch, fitted.calibration, written)
