"""What is done to the machine rather than to a process: the disk fills, a file is locked, the wall clock jumps."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .offset import Offset
from .record import Record

ROOM = 4 << 30
BACK = 12 * 3600.0
FAR = (5.0, 60.0, 600.0, 3600.0, 86400.0, 3 * 86400.0)
"""Seconds by which the clock jumps at most."""
SICK = 8.0
"""Seconds after a harm in which a process may refuse to start, or take its time to end."""
CLOCK = {"jump": 2}
FILES = {"fill": 1, "hold": 2}
"""Where there are files of SQLite."""


class Harm:
    """Each harm ends by itself after a while, by a plan "free" or "unlock", at the latest in peace.

    `until`: when processes are well again.
    """

    def __init__(self, record: Record, chance: random.Random, disk: Disk, files: Sequence[Path], clock: Path) -> None:
        self.clock = WallClock(clock)
        self.until = 0.0
        self.mix = {**CLOCK, **(FILES if files else {})}
        self._record = record
        self._random = chance
        self._disk = disk
        self._files = files
        self._lock: Lock | None = None

    def strike(self, what: str) -> None:
        getattr(self, f"_{what}")()

    def end(self, plan: str) -> None:
        """What was planned for now."""
        getattr(self, f"_{plan}")()

    def peace(self) -> None:
        self._unlock()
        self._free()

    def _fill(self) -> None:
        if self._disk.fill():
            self._trouble("fill", self._random.choice((0.3, 1.0, 3.0)), "free")

    def _free(self) -> None:
        self._disk.free()
        self._record.note("freed")

    def _hold(self) -> None:
        """Another program holds the write lock of one of the files."""
        with suppress(sqlite3.Error):
            if self._lock is None:
                self._lock = Lock(self._random.choice(self._files))
                self._trouble("lock", self._random.choice((0.5, 2.0, 6.5)), "unlock")

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None
            self._record.note("unlocked")

    def _trouble(self, what: str, seconds: float, end: str) -> None:
        self._record.note(what)
        self.until = max(self.until, time.monotonic() + seconds + SICK)
        self._record.later(seconds, end)

    def _jump(self) -> None:
        """The wall clock, by seconds to days, back or forth."""
        by = self.clock.jump(self._random.choice((-1, 1)) * self._random.choice(FAR) * self._random.random())
        self._record.note("jump" if by >= 0 else "back")


class Disk:
    """A small disk of its own for the files of Evenflow, where this process may mount one; else it is never full."""

    def __init__(self, path: Path, *, small: bool) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.mounted = False
        if small and os.geteuid() == 0:
            command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "evenflow-crash", str(path)]
            self.mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0

    def fill(self) -> bool:
        """From now on there is no free page. False where that cannot be done."""
        return self.mounted and self._resize(self._used() + 4096)

    def free(self) -> None:
        if self.mounted:
            self._resize(ROOM)

    def _used(self) -> int:
        found = os.statvfs(self.path)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def _resize(self, size: int) -> bool:
        command = ["mount", "-o", f"remount,size={size // 1024}k", str(self.path)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def keep(self) -> None:
        """Put what is on it into an ordinary folder of the same name."""
        if self.mounted:
            aside = self.path.with_name("aside")
            subprocess.run(["cp", "-a", str(self.path), str(aside)], check=True)
            self.close()
            self.path.rmdir()
            aside.rename(self.path)

    def close(self) -> None:
        if self.mounted:
            self.mounted = False
            subprocess.run(["umount", "-l", str(self.path)], capture_output=True, check=False)


class Lock:
    """The write lock of a SQLite file, held by this process."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, timeout=0.5, isolation_level=None)
        try:
            self._connection.execute("begin immediate")
        except sqlite3.Error:
            self._connection.close()
            raise

    def release(self) -> None:
        with suppress(sqlite3.Error):
            self._connection.execute("rollback")
        self._connection.close()


class WallClock:
    """Jumps back and forth; at the end it is later than it has ever been, so that whatever has a time is due.

    Never back by a day or more: a schedule takes that for a clock that was wrong before, and begins anew.
    """

    def __init__(self, path: Path) -> None:
        self._offset = Offset(path)
        self._latest = self._offset.get()

    def jump(self, seconds: float) -> float:
        """By how much it has jumped in the end."""
        now = max(0.0, self._latest - BACK, self._offset.get() + seconds)
        self._latest = max(self._latest, now)
        before = self._offset.get()
        self._offset.set(now)
        return now - before

    def settle(self) -> None:
        self._offset.set(self._latest + 60.0)
