"""The outside: a small HTTP service with a ledger of every call, and the client by which handlers call it.

`python -m tests.crash.outside FOLDER SEED` serves until it is killed. It writes every call when it comes, and when it
is answered, with who has called: nothing that Evenflow could get wrong. Now and then it is out of order for a moment.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import deque
from pathlib import Path

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Unwell(Exception):
    """The outside has answered with an error, or not at all."""


class Outside:
    """Calls the service; connections are kept."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._port = 0
        self._free: deque[Stream] = deque()

    async def call(self, uid: str, key: str, idempotency_key: str, attempt: int) -> None:
        """One call. Raises `Unwell`."""
        body = json.dumps([uid, key, os.getpid(), attempt])
        head = f"POST /calls HTTP/1.1\r\nHost: outside\r\nIdempotency-Key: {idempotency_key}\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
        try:
            stream = self._free.pop() if self._free else await self._connect()
            stream[1].write(request)
            status = await stream[0].readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            raise Unwell(f"no answer: {error!r}") from error
        self._free.append(stream)
        if not status.startswith(b"HTTP/1.1 200"):
            raise Unwell(status.split(b"\r\n")[0].decode())

    async def _connect(self) -> Stream:
        if not self._port:
            self._port = int(self._place.read_text())
        return await asyncio.open_connection("127.0.0.1", self._port)

    def close(self) -> None:
        while self._free:
            self._free.pop()[1].close()


class Service:
    """The service. Some calls fail at their first attempt; for half a second in twenty or so all do."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.file = os.open(folder / "calls.jsonl", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)
        self.random = random.Random(seed)
        self.unwell = time.monotonic() + 10.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                body = await reader.readexactly(int(fields["Content-Length"]))
                writer.write(await self.answer(fields["Idempotency-Key"], *json.loads(body)))
        except (OSError, asyncio.IncompleteReadError):
            writer.close()  # whoever called is dead

    async def answer(self, id_: str, uid: str, key: str, pid: int, attempt: int) -> bytes:
        self.note(uid, key, id_, pid, attempt, "start")
        await asyncio.sleep(self.random.choice((0.001, 0.002, 0.005)))
        good = self.well() and not (int(uid.rsplit("/", 1)[1]) % 11 == 3 and attempt == 1)
        self.note(uid, key, id_, pid, attempt, "end" if good else "failed")
        status = "200 OK" if good else "503 Service Unavailable"
        return f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()

    def well(self) -> bool:
        now = time.monotonic()
        if now > self.unwell + 0.5:
            self.unwell = now + 10.0 + 20.0 * self.random.random()
        return now < self.unwell

    def note(self, *fact: object) -> None:
        os.write(self.file, json.dumps([*fact, time.monotonic()]).encode() + b"\n")


async def main(folder: Path, seed: int) -> None:
    service = Service(folder, seed)
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    place = folder / "outside"
    part = folder / "outside.part"
    part.write_text(str(server.sockets[0].getsockname()[1]))
    part.rename(place)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
