"""dev: run the app in a process of its own, and begin anew when its source changes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

from evenflow.cli.dev_files import Watch
from evenflow.cli.dev_screen import Lines, Live, Screen
from evenflow.cli.failures import Code, relative
from evenflow.cli.load import app_name
from evenflow.settings import Settings
from evenflow.settings_sources import MEMORY_ENGINE

LOOK = 0.2
SETTLE = 0.1
LATE = 1.5
"""Seconds beyond the drain time at which a process that does not end is killed."""


def dev(options: Namespace) -> int:
    """Until Ctrl-C, which ends with 0: that is how one leaves it."""
    app_name(options.app)
    live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not options.plain
    screen: Screen = Live() if live else Lines()
    if Settings.load().engine == MEMORY_ENGINE:
        screen.line("the engine is in memory: what was published is gone at each restart")
    return asyncio.run(_Dev(options, screen).run())


class _Dev:
    def __init__(self, options: Namespace, screen: Screen) -> None:
        self.options = options
        self.screen = screen
        self.watch = Watch(str(Path.cwd()))
        self.asked = 0
        self.ran = False
        self.stop = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, self._asked)
        child, starts = _Child(self), 0
        try:
            while not self.stop.is_set():
                await child.start(quiet=starts > 0)
                starts += 1
                changed = await self._until_changed(child)
                if not changed and not self.stop.is_set():
                    return child.code or Code.USAGE
                if changed:
                    self._mark(f"{', '.join(map(relative, changed[:3]))} changed: starting again")
                await child.end()
        finally:
            await child.end()
            self._tell("ended")
            self.screen.close()
        return Code.DONE

    def _asked(self) -> None:
        self.asked += 1
        self.stop.set()

    def _tell(self, what: str) -> None:
        self.screen.state(f"{time.strftime('%H:%M:%S')} {what}")

    def _mark(self, what: str) -> None:
        """A line that stays: what stands above it is of the code before."""
        if isinstance(self.screen, Live):
            self.screen.line(f"{time.strftime('%H:%M:%S')} {what}")
        self._tell(what)

    async def _until_changed(self, child: _Child) -> list[str]:
        """The files that changed; none when one is to stop, or where the app that was named is not there at all."""
        told = False
        while not self.stop.is_set():
            changed = self.watch.changed()
            if changed:
                while more := await self._more():  # an editor or a checkout is still writing
                    changed += more
                return sorted(set(changed))
            if child.code is not None and not told:
                await child.drained()
                told = True
                if child.code == Code.NOT_FOUND and not self.ran:
                    return []
                self.screen.groups([])
                self._tell(f"{_ended(child.code)}: waiting for a change (Ctrl-C ends it)")
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), max(LOOK, 20 * self.watch.cost))
        return []

    async def _more(self) -> list[str]:
        await asyncio.sleep(SETTLE)
        return self.watch.changed()

    def heard(self, found: dict[str, object], child: _Child) -> None:
        """A message of the process below."""
        files, groups = found.get("files"), found.get("groups")
        if isinstance(files, list):
            self.watch.also(files)
        if isinstance(groups, list):
            if not child.told:
                child.told = self.ran = True
                self._tell(f"running as pid {child.pid}, watching its files (Ctrl-C ends it)")
            self.screen.groups(groups)


class _Child:
    """The process that handles events: in a group of its own, so that Ctrl-C reaches only us."""

    def __init__(self, dev: _Dev) -> None:
        self._dev = dev
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._alive: int | None = None
        self._group: int | None = None
        self.told = False

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def code(self) -> int | None:
        """How it ended, or None while it runs."""
        return self._process.returncode if self._process else None

    async def start(self, *, quiet: bool) -> None:
        """Begin a process, and read what it says."""
        options, screen = self._dev.options, self._dev.screen
        self.told = False
        alive, self._alive = os.pipe()
        heard, status = os.pipe()
        given = {
            "app": options.app, "service": options.service, "drain": options.drain, "colours": screen.colours,
            "quiet": quiet, "alive": alive, "status": status,
        }  # fmt: skip
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "evenflow.cli.dev_child", json.dumps(given), pass_fds=(alive, status),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}, limit=1 << 20,
        )  # fmt: skip
        self._group = self._process.pid
        os.close(alive)
        os.close(status)
        stdout, stderr = self._process.stdout, self._process.stderr
        assert stdout is not None
        assert stderr is not None
        self._readers = [
            asyncio.create_task(self._lines(stdout, out=True)),
            asyncio.create_task(self._lines(stderr, out=False)),
            asyncio.create_task(self._status(heard)),
        ]

    async def _lines(self, stream: asyncio.StreamReader, *, out: bool) -> None:
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # longer than a line may be: it was dropped
                continue
            if not line:
                return
            self._dev.screen.line(line.decode(errors="replace").rstrip("\n"), out=out)

    async def _status(self, pipe: int) -> None:
        reader = asyncio.StreamReader(limit=1 << 22)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb")
        )
        try:
            while line := await reader.readline():
                with suppress(ValueError):
                    self._dev.heard(json.loads(line), self)
        finally:
            transport.close()

    async def drained(self) -> None:
        """It has ended: end what it has left behind, and read everything that was said."""
        pid, self._group = self._group, None  # at once and once: the number is anybody's later
        if pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        await asyncio.gather(*self._readers)

    async def end(self) -> None:
        """Ask, wait as long as a stop may take, kill: the whole group, so that nothing of it is left."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
            await self._ended(process, self._dev.options.drain + LATE)
        if process.returncode is None:
            process.kill()
        await process.wait()
        await self.drained()
        if self._alive is not None:
            os.close(self._alive)
            self._alive = None

    async def _ended(self, process: asyncio.subprocess.Process, seconds: float) -> None:
        deadline, asked = time.monotonic() + seconds, self._dev.asked
        while process.returncode is None and time.monotonic() < deadline and self._dev.asked <= max(asked, 1):
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 0.05)


def _ended(code: int) -> str:
    if code < 0:
        return f"the app was ended by {signal.Signals(-code).name}"
    refused = code in (Code.USAGE, Code.REFUSED, Code.NOT_FOUND)
    return "the app could not start" if refused else f"the app ended with code {code}"
