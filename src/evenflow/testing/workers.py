"""Processes that handle the stream: `evenflow run`, which may be killed, frozen and told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

APP = "evenflow.testing.stream:app"
STOPS = 30.0
"""Seconds that one which was told to stop may take."""


class Workers:
    """At most a few. Whoever is left is killed at the end of the block."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        kept = {name: text for name, text in os.environ.items() if not name.startswith("EVENFLOW_")}
        self.settings = settings
        self.folder = folder
        self._env = {**kept, **settings}
        self._running: list[subprocess.Popen[bytes]] = []
        self._logs: dict[int, Path] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        for each in self._running:
            each.kill()
            each.wait()

    def start(self) -> None:
        """One more."""
        command = [sys.executable, "-m", "evenflow", "run", APP, "--log", "json"]
        file = self.folder / f"worker-{len(self._logs)}.log"
        with file.open("wb") as log:
            made = subprocess.Popen(command, cwd=self.folder, env=self._env, stdout=log, stderr=subprocess.STDOUT)
        self._running.append(made)
        self._logs[made.pid] = file

    def kill(self) -> None:
        """The oldest one ends at once."""
        first = self._running.pop(0)
        first.kill()
        first.wait()

    async def freeze(self, seconds: float) -> None:
        """The oldest one stands still for so long."""
        first = self._running[0]
        first.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            first.send_signal(signal.SIGCONT)

    async def stop(self) -> None:
        """The oldest one finishes and hands over. Raises `AssertionError` when it does not."""
        first = self._running.pop(0)
        first.terminate()
        try:
            await asyncio.to_thread(first.wait, STOPS)
        except subprocess.TimeoutExpired:
            first.kill()
            first.wait()
            raise AssertionError(f"a worker that was told to stop did not within {STOPS:.0f} s") from None

    def ready(self) -> bool:
        """Whether all have started: while that lasts, a server that is away is refused, and not waited for."""
        return all('"message":"ready"' in self._logs[each.pid].read_text("utf-8", "replace") for each in self._running)

    def ended(self) -> str:
        """How those have ended that did so by themselves, with the end of what they said; they are replaced."""
        gone = [each for each in self._running if each.poll() is not None]
        self._running = [each for each in self._running if each not in gone]
        said = []
        for each in gone:
            lines = self._logs[each.pid].read_text("utf-8", "replace").splitlines()
            said.append(f"with {each.returncode}: {' / '.join(lines[-4:])}")
            self.start()
        return "; ".join(said)
