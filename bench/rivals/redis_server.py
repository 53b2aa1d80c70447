"""A Redis of our own: on loopback, on a free port, in a folder that goes away with it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.catalogue import LeftOut
from bench.processes import folder

PATIENCE = 10.0


@contextmanager
def redis_server() -> Iterator[tuple[int, int]]:
    """Its port and process id. It logs every write and syncs the log each second, as its manual advises.

    Raises `LeftOut` where there is none.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise LeftOut("there is no redis-server on PATH (Debian: apt-get install redis-server)")
    with folder() as place:
        port = _free_port()
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", place, "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "everysec", "--daemonize", "no"]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait(server, port)
            yield port, server.pid
        finally:
            server.terminate()
            try:
                server.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if server.poll() is not None:
            raise LeftOut(f"redis-server ended at once with exit code {server.returncode}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1.0) as asked:
                asked.sendall(b"PING\r\n")
                if asked.recv(7).startswith(b"+PONG"):
                    return
        except OSError:
            time.sleep(0.02)
    raise LeftOut(f"redis-server did not answer within {PATIENCE:.0f} s")
