# SPDX-License-Identifier: Apache-2.0
"""How glibc keeps memory, in processes that do nothing but our work.

It gives blocks beyond 32 MiB back to the system as soon as they are freed, and activations of large pictures are such
blocks: every layer of every step gets them anew, page by page. Kept, they are ready at once (figures in
docs/performance.md). A program that imports this package keeps its own settings: only commands and workers call this.
"""

from __future__ import annotations

import ctypes
import os

# malloc.h
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for what comes next; nothing happens with another allocator or the user's settings.

    ``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_MAX_``, ``MALLOC_MMAP_THRESHOLD_`` and ``GLIBC_TUNABLES`` of the
    environment are such settings.
    """
    if any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        change = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # musl, macOS, Windows
    change(_MMAP_MAX, 0)
    change(_TRIM_THRESHOLD, _NEVER)
