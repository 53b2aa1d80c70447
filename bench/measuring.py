"""What one measurement is made of: wall and CPU time, memory, percentiles."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Watch:
    """Wall and CPU seconds of this process since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def measured(events: int, watch: Watch, **more: Any) -> dict[str, Any]:
    """Events per second, CPU microseconds per event of this whole process, and the most memory that it had."""
    wall, cpu = watch.read()
    return {
        "events": events,
        "rate": events / wall,
        "cpu_us": cpu / events * 1e6,
        "seconds": wall,
        "memory": memory()[1],
        **more,
    }


def memory(pid: int | str = "self") -> tuple[float, float]:
    """MiB that a process has in memory now, and has had at most; zeros where the system does not tell."""
    found = {"VmRSS": 0.0, "VmHWM": 0.0}
    status = Path(f"/proc/{pid}/status")
    for line in status.read_text("utf-8").splitlines() if status.exists() else ():
        name, _, value = line.partition(":")
        if name in found:
            found[name] = int(value.split()[0]) / 1024
    return found["VmRSS"], found["VmHWM"]


def cpu_of(pid: int) -> float:
    """CPU seconds that another process has used, with hundredths."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_of_all() -> float:
    """CPU seconds that everything on this machine has used; zero where the system does not tell."""
    status = Path("/proc/stat")
    if not status.exists():
        return 0.0
    user, nice, system, _idle, _waiting, *interrupts = status.read_text("utf-8").split("\n", 1)[0].split()[1:8]
    return sum(map(int, (user, nice, system, *interrupts))) / os.sysconf("SC_CLK_TCK")


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many per cent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(len(ordered) * percent * 1000) // 100_000) - 1))]
