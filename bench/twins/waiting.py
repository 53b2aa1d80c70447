"""Waiting by hand: a hundred at a time, one key's events one after another, the position noted behind the last gap."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import apsw
import msgspec

from bench.handlers import CONCURRENCY, WAIT
from bench.measuring import Watch, measured
from bench.processes import Record
from bench.twins.files import CHUNK, MOVE, ORDER, READ, open_log, open_store
from bench.workload import Shape, Shop

WINDOW = 1000
"""Events that may be in flight or done beyond the position: what a restart may repeat."""
NOTE_EVERY = 0.02


class Waiting:
    """At least once: what was done beyond the first event that was not is repeated after a crash."""

    def __init__(self, log: apsw.Connection, store: apsw.Connection, decode: Any) -> None:
        self._log, self._store = log.cursor().execute, store
        self._decoders = {ORDER: decode}
        self._lanes: dict[str, deque[tuple[int, Any]]] = {}
        self._ready: asyncio.Queue[str] = asyncio.Queue()
        self._open: dict[int, bool] = {}
        """By number, in order: whether it is done. Those at the front that are done are passed by the position."""
        self._room = asyncio.Event()
        self.position = 0
        self.done = 0

    async def run(self, events: int) -> None:
        workers = [asyncio.create_task(self._work()) for _ in range(CONCURRENCY)]
        noting = asyncio.create_task(self._note())
        read_to = 0
        while read_to < events:
            while len(self._open) >= WINDOW:
                self._room.clear()
                await self._room.wait()
            rows = self._log(READ, (read_to, min(CHUNK, events - read_to))).fetchall()
            for number, kind, payload in rows:
                self._enter(number, self._decoders[kind](payload))
            read_to = rows[-1][0]
        while self.position < events:
            await asyncio.sleep(0.001)
        for task in (*workers, noting):
            task.cancel()

    def _enter(self, number: int, order: Any) -> None:
        self._open[number] = False
        lane = self._lanes.get(order.customer)
        if lane is None:
            self._lanes[order.customer] = deque([(number, order)])
            self._ready.put_nowait(order.customer)
        else:
            lane.append((number, order))

    async def _work(self) -> None:
        while True:
            key = await self._ready.get()
            lane = self._lanes[key]
            while lane:
                number, order = lane[0]
                await self.handle(order)
                lane.popleft()
                self._open[number] = True
            del self._lanes[key]

    async def handle(self, order: Any) -> None:  # noqa: ARG002
        await asyncio.sleep(WAIT)
        self.done += 1

    async def _note(self) -> None:
        while True:
            await asyncio.sleep(NOTE_EVERY)
            passed = []
            for number, done in self._open.items():
                if not done:
                    break
                passed.append(number)
            if passed:
                self._store.execute(MOVE, (passed[-1], self.position))
                if self._store.changes() != 1:
                    raise RuntimeError("somebody else has moved the position")
                self.position = passed[-1]
                for number in passed:
                    del self._open[number]
                self._room.set()


async def handles(folder: str, events: int, shape: dict[str, Any]) -> Record:
    shop = Shop(Shape(**{**shape, "handler": "none"}))
    store = open_store(folder)
    waiting = Waiting(open_log(folder), store, msgspec.json.Decoder(shop.OrderPlaced).decode)
    watch = Watch()
    await waiting.run(events)
    record = measured(events, watch)
    assert waiting.done == events
    assert store.execute("select next from position").get == events
    return record
