"""What the checks of engines are written with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from evenflow.engine import Batch, Consumer, Engine, Log, Outcome, Partition
from evenflow.envelope import Envelope
from evenflow.errors import EvenflowError
from evenflow.ids import new_id, slot_of
from evenflow.testing.suite import NotApplicable, expect
from evenflow.topic import Topic

SECONDS = 15.0
"""What should come true, comes true within these."""
SIZE = 1 << 24
BREATH = 0.05
"""Seconds after which an engine that reads ahead in a thread of its own has read."""
TIDIES = "its servers remove what is due in their own time"


class EngineFactory(Protocol):
    """Gives an open engine, which is closed at the end of the context."""

    def __call__(self) -> AbstractAsyncContextManager[Engine]: ...


class WipingFactory(EngineFactory, Protocol):
    """A factory that can also make the log anew while no engine is open, as when its file is deleted."""

    async def wipe(self) -> None: ...


def need(claim: object, what: str) -> None:
    """Skip the check for an engine that does not claim this."""
    if not claim:
        raise NotApplicable(what)


async def topic_of(engine: Engine, partitions: int = 1, **facts: object) -> tuple[str, Log]:
    """A new topic with a name of its own."""
    name = "check." + new_id().replace("-", "")
    name = name.replace("check.", "check.t")
    return name, await engine.declare(Topic(name, partitions=partitions, **facts))  # type: ignore[arg-type]


def event(number: int, key: str | None = None, *, slot: int | None = None, data: bytes = b"{}") -> Envelope:
    """An envelope whose number tells it from the others of its check."""
    place = slot if slot is not None else slot_of(key) if key is not None else 0
    return Envelope(
        id=f"e{number}", source="suite", type="checked", version=1, key=key, slot=place, time=1000.0 + number,
        data=data, producer="p", number=number,
    )  # fmt: skip


def events(numbers: Iterable[int], key: str | None = None) -> list[Envelope]:
    """Envelopes of one key, or of none."""
    return [event(number, key) for number in numbers]


async def store(engine: Engine, topic: str, envelopes: Sequence[Envelope]) -> None:
    """Append, and fail unless all were stored."""
    answers = await engine.append(topic, envelopes)
    expect(list(answers) == [Outcome.STORED] * len(envelopes), f"append answered {list(answers)[:3]}…")


async def reader(engine: Engine, offsets: Mapping[Partition, int], group: str = "") -> Consumer:
    """A consumer that reads from these offsets."""
    consumer = engine.consumer(group or "check." + new_id().replace("-", "x"))
    for partition, offset in offsets.items():
        consumer.assign(partition, offset)
    return consumer


def beginning(log: Log) -> dict[Partition, int]:
    """Offset 0 of every partition of every generation."""
    return {partition: 0 for each in log.generations for partition in log.partitions(each.number)}


def batches_of(fetched: Sequence[Batch]) -> list[Batch]:
    """What a fetch gave; each batch is checked for what every batch promises."""
    found = list(fetched)
    for batch in found:
        offsets = list(batch.offsets)
        expect(len(offsets) == len(batch.envelopes) > 0, "a batch has as many offsets as envelopes, at least one")
        expect(offsets == sorted(set(offsets)), f"offsets rise: {offsets[:5]}…")
        expect(batch.next > offsets[-1], f"next ({batch.next}) stands behind the last offset ({offsets[-1]})")
    return found


async def take(consumer: Consumer, count: int, limit: int = 1000) -> list[Batch]:
    """Batches with so many envelopes in all; fails when they do not come."""
    found: list[Batch] = []
    deadline = time.monotonic() + SECONDS
    while (got := sum(len(each.envelopes) for each in found)) < count:
        expect(time.monotonic() < deadline, f"only {got} of {count} envelopes came")
        found += batches_of(await consumer.fetch(limit, SIZE, 0.2))
    return found


def numbers(batches: Iterable[Batch]) -> list[int]:
    """The numbers of the envelopes of these batches, in order."""
    return [envelope.number for batch in batches for envelope in batch.envelopes]


async def nothing(consumer: Consumer, why: str) -> None:
    """Fail if a short fetch gives a batch."""
    found = batches_of(await consumer.fetch(1000, SIZE, 0.05))
    expect(not found, f"{why}: {numbers(found)[:5]}")


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until the condition, which may ask the engine, holds."""
    deadline = time.monotonic() + SECONDS
    while not await condition():
        expect(time.monotonic() < deadline, f"not within {SECONDS} s: {what}")
        await asyncio.sleep(0.01)


async def raised(kind: type[EvenflowError], call: Awaitable[object], what: str) -> EvenflowError:
    """The error of this kind that the call has to raise."""
    try:
        await call
    except kind as error:
        return error
    raise AssertionError(f"{what} did not raise {kind.__name__}")
