"""Partitions that somebody has added by hand are read, once that was confirmed: none is without a position."""

import asyncio
from dataclasses import replace

from evenflow.clock import SystemClock
from evenflow.engine import Generation, Partition
from evenflow.engines.memory import MemoryEngine, _Kept
from evenflow.ownership import check_belongs, create_group, widen
from evenflow.stores.sqlite.store import SqliteStore
from evenflow.topic import Topic


def test_a_group_gets_positions_in_added_partitions():
    async def main():
        clock = SystemClock()
        engine, store = MemoryEngine(clock), SqliteStore(":memory:", clock)
        await store.open()
        log = await engine.declare(Topic("t", partitions=2))
        await create_group("a.b", log, engine, store, clock, start=None, where="")
        grown = engine._logs["t"] = replace(log, generations=(Generation(1, 8),))
        engine._kept.update({Partition("t", 1, n): _Kept() for n in range(2, 8)})
        await check_belongs("a.b", grown, engine, store, "a")
        assert len(await store.read(store.sql["position_list"], ("a.b",))) == 2, "who only looks changes nothing"
        for _ in range(2):
            await widen("a.b", grown, engine, store)
            rows = await store.read(store.sql["position_list"], ("a.b",))
            assert sorted((row[3], row[4]) for row in rows) == [(n, 0) for n in range(8)]
        await store.close()

    asyncio.run(main())
