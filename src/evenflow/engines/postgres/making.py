"""Making PostgreSQL's log: its schema, topics, generations, and the end of a topic that moves away.

Each is one transaction on a connection of its own, which the server ends by itself where this process is frozen in it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from evenflow.drivers.postgres.errors import PostgresError
from evenflow.drivers.postgres.link import Statement
from evenflow.drivers.postgres.place import PostgresPlace
from evenflow.engine import Log
from evenflow.engines.generations import due_generation
from evenflow.engines.postgres.examine import NO_RIGHT, grant
from evenflow.engines.postgres.tables import MISSING, LogTables, log_of
from evenflow.engines.postgres.texts import Texts
from evenflow.engines.postgres.wire import Wire, unavailable
from evenflow.errors import Refused
from evenflow.topic import Topic

VERSION = 1
_TABLES = ("create_format", "create_topics", "create_partitions", "create_groups", "create_told")


class Making:
    """Changes what a log consists of."""

    def __init__(self, place: PostgresPlace, texts: Texts, limit: float) -> None:
        self._place = place
        self._texts = texts
        self._text = texts.text
        self._limit = limit

    @asynccontextmanager
    async def aside(self) -> AsyncIterator[Wire]:
        """A connection for one transaction; what was not committed at the end is rolled back."""
        wire = Wire(self._place, self._limit)
        try:
            yield wire
        except PostgresError as error:
            raise (self.no_right(error) or unavailable(error, self._place)) from error
        finally:
            await wire.close()

    def no_right(self, error: PostgresError) -> Refused | None:
        """What a user is told of an error that is a missing right."""
        if error.sqlstate != NO_RIGHT:
            return None
        return Refused(
            f"the event log at {self._place.words} cannot be made or used: {error.message}",
            remedy=grant(self._texts.schema) + ". All apps on one log use one role: who makes a topic owns its table",
        )

    async def bring_up(self, wire: Wire) -> None:
        """Make the schema and its tables, unless they are there. Raises `Refused` for those of a newer version."""
        try:
            ((version,),) = (await wire.ask([(self._text("format"), ())]))[0]
        except PostgresError as error:
            if error.sqlstate not in MISSING:
                raise
            version = await self._create()
        if version > VERSION:
            raise Refused(
                f"the event log at {self._place.words} was made by a newer version of Evenflow (format {version}, this "
                f"one knows {VERSION})",
                remedy="update evenflow here",
            )

    async def _create(self) -> int:
        schema = self._texts.schema
        async with self.aside() as wire:
            lock, look = (self._text("lock_making"), (schema,)), (self._text("schema"), (schema,))
            _, ((has_schema, has_tables),) = await wire.transaction([lock, look], end=False)
            made: list[Statement] = []
            if not has_tables:
                made = [] if has_schema else [(f"create schema {schema}", ())]
                made += [(self._text(name), ()) for name in _TABLES]
                made.append((self._text("put_format"), (VERSION,)))
            rows = await wire.run([*made, (self._text("format"), ())], after=("commit",))
        return int(rows[-1][0][0])

    async def declare(self, topic: Topic, partitions: int, after: Log | None, new: Callable[[], str]) -> None:
        """Make a topic or its next generation, and write down its facts; `new` gives an incarnation."""
        name = topic.name
        facts = (topic.retention, topic.retention_bytes, topic.compacted)
        async with self.aside() as wire:
            look = [(self._text("topic"), (name,)), (self._text("partitions"), (name,))]
            _, heads, rows = await wire.transaction([(self._text("lock_topics"), ()), *look], end=False)
            log = log_of(name, heads[0], rows) if heads else None
            due = due_generation(log, partitions, after)
            work: list[Statement] = []
            if not heads and due is not None:
                incarnation = after.incarnation if after else new()
                add = self._text("add_topic"), (name, incarnation, due.number, *facts)
                (((number,),),) = await wire.run([add])
                work += self._tables_of(int(number))
            elif due is not None:
                work.append((self._text("lock_topic"), (heads[0][0],)))
                work.append((self._text("put_generation"), (name, due.number)))
            if due is not None:
                work.append((self._text("add_partitions"), (name, due.number, due.partitions)))
            work.append((self._text("put_facts"), (name, *facts)))
            await wire.run(work, after=("commit",))

    def _tables_of(self, topic: int) -> list[Statement]:
        names = ("create_packs", "choose_compression", "create_segment", "attach_segment", "create_append")
        return [(self._text(name, topic, 1), ()) for name in names]

    async def seal(self, tables: LogTables, topic: str, goes_on: str | None) -> None:
        """Nothing is appended any more: appends hold the topic's lock, and look at this under it."""
        state = await tables.topic(topic)
        if state is None:
            return
        async with self.aside() as wire:
            lock, seal = (self._text("lock_topic"), (state.id,)), (self._text("seal"), (topic, goes_on))
            await wire.transaction([lock, seal])
