"""Where servers live: the folder of a checkout, and runs of ports that nobody else has."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOOPBACK = "127.0.0.1"
SHARED = range(25_400, 26_400)
BLOCK = 16
PRIVATE = range(26_400, 32_000)  # below the ports that Linux gives to outgoing connections


class ServiceError(Exception):
    """A server could not be installed, started or stopped: what happened, and what to do."""


def home() -> Path:
    """The folder of this checkout's servers: `SERVICES_FOLDER`, or `.services` in the repository.

    Where root runs servers as another user, who cannot enter the repository, it is among the temporary folders.
    """
    if named := os.environ.get("SERVICES_FOLDER"):
        return Path(named).absolute()
    if os.geteuid() or enterable(ROOT):
        return ROOT / ".services"
    return Path(tempfile.gettempdir(), f"evenflow-services-{zlib.crc32(bytes(ROOT)):08x}")


def enterable(folder: Path) -> bool:
    """Whether every user may enter this folder, and all above it."""
    return all(each.stat().st_mode & 0o001 for each in (folder, *folder.parents))


@contextmanager
def free_ports(within: range = PRIVATE) -> Iterator[int]:
    """The first of `BLOCK` ports in a row that nobody listens on, and that no other process is given meanwhile."""
    folder = Path(tempfile.gettempdir(), f"evenflow-ports-{os.geteuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    for first in range(within.start, within.stop - BLOCK + 1, BLOCK):
        with (folder / str(first)).open("w") as claim:
            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if all(free(port) for port in range(first, first + BLOCK)):
                yield first
                return
    raise ServiceError(f"no {BLOCK} free ports in a row from {within.start} to {within.stop}: end what listens there")


def free(port: int) -> bool:
    """Whether nobody listens on this port of loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def listens(port: int) -> bool:
    """Whether somebody accepts connections on this port of loopback."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1.0).close()
    except OSError:
        return False
    return True
