"""Processes for handlers with `cpu=True`. They end with the process that they work for, however that ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor


def cpu_pool() -> ProcessPoolExecutor:
    """As many processes as there are cores, started as they are needed.

    Spawned: a forked process would share our open SQLite files.
    """
    return ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"), initializer=_begin)


def _begin() -> None:
    """Leave Ctrl-C to the parent, which hands out no more work and then ends us; and outlive no parent.

    Without the second, the processes of a parent that was killed would wait for work for ever: each holds the end of
    the queue that another one waits at.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
