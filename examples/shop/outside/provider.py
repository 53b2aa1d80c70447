"""A provider of payments: HTTP, a ledger of its own, and idempotency keys.

`POST /charges` with `{"order_id": 7, "cents": 1177}` and an `Idempotency-Key` answers `{"state": …, "charge": …}`;
`POST /charges/{key}/void` gives up one that is pending. A key that is known gets the answer that was kept for it.
`python -m outside.provider --port 0 --ledger FILE` prints where it listens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable

from aiohttp import web

from outside.rule import verdict
from outside.serving import ledger, until_told

SLOW = 3.0
"""Seconds until a slow answer; its caller has given up after 2."""

_SCHEMA = """
create table if not exists charges (
    key text primary key, cents integer not null, state text not null, charge text not null, calls integer not null
) without rowid
"""
_CHARGE = """
insert into charges values (?, ?, ?, ?, 1) on conflict do update set calls = calls + 1 returning state, charge, calls
"""
_VOID = "update charges set state = 'voided' where key = ? and state in ('pending', 'voided') returning state, charge"


class Ledger:
    """One row for each key, and how often it was asked for."""

    def __init__(self, file: str) -> None:
        self._file = ledger(file, _SCHEMA)

    def charge(self, key: str, order_id: int, cents: int) -> tuple[str, str, int]:
        """State, name of the charge, and how often this key was asked for."""
        ((state, charge, calls),) = self._file.execute(_CHARGE, (key, cents, verdict(order_id).outcome, f"ch_{key}"))
        return state, charge, calls

    def void(self, key: str) -> tuple[str, str] | None:
        """None for a charge that is not known, or that is not pending."""
        rows = self._file.execute(_VOID, (key,)).fetchall()  # to its end: an update is done when its rows are read
        return rows[0] if rows else None

    def close(self) -> None:
        self._file.close()


def provider(ledger: Ledger) -> Callable[[web.BaseRequest], Awaitable[web.Response]]:
    """What answers the requests, on aiohttp's low-level server: two addresses need no router."""

    async def charge(key: str, request: web.BaseRequest) -> web.Response:
        body = json.loads(await request.read())
        state, name, calls = ledger.charge(key, body["order_id"], body["cents"])
        if calls == 1 and verdict(body["order_id"]).slow:
            await asyncio.sleep(SLOW)
        return _answer(state, name)

    async def handle(request: web.BaseRequest) -> web.Response:
        key = request.headers.get("Idempotency-Key")
        if request.method != "POST" or key is None:
            return web.Response(status=400, text="POST, with an Idempotency-Key\n")
        if request.path == "/charges":
            return await charge(key, request)
        if request.path == f"/charges/{key}/void":
            found = ledger.void(key)
            return _answer(*found) if found else web.Response(status=409, text="it is not pending\n")
        return web.Response(status=404)

    return handle


def _answer(state: str, charge: str) -> web.Response:
    body = f'{{"state": "{state}", "charge": "{charge}"}}'.encode()
    return web.Response(body=body, content_type="application/json")


async def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, default=8701)
    options.add_argument("--ledger", default="provider.db")
    given = options.parse_args()
    ledger = Ledger(given.ledger)
    server = web.Server(provider(ledger), access_log=None)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", given.port)
    await until_told(listening)
    await server.shutdown(1.0)
    ledger.close()


if __name__ == "__main__":
    asyncio.run(main())
