# SPDX-License-Identifier: Apache-2.0
"""Freed memory is kept in processes of our own; settings of the user stand."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# Page faults of ten blocks of 64 MiB, one after the other.
_BLOCKS = """
import resource
from patcher.allocator import keep_freed_memory
keep_freed_memory()
def fill():
    return bytearray(b"1") * 2**26
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(**settings: str) -> int:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    run = subprocess.run([sys.executable, "-c", _BLOCKS], env=plain | settings, capture_output=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_blocks_come_back_without_page_faults() -> None:
    assert _faults() < 1000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_settings_of_the_user_stand() -> None:
    assert _faults(MALLOC_TRIM_THRESHOLD_="131072") > 100_000
