"""The twins: the same work as an experienced engineer writes it by hand on apsw, without a framework.

Two files (a log, and the database with the effects), WAL, `synchronous=FULL`, and the same cache as ours; the
checkpoints are SQLite's own, at its default pace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import apsw
import msgspec

from bench.measuring import Watch, measured
from bench.workload import HERE, INSERT, UPSERT, Shape, Shop, decoder

CHUNK = 500
INSERT_ROW = INSERT.replace("$", "?")
UPSERT_ROW = UPSERT.replace("$", "?")
APPEND = "insert into log (payload) values (?)"
READ = "select id, payload from log where id > ? order by id limit ?"
MOVE = "update position set next = ?1 where name = 'charge' and next = ?2"


def opened(path: str) -> apsw.Connection:
    connection = apsw.Connection(path)
    connection.set_busy_timeout(5000)
    for pragma in (
        "page_size = 4096",
        "journal_mode = wal",
        "synchronous = full",
        "fullfsync = 1",
        "cache_size = -8000",
    ):
        connection.execute(f"pragma {pragma}")
    return connection


def new_log(folder: str) -> apsw.Connection:
    log = opened(f"{folder}/by_hand_log.db")
    log.execute("create table if not exists log (id integer primary key, payload blob not null)")
    return log


def backlog(folder: str, events: int, shape: dict[str, Any]) -> int:
    """A log with a row per event."""
    shop, log, encode = Shop(Shape(**shape)), new_log(folder), msgspec.json.Encoder().encode
    size = 0
    for begun in range(0, events, 1000):
        rows = [(encode(order),) for order in shop.orders(min(1000, events - begun))]
        size = len(rows[0][0])
        log.execute("begin immediate")
        log.executemany(APPEND, rows)
        log.execute("commit")
    log.close()
    return size


def consume(folder: str, events: int, shape: dict[str, Any]) -> dict[str, Any]:
    """Read, decode, write twice per event, move the position by compare-and-set, commit; in chunks."""
    shop = Shop(Shape(**shape))
    log, store = new_log(folder), opened(f"{folder}/by_hand.db")
    store.execute(_tables())
    decode, writes = decoder(shop), shop.shape.handler == "two-writes"
    read, write = log.cursor().execute, store.cursor().execute
    position = 0
    watch = Watch()
    while rows := read(READ, (position, CHUNK)).fetchall():
        write("begin immediate")
        if writes:
            for _, payload in rows:
                order = decode(payload)
                write(INSERT_ROW, (order.order_id, order.customer, order.total))
                write(UPSERT_ROW, (order.customer, 1, order.total))
        else:
            for _, payload in rows:
                decode(payload)
        last = rows[-1][0]
        write(MOVE, (last, position))
        if store.changes() != 1:
            raise RuntimeError("somebody else has moved the position")
        write("commit")
        position = last
    record = measured(events, watch)
    if writes:
        ((kept, summed),) = store.execute("select (select count(*) from charges), (select sum(orders) from totals)")
        assert kept == summed == events, (kept, summed)
    return record


def _tables() -> str:
    return (HERE / "sql" / "0001_effects.sql").read_text("utf-8") + (
        "create table position (name text primary key, next integer not null);"
        "insert into position values ('charge', 0);"
    )


class GroupCommit:
    """Appends that are asked for at the same moment share one commit."""

    def __init__(self, connection: apsw.Connection, statement: str) -> None:
        self._execute = connection.cursor().execute
        self._many = connection.cursor().executemany
        self._statement = statement
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._planned = False

    async def append(self, payload: bytes) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append((payload, done))
        if not self._planned:
            self._planned = True
            loop.call_soon(self._write)
        await done

    def append_all(self, payloads: Sequence[bytes]) -> None:
        self._execute("begin immediate")
        self._many(self._statement, [(payload,) for payload in payloads])
        self._execute("commit")

    def _write(self) -> None:
        self._planned = False
        waiting, self._waiting = self._waiting, []
        self.append_all([payload for payload, _ in waiting])
        for _, done in waiting:
            done.set_result(None)


async def publish(folder: str, events: int, at_once: int, bulk: bool) -> dict[str, Any]:
    """Encode and append durably: one after another, many tasks at once, or lists."""
    shop, encode = Shop(Shape()), msgspec.json.Encoder().encode
    commit = GroupCommit(new_log(folder), APPEND)
    orders = shop.orders(events)
    watch = Watch()
    if bulk:
        for begun in range(0, events, at_once):
            commit.append_all([encode(order) for order in orders[begun : begun + at_once]])
    else:

        async def client(mine: Sequence[Any]) -> None:
            for order in mine:
                await commit.append(encode(order))

        await asyncio.gather(*(client(orders[number::at_once]) for number in range(at_once)))
    record = measured(events, watch)
    ((kept,),) = new_log(folder).execute("select count(*) from log")
    assert kept == events
    return record
