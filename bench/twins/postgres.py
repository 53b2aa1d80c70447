"""PostgreSQL by hand: libpq's pipeline for handed-over writes, asyncpg for awaited ones and for a queue in a table."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import msgspec
from psycopg import AsyncConnection, pq

from bench.measuring import Watch, measured
from bench.processes import Record
from bench.servers import Places
from bench.twins.files import encode
from bench.workload import HERE, Shape, Shop

LIST = 500
Query = tuple[bytes, list[bytes | None]]


def in_schema(places: Places, schema: str) -> str:
    return f"{places['database']}&options=-csearch_path%3D{schema}"


async def connect(places: Places, schema: str) -> asyncpg.Connection:
    return await asyncpg.connect(places["database"], server_settings={"search_path": schema})


class Pipeline:
    """One transaction is one message to the server: statements prepared once, run in order, one Sync at the end."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection
        self._libpq = connection.pgconn
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def open(cls, url: str, statements: dict[str, str]) -> Pipeline:
        connection = await AsyncConnection.connect(url, autocommit=True)
        for name, statement in statements.items():
            found = connection.pgconn.prepare(name.encode(), statement.encode())
            assert found.status == pq.ExecStatus.COMMAND_OK, found.error_message
        connection.pgconn.nonblocking = 1
        return cls(connection)

    async def transact(self, queries: Sequence[Query]) -> list[int]:
        """Run these prepared statements in a transaction. How many rows each has changed."""
        libpq, changed = self._libpq, list[int]()
        libpq.enter_pipeline_mode()
        libpq.send_query_params(b"begin", None)
        send = libpq.send_query_prepared
        for name, given in queries:
            send(name, given)
        libpq.send_query_params(b"commit", None)
        libpq.pipeline_sync()
        while True:
            await self._ready(write=bool(libpq.flush()))
            libpq.consume_input()
            while not libpq.is_busy():
                answer = libpq.get_result()
                if answer is None:
                    continue
                if answer.status == pq.ExecStatus.PIPELINE_SYNC:
                    libpq.exit_pipeline_mode()
                    return changed[1:-1]
                assert answer.status == pq.ExecStatus.COMMAND_OK, answer.error_message
                changed.append(answer.command_tuples or 0)

    async def _ready(self, *, write: bool) -> None:
        ready = self._loop.create_future()
        number = self._libpq.socket
        self._loop.add_reader(number, _set, ready)
        if write:
            self._loop.add_writer(number, _set, ready)
        try:
            await ready
        finally:
            self._loop.remove_reader(number)
            if write:
                self._loop.remove_writer(number)

    async def close(self) -> None:
        await self._connection.close()


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def make_log(places: Places) -> asyncpg.Connection:
    """A table that is a queue, and a log for who reads by number."""
    connection = await connect(places, places["log"])
    await connection.execute(
        f"create schema if not exists {places['log']};"
        "create table if not exists log (id bigserial primary key, type text not null, payload text not null)"
    )
    return connection


APPEND = "insert into log (type, payload) select 'order.placed', unnest($1::text[])"


async def backlog(folder: str, events: int, shape: dict[str, Any], places: Places) -> Record:  # noqa: ARG001
    shop, watch = Shop(Shape(**{**shape, "handler": "none"})), Watch()
    connection = await make_log(places)
    for begun in range(0, events, LIST):
        payloads = [encode(order).decode() for order in shop.orders(min(LIST, events - begun))]
        await connection.execute(APPEND, payloads)
    await connection.execute("vacuum analyze log")
    await connection.close()
    return measured(events, watch, bytes=len(payloads[0]))


async def publishes(folder: str, events: int, at_once: int, way: str, places: Places) -> Record:  # noqa: ARG001
    """What is asked for while a statement runs goes with the next one, as in `commits.GroupCommit`."""
    shop, connection = Shop(Shape(handler="none")), await make_log(places)
    orders, loop = shop.orders(events), asyncio.get_running_loop()
    waiting: list[tuple[str, asyncio.Future[None]]] = []
    running: asyncio.Task[None] | None = None

    async def append() -> None:
        nonlocal running, waiting
        while waiting:
            mine, waiting = waiting, []
            await connection.execute(APPEND, [payload for payload, _ in mine])
            for _, done in mine:
                done.set_result(None)
        running = None

    async def publish(order: Any) -> None:
        nonlocal running
        done = loop.create_future()
        waiting.append((encode(order).decode(), done))
        if running is None:
            running = asyncio.ensure_future(append())
        await done

    async def client(mine: Sequence[Any]) -> None:
        for order in mine:
            await publish(order)

    await connection.execute(APPEND, [encode(shop.orders(1)[0]).decode()])
    watch = Watch()
    if way == "lists":
        for begun in range(0, events, at_once):
            await connection.execute(APPEND, [encode(each).decode() for each in orders[begun : begun + at_once]])
    else:
        await asyncio.gather(*(client(orders[number::at_once]) for number in range(at_once)))
    record = measured(events, watch)
    assert await connection.fetchval("select count(*) from log") == events + 1
    await connection.close()
    return record


TAKE = (
    "delete from log where id = any(array(select id from log order by id for update skip locked limit $1)) "
    "returning payload"
)


async def handles(folder: str, events: int, shape: dict[str, Any], places: Places) -> Record:  # noqa: ARG001
    """A queue: what was taken is deleted in the handler's transaction. An async handler that does nothing."""
    shop = Shop(Shape(**{**shape, "handler": "none"}))
    decode = msgspec.json.Decoder(shop.OrderPlaced).decode
    connection = await connect(places, places["log"])
    handled, before, watch = 0, 0, Watch()

    async def handle(order: Any) -> None:
        pass

    while handled < events:
        async with connection.transaction():
            rows = await connection.fetch(TAKE, LIST)
            for (payload,) in rows:
                await handle(decode(payload))
        if not handled:
            watch, before = Watch(), len(rows)
        handled += len(rows)
    record = measured(handled - before, watch)
    assert await connection.fetchval("select count(*) from log") == 0
    await connection.close()
    return record


async def make_effects(places: Places, partitions: int) -> None:
    """Tables of the effects, and a position for each partition."""
    connection = await connect(places, places["schema"])
    await connection.execute(f"create schema {places['schema']}")
    await connection.execute((HERE / "sql" / "0001_effects.postgres.sql").read_text("utf-8"))
    await connection.execute("create table position (partition integer primary key, next bigint not null)")
    await connection.execute("insert into position select n, 0 from generate_series(0, $1) as n", partitions)
    await connection.close()


async def kept(places: Places) -> tuple[int, int]:
    connection = await connect(places, places["schema"])
    found = await connection.fetchrow("select (select count(*) from charges), (select sum(orders) from totals)")
    await connection.close()
    return found[0], found[1] or 0
