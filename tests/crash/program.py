"""The roles of the program: `python -m tests.crash.program worker|loader|operator …`, all with `CRASH_FOLDER` set.

A worker can be started by `evenflow run tests.crash.app:app` as well.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from evenflow import EvenflowError
from evenflow.clock import Signal

from .app import FOLDER, app


def show_tasks() -> None:
    """For whoever wants to know what a process waits for."""
    for task in asyncio.all_tasks():
        task.print_stack(limit=6)
    for loop in app.opened.loops():
        held = [(each.partition, each.fence, each.next, each.claims, each.lanes) for each in loop.owned.values()]
        logging.error("%s: owned %s, giving %s, due %s", loop.name, held, list(loop._giving), loop._due_at)
        for window in getattr(loop, "_windows", {}).values():
            logging.error("  open %s, head %s, lanes %s", window.open, list(window.entries)[:1], window.lanes)


async def stopping() -> Signal:
    """Set at SIGTERM. Before this, that would end the process at once: a file says that it will not any more."""
    stop = Signal()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, show_tasks)
    (FOLDER / f"listens-{os.getpid()}").touch()
    return stop


async def run(role: str, incarnation: int, seed: int) -> int:
    stop = await stopping()
    if role == "worker":
        return 0 if await app.run(stop=stop) else 1
    if role == "loader":
        from .loading import loader

        await loader(stop, incarnation, seed)
    else:
        from .operating import operator

        await operator(stop, incarnation, seed)
    return 0


def main() -> int:
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {os.getpid()} %(levelname)s %(message)s")
    try:
        return asyncio.run(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
    except EvenflowError as error:
        logging.error("%s", error)  # noqa: TRY400  # what it means is said
        return 5


if __name__ == "__main__":
    sys.exit(main())
