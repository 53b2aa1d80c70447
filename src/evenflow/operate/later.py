"""What a group has handled of some keys since a place in their logs: whether a key has gone on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from evenflow.engine import Batch, Engine, Log, Partition
from evenflow.envelope import Envelope
from evenflow.event import spec_of
from evenflow.operate.finding import Home
from evenflow.position import decode_settled
from evenflow.store import Row

READ = 1000
BYTES = 1 << 22

LaneName = tuple[str, str]
Start = tuple[str, int, int, int]
"""Topic, generation, partition and offset."""
Ends = dict[Partition, int]
Known = Callable[[LaneName, int, int], bool]
"""Whether an event of a lane, by generation and offset, is known not to be handled: it is parked, or out."""


async def ends_of(found: Home, read: Callable[[str, tuple[Any, ...]], Awaitable[list[Row]]]) -> Ends:
    """How far the group has come in its partitions, with what it has done beyond its positions."""
    rows = await read(found.store.sql["position_ends"], (found.group,))
    return {
        Partition(topic, generation, number): max(next_, *(each + 1 for each in decode_settled(settled)), 0)
        for topic, generation, number, next_, settled in rows
    }


async def gone_on(
    found: Home, logs: Mapping[str, Log], watched: Mapping[Start, set[str]], ends: Ends, known: Known, since: Ends
) -> dict[LaneName, str]:
    """Lanes of which later events were handled, and how many, in words. `since`: where an earlier look has ended."""
    assert found.spec is not None
    types = {spec_of(each).type for each in found.spec.events}
    engines, counts, lost = dict(found.engines), dict[LaneName, int](), set[LaneName]()
    for start, keys in watched.items():
        for place, offset in _stretches(logs[start[0]], start):
            begin, engine = max(offset, since.get(place, 0)), engines[place.topic]
            if (await engine.bounds(place)).low > begin:
                lost |= {(place.topic, f"k{key}") for key in keys}
            for at, envelope in await _read(engine, place, begin, ends.get(place)):
                lane = (place.topic, f"k{envelope.key}")
                if envelope.key in keys and envelope.type in types and not known(lane, place.generation, at):
                    counts[lane] = counts.get(lane, 0) + 1
    told = dict.fromkeys(lost, "nobody can tell whether its key has gone on: the log does not reach back so far")
    return told | {lane: f"its key has gone on: {_events(count)} since" for lane, count in counts.items()}


def _events(count: int) -> str:
    return "1 later event was handled" if count == 1 else f"{count:,} later events were handled"


def _stretches(log: Log, start: Start) -> Iterable[tuple[Partition, int]]:
    """The rest of its partition, and all of later generations, with the offset at which each begins."""
    _topic, generation, partition, offset = start
    for each in log.generations:
        for place in log.partitions(each.number):
            if each.number == generation and place.number == partition:
                yield place, offset
            elif each.number > generation:
                yield place, 0


async def _read(engine: Engine, place: Partition, begin: int, end: int | None) -> list[tuple[int, Envelope]]:
    bounds = await engine.bounds(place)
    begin, end = max(begin, bounds.low), bounds.high if end is None else min(end, bounds.high)
    consumer, found = engine.consumer("evenflow import"), list[tuple[int, Envelope]]()
    try:
        consumer.assign(place, begin)
        while begin < end:
            batches = [each for each in await consumer.fetch(READ, BYTES, 0.0) if isinstance(each, Batch)]
            if not batches:
                break
            for batch in batches:
                found += [each for each in zip(batch.offsets, batch.envelopes, strict=True) if each[0] < end]
                begin = batch.next
    finally:
        await consumer.close()
    return found
