# SPDX-License-Identifier: Apache-2.0
"""Fleets: many models, one command, one machine or a cluster; `patcher.fleet(...)` is `patcher.fleet.fleet.fleet`.

description   ``fleet.toml``
content       what files hold, by hash, and how it travels
plan          a model's tasks, and what each depends on
state, run    which task is next
task          a task, and how it ends
engine        the protocol; `local` and `ray` are its two
process       one watched process; `worker` and `execute` are what runs in it
codec         figures as files
cache         what was done before
results       the folder of a model
fleet         all of it in order
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Command(ModuleType):
    """`patcher.fleet` is this package and, as `patcher.harden` is, the command of its name."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return importlib.import_module("patcher.fleet.fleet").fleet(*arguments, **options)


sys.modules[__name__].__class__ = _Command
