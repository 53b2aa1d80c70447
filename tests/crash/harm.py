"""What is done to the machine rather than to a process: the disk fills, a file is locked, the wall clock jumps."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import suppress
from pathlib import Path

from .offset import Offset

ROOM = 4 << 30
BACK = 12 * 3600.0


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
