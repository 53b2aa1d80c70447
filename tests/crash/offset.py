"""The wall clock of the lab: the machine's, and an offset that stands in a file and may jump."""

from __future__ import annotations

import mmap
import struct
import time
from pathlib import Path

_FACTS = struct.Struct("dQ")


class Offset:
    """The file of the offset, as nemesis writes it and every process of the lab sees it at once."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(_FACTS.pack(0.0, 0))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _FACTS.size)

    def get(self) -> float:
        return _FACTS.unpack_from(self._map)[0]

    def set(self, seconds: float) -> None:
        """Jump; a new epoch begins."""
        _FACTS.pack_into(self._map, 0, seconds, self._epoch() + 1)

    def moment(self) -> tuple[float, int]:
        """What the clock says, and in which epoch: within one, time does not go back."""
        while True:
            epoch = self._epoch()
            now = time.time() + self.get()
            if epoch == self._epoch():
                return now, epoch

    def _epoch(self) -> int:
        return _FACTS.unpack_from(self._map)[1]


def jumping(path: Path) -> Offset:
    """Let `SystemClock.now` of this process be the clock of the lab."""
    from evenflow.clock import SystemClock

    offset = Offset(path)
    SystemClock.now = staticmethod(lambda: time.time() + offset.get())
    return offset
