"""The processes of a run, each in its own place: workers (started in one of several ways), loader, operator, outside."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEASE = 2.0
PROGRAM = [sys.executable, "-m", "tests.crash.program"]
EVENFLOW = [sys.executable, "-m", "evenflow", "run", "tests.crash.app:app"]


Known = tuple[int, int]
"""The pid of a process, and when it was started."""


class Child:
    """A process that was started here. It may be the supervisor of others, which it starts itself."""

    def __init__(self, name: str, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.supervises = "--workers" in command
        self.says = PROGRAM[2] in command  # when it listens to SIGTERM
        with (folder / f"{name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT, env=environment,
                preexec_fn=_as_child,
            )  # fmt: skip
        self.listens = folder / f"listens-{self.process.pid}"
        self._opened = folder / f"opened-{self.process.pid}"
        self.frozen: set[int] = set()
        self.started = time.monotonic()
        self.leaving = 0.0
        self.known: set[Known] = set()

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def pid(self) -> int:
        return self.process.pid

    def workers(self) -> list[int]:
        """The processes in which handlers run: its own, or those that it has started."""
        if not self.supervises:
            return [self.pid] if self.running else []
        found = children_of(self.pid)
        self.known.update((each, born(each)) for each in found)
        return found

    def kill(self, pid: int) -> None:
        """At once, as the system kills. Of a supervisor only itself: those that it has started are orphans then."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if pid == self.pid:
            self.process.wait()

    def kill_all(self) -> None:
        """With all that it has started."""
        self.workers()
        if self.running:
            self.kill(self.pid)
        kill_known(self.known)

    def send(self, number: signal.Signals, pid: int | None = None) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid or self.pid, number)

    def end(self, seconds: float) -> int | None:
        """Its exit code after SIGTERM; None when it had to be killed."""
        deadline = time.monotonic() + seconds
        while self.running and not self.ready and time.monotonic() < deadline:
            time.sleep(0.02)  # it has only just been started
        self.send(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.show()
            self.kill_all()
            return None

    @property
    def ready(self) -> bool:
        """Whether it surely listens to SIGTERM by now."""
        return self.listens.exists() if self.says else time.monotonic() > self.started + 5.0

    @property
    def opened(self) -> bool:
        """Whether it has found its engine and its stores, and begun."""
        return self._opened.exists()

    def show(self) -> None:
        """Let it write what it waits for into its log."""
        if self.says and self.listens.exists():
            self.send(signal.SIGUSR1)
            time.sleep(0.5)


def _as_child() -> None:
    """Less urgent than we are, through whose proxies everything goes: else a busy machine makes them a slow network.

    Where the system can (Linux), a run that is killed leaves nothing behind.
    """
    os.nice(5)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def children_of(pid: int) -> list[int]:
    """Processes that this one has started and that have not ended."""
    with suppress(OSError):
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(each) for each in found if born(int(each))]
    return []


def kill_known(known: Iterable[Known]) -> None:
    """Those of them that are there still: a pid may be another's by now."""
    for pid, start in known:
        if start and born(pid) == start:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def thaw(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def born(pid: int) -> int:
    """When it was started, in ticks of the system; 0 when it is no more. Pids are given anew within minutes."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if fields[0] == "Z" else int(fields[19])
    return 0


def command_of(name: str, way: str, incarnation: int, seed: int, folder: Path) -> list[str]:
    """How a process is started. `way`, of a worker: by our own program, or by the command line with so many workers."""
    if name == "outside":
        return [sys.executable, "-m", "tests.crash.outside", str(folder), str(seed)]
    if name.startswith("worker"):
        if way == "program":
            return [*PROGRAM, "worker", str(incarnation), str(seed)]
        return [*EVENFLOW, "--log", "json", *(["--workers", way] if way != "command" else [])]
    return [*PROGRAM, name, str(incarnation), str(seed)]
