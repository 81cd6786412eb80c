# SPDX-License-Identifier: Apache-2.0
"""Values of flags that click has no type for."""

from __future__ import annotations

from typing import Any

import click

from patcher.calibrate import METHODS
from patcher.calibrate.stack import AUTO, stacks_of
from patcher.errors import InputError
from patcher.tasks.multi_label import REMOVE
from patcher.tasks.single_label import ALL_TO_ALL


class Numbers(click.ParamType[tuple[float, ...]]):
    """Comma-separated floats: ``0.485,0.456,0.406``."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Parse the text of the flag."""
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"numbers separated by commas expected, found {value!r}", param, ctx)


class Size(click.ParamType[tuple[int, int]]):
    """``32`` or ``HEIGHTxWIDTH``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Parse the text of the flag."""
        try:
            lengths = [int(part) for part in str(value).lower().split("x")]
            height, width = lengths if len(lengths) == 2 else lengths * 2
            return height, width
        except ValueError:
            self.fail(f"a size such as 32 or 32x48 expected, found {value!r}", param, ctx)


class MethodName(click.ParamType[str]):
    """A method, or several joined by ``+``."""

    name = "method"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the text of the flag."""
        try:
            stacks_of(str(value))
        except InputError as error:
            self.fail(str(error).removeprefix("--method: "), param, ctx)
        return str(value)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """What help shows: the methods."""
        return f"[{'|'.join((*METHODS, AUTO))}]"


class TargetClass(click.ParamType[int | str]):
    """A class index, ``all-to-all``, or ``remove-`` and a label."""

    name = "target"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Parse the text of the flag."""
        text = str(value)
        if text == ALL_TO_ALL or text.removeprefix(REMOVE) != text:
            return text
        try:
            return int(value)
        except ValueError:
            self.fail(f"a class index or all-to-all expected, found {value!r}", param, ctx)
