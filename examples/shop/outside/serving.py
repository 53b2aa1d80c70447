"""What both servers do: say where they listen, and end when they are told to."""

from __future__ import annotations

import asyncio
import signal


async def until_told(server: asyncio.Server) -> None:
    """Print the address, wait for SIGTERM or SIGINT, and accept nothing from then on."""
    over = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, over.set)
    host, port = server.sockets[0].getsockname()[:2]
    print(f"listening on {host}:{port}", flush=True)
    await over.wait()
    server.close()
