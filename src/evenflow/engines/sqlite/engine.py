"""The embedded engine: a durable log in one SQLite file, which several processes of one machine use at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from evenflow.checkup import Finding
from evenflow.clock import Clock, Signal
from evenflow.drivers.sqlite.examine import examine_file, sqlite_version
from evenflow.drivers.sqlite.file import ChangeWatch
from evenflow.engine import Backlog, Batch, Bounds, Capabilities, Consumer, Log, Outcome, Partition, Told
from evenflow.engines.generations import due_generation
from evenflow.engines.log_consumer import LogConsumer, Waiters, no_such_topic
from evenflow.engines.sqlite import upkeep as sqlite_upkeep
from evenflow.engines.sqlite.log import KIND, LogFile, SqliteOptions
from evenflow.engines.sqlite.writer import MaybeWritten, NotWritten
from evenflow.envelope import Envelope
from evenflow.envelopes import Given
from evenflow.errors import EngineUnavailable
from evenflow.ids import new_id
from evenflow.topic import Topic

__all__ = ["SqliteEngine", "SqliteOptions"]


class SqliteEngine:
    """WAL, `synchronous=FULL`, one fsync for everything that is appended in the same moment.

    `trouble` says why the last append was not stored, and is empty again after the next one that was.
    """

    name = "sqlite"
    capabilities = Capabilities(durable=True, shared=True)

    def __init__(
        self,
        path: str | os.PathLike[str],
        clock: Clock,
        options: SqliteOptions | None = None,
        *,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        chosen = self._options = options or SqliteOptions()
        self.path = str(Path(path).absolute())
        self.trouble = ""
        self._clock = clock
        self._random = random
        self._waiters = Waiters()
        self._file = LogFile(self.path, clock, chosen, self._waiters.wake)
        self._watch = ChangeWatch(self._look, path=self.path, interval=chosen.poll)

    async def open(self) -> None:
        await self._file.open()

    async def close(self) -> None:
        self._watch.close()
        await self._file.close()
        self._waiters.wake_all()

    async def declare(self, topic: Topic, *, after: Log | None = None) -> Log:
        known = await self.log(topic.name)
        if topic.partitions is None:
            if known is None:
                raise no_such_topic(topic.name)
            return known
        state = self._file.topic(topic.name)
        facts = (topic.retention, topic.retention_bytes, topic.compacted)
        partitions = topic.partitions
        if state is not None and state.facts == facts and due_generation(state.log, partitions, after) is None:
            return state.log
        try:
            return await self._file.write(lambda: self._declare(topic, partitions, after))
        except NotWritten as error:
            raise _unavailable(error) from error

    def _declare(self, topic: Topic, partitions: int, after: Log | None) -> Log:
        file = self._file
        state = file.topic(topic.name)
        known = after if state is None else state.log
        generation = due_generation(None if state is None else state.log, partitions, after)
        incarnation = new_id(self._clock.now, self._random) if known is None else known.incarnation
        file.execute("put_topic", (topic.name, incarnation, topic.retention, topic.retention_bytes, topic.compacted))
        if generation is not None:
            file.execute("unseal_topic", (topic.name,))
            for number in range(partitions):
                file.execute("add_partition", (topic.name, generation.number, number))
        return self._made(topic.name)

    def _made(self, topic: str) -> Log:
        """A topic as it is in the transaction that goes on."""
        self._file.forget()
        state = self._file.topic(topic)
        if state is None:
            raise no_such_topic(topic)
        return state.log

    async def seal(self, topic: str, goes_on: str | None = None) -> Log:
        def work() -> Log:
            self._file.execute("seal_topic", (topic, goes_on))
            return self._made(topic)

        try:
            return await self._file.write(work)
        except NotWritten as error:
            raise _unavailable(error) from error

    async def log(self, topic: str) -> Log | None:
        await self.refresh()
        state = await self._file.reading(lambda: self._file.topic(topic))
        return None if state is None else state.log

    async def topics(self) -> Sequence[str]:
        await self.refresh()
        return [name for (name,) in await self._file.reading(lambda: self._file.select("topic_names"))]

    async def append(self, topic: str, envelopes: Sequence[Envelope]) -> Sequence[Outcome]:
        if not envelopes:
            return []
        outcome = Outcome.STORED
        try:
            self.trouble = await self._file.write(lambda: self._file.append(topic, envelopes), weight=len(envelopes))
            outcome = Outcome.REFUSED if self.trouble else outcome
        except NotWritten as error:
            outcome = Outcome.UNKNOWN if isinstance(error, MaybeWritten) else Outcome.REFUSED
            self.trouble = f"{error.found.message}; {error.found.remedy}"
        except EngineUnavailable as error:
            outcome = Outcome.REFUSED
            self.trouble = str(error)
        return [outcome] * len(envelopes)

    async def limit(self, topic: str) -> int | None:  # noqa: ARG002
        return None

    def consumer(self, group: str) -> Consumer:
        return LogConsumer(group, self, self._clock)

    async def bounds(self, partition: Partition) -> Bounds:
        await self.refresh()
        return await self._file.reading(lambda: self.bounds_nowait(partition))

    async def read(self, partition: Partition, offset: int) -> tuple[int, Envelope] | None:
        await self.refresh()
        return await self._file.reading(lambda: self._file.reader.before(self._file.part(partition), offset))

    async def find(self, partition: Partition, time: float) -> int:
        await self.refresh()
        return await self._file.reading(lambda: self._file.reader.find(self._file.part(partition), time))

    async def backlog(self, positions: Mapping[Partition, int]) -> Mapping[Partition, Backlog]:
        await self.refresh()
        reader, part = self._file.reader, self._file.part
        return await self._file.reading(
            lambda: {key: reader.backlog(part(key), offset) for key, offset in positions.items()}
        )

    async def told(self, group: str, store: str, positions: Mapping[Partition, int]) -> None:
        def work() -> None:
            self._file.execute("put_group", (group, store))
            for key, offset in positions.items():
                self._file.execute("put_told", (group, *key, offset))

        try:
            await self._file.write(work)
        except NotWritten as error:
            raise _unavailable(error) from error

    async def recall(self, group: str) -> Told | None:
        await self.refresh()
        stores = await self._file.reading(lambda: self._file.select("group", (group,)))
        if not stores:
            return None
        rows = await self._file.reading(lambda: self._file.select("told", (group,)))
        return Told(stores[0][0], {Partition(*key): offset for *key, offset in rows})

    async def groups(self) -> Sequence[str]:
        await self.refresh()
        return [name for (name,) in await self._file.reading(lambda: self._file.select("group_names"))]

    async def readers(self, topic: str) -> Mapping[str, Mapping[Partition, int]]:
        await self.refresh()
        found: dict[str, dict[Partition, int]] = {}
        for group, generation, number, offset in await self._file.reading(
            lambda: self._file.select("readers", (topic,))
        ):
            found.setdefault(group, {})[Partition(topic, generation, number)] = offset
        return found

    async def examine(self, *, deep: bool) -> Sequence[Finding]:
        network = "network" in self._options.allow_unsafe
        return [sqlite_version(), *examine_file(self.path, KIND, deep=deep, allow_network=network)]

    async def maintain(self) -> None:
        await self.refresh()
        try:
            await sqlite_upkeep.maintain(self._file)
        except NotWritten as error:
            raise _unavailable(error) from error

    # What its consumers ask for.

    async def refresh(self) -> None:
        self._file.check_file()
        await self._file.reading(self._file.look)

    def bounds_nowait(self, partition: Partition) -> Bounds:
        part = self._file.part(partition)
        return Bounds(part.low, part.next)

    async def take(self, partition: Partition, offset: int, limit: int, size: int) -> tuple[Batch, int]:
        part = self._file.part(partition)
        batch, taken = await self._file.reading(lambda: self._file.reader.batch(part, offset, limit, size))
        if not batch.envelopes or batch.offsets[0] > offset:  # removed by compaction, or by retention?
            part.low = await self._file.reading(lambda: self._file.reader.low(part))
            if offset < part.low:
                self._waiters.wake_all()  # the consumer looks again, and stops
                return Batch(partition, (), Given(()), offset), 0
        return batch, taken

    @contextmanager
    def waiting(self, signal: Signal, anything: Callable[[], bool]) -> Iterator[None]:
        with self._waiters.entered(signal, anything), self._watch:
            yield

    def _look(self) -> bool:
        """While somebody waits. He meets an error by himself, when he is woken."""
        try:
            self._file.check_file()
            return self._file.look()
        except Exception:
            self._waiters.wake_all()
            return False


def _unavailable(error: NotWritten) -> EngineUnavailable:
    return EngineUnavailable(error.found.message, remedy=error.found.remedy)
