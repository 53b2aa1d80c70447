"""A TCP proxy between client and server that does to connections what networks do. It runs in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

LOOPBACK = "127.0.0.1"
CHUNK = 1 << 16
AHEAD = 256  # pieces under way in one direction before reading waits
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset


@dataclass
class Trouble:
    """What the network does now. `up` is from client to server, `down` the way back; delays are in seconds."""

    swallow_up: bool = False
    swallow_down: bool = False
    delay: float = 0.0


class Connection:
    """A client's connection and ours to the server."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.near = (reader, writer)
        self.forgotten = False
        self.lossy = False  # bytes are gone, so nothing that is sent on can be understood
        self.writers = [writer]

    async def run(self) -> None:
        """Forward until both sides have ended. Raises `OSError` where one of them goes without."""
        far = await asyncio.open_connection(self.proxy.host, self.proxy.target)
        self.writers.append(far[1])
        ways = [self._way(self.near[0], far[1], "swallow_up"), self._way(far[0], self.near[1], "swallow_down")]
        async with asyncio.TaskGroup() as both:
            for way in ways:
                both.create_task(way)
        for writer in self.writers:
            writer.close()
            await writer.wait_closed()

    def reset(self) -> None:
        """End both connections as a crashed machine's are ended: at once, with a reset."""
        for writer in self.writers:
            sock = writer.get_extra_info("socket")
            if sock is not None and not writer.transport.is_closing():
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()

    def _swallows(self, way: str) -> bool:
        return self.forgotten or bool(getattr(self.proxy.trouble, way))

    async def _way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        """One direction: what is read goes into a queue with the time it is due, so a delay costs no throughput."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(AHEAD)

        async def deliver() -> None:
            data = b"."
            while data:
                due, data = await queue.get()
                if (early := due - loop.time()) > 0:
                    await asyncio.sleep(early)
                if self._swallows(way):
                    self.lossy = True
                elif data:
                    writer.write(data)
                    await writer.drain()
                else:
                    writer.write_eof()

        async with asyncio.TaskGroup() as both:
            delivering = both.create_task(deliver())
            data = b"."
            while data and not delivering.done():
                data = await reader.read(CHUNK)
                await queue.put((loop.time() + self.proxy.trouble.delay, data))


class Proxy:
    """Forwards a port of loopback to another, or to one of another host. Every method returns when its effect is there.

    `with Proxy(target) as proxy:` listens on `proxy.port` until the block ends; what is open then is reset.
    """

    def __init__(self, target: int, *, host: str = LOOPBACK, port: int = 0) -> None:
        """`port` 0 takes a free one. Raises `OSError` where the port is taken."""
        self.target = target
        self.host = host
        self.trouble = Trouble()
        self.connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listens = False
        self._socket = _listening(port)
        self.port = int(self._socket.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._loop.call_soon_threadsafe(self._listen)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Reset every connection and refuse new ones, as when the server's machine is gone and its address is known."""
        self._do(self._refuse)

    def swallow(self, *, up: bool = True, down: bool = True) -> None:
        """Half-open: connections are accepted and stay open, and what goes this way is lost without a word.

        With `down` alone requests take effect and their answers are lost.
        """
        self._do(lambda: self._set(Trouble(swallow_up=up, swallow_down=down)))

    def forget(self) -> None:
        """Lose the connections that are open now without telling either side; new ones work. A firewall does that."""
        self._do(self._forget)

    def delay(self, seconds: float) -> None:
        """Everything arrives so much later, in order."""
        self._do(lambda: self._set(Trouble(delay=seconds)))

    def reset(self) -> None:
        """Reset every connection; new ones work."""
        self._do(self._reset_all)

    def heal(self) -> None:
        """Forward again. Connections that have lost something are reset; the others go on."""
        self._do(self._heal)

    def _do(self, act: Callable[[], None]) -> None:
        async def acting() -> None:
            act()
            if not self._listens and self._socket.fileno() != -1:
                self._listen()

        asyncio.run_coroutine_threadsafe(acting(), self._loop).result()

    def _set(self, trouble: Trouble) -> None:
        self._open()
        self.trouble = trouble

    def _heal(self) -> None:
        self._set(Trouble())
        for each in [each for each in self.connections if each.lossy]:
            each.reset()

    def _forget(self) -> None:
        for each in self.connections:
            each.forgotten = True

    def _reset_all(self) -> None:
        for each in list(self.connections):
            each.reset()

    def _refuse(self) -> None:
        if self._listens:
            self._listens = False
            self._loop.remove_reader(self._socket)
            self._socket.close()
        self._reset_all()

    def _open(self) -> None:
        if not self._listens:
            self._socket = _listening(self.port)

    def _listen(self) -> None:
        self._listens = True
        self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        """Not by asyncio's server: what comes while that is being closed is neither served nor closed by it."""
        with suppress(BlockingIOError, ConnectionAbortedError):
            near, _ = self._socket.accept()
            near.setblocking(False)
            task = self._loop.create_task(self._accepted(near))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _accepted(self, near: socket.socket) -> None:
        connection = Connection(self, *await asyncio.open_connection(sock=near))
        if not self._listens:  # it was cut while this one came
            connection.reset()
            return
        self.connections.add(connection)
        try:
            await connection.run()
        except* OSError:
            pass  # one side has gone: so does the other
        finally:
            connection.reset()
            self.connections.discard(connection)

    async def _close(self) -> None:
        self._refuse()
        while self._tasks:
            await asyncio.sleep(0.001)


def _listening(port: int) -> socket.socket:
    made = socket.socket()
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((LOOPBACK, port))
        made.listen(128)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made
