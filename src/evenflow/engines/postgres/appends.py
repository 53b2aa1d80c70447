"""Group commit into PostgreSQL's log: appends of one topic that wait at the same moment share a transaction."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from evenflow.drivers.postgres.errors import PostgresError
from evenflow.drivers.postgres.link import Statement
from evenflow.engine import Outcome
from evenflow.engines.generations import sealed_words
from evenflow.engines.log_consumer import no_such_topic
from evenflow.engines.packs import Pack, bodies
from evenflow.engines.postgres.tables import MISSING, OFFSET_BITS, LogTables, Part, TopicState
from evenflow.engines.postgres.wire import Rows, Wire, is_gone
from evenflow.envelope import Envelope
from evenflow.errors import EvenflowError

BYTES = 16 << 20
"""Bytes of events in one transaction, about."""
SEALED, ANOTHER_GENERATION, ISOLATED = "EV001", "EV002", "EV003"

Answer = tuple[Outcome, str]
"""How it went, and why it was not stored."""


class _Job(NamedTuple):
    envelopes: Sequence[Envelope]
    answer: asyncio.Future[Answer]


class _Run(NamedTuple):
    """What is to be stored in one partition."""

    part: Part
    packs: list[Pack]


class Appends:
    """Stores through a connection of its own. While one transaction of a topic is under way, the next one collects."""

    def __init__(self, wire: Wire, tables: LogTables, stored: Callable[[int], None]) -> None:
        self._wire = wire
        self._tables = tables
        self._stored = stored
        self._queues: dict[str, list[_Job]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._isolated = False
        """Whether the server begins transactions that do not see what others commit meanwhile: it is told to."""

    async def append(self, topic: str, envelopes: Sequence[Envelope]) -> Answer:
        """How all of them went: they are stored together or not at all. Raises `Refused` for a topic that is not."""
        loop = asyncio.get_running_loop()
        job = _Job(envelopes, loop.create_future())
        self._queues.setdefault(topic, []).append(job)
        if topic not in self._tasks:
            task = self._tasks[topic] = loop.create_task(self._drain(topic))
            task.add_done_callback(lambda done: self._over(topic, done))
        return await job.answer

    async def close(self) -> None:
        """Store what is waiting, then end."""
        while self._tasks:
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._wire.close()

    def _over(self, topic: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(topic) is task:
            del self._tasks[topic]
            for job in self._queues.pop(topic, ()):  # it was cancelled
                job.answer.cancel()

    async def _drain(self, topic: str) -> None:
        queue = self._queues[topic]
        jobs: list[_Job] = []
        try:
            while queue:
                jobs = _next(queue)
                if jobs:
                    await self._transaction(topic, jobs)
        except BaseException:  # it may have been committed
            for job in jobs:
                job.answer.cancel()
            raise
        del self._queues[topic], self._tasks[topic]

    async def _transaction(self, topic: str, jobs: list[_Job]) -> None:
        try:
            answer = await self._store(topic, [each for job in jobs for each in job.envelopes])
        except EvenflowError as error:
            for job in jobs:
                if not job.answer.done():
                    job.answer.set_exception(error)
            return
        for job in jobs:
            if not job.answer.done():
                job.answer.set_result(answer)

    async def _store(self, topic: str, envelopes: list[Envelope]) -> Answer:
        state = self._tables.known(topic) or await self._tables.topic(topic)
        for again in (True, False):
            if state is None:
                raise no_such_topic(topic)
            try:
                await self._send(state, envelopes)
            except PostgresError as error:
                if error.sqlstate == SEALED:
                    state = await self._tables.topic(topic) or state
                    return Outcome.REFUSED, sealed_words(state.log)
                if not again or error.sqlstate not in (ANOTHER_GENERATION, *MISSING):
                    return _answer(error, self._wire.place.words)
                state = await self._tables.topic(topic)
            else:
                break
        return Outcome.STORED, ""

    async def _send(self, state: TopicState, envelopes: list[Envelope]) -> None:
        runs, statement = self._packed(state, envelopes)
        (((firsts,),),) = await self._run(statement)
        cache = self._tables.cache
        for run, first in zip(runs, firsts, strict=True):
            offset = first
            for pack in run.packs:
                pack.move(offset)
                if cache.asked:
                    cache.put(run.part.serial << OFFSET_BITS | offset, pack)
                offset = pack.last + 1
            run.part.next = max(run.part.next, offset)
        self._stored(state.id)

    async def _run(self, statement: Statement) -> list[Rows]:
        if not self._isolated:
            try:
                return await self._wire.run([statement])
            except PostgresError as error:
                if error.sqlstate != ISOLATED:
                    raise
            self._isolated = True
        return await self._wire.transaction([statement])

    def _packed(self, state: TopicState, envelopes: list[Envelope]) -> tuple[list[_Run], Statement]:
        """The envelopes by partition, and the statement that stores them."""
        runs = []
        places, befores, counts, sizes, oldests, data = [], [], [], [], [], []
        for place, (part, some) in enumerate(_by_partition(state.last, envelopes), 1):
            packs = []
            before = size = 0
            for run, oldest, body in bodies(some):
                size += len(body)
                places.append(place)
                befores.append(before)
                counts.append(len(run))
                sizes.append(size)
                oldests.append(oldest)
                data.append(body)
                packs.append(Pack(before, before + len(run) - 1, range(before, before + len(run)), run, len(body)))
                before += len(run)
            runs.append(_Run(part, packs))
        serials = [run.part.serial for run in runs]
        generation = state.log.generations[-1].number
        sql = self._tables.text("append", state.id)
        return runs, (sql, (generation, serials, places, befores, counts, sizes, oldests, data))


def _by_partition(last: Sequence[Part], envelopes: list[Envelope]) -> list[tuple[Part, list[Envelope]]]:
    """In the order of the partitions' serials, as everybody locks them."""
    count = len(last)
    if count == 1:
        return [(last[0], envelopes)]
    runs: defaultdict[int, list[Envelope]] = defaultdict(list)
    for envelope in envelopes:
        runs[envelope.slot % count].append(envelope)
    return sorted(((last[number], run) for number, run in runs.items()), key=lambda each: each[0].serial)


def _next(queue: list[_Job]) -> list[_Job]:
    """What goes into one transaction, without those whose callers were cancelled."""
    jobs, size, count = [], 0, 0
    for job in queue:
        if size >= BYTES:
            break
        count += 1
        if not job.answer.done():
            jobs.append(job)
            if count < len(queue):  # else nothing follows that it could leave out
                size += sum([each.size for each in job.envelopes])
    del queue[:count]
    return jobs


def _answer(error: PostgresError, where: str) -> Answer:
    """What an error says of the transaction: one of the server's own was rolled back."""
    outcome = Outcome.UNKNOWN if is_gone(error) else Outcome.REFUSED
    return outcome, f"the event log at {where}: {error.message}" + (f"; {error.remedy}" if error.remedy else "")
