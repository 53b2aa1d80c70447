"""The folder of a replay: one replay at a time, begun afresh or gone on with."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from replay.places import Places
from replay.processes import end_leftovers

ASKED = "asked.json"


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be replayed, and where.

    `purchases`: None for all. `faults`: with a supplier who is away and a wrong order.
    """

    purchases: int | None = None
    faults: bool = False
    places: Places = field(default_factory=Places)

    def text(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, text: str) -> Asked:
        found = json.loads(text)
        return cls(found["purchases"], found["faults"], Places(**found["places"]))


class InUse(Exception):
    """Another replay works here, or this is no folder of a replay."""


class Folder:
    """Use it as a context: inside, no other replay works in `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1

    def __enter__(self) -> Folder:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise InUse(f"another replay works in {self.path.parent}: wait for it, or stop it") from None
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def begin(self, asked: Asked, *, resume: bool) -> Asked:
        """End what a killed replay has left running and, unless it is resumed, remove what it made.

        Returns what is to be replayed: a resumed replay goes on as it was begun.
        """
        end_leftovers(self.path)
        file = self.path / ASKED
        if resume and file.exists():
            return Asked.read(file.read_text("utf-8"))
        if file.exists():
            Asked.read(file.read_text("utf-8")).places.remove()
        self._remove()
        self.path.mkdir()
        asked.places.remove()
        asked.places.make()
        written = file.with_suffix(".part")
        written.write_text(asked.text(), "utf-8")
        written.replace(file)
        return asked

    def _remove(self) -> None:
        """In one step: a kill in the middle leaves nothing that looks like a replay."""
        gone = self.path.with_name(f"{self.path.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        if self.path.exists():
            self.path.rename(gone)
            shutil.rmtree(gone)
