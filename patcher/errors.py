# SPDX-License-Identifier: Apache-2.0
"""Everything that can go wrong, and the exit code each maps to.

Library code raises; only the command line turns an error into a line on stderr and an exit code.
Every message is one line that says what was wrong, what was expected, what was found and which
flag changes it.
"""

from __future__ import annotations


class PatcherError(Exception):
    """Base of all errors raised on purpose. Exit code 2: could not decide."""

    exit_code = 2


class InputError(PatcherError):
    """A file, folder, flag or value given by the user cannot be used."""


class UnsupportedGraphError(PatcherError):
    """The ONNX graph holds something that cannot be run or edited faithfully."""


class CalibrationError(PatcherError):
    """Calibration could not produce a patch."""


class ParityError(PatcherError):
    """ONNX Runtime does not compute what was calibrated; nothing was written."""


class NotApplicableError(PatcherError):
    """The model has no site on which the method can act. Exit code 3."""

    exit_code = 3
