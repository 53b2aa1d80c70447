"""A supplier of CDs: HTTP, a ledger of its own, idempotency keys, and a day on which nothing works.

`POST /orders` with `{"title": 25, "cds": 2}` and an `Idempotency-Key` answers `{"delivery": …}`; a key that is known
gets the answer that was kept for it. `GET /health` tells whether it works; `POST /complaints` wakes those who mend it.
`python -m outside.supplier --port 0 --ledger FILE --away-after 700 --away-for 10` prints where it listens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from outside.serving import ledger, until_told

HANGS = 3.0
"""Seconds until an overloaded server answers; its caller has given up after 1."""
HANGS_EACH = 5
"""While it is away, each so many-th call hangs; the others are refused at once."""

_SCHEMA = """
create table if not exists orders (
    key text primary key, title integer not null, cds integer not null, calls integer not null
) without rowid
"""
_ORDER = "insert into orders values (?, ?, ?, 1) on conflict do update set calls = calls + 1"


class Ledger:
    """One row for each key, and how often it was asked for."""

    def __init__(self, file: str) -> None:
        self._file = ledger(file, _SCHEMA)

    def order(self, key: str, title: int, cds: int) -> None:
        self._file.execute(_ORDER, (key, title, cds))

    def size(self) -> int:
        ((count,),) = self._file.execute("select count(*) from orders")
        return int(count)

    def close(self) -> None:
        self._file.close()


class Away:
    """Away with so many orders, until so many seconds after the first complaint."""

    def __init__(self, after: int | None, seconds: float) -> None:
        self._after = after
        self._seconds = seconds
        self._until: float | None = None
        self.calls = 0

    def now(self, orders: int) -> bool:
        """Whether it is away, with so many orders in its ledger."""
        return orders == self._after and (self._until is None or time.monotonic() < self._until)

    def complain(self) -> None:
        self._until = self._until or time.monotonic() + self._seconds


def supplier(ledger: Ledger, away: Away) -> Callable[[web.BaseRequest], Awaitable[web.Response]]:
    """What answers the requests, on aiohttp's low-level server."""

    async def order(request: web.BaseRequest) -> web.Response:
        key = request.headers.get("Idempotency-Key")
        if key is None:
            return web.Response(status=400, text="an order needs an Idempotency-Key\n")
        body = json.loads(await request.read())
        if away.now(ledger.size()):  # no await from here to the order: it goes with exactly so many
            away.calls += 1
            if away.calls % HANGS_EACH == 0:
                await asyncio.sleep(HANGS)
            return web.Response(status=503, text="the warehouse does not answer\n")
        ledger.order(key, body["title"], body["cds"])
        return web.Response(body=b'{"delivery": "d_%s"}' % key.encode(), content_type="application/json")

    async def handle(request: web.BaseRequest) -> web.Response:
        if (request.method, request.path) == ("POST", "/orders"):
            return await order(request)
        if (request.method, request.path) == ("GET", "/health"):
            return web.Response(status=503 if away.now(ledger.size()) else 200)
        if (request.method, request.path) == ("POST", "/complaints"):
            away.complain()
            return web.Response(status=202, text="we look into it\n")
        return web.Response(status=404)

    return handle


async def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, default=8703)
    options.add_argument("--ledger", default="supplier.db")
    options.add_argument("--away-after", type=int, metavar="ORDERS")
    options.add_argument("--away-for", type=float, default=10.0, metavar="SECONDS")
    given = options.parse_args()
    ledger = Ledger(given.ledger)
    server = web.Server(supplier(ledger, Away(given.away_after, given.away_for)), access_log=None)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", given.port)
    await until_told(listening)
    await server.shutdown(1.0)
    ledger.close()


if __name__ == "__main__":
    asyncio.run(main())
