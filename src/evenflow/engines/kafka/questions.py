"""Questions about places in a partition: its ends, a time, the event that stands somewhere, what waits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evenflow.engine import Backlog, Bounds, Partition
from evenflow.engines.kafka.client import administration
from evenflow.engines.kafka.peek import Missing, Name, Peek
from evenflow.engines.kafka.records import Place, envelope_of
from evenflow.engines.kafka.topics import Topics
from evenflow.engines.log_consumer import no_such_partition
from evenflow.envelope import Envelope

STEP = 16
"""Offsets by which one goes back at first for an event before a gap, doubled each time."""


class Questions:
    """Answers come from the brokers each time."""

    def __init__(self, peek: Peek, topics: Topics) -> None:
        self._peek = peek
        self._topics = topics

    async def stand(self, partitions: Sequence[Partition]) -> Mapping[Partition, tuple[Place, Bounds]]:
        """Where these partitions are, and what they keep. Raises `GroupStopped` for one that is gone."""
        places = {each: await self._topics.place(each) for each in partitions}
        try:
            found = await self._peek.ends(_name(each) for each in places.values())
        except Missing:
            places = {each: await self._topics.place(each, again=True) for each in partitions}
            try:
                found = await self._peek.ends(_name(each) for each in places.values())
            except Missing:
                raise no_such_partition(partitions[0]) from None
        return {each: (place, Bounds(*found[_name(place)])) for each, place in places.items()}

    async def bounds(self, partition: Partition) -> Bounds:
        return (await self.stand([partition]))[partition][1]

    async def find(self, partition: Partition, moment: float) -> int:
        """See `Engine.find`."""
        place, bounds = (await self.stand([partition]))[partition]
        spec = administration.OffsetSpec.for_timestamp(max(0, math.ceil(moment * 1000)))
        found = (await self._peek.offsets([_name(place)], spec))[_name(place)]
        return bounds.high if found < 0 else max(found, bounds.low)

    async def backlog(self, positions: Mapping[Partition, int]) -> Mapping[Partition, Backlog]:
        """See `Engine.backlog`. Where compaction has left gaps, what waits is counted too high."""
        found: dict[Partition, Backlog] = {}
        starts: dict[Name, int] = {}
        open_: dict[Name, Place] = {}
        for key, (place, bounds) in (await self.stand(list(positions))).items():
            start = max(bounds.low, positions[key])
            found[key] = Backlog(max(0, bounds.high - start), None)
            if bounds.high > start:
                starts[_name(place)], open_[_name(place)] = start, place

        def look(message: Any) -> bool:
            place = open_.pop((message.topic(), message.partition()), None)
            if place is not None:
                waiting = found[place.partition].waiting
                found[place.partition] = Backlog(waiting, envelope_of(place, message).time)
            return not open_

        if starts:
            await self._peek.through(starts, look)
        return {key: Backlog(0, None) if each.oldest is None else each for key, each in found.items()}

    async def read(self, partition: Partition, offset: int) -> tuple[int, Envelope] | None:
        """See `Engine.read`."""
        place, bounds = (await self.stand([partition]))[partition]
        last, step = min(offset, bounds.high - 1), 1
        while last >= bounds.low:
            start = max(bounds.low, last - step + 1)
            found = await self._last(place, start, last)
            if found is not None:
                return found.offset(), envelope_of(place, found)
            last, step = start - 1, max(STEP, 2 * step)
        return None

    async def _last(self, place: Place, start: int, last: int) -> Any:
        """The last record between these offsets, or None."""
        kept: list[Any] = []

        def look(message: Any) -> bool:
            if message.offset() <= last:
                kept[:] = [message]
            return bool(message.offset() >= last)

        await self._peek.through({_name(place): start}, look)
        return kept[0] if kept else None


def _name(place: Place) -> Name:
    return place.topic, place.partition.number
