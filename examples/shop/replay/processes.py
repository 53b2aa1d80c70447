"""The processes of a replay: started, watched, stopped in order; and those that a killed replay has left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

HOME = Path(__file__).parent.parent
LEASH = Path(__file__).parent / "leash.py"
RECORD = "processes.json"
LISTENS = "listening on "
LAST_WORDS = 12
READY = 60.0
"""Seconds that a server may take until it listens."""
PATIENCE = 40.0
"""Seconds that a process may take to end when it is asked to: more than Evenflow's drain time."""
LEFTOVER = 5.0
"""Seconds that one whose replay was killed may take to end by itself."""


class Ended(Exception):
    """A process ended that should not have."""


class Child:
    """One process. What it prints goes into `log`."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        leash = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid())]
        with self.log.open("ab") as out:
            self._from = out.tell()
            self._process = subprocess.Popen(
                [*leash, *command],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=HOME, env=env, process_group=0,
            )  # fmt: skip
        self.pid = self._process.pid

    @property
    def code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def said(self) -> str:
        """What it has printed in this run."""
        with self.log.open("rb") as file:
            file.seek(self._from)
            return file.read().decode("utf-8", "replace")

    def refuse_ended(self) -> None:
        """Raise `Ended` when it is no more, with its last words."""
        if self.code is not None:
            if self.code < 0:
                raise Ended(f"the process {self.name!r} was killed by {signal.Signals(-self.code).name}")
            words = "".join(f"\n  {line}" for line in self.said().splitlines()[-LAST_WORDS:])
            raise Ended(f"the process {self.name!r} ended with {self.code}; it said in {self.log}:{words}")

    def send(self, number: signal.Signals) -> None:
        if self.code is None:
            self._process.send_signal(number)

    def wait(self, seconds: float) -> bool:
        """Whether it ended within this time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


class Processes:
    """Starts processes and ends them again. Use it as a context, which stops them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._record = folder / RECORD
        self._servers: list[Child] = []
        self._workers: list[Child] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def server(self, name: str, module: str, *arguments: str) -> str:
        """Start a server of the outside world, on any port; returns "host:port" as soon as it listens."""
        child = self._start(name, ["-m", module, "--port", "0", *arguments], {})
        self._servers.append(child)
        deadline = time.monotonic() + READY
        while time.monotonic() < deadline:
            for line in child.said().splitlines(keepends=True):
                if line.startswith(LISTENS) and line.endswith("\n"):
                    return line.removeprefix(LISTENS).strip()
            child.refuse_ended()
            await asyncio.sleep(0.02)
        raise Ended(f"{name} did not listen within {READY:g} s; see {child.log}")

    def worker(self, name: str, arguments: Sequence[str], env: Mapping[str, str]) -> None:
        """Start a process that handles events."""
        self._workers.append(self._start(name, arguments, env))

    def _start(self, name: str, arguments: Sequence[str], env: Mapping[str, str]) -> Child:
        child = Child(name, [sys.executable, *arguments], {**os.environ, **env}, self._folder)
        alive = [*self._servers, *self._workers, child]
        written = self._record.with_suffix(".part")
        written.write_text(json.dumps([[each.pid, born(each.pid)] for each in alive]), "utf-8")
        written.replace(self._record)
        return child

    def refuse_ended(self) -> None:
        """Raise `Ended` for the first process that is no more."""
        for child in (*self._servers, *self._workers):
            child.refuse_ended()

    def stop(self) -> None:
        """End all, the workers first: they finish at the servers what they have begun there."""
        for stage in (self._workers, self._servers):
            for child in stage:
                child.send(signal.SIGTERM)
            deadline = time.monotonic() + PATIENCE
            for child in stage:
                if not child.wait(max(0.0, deadline - time.monotonic())):
                    child.send(signal.SIGKILL)
                    child.wait(PATIENCE)
            stage.clear()
        self._record.unlink(missing_ok=True)


def end_leftovers(folder: Path, patience: float = LEFTOVER) -> int:
    """End what a killed replay has left running, and nothing else; how many processes that were."""
    try:
        listed = json.loads((folder / RECORD).read_text("utf-8"))
    except FileNotFoundError:
        return 0
    left = [pid for pid, since in listed if since and born(pid) == since]
    deadline = time.monotonic() + patience  # they end by themselves, where their system tells them
    for pid, since in listed:
        while since and born(pid) == since:
            if time.monotonic() >= deadline:
                _kill(pid)
            time.sleep(0.02)
    (folder / RECORD).unlink()
    return len(left)


def born(pid: int) -> str:
    """When this process was started, in words that no other of this machine shares; empty when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
        return "" if fields[0] == "Z" else f"{boot} {fields[19]}"
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return ""
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
