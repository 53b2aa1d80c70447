"""The engine on PostgreSQL: a durable log in tables, which processes on many machines use at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakSet

from evenflow.checkup import Finding
from evenflow.clock import Clock, Signal
from evenflow.drivers.postgres.checks import clock_finding, durability_findings, keeps_names, pooled
from evenflow.drivers.postgres.errors import PostgresError
from evenflow.drivers.postgres.place import PostgresPlace
from evenflow.drivers.postgres.silence import Silence
from evenflow.engine import Backlog, Batch, Bounds, Capabilities, Consumer, Log, Outcome, Partition, Told
from evenflow.engines.generations import due_generation
from evenflow.engines.log_consumer import Waiters, no_such_topic
from evenflow.engines.packs import PackCache
from evenflow.engines.postgres import places as postgres_places
from evenflow.engines.postgres.appends import Appends
from evenflow.engines.postgres.consumer import PostgresConsumer
from evenflow.engines.postgres.examine import examine
from evenflow.engines.postgres.making import Making
from evenflow.engines.postgres.tables import LogTables, Wanted
from evenflow.engines.postgres.texts import DEFAULT_SCHEMA, Texts
from evenflow.engines.postgres.upkeep import Upkeep
from evenflow.engines.postgres.watch import Watch
from evenflow.engines.postgres.wire import Wire, cannot_open, unavailable
from evenflow.envelope import Envelope
from evenflow.errors import EngineUnavailable, Refused
from evenflow.ids import new_id
from evenflow.topic import Topic

__all__ = ["PostgresEngine", "PostgresOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresOptions:
    """schema: where the log's tables are.
    wait: seconds to wait for the server's answer.
    cache_bytes: memory for decoded events, which groups near each other share.
    allow_unsafe: what is taken on the user's own risk; see the start's refusals.
    """

    schema: str = DEFAULT_SCHEMA
    wait: float = 30.0
    cache_bytes: int = 8 << 20
    allow_unsafe: frozenset[str] = frozenset()


class PostgresEngine:
    """Everything that is appended to a topic in the same moment is one transaction; offsets rise in commit order.

    It holds three connections: one that appends, one that reads, one that listens.
    """

    name = "postgresql"
    capabilities = Capabilities(durable=True, shared=True)

    def __init__(
        self,
        conninfo: Mapping[str, object],
        clock: Clock,
        options: PostgresOptions | None = None,
        *,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        chosen = self._options = options or PostgresOptions()
        self.trouble = ""
        self._place = place = PostgresPlace(conninfo, "evenflow log")
        self._listening = PostgresPlace(conninfo, "evenflow log, listening")
        self._clock = clock
        self._random = random
        self._texts = Texts(chosen.schema)
        self._making = Making(place, self._texts, chosen.wait)
        self._waiters = Waiters()
        self._consumers: WeakSet[PostgresConsumer] = WeakSet()
        self._pooled = False
        self._open = False

    async def open(self) -> None:
        options = self._options
        reading = Wire(self._place, options.wait)
        try:
            findings = await self._findings(reading)
            wrong = [each for each in findings if each.level == "wrong"]
            if wrong:
                raise Refused(f"the event log at {self._place.words}: {wrong[0].message}", remedy=wrong[0].remedy)
            await self._making.bring_up(reading)
        except PostgresError as error:
            await reading.close()
            raise (self._making.no_right(error) or cannot_open(error, self._place)) from error
        except BaseException:
            await reading.close()
            raise
        self._tables = LogTables(reading, self._texts, PackCache(options.cache_bytes))
        self._upkeep = Upkeep(self._tables, self._making)
        listening, appending = Wire(self._listening, options.wait), Wire(self._place, options.wait)
        self._watch = Watch(listening, options.schema, self._look, self._waiters.wake_all)
        self._appends = Appends(appending, self._tables, self._stored)
        self._silence = Silence(
            lambda: [link for wire in (reading, listening, appending) for link in wire.links()],
            self._place,
            f"the event log at {self._place.words}",
            pooled=self._pooled,
        )
        self._open = True

    async def _findings(self, wire: Wire) -> list[Finding]:
        """What there is to say of the server, and of the way there."""
        link = await wire.link()
        self._pooled = await pooled(link)
        self._place.prepare = self._listening.prepare = not self._pooled or await keeps_names(link)
        return await durability_findings(link, self._options.allow_unsafe)

    async def close(self) -> None:
        if not self._open:
            return
        self._open = False
        await self._appends.close()
        await self._watch.close()
        await self._silence.close()
        await self._tables.wire.close()
        self._waiters.wake_all()

    async def declare(self, topic: Topic, *, after: Log | None = None) -> Log:
        tables = self._opened()
        state = await tables.topic(topic.name)
        if topic.partitions is None:
            if state is None:
                raise no_such_topic(topic.name)
            return state.log
        facts = (topic.retention, topic.retention_bytes, topic.compacted)
        if state is None or state.facts != facts or due_generation(state.log, topic.partitions, after) is not None:
            await self._making.declare(topic, topic.partitions, after, lambda: new_id(self._clock.now, self._random))
            state = await tables.topic(topic.name)
        assert state is not None
        return state.log

    async def seal(self, topic: str, goes_on: str | None = None) -> Log:
        await self._making.seal(self._opened(), topic, goes_on)
        log = await self.log(topic)
        if log is None:
            raise no_such_topic(topic)
        return log

    async def log(self, topic: str) -> Log | None:
        state = await self._opened().topic(topic)
        return None if state is None else state.log

    async def topics(self) -> Sequence[str]:
        tables = self._opened()
        return [name for (name,) in (await tables.ask((tables.text("topic_names"), ())))[0]]

    async def append(self, topic: str, envelopes: Sequence[Envelope]) -> Sequence[Outcome]:
        if not envelopes:
            return []
        try:
            self._opened()
            outcome, self.trouble = await self._appends.append(topic, envelopes)
        except EngineUnavailable as error:
            outcome, self.trouble = Outcome.REFUSED, str(error)
        return [outcome] * len(envelopes)

    async def limit(self, topic: str) -> int | None:  # noqa: ARG002
        return None

    def consumer(self, group: str) -> Consumer:
        made = PostgresConsumer(group, self, self._opened(), self._clock, lambda: self._watch.current)
        self._consumers.add(made)
        return made

    async def bounds(self, partition: Partition) -> Bounds:
        return (await self._opened().bounds([partition]))[partition]

    async def read(self, partition: Partition, offset: int) -> tuple[int, Envelope] | None:
        return await postgres_places.last_at(self._opened(), partition, offset)

    async def find(self, partition: Partition, time: float) -> int:
        return await postgres_places.first_since(self._opened(), partition, time)

    async def backlog(self, positions: Mapping[Partition, int]) -> Mapping[Partition, Backlog]:
        return await postgres_places.backlog(self._opened(), positions)

    async def told(self, group: str, store: str, positions: Mapping[Partition, int]) -> None:
        tables = self._opened()
        topics, generations, numbers = ([key[n] for key in positions] for n in range(3))
        put = tables.text("put_told"), (group, topics, generations, numbers, list(positions.values()))
        try:
            await tables.wire.transaction([(tables.text("put_group"), (group, store)), put])
        except PostgresError as error:
            raise unavailable(error, self._place) from error

    async def recall(self, group: str) -> Told | None:
        tables = self._opened()
        stores, rows = await tables.ask((tables.text("group"), (group,)), (tables.text("told"), (group,)))
        return Told(stores[0][0], {Partition(*key): offset for *key, offset in rows}) if stores else None

    async def groups(self) -> Sequence[str]:
        tables = self._opened()
        return [name for (name,) in (await tables.ask((tables.text("group_names"), ())))[0]]

    async def readers(self, topic: str) -> Mapping[str, Mapping[Partition, int]]:
        tables = self._opened()
        found: dict[str, dict[Partition, int]] = {}
        for group, generation, number, offset in (await tables.ask((tables.text("readers"), (topic,))))[0]:
            found.setdefault(group, {})[Partition(topic, generation, number)] = offset
        return found

    async def examine(self, *, deep: bool) -> Sequence[Finding]:
        wire = Wire(self._place, self._options.wait)
        try:
            found = await self._findings(wire)
            found.append(await clock_finding(await wire.link(), self._clock.now))
            return [*found, *await examine(wire, self._texts, deep=deep)]
        except PostgresError as error:
            told = self._making.no_right(error) or cannot_open(error, self._place)
            return [Finding("wrong", "the event log", told.message, told.remedy)]
        finally:
            await wire.close()

    async def maintain(self) -> None:
        await self._upkeep.maintain()

    # What its consumers ask for.

    async def refresh(self) -> None:
        await self._look()

    def bounds_nowait(self, partition: Partition) -> Bounds:
        part = self._tables.part(partition)
        return Bounds(part.low, part.next)

    async def take(self, partition: Partition, offset: int, limit: int, size: int) -> tuple[Batch, int]:
        wanted = Wanted(self._tables.part(partition), offset, limit, size)
        (found,) = await self._tables.read([wanted], [wanted.part])
        return self._tables.batch(wanted, found)

    @contextmanager
    def waiting(self, signal: Signal, anything: Callable[[], bool]) -> Iterator[None]:
        with self._waiters.entered(signal, anything), self._watch.waiting():
            self._waiters.wake()  # something may have come since this one has looked
            yield

    def _opened(self) -> LogTables:
        if not self._open:
            raise EngineUnavailable(f"the event log at {self._place.words} is closed", remedy="open the engine first")
        return self._tables

    def _stored(self, topic: int) -> None:
        self._waiters.wake()
        self._watch.stored(topic)

    async def _look(self) -> bool:
        """Ask for the ends of what the consumers read. Whether there is anything new."""
        places: dict[Partition, int] = {}
        for each in self._consumers:
            for key, offset in each.places().items():
                places[key] = max(offset, places.get(key, 0))
        changed = await self._tables.look(places)
        self._waiters.wake()
        return changed
