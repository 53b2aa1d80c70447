"""The workers of a supervisor, as it sees them: a process each, and the pipes to it."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import suppress

PASSED_ON = ("app", "service", "drain", "log", "debug", "until_idle")
"""What a worker is told of the options of `run`."""


class Place:
    """Where one worker works. While it is replaced there are two: `next` till it is ready, then `old` till it ends."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: Worker | None = None
        self.next: Worker | None = None
        self.old: Worker | None = None
        self.renewed = False
        self.starts_at: float | None = None
        self.in_a_row = 0

    def workers(self) -> list[Worker]:
        """Those that live."""
        return [each for each in (self.worker, self.next, self.old) if each is not None]

    def remove(self, worker: Worker) -> None:
        """This one is no more."""
        if worker is self.worker:
            self.worker = None
        elif worker is self.next:
            self.next = None
        else:
            self.old = None

    def replace(self) -> None:
        """The next one takes the place."""
        self.old, self.worker, self.next = self.worker, self.next, None
        self.renewed, self.starts_at, self.in_a_row = True, None, 0


class Worker:
    """One process, in a session of its own, so that Ctrl-C reaches only the supervisor."""

    def __init__(self, options: Namespace, number: int, selector: selectors.BaseSelector) -> None:
        self.number = number
        self.ready = self.beaten = self.heard = self.told = False
        self.silence = 0.0
        self.kill_at: float | None = None
        self.started = time.monotonic()
        self._selector = selector
        alive, self._alive = os.pipe()
        self._status, status = os.pipe()
        given = {name: getattr(options, name) for name in PASSED_ON}
        given |= {"worker": number, "alive": alive, "status": status}
        try:
            self._process = subprocess.Popen(  # noqa: S603  # ourselves
                [sys.executable, "-P", "-m", "evenflow.cli.worker", json.dumps(given)],
                stdin=subprocess.DEVNULL, pass_fds=(alive, status), start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(alive)
            os.close(status)
        self.pid = self._process.pid
        os.set_blocking(self._status, False)
        selector.register(self._status, selectors.EVENT_READ, self)

    def read(self) -> None:
        """What it has said since."""
        try:
            found = os.read(self._status, 4096)
        except BlockingIOError:
            return
        if not found:
            self._unregister()
        self.heard = self.heard or bool(found)
        self.beaten = self.beaten or bool(found)
        self.ready = self.ready or b"r" in found

    def _unregister(self) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(self._status)

    def ended(self) -> int | None:
        """How it ended, or None while it lives."""
        return self._process.poll()

    def tell(self, seconds: float) -> None:
        """Ask it to stop, and kill it when it takes longer than that."""
        if not self.told and self.ended() is None:
            self.told = True
            self.kill_at = time.monotonic() + seconds
            self.send(signal.SIGTERM)

    def send(self, number: int) -> None:
        """A signal; the last one goes to all that it has started, too."""
        with suppress(ProcessLookupError, PermissionError):
            if number == signal.SIGKILL:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)

    def close(self) -> None:
        """It has ended; what it has started ends, too."""
        self.send(signal.SIGKILL)
        self._unregister()
        os.close(self._status)
        os.close(self._alive)
