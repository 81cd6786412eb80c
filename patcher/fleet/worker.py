# SPDX-License-Identifier: Apache-2.0
"""The process of a worker: takes tasks from a pipe until it is closed, does them, sends back how they ended.

    python -m patcher.fleet.worker FD THREADS

Started by `patcher.fleet.process` only. What comes through the pipe is from the process that started this one.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from multiprocessing.connection import Connection

_LOOK_EVERY = 1.0


def main() -> None:
    """Serve until the other end of the pipe is closed."""
    descriptor, threads = (int(text) for text in sys.argv[1:3])
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    from patcher.allocator import keep_freed_memory
    from patcher.fleet.execute import attempt
    from patcher.runtime import limit_threads

    keep_freed_memory()
    limit_threads(threads)
    with Connection(descriptor) as connection:
        connection.send("ready")
        while True:
            try:
                task, inputs = connection.recv()
            except EOFError:
                return
            outcome = attempt(task, inputs)
            sys.stdout.flush()
            sys.stderr.flush()
            connection.send(outcome)


def _end_with(parent: int) -> None:
    """End in the middle of a task when the process that wants its result is gone."""
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY)
    os._exit(1)


if __name__ == "__main__":
    main()
