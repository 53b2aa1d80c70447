"""Which source files have changed: found by looking at their times, so that it works on every file system."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

SUFFIXES = (".py", ".sql")
NAMES = ("pyproject.toml",)
_NOT_OURS = {"__pycache__", "node_modules", "site-packages", "build", "dist"}

Stamp = tuple[int, int]


class Watch:
    """The source files below a folder, and others that were named. Hidden folders and environments are left out."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._others: set[str] = set()
        self._known = self._look()
        self.cost = 0.0
        """Seconds that the last look took."""

    def also(self, files: Iterable[str]) -> None:
        """Watch these as well, wherever they are, from now on."""
        for file in set(files) - self._others - self._known.keys():
            self._others.add(file)
            stamp = _stamp(file)
            if stamp is not None:
                self._known[file] = stamp

    def changed(self) -> list[str]:
        """Files that were written, made or removed since the last look."""
        begun = time.monotonic()
        now = self._look()
        self.cost = time.monotonic() - begun
        found = sorted(file for file in {*now, *self._known} if now.get(file) != self._known.get(file))
        self._known = now
        return found

    def _look(self) -> dict[str, Stamp]:
        found = dict(_below(self._folder))
        for file in self._others:
            stamp = _stamp(file)
            if stamp is not None:
                found[file] = stamp
        return found


def _below(folder: str) -> Iterator[tuple[str, Stamp]]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    if any(entry.name == "pyvenv.cfg" for entry in entries):
        return
    for entry in entries:
        name = entry.name
        try:
            if entry.is_dir(follow_symlinks=False):
                if not name.startswith(".") and name not in _NOT_OURS:
                    yield from _below(entry.path)
            elif name.endswith(SUFFIXES) or name in NAMES:
                state = entry.stat()
                yield entry.path, (state.st_mtime_ns, state.st_size)
        except OSError:  # gone meanwhile
            continue


def _stamp(file: str) -> Stamp | None:
    try:
        state = Path(file).stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size
