"""What all servers of the outside do: keep a ledger, say where they listen, and end when they are told to."""

from __future__ import annotations

import asyncio
import signal
import sqlite3


def ledger(file: str, schema: str) -> sqlite3.Connection:
    """A database with these tables. What is kept outlives the process, not a power cut: that is not played here."""
    opened = sqlite3.connect(file, isolation_level=None)
    opened.execute("pragma journal_mode = wal")
    opened.execute("pragma synchronous = off")
    opened.execute(schema)
    return opened


async def until_told(server: asyncio.Server) -> None:
    """Print the address, wait for SIGTERM or SIGINT, and accept nothing from then on."""
    over = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, over.set)
    host, port = server.sockets[0].getsockname()[:2]
    print(f"listening on {host}:{port}", flush=True)
    await over.wait()
    server.close()
