"""The loader: publishes for ever, and writes what it tries and what was acknowledged into files of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import random

from evenflow import EvenflowError
from evenflow.clock import Signal

from .app import FOLDER, POISON, Measured, OrderPlaced, app, append_only, orders, write

RATE = float(os.environ.get("CRASH_RATE", "1500"))
"""Events per second, about, of all topics together: of them, an order is three."""
ORDERS_SHARE = 0.25
DRAW = "insert into sequences values ($1, 1) on conflict (key) do update set n = sequences.n + 1"


class Loader:
    """A number is used once only, whatever became of its event; but one that was drawn from the store is its own."""

    def __init__(self, incarnation: int, seed: int) -> None:
        self.random = random.Random(seed * 1000 + incarnation)
        self.incarnation = incarnation
        self.tried = append_only(FOLDER / "tried.jsonl")
        self.acked = append_only(FOLDER / "acked.jsonl")
        self.numbers: dict[str, int] = {}
        self.keys = {kind: [f"{kind}-{n}" for n in range(64 if kind == "r" else 24)] for kind in "dtmr"}

    def next(self, key: str) -> tuple[str, int]:
        n = self.numbers[key] = self.numbers.get(key, 0) + 1
        return f"{key}/{self.incarnation}/{n}", n

    def order(self, key: str) -> OrderPlaced:
        uid, number = self.next(key)
        return OrderPlaced(customer=key, uid=uid, number=number)

    async def direct(self, keys: list[str]) -> None:
        placed = [self.order(key) for key in keys]
        uids = [each.uid for each in placed]
        write(self.tried, ["direct", *uids])
        await app.publish(*placed)
        write(self.acked, uids)

    async def readings(self, keys: list[str]) -> None:
        measured = [Measured(meter=key, uid=self.next(key)[0]) for key in keys]
        uids = [each.uid for each in measured]
        write(self.tried, ["direct", *uids])
        await app.publish(*measured)
        write(self.acked, uids)

    async def transaction(self, keys: list[str]) -> None:
        uids = []
        async with app.transaction(orders) as tx:
            for key in keys:
                if key.startswith("t"):
                    await tx.execute(DRAW, key)
                    n = await tx.fetch_value("select n from sequences where key = $1", key)
                    order = OrderPlaced(customer=key, uid=f"{key}/-/{n}", number=n)
                else:
                    order = self.order(key)
                write(self.tried, ["tx", order.uid])
                tx.write("insert into placed (key, uid) values ($1, $2)", key, order.uid)
                tx.publish(order)
                uids.append(order.uid)
        write(self.acked, uids)

    async def publish(self, kind: str, keys: list[str]) -> None:
        if kind == "r":
            await self.readings(keys)
        elif kind == "d" or (kind == "m" and self.random.random() < 0.5):
            await self.direct(keys)
        else:
            await self.transaction(keys)

    async def run(self, stop: Signal, kind: str, rate: float) -> None:
        """So many events a second, in lists of different lengths; what is late is caught up with, for a while."""
        loop, sizes = asyncio.get_running_loop(), (20, 100, 300) if kind == "r" else (1, 1, 2, 5, 20)
        at = loop.time()
        while not stop.is_set():
            keys = self.random.choices(self.keys[kind], k=self.random.choice(sizes))
            if kind == "d" and self.random.random() < 0.1:
                keys.append(POISON)
            try:
                await self.publish(kind, keys)
            except EvenflowError as error:
                logging.warning("not published: %s", error)
                at = max(at, loop.time())
            at = max(at + len(keys) / rate, loop.time() - 2.0)
            await asyncio.sleep(max(0.0, at - loop.time()))


async def loader(stop: Signal, incarnation: int, seed: int) -> None:
    each = RATE * ORDERS_SHARE / 9
    rates = {"d": each, "t": each, "m": each, "r": RATE * (1 - ORDERS_SHARE)}
    async with app.open():
        pace = Loader(incarnation, seed)
        await asyncio.gather(*(pace.run(stop, kind, rate) for kind, rate in rates.items()))
