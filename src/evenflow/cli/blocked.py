"""Who blocks the event loop: told while it stands still, by a thread, since nothing else runs then."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evenflow.cli.failures import relative

log = logging.getLogger("evenflow")

_OURS = str(Path(__file__).parent.parent)
LOOK = 1.0
PATIENCE = 5.0
"""Seconds without a turn of the event loop after which it is said where it stands."""


@contextmanager
def told() -> Iterator[None]:
    """Tell from now on what blocks the event loop of this thread, once each time."""
    watch = _Watch(asyncio.get_running_loop())
    watch.turn()
    threading.Thread(target=watch.run, daemon=True, name="evenflow-blocked").start()
    try:
        yield
    finally:
        watch.over.set()


class _Watch:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.over = threading.Event()
        self._loop = loop
        self._thread = threading.get_ident()
        self._turns = 0

    def turn(self) -> None:
        """A turn of the event loop."""
        self._turns += 1
        if not self.over.is_set():
            self._loop.call_later(LOOK, self.turn)

    def run(self) -> None:
        """The thread. Looks are counted, not time: a machine that slept has not been blocked."""
        seen, looks = -1, 0
        while not self.over.wait(LOOK):
            looks = 0 if self._turns != seen else looks + 1
            seen = self._turns
            if looks == PATIENCE / LOOK:
                self._tell()

    def _tell(self) -> None:
        frame = sys._current_frames().get(self._thread)
        if frame is None:
            return
        stack = list(traceback.extract_stack(frame))
        ours = [place for place, each in enumerate(stack) if each.filename.startswith(_OURS)]
        stack = stack[max(ours, default=-1) + 1 :] or stack[-3:]
        first = stack[0]
        shown = "".join(traceback.format_list(stack)).rstrip()
        log.error(
            "the event loop has stood still for %g s: %s, %s:%s, blocks it, and with it all that runs here\n%s\n"
            "  → make it a plain def, which runs in a thread, or wait with await",
            PATIENCE, first.name, relative(first.filename), first.lineno, shown,
        )  # fmt: skip
