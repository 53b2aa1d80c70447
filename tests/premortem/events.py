"""Events and small things that the cases share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from evenflow import Envelope, Event, Topic
from evenflow.ids import new_id, slot_of
from evenflow.testing import World

ONE = Topic("one", partitions=1)
MANY = Topic("many", partitions=4)


class Placed(Event, type="placed", topic=ONE, key="key"):
    key: str
    number: int = 0


class Paid(Event, type="paid", topic=ONE, key="key"):
    key: str
    number: int = 0


class Spread(Event, type="spread", topic=MANY, key="key"):
    key: str
    number: int = 0


def run(test: Callable[[], Awaitable[None]], seconds: float = 20.0) -> None:
    """Run it; a deadlock ends it after so many seconds of real time."""
    asyncio.run(asyncio.wait_for(test(), seconds))


def placed(*keys: object) -> list[Placed]:
    return [Placed(key=str(key), number=n) for n, key in enumerate(keys)]


async def table(world: World, service: str, sql: str = "create table t (id text primary key)") -> None:
    async with world.transaction(service) as tx:
        await tx.execute(sql)


async def append_raw(
    world: World, topic: str, type_: str, data: bytes, key: str | None = "k", version: int = 1
) -> None:
    """What a stranger wrote into the log."""
    id_ = new_id()
    slot = slot_of(key or id_)
    engine = await world.running.ready(topic)
    await engine.append(topic, [Envelope(id_, "stranger", type_, version, key, slot, world.clock.now(), data)])
    await world.settle()


def loop_of(world: World, group: str) -> Any:
    return next(loop for loop in world.running.loops() if loop.name == group)


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Turns of the event loop until it holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0)
