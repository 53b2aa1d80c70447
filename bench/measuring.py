"""Measuring: each piece in a process of its own, medians with their spread, memory and CPU from the system."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import msgspec

ROOT = Path(__file__).parent.parent


class Watch:
    """Wall and CPU seconds of this process since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu, self._system = time.perf_counter(), time.process_time(), os.times().system

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu

    def system(self) -> float:
        """CPU seconds in the kernel, with hundredths; they are part of the CPU seconds."""
        return os.times().system - self._system


def measured(events: int, watch: Watch, **more: Any) -> dict[str, Any]:
    """One measurement as a record: events per second, and CPU microseconds per event of this whole process."""
    wall, cpu = watch.read()
    per_event = {"cpu_us": cpu / events * 1e6, "system_us": watch.system() / events * 1e6}
    return {"events": events, "rate": events / wall, **per_event, "seconds": wall, **more}


def start(function: str, **given: Any) -> subprocess.Popen[str]:
    """Start `bench.<module>:<function>` in a process of its own; it prints its record as JSON."""
    command = [sys.executable, "-m", "bench.worker", function, json.dumps(given)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def result(process: subprocess.Popen[str], seconds: float = 900.0) -> Any:
    """The record of a process that was started."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode:
        raise SystemExit(f"a measurement failed: {process.args}")
    return json.loads(output.splitlines()[-1])


def run(function: str, **given: Any) -> Any:
    """Start it and wait for its record."""
    return result(start(function, **given))


@contextmanager
def folder() -> Iterator[str]:
    """An empty folder on a real disk: `BENCH_FOLDER`, or the system's place for temporary files."""
    made = tempfile.mkdtemp(prefix="evenflow-bench-", dir=os.environ.get("BENCH_FOLDER"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def copied(base: str, *names: str) -> Iterator[str]:
    """A fresh folder with copies of some files, written back to the disk before anything is measured."""
    with folder() as fresh:
        for name in names:
            target = Path(fresh, name)
            shutil.copy(Path(base, name), target)
            with target.open("rb") as file:
                os.fsync(file.fileno())
        yield fresh


def middle(records: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.median(record[name] for record in records)


def spread(records: Sequence[dict[str, Any]], name: str) -> list[float]:
    """Lowest and highest."""
    values = [record[name] for record in records]
    return [min(values), max(values)]


def memory(pid: int | str = "self") -> tuple[float, float]:
    """MiB that a process has in memory now, and has had at most."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            found[name] = int(value.split()[0]) / 1024
    return found["VmRSS"], found["VmHWM"]


def machine() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "msgspec": msgspec.__version__,
        "apsw": apsw.apsw_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "fsync_ms": round(fsync_time() * 1000, 3),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def fsync_time() -> float:
    """Seconds that making 4 KiB durable takes here, as a median: what all durable figures rest on."""
    with folder() as place, Path(place, "probe").open("wb", buffering=0) as file:
        times = []
        for _ in range(50):
            file.write(bytes(4096))
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - started)
    return statistics.median(times)
