"""What Kafka keeps of our groups: lazily committed offsets, so that its own tools show how far a group is.

Each group has one more offset, of the topic `evenflow--marks`, whose metadata names the store that has its positions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from evenflow.engine import Partition, Told
from evenflow.engines.kafka.client import Client, TopicPartition
from evenflow.engines.kafka.commits import Commits
from evenflow.engines.kafka.marks import MARKS, Marks
from evenflow.engines.kafka.peek import Name
from evenflow.errors import EvenflowError

NO_TOPIC = Partition("", 0, 0)
MARK = (MARKS, 0)
AGAIN = 86_400.0
"""Seconds after which what was told is told again: brokers forget offsets that nobody repeats, after a week."""

PACE = 5.0
"""Seconds between two commits, unless somebody wants to know."""

log = logging.getLogger("evenflow")


class _Group:
    """What is to be told of one group, and what was."""

    def __init__(self) -> None:
        self.store = ""
        self.mark = 0  # the offset of NO_TOPIC, and one; 0 without one
        self.positions: dict[Partition, int] = {}
        self.told: dict[Partition, int] = {}
        self.at = 0.0
        self.changed = False


class Names(Protocol):
    """Knows what partitions are called on Kafka."""

    async def name_of(self, partition: Partition) -> str:
        """The topic of Kafka that this partition is of."""
        ...

    async def partitions(self, topic: str | None = None) -> Mapping[Name, Partition]:
        """By where they are on Kafka, the partitions of one topic, or of all that are known."""
        ...


class Groups:
    """Commits in the background, one at a time per group; the next one carries all that has come meanwhile."""

    def __init__(self, client: Client, marks: Marks, names: Names) -> None:
        self._client = client
        self._commits = Commits(client)
        self._marks = marks
        self._names = names
        self._groups: dict[str, _Group] = {}
        self._telling: asyncio.Task[None] | None = None
        self._soon: asyncio.TimerHandle | None = None
        self._next = 0.0
        self._closed = False

    # -- told and recalled --------------------------------------------------------------------------------------------

    def tell(self, group: str, store: str, positions: Mapping[Partition, int]) -> None:
        """Commit this before long."""
        known = self._groups.setdefault(group, _Group())
        known.store = store
        known.positions.update(positions)
        known.changed = True
        if self._telling is None and self._soon is None:
            self._soon = asyncio.get_running_loop().call_at(self._next, self._start)

    def _start(self) -> None:
        self._soon = None
        self._telling = asyncio.ensure_future(self._tell())

    async def settle(self) -> None:
        """Wait until everything is committed, or was tried. Raises `EngineUnavailable`."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._telling is not None:
            await asyncio.shield(self._telling)
        await self._tell_all()

    def close(self) -> None:
        """Nothing is committed any more."""
        self._closed = True
        if self._soon is not None:
            self._soon.cancel()
        self._commits.close()

    async def again(self, now: float) -> None:
        """Tell again what was told long ago."""
        for known in self._groups.values():
            if known.at and now - known.at > AGAIN:
                known.positions = {**known.told, **known.positions}
                known.changed = True
        await self._tell_all()

    async def recall(self, group: str) -> Told | None:
        """What is kept of this group, or None. What is on its way there counts as kept."""
        return await self._recalled(group, await self._names.partitions())

    async def _recalled(self, group: str, known: Mapping[Name, Partition]) -> Told | None:
        mine = self._groups.get(group) or _Group()
        coming, store = dict(mine.positions), mine.store
        found = {(each.topic, each.partition): each for each in await self._commits.of(group, [*known, MARK])}
        mark = found.pop(MARK, None)
        if mark is None and not coming:
            return None
        positions = {known[name]: each.offset for name, each in found.items()}
        if mark is not None and mark.offset:
            positions[NO_TOPIC] = mark.offset - 1
        if mark is not None and not coming:
            store = mark.metadata or ""
        return Told(store, {**positions, **coming})

    async def readers(self, topic: str) -> dict[str, dict[Partition, int]]:
        """See `Engine.readers`."""
        await self.settle()
        known = await self._names.partitions(topic)
        names = await self._client.groups() if known else []
        recalled = await asyncio.gather(*(self._recalled(name, known) for name in names))
        found = {}
        for name, told in zip(names, recalled, strict=True):
            mine = {} if told is None else {key: n for key, n in told.positions.items() if key.topic == topic}
            if told is not None and told.store and mine:
                found[name] = mine
        return found

    async def _tell(self) -> None:
        try:
            await self._tell_all()
        except EvenflowError as error:
            log.debug("Kafka keeps no copy of the positions for now: %s", error)
        finally:
            self._telling = None
            self._next = asyncio.get_running_loop().time() + PACE
            if self._soon is None and not self._closed and any(each.changed for each in self._groups.values()):
                self._soon = asyncio.get_running_loop().call_at(self._next, self._start)

    async def _tell_all(self) -> None:
        changed = [name for name, each in self._groups.items() if each.changed]
        if changed:
            await self._marks.make()
        for name in changed:
            await self._tell_one(name, self._groups[name])

    async def _tell_one(self, name: str, known: _Group) -> None:
        positions, known.changed = dict(known.positions), False
        if NO_TOPIC in positions:
            known.mark = positions[NO_TOPIC] + 1
        rows = []
        try:
            for each, offset in positions.items():
                if each != NO_TOPIC:
                    rows.append(TopicPartition(await self._names.name_of(each), each.number, offset))
            rows.append(TopicPartition(MARKS, 0, known.mark, known.store))
            await self._commits.put(name, rows)
        except EvenflowError:
            known.changed = True
            raise
        known.positions = {each: n for each, n in known.positions.items() if positions.get(each) != n}
        known.told.update(positions)
        known.at = asyncio.get_running_loop().time()
