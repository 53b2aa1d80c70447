"""Two processes by hand: one appends, one looks every millisecond whether there is more. And that loop at rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import msgspec

from bench.arrivals import arrive, latencies
from bench.measuring import Watch, measured, memory
from bench.ours.flow import KEYS, LIST
from bench.processes import Record, said, say
from bench.twins.commits import GroupCommit
from bench.twins.commits import appends as appender
from bench.twins.consuming import Decoders, batch, chunk, one_write
from bench.twins.files import APPEND, CHUNK, ORDER, READ, encode, kept, open_log, open_store
from bench.workload import Shape, Shop

LOOK_EVERY = 0.001


def declares(folder: str) -> None:
    open_log(folder).close()


def publishes(folder: str, events: int, per_second: float, seed: int) -> Record:
    shop, commits = Shop(Shape(handler="none")), list[GroupCommit]()

    @asynccontextmanager
    async def opened() -> AsyncGenerator[None]:
        log = open_log(folder)
        commits.append(appender(log, APPEND))
        yield
        log.close()

    async def publish(due: float) -> None:
        (order,) = shop.orders(1, at=due)
        await commits[0].run((ORDER, encode(order)))

    return arrive(folder, opened(), publish, events, per_second, seed)


async def effects(folder: str, events: int) -> Record:
    """The hand-written loop: read what is new, one write each, position, commit; else wait a millisecond."""
    shop, log, store = Shop(Shape(handler="none")), open_log(folder), open_store(folder)
    decode = msgspec.json.Decoder(shop.OrderPlaced).decode
    read, write, position = log.cursor().execute, store.cursor().execute, 0
    took, began, at = list[float](), 0.0, list[float]()

    def timed(payload: bytes) -> object:
        order = decode(payload)
        at.append(order.at)
        return order

    decoders: Decoders = {ORDER: timed}
    say(folder, "ready")
    while len(took) < events:
        rows = read(READ, (position, CHUNK)).fetchall()
        if not rows:
            await asyncio.sleep(LOOK_EVERY)
            continue
        position = chunk(store, write, rows, position, partial(one_write, rows, decoders, write))
        now = time.monotonic()
        began = began or now
        took += [now - each for each in at]
        at.clear()
    assert kept(store)[0] == events
    return {"rate": events / (now - began), **latencies(took)}


async def idles(folder: str, seconds: float) -> Record:
    """The same loop with nothing to do."""
    log = open_log(folder)
    read, watch = log.cursor().execute, Watch()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert not read(READ, (0, CHUNK)).fetchall()
        await asyncio.sleep(LOOK_EVERY)
    wall, cpu = watch.read()
    return {"percent": 100 * cpu / wall, "memory": memory()[0]}


async def appends(folder: str, seconds: float) -> Record:
    """Lists of new events for so long."""
    shop, commit = Shop(Shape(handler="none", keys=KEYS)), appender(open_log(folder), APPEND)
    while said(folder, "ready") is None:
        await asyncio.sleep(0.005)
    watch, count, until = Watch(), 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        commit.run_all([(ORDER, encode(order)) for order in shop.orders(LIST)])
        count += LIST
    record = measured(count, watch)
    say(folder, "total", str(count))
    return record


async def handles_lists(folder: str) -> Record:
    """Add up in Python and write once per key of a list, until all that was appended is in the database."""
    shop, log, store = Shop(Shape(handler="none", keys=KEYS)), open_log(folder), open_store(folder)
    decoders: Decoders = {ORDER: msgspec.json.Decoder(shop.OrderPlaced).decode}
    read, write, position, watch = log.cursor().execute, store.cursor().execute, 0, Watch()
    say(folder, "ready")
    while (total := said(folder, "total")) is None or position < int(total):
        rows = read(READ, (position, LIST)).fetchall()
        if not rows:
            await asyncio.sleep(LOOK_EVERY)
            continue
        if not position:
            watch = Watch()
        position = chunk(store, write, rows, position, partial(batch, rows, decoders, write))
    assert kept(store)[1] == position
    return measured(position, watch)
