"""A stream of numbered events, published and handled while servers and workers come to harm. Its places are settings.

What was published and what was done of it stand in the store: `sent` has the last number of each key, `taken` a row
per effect, in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path

from evenflow.app import App
from evenflow.errors import EvenflowError
from evenflow.event import Event
from evenflow.service import Service
from evenflow.store import Row
from evenflow.topic import Topic
from evenflow.unit_of_work import Transaction

KEYS = 12
PAUSE = 0.004
"""Seconds between two events, so that thousands are under way in a run."""
TOPIC = Topic("stream", partitions=4)
NEXT = """
insert into sent (key, number) values ($1, 1) on conflict (key) do update set number = sent.number + 1 returning number
"""


class Step(Event, type="conformance.step", topic=TOPIC, key="key"):
    """The number of a key: they rise by one."""

    key: str
    number: int


service = Service("stream", migrations=Path(__file__).parent / "sql")


@service.on(Step, group="take", start="beginning")
async def take(step: Step, tx: Transaction) -> None:
    """One row for each event."""
    tx.write("insert into taken (key, number) values ($1, $2)", step.key, step.number)


app = App(service, name="stream")


class Publisher:
    """Publishes each number in the transaction that counts it, again and again, whatever does not work meanwhile."""

    def __init__(self) -> None:
        self.failed = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.ensure_future(self._publish())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _publish(self) -> None:
        turn = 0
        while True:
            turn += 1
            key = f"k{turn % KEYS}"
            try:
                async with app.transaction(service) as tx:
                    tx.publish(Step(key=key, number=await tx.fetch_value(NEXT, key)))
            except EvenflowError:
                self.failed += 1
                await asyncio.sleep(0.05)
            await asyncio.sleep(PAUSE)


async def sent() -> dict[str, int]:
    """The last number of each key that was published."""
    return dict(await app.read(service, "select key, number from sent"))


async def taken() -> dict[str, list[int]]:
    """The numbers of each key that have had their effect, in order."""
    found: dict[str, list[int]] = {}
    rows: Iterable[Row] = await app.read(service, "select key, number from taken order by place")
    for key, number in rows:
        found.setdefault(key, []).append(number)
    return found


def violations(done: Mapping[str, list[int]], published: Mapping[str, int]) -> list[str]:
    """What is wrong with these effects: out of order, twice, left out, or never published. Some may still come."""
    wrong = []
    for key, numbers in sorted(done.items()):
        for place, number in enumerate(numbers, 1):
            if number != place:
                near = numbers[max(0, place - 3) : place + 2]
                wrong.append(f"{key} was handled as … {', '.join(map(str, near))} …")
                break
        else:
            if len(numbers) > published.get(key, 0):
                wrong.append(f"{key} was handled {len(numbers)} times, and published {published.get(key, 0)} times")
    return wrong


def left(done: Mapping[str, list[int]], published: Mapping[str, int]) -> int:
    """How many of what was published have not had their effect."""
    return sum(max(0, number - len(done.get(key, ()))) for key, number in published.items())
