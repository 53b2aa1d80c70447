"""A server for one test: in a folder and on ports of its own, gone afterwards, whatever happens to the test."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from services import processes
from services.kafka import Kafka
from services.places import ROOT, free_ports
from services.postgres import Postgres
from services.server import Server

QUICK = ["-Xmx256m", "-XX:TieredStopAtLevel=1"]  # it starts with half the work, and is slower in the long run
S = TypeVar("S", bound=Server)


@contextmanager
def private_postgres(folder: Path | None = None, *, extra: str = "") -> Iterator[Postgres]:
    """A running PostgreSQL; in a fresh folder, or below the given one (a small disk)."""
    with _private(lambda place, port: Postgres(place, port, extra=extra), folder) as server:
        yield server


@contextmanager
def private_kafka(folder: Path | None = None, *, extra: str = "", java: Sequence[str] = ()) -> Iterator[Kafka]:
    """A running Apache Kafka; in a fresh folder, or below the given one (a small disk)."""
    with _private(lambda place, port: Kafka(place, port, extra=extra, java=[*QUICK, *java]), folder) as server:
        yield server


@contextmanager
def _private(make: Callable[[Path, int], S], within: Path | None) -> Iterator[S]:
    place = Path(tempfile.mkdtemp(prefix="evenflow-server-", dir=within))
    place.chmod(0o711)
    guard = [sys.executable, "-m", "services.private", str(place)]
    with (
        subprocess.Popen(guard, cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True) as guarding,
        free_ports() as first,
    ):
        server = make(place, first)
        try:
            server.start()
            yield server
        finally:
            server.wipe()
            assert guarding.stdin is not None
            guarding.stdin.close()


def guard(place: Path) -> None:
    """Wait until who started us has gone, then end what is left of its server."""
    sys.stdin.read()
    if (process := processes.recorded(place)) is not None:
        processes.kill(process)
    shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    guard(Path(sys.argv[1]))
