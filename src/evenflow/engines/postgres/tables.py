"""What this process knows of PostgreSQL's log: topics, partitions and their ends, and the packs that were read last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from evenflow.drivers.postgres.errors import PostgresError
from evenflow.drivers.postgres.link import Statement
from evenflow.engine import Batch, Bounds, Generation, Log, Partition
from evenflow.engines.log_consumer import no_such_partition
from evenflow.engines.packs import Pack, PackCache, batch_from, unpack_offsets
from evenflow.engines.postgres.texts import Texts
from evenflow.engines.postgres.wire import Rows, Wire, unavailable
from evenflow.envelopes import unpack_columns

OFFSET_BITS = 40
PACKS = 64
"""Packs of one partition in one answer."""
NEWS, NEWS_BYTES = 64, 64 << 10
"""Events and bytes of a partition that come with a look at its end, about."""
MISSING = frozenset({"42P01", "42883", "3F000"})
"""A table, function or schema is not there."""


class Part:
    """One partition as of the last answer that told of it. `read` is (offset, segment) where the last reader was."""

    __slots__ = ("key", "low", "next", "read", "serial", "topic")

    def __init__(self, topic: int, serial: int, key: Partition) -> None:
        self.topic = topic
        self.serial = serial
        self.key = key
        self.low = 0
        self.next = 0
        self.read = (0, 0)

    def segment(self, offset: int) -> int:
        """A segment before which nothing stands from this offset on."""
        return self.read[1] if offset >= self.read[0] else 0


class TopicState(NamedTuple):
    """A topic as of the last look: its log, facts, and the partitions of its last generation."""

    id: int
    log: Log
    facts: tuple[float | None, int | None, bool]
    last: Sequence[Part]


class Wanted(NamedTuple):
    """What is to be read of a partition: from an offset on, at most so many events and about so many bytes."""

    part: Part
    offset: int
    events: int
    bytes: int


class LogTables:
    """Asks through one connection. All methods run on the event loop."""

    def __init__(self, wire: Wire, texts: Texts, cache: PackCache) -> None:
        self.wire = wire
        self.text = texts.text
        self.cache = cache
        self._topics: dict[str, TopicState] = {}
        self._parts: dict[Partition, Part] = {}
        self._serials: dict[int, Part] = {}

    async def ask(self, *statements: Statement) -> list[Rows]:
        """Raises `EngineUnavailable`."""
        try:
            return await self.wire.ask(statements)
        except PostgresError as error:
            raise unavailable(error, self.wire.place) from error

    # Topics.

    async def topic(self, name: str) -> TopicState | None:
        """The topic as it stands now."""
        heads, rows = await self.ask((self.text("topic"), (name,)), (self.text("partitions"), (name,)))
        if not heads or not rows:
            self.forget(name)
            return None
        return self._keep(name, heads[0], rows)

    def known(self, name: str) -> TopicState | None:
        """The topic as of the last look."""
        return self._topics.get(name)

    def _keep(self, name: str, head: tuple[Any, ...], rows: Rows) -> TopicState:
        topic, _, last, retention, retention_bytes, compacted, *_rest = head
        old = self._topics.get(name)
        if old is not None and old.id != topic:
            self.forget(name)
        parts = []
        for serial, generation, number, low, base in rows:
            part = self._part(topic, serial, Partition(name, generation, number))
            part.low, part.next = low, max(part.next, base)
            if generation == last:
                parts.append(part)
        state = TopicState(topic, log_of(name, head, rows), (retention, retention_bytes, compacted), parts)
        self._topics[name] = state
        return state

    def _part(self, topic: int, serial: int, key: Partition) -> Part:
        part = self._serials.get(serial)
        if part is None or part.key != key:
            part = self._serials[serial] = self._parts[key] = Part(topic, serial, key)
        return part

    def forget(self, name: str) -> None:
        """What is known of a topic may be wrong: its table is not there, or another one."""
        self._topics.pop(name, None)
        for part in [part for part in self._parts.values() if part.key.topic == name]:
            del self._parts[part.key], self._serials[part.serial]
        self.cache.clear()

    async def parts(self, keys: Iterable[Partition]) -> list[Part]:
        """The partitions. Raises `GroupStopped` for one that the log has not."""
        found = []
        for key in keys:
            if key not in self._parts:
                await self.topic(key.topic)
            found.append(self.part(key))
        return found

    def part(self, key: Partition) -> Part:
        """The same for a topic that was looked at."""
        part = self._parts.get(key)
        if part is None:
            raise no_such_partition(key)
        return part

    # The ends of partitions.

    async def bounds(self, keys: Iterable[Partition]) -> Mapping[Partition, Bounds]:
        """The ends as they stand now; what was known is brought up to date."""
        wanted = list(keys)
        parts = await self.parts(wanted)
        await self._asked(parts, self.ask_bounds(parts), self.took_bounds)
        return {key: Bounds(part.low, part.next) for key, part in zip(wanted, await self.parts(wanted), strict=True)}

    async def look(self, places: Mapping[Partition, int]) -> bool:
        """Bring up to date what is known of the ends of these partitions. Whether anything is new.

        Where a reader's place is the end that was known, what came is in the cache then, without a round trip more.
        """
        parts = [part for key in places if (part := self._parts.get(key)) is not None]
        read = [part for part in parts if part.next == places[part.key]]
        asked = by_topic_of(enumerate(Wanted(part, part.next, NEWS, NEWS_BYTES) for part in read))
        news: list[bool] = []

        def take(answers: list[Rows]) -> None:
            for rows, some in zip(answers, asked.values(), strict=False):
                for place, *row in rows:
                    self._decoded(some[place - 1][1].part, row)
            news.append(self.took_bounds(answers[len(asked) :]))

        statements = [self._ask_packs(topic, [each for _, each in some]) for topic, some in asked.items()]
        await self._asked(parts, statements + self.ask_bounds(parts), take)
        return any(news)

    async def _asked(
        self, parts: Sequence[Part], statements: list[Statement], take: Callable[[list[Rows]], object]
    ) -> None:
        try:
            take(await self.wire.ask(statements))
        except PostgresError as error:
            if error.sqlstate not in MISSING:
                raise unavailable(error, self.wire.place) from error
            for name in {part.key.topic for part in parts}:
                self.forget(name)

    def ask_bounds(self, parts: Iterable[Part]) -> list[Statement]:
        """A statement per topic, for `took_bounds`."""
        return [
            (self.text("bounds", topic), ([part.serial for part in some],)) for topic, some in by_topic(parts).items()
        ]

    def took_bounds(self, answers: Iterable[Rows]) -> bool:
        """Whether anything is new."""
        changed = False
        for rows in answers:
            for serial, low, end in rows:
                part = self._serials.get(serial)
                if part is not None and (part.low, part.next) != (low, end):
                    part.low, part.next = low, end
                    changed = True
        return changed

    # Events.

    async def read(self, wanted: Sequence[Wanted], watched: Sequence[Part]) -> list[list[Pack]]:
        """Packs from the places that are wanted: from the cache, and in one round trip what that has not.

        The same round trip brings up to date what is known of the ends of those that are watched. The last event of a
        partition is always kept, so that there is something to find before every end.
        """
        cached = [self._cached(each) for each in wanted]
        found = [packs for packs, _ in cached]
        asked = by_topic_of((n, left) for n, (_, left) in enumerate(cached) if left is not None)
        if not asked:
            return found

        def take(answers: list[Rows]) -> None:
            for rows, some in zip(answers, asked.values(), strict=False):
                for place, *row in rows:
                    n, left = some[place - 1]
                    found[n].append(self._decoded(left.part, row))
            self.took_bounds(answers[len(asked) :])

        statements = [self._ask_packs(topic, [left for _, left in some]) for topic, some in asked.items()]
        await self._asked(watched, statements + self.ask_bounds(watched), take)
        return found

    def _cached(self, wanted: Wanted) -> tuple[list[Pack], Wanted | None]:
        """Packs that are at hand, and what is to be read besides."""
        part, at, events, size = wanted
        self.cache.asked = True
        packs: list[Pack] = []
        end = min(part.next, at + events)
        while at < end and size > 0:
            pack = self.cache.get(part.serial << OFFSET_BITS | at)
            if pack is None:
                return packs, Wanted(part, at, end - at, size)
            packs.append(pack)
            size -= pack.bytes
            at = pack.last + 1
        return packs, None

    def _ask_packs(self, topic: int, wanted: list[Wanted]) -> Statement:
        serials = [each.part.serial for each in wanted]
        segments = [each.part.segment(each.offset) for each in wanted]
        offsets = [each.offset for each in wanted]
        limits = [min(PACKS, each.events) for each in wanted]
        events = [each.events for each in wanted]
        sizes = [each.bytes for each in wanted]
        return self.text("packs", topic), (serials, segments, offsets, limits, events, sizes)

    def _decoded(self, part: Part, row: Sequence[Any]) -> Pack:
        segment, *rest = row
        pack = decode(*rest)
        part.read = (pack.last, segment)
        self.cache.put(part.serial << OFFSET_BITS | pack.offsets[0], pack)
        return pack

    def batch(self, wanted: Wanted, found: Iterable[Pack]) -> tuple[Batch, int]:
        """What was found, as a batch, and its bytes."""
        part, offset, events, size = wanted
        return batch_from(part.key, found, offset, events, size, offset)


def log_of(name: str, head: tuple[Any, ...], rows: Rows) -> Log:
    """The log that the rows of a topic and of its partitions tell of."""
    counts: dict[int, int] = {}
    for _, generation, number, *_rest in rows:
        counts[generation] = number + 1
    generations = tuple(Generation(number, count) for number, count in counts.items())
    return Log(name, head[1], generations, sealed=head[6], goes_on=head[7])


def decode(last: int, count: int, offsets: bytes | None, body: bytes) -> Pack:
    """The pack of a row."""
    places: Sequence[int] = range(last - count + 1, last + 1) if offsets is None else unpack_offsets(offsets)
    return Pack(places[0], last, places, unpack_columns(body), len(body))


def by_topic(parts: Iterable[Part]) -> dict[int, list[Part]]:
    """Partitions by the id of their topic."""
    found: dict[int, list[Part]] = {}
    for part in parts:
        found.setdefault(part.topic, []).append(part)
    return found


def by_topic_of(wanted: Iterable[tuple[int, Wanted]]) -> dict[int, list[tuple[int, Wanted]]]:
    """The same for what is wanted of them."""
    found: dict[int, list[tuple[int, Wanted]]] = {}
    for each in wanted:
        found.setdefault(each[1].part.topic, []).append(each)
    return found
