"""What the figures were measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import apsw

from bench.processes import folder
from bench.servers import server_versions

PACKAGES = ("evenflow", "apsw", "msgspec", "faststream", "pydantic", "huey", "redis", "hiredis",
            "psycopg", "confluent-kafka", "aiokafka", "asyncpg")  # fmt: skip


def machine() -> dict[str, Any]:
    """What stays the same from run to run, and so may be compared."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
    }


def versions() -> dict[str, str]:
    """Of what is installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, **server_versions()}


def moment(probes: int = 50) -> dict[str, Any]:
    """What differs from run to run."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load": round(os.getloadavg()[0], 2),
        "fsync_ms": round(fsync_time(probes) * 1000, 3),
    }


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    for line in information.read_text("utf-8").splitlines() if information.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def fsync_time(probes: int) -> float:
    """Seconds that making 4 KiB durable takes here, as a median: what all durable figures rest on."""
    with folder() as place, Path(place, "probe").open("wb", buffering=0) as file:
        times = []
        for _ in range(probes):
            file.write(bytes(4096))
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - started)
    return statistics.median(times)
